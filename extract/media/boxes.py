"""What a file's own boxes say and FFmpeg does not pass on: when an mp4's track, or an AVI, ends."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from extract.media.files import open_media

MAX_BOXES = 10_000
_UNKNOWN = {0, (1 << 32) - 1, (1 << 64) - 1}
_Box = tuple[bytes, int, int]  # kind, begin and end of the content, in bytes


def track_end_s(path: Path, track_id: int) -> float:
    """When a track ends on the movie's clock, within the movie; NaN where the file doesn't say.

    A sample's duration in an mp4 is the step to the next one that is decoded. Where B-frames come
    last, the picture that is shown last is not the last decoded, and how long it stays stands in
    the header of its track alone. (In an AVI every packet lasts one step.)
    """
    try:
        with open_media(path) as file:
            size = file.seek(0, 2)
            movie = _first(_boxes(file, 0, size), b"moov")
            rate, movie_end = _header(file, _first(_boxes(file, *movie), b"mvhd"), ">II", ">IQ")
            for kind, begin, end in _boxes(file, *movie):
                if kind == b"trak":
                    header = _first(_boxes(file, begin, end), b"tkhd")
                    found, _, track_end = _header(file, header, ">III", ">IIQ")
                    if found == track_id and not {track_end, movie_end} & _UNKNOWN and rate:
                        return float(min(track_end, movie_end) / rate)
    except (OSError, LookupError, struct.error):
        pass  # no mp4 that can be followed: it says nothing
    return math.nan


def whole_avi(path: Path) -> bool:
    """Whether an AVI is as long as it says; one that is cut declares what isn't there any more."""
    with open_media(path) as file:
        head = file.read(12)
        size = int.from_bytes(head[4:8], "little")
        return head[:4] == b"RIFF" and 0 < size <= file.seek(0, 2) - 8


def _header(file: BufferedReader, place: tuple[int, int], short: str, long: str) -> tuple[int, ...]:
    """The numbers after the two dates that a header begins with, in its version's widths."""
    file.seek(place[0])
    data = file.read(48)
    values: tuple[int, ...] = struct.unpack_from(
        *((long, data, 20) if data[0] else (short, data, 12))
    )
    return values


def _first(boxes: Iterator[_Box], kind: bytes) -> tuple[int, int]:
    """Where the first box of a kind is; raises LookupError where there is none."""
    for found, begin, end in boxes:
        if found == kind:
            return begin, end
    raise LookupError(kind)


def _boxes(file: BufferedReader, begin: int, end: int) -> Iterator[_Box]:
    """The boxes in a range of the file."""
    for _ in range(MAX_BOXES):
        if begin + 8 > end:
            return
        file.seek(begin)
        size, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:
            size, header = *struct.unpack(">Q", file.read(8)), 16
        size = size or end - begin
        if size < header:
            return
        yield kind, begin + header, min(begin + size, end)
        begin += size
