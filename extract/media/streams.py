"""A container's streams: which are the clip's, their packets, and how long each lasts.

A container may hold more than one picture and one sound: a cover, a still in front, commentary,
tracks that no decoder here knows.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
from av.stream import Disposition

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.files import MAX_PIXELS, open_media

REORDER_S = 1.0
"""How far packets may be out of presentation order."""
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
"""Kept by the decoder too: the size of the pictures may change in the middle of a stream."""
_TAGGED_DURATION = re.compile(r"([0-9]+):([0-9]+):([0-9.]+)")
MAX_BOXES = 10_000
_UNKNOWN = {0, (1 << 32) - 1, (1 << 64) - 1}
_Box = tuple[bytes, int, int]  # kind, begin and end of the content, in bytes


@dataclass
class Streams:
    """The clip's packets by stream, in file order, and the clock they share.

    Attributes
    ----------
    path: the file.
    format: FFmpeg's name of the container's kind.
    start_s: the container's start, which is the clip's.
    media_s: length that the container declares; NaN where it declares none.
    next_s: time of the first picture that comes too late for the clip; NaN where none does.
    """

    path: Path
    format: str
    start_s: float
    media_s: float
    audio: list[Any] = field(default_factory=list)
    video: list[Any] = field(default_factory=list)
    next_s: float = math.nan

    @property
    def stores_pts(self) -> bool:
        """Whether the container stores presentation times at all."""
        return self.format != "avi"


def read_packets(path: Path, container: Any, config: ExtractConfig) -> Streams:
    """The packets of the clip's sound and pictures, as far as the clip goes.

    Raises MediaError where a wanted stream is missing or its pictures are too large.
    """
    wanted = {
        kind: _candidates(path, kind, getattr(container.streams, kind))
        for kind in ("audio", "video")
        if config.modalities in (kind, "both")
    }
    begin, length = container.start_time, container.duration
    streams = Streams(
        path=path,
        format=container.format.name,
        start_s=begin / av.time_base if begin is not None else 0.0,
        media_s=length / av.time_base if length is not None else math.nan,
    )
    packets, beyond = _demux(container, list(chain(*wanted.values())), streams.start_s, config)
    if "audio" in wanted:
        streams.audio = packets[_fullest(wanted["audio"], packets)]
    if "video" in wanted:
        index = _fullest(wanted["video"], packets)
        streams.video, streams.next_s = packets[index], beyond.get(index, math.nan)
    return streams


def _candidates(path: Path, kind: str, streams: Sequence[Any]) -> list[Any]:
    """The streams of a kind that can be decoded, those marked as default first; no covers."""
    shown = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    able = [stream for stream in shown if stream.codec_context is not None]
    if not able:
        rest = ", only a cover picture" if len(shown) < len(streams) else ""
        rest = " that can be decoded here" if shown else rest
        raise MediaError(path, kind, f"expected {kind}, found no {kind} stream{rest}")
    for stream in able:
        context = stream.codec_context
        context.thread_count = 1
        if kind == "video":
            context.options = DECODER_OPTIONS
            if context.width * context.height > MAX_PIXELS:
                raise MediaError(
                    path,
                    "video",
                    f"expected pictures of at most {MAX_PIXELS:,} pixels, found "
                    f"{context.width} × {context.height}; scale the video down",
                )
    return sorted(able, key=lambda stream: not stream.disposition & Disposition.default)


def _fullest(candidates: list[Any], packets: dict[int, list[Any]]) -> int:
    """Index of the first stream that is more than a still, or holds anything at all."""
    for fewest in (2, 1, 0):
        for stream in candidates:
            if len(packets[stream.index]) >= fewest:
                return int(stream.index)
    raise AssertionError("every stream has no packets or more")


def _demux(
    container: Any, wanted: list[Any], start_s: float, config: ExtractConfig
) -> tuple[dict[int, list[Any]], dict[int, float]]:
    """Packets by stream up to the clip's end, and the time of the first one beyond it.

    A file that ends early gives the packets before its end.
    """
    packets: dict[int, list[Any]] = {stream.index: [] for stream in wanted}
    beyond: dict[int, float] = {}
    limit_s = start_s + config.clip_seconds + REORDER_S
    try:
        for packet in container.demux(wanted):
            if packet.size == 0:
                continue
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is not None and seconds(stamp, packet.time_base) > limit_s:
                beyond.setdefault(packet.stream_index, seconds(stamp, packet.time_base))
                if len(beyond) == len(wanted):
                    break
            else:
                packets[packet.stream_index].append(packet)
    except av.error.FFmpegError:
        pass  # the file is cut or damaged here; extract.media says what that means
    return packets, beyond


def seconds(stamp: int, time_base: Any) -> float:
    """A time stamp in seconds, correctly rounded; several times faster than Fraction."""
    return float(stamp * time_base.numerator / time_base.denominator)


def declared_end_s(stream: Any) -> float:
    """When a stream ends by its own account, on the container's clock; NaN where it gives none."""
    if stream.duration is not None:
        return seconds((stream.start_time or 0) + stream.duration, stream.time_base)
    tagged = _TAGGED_DURATION.match(stream.metadata.get("DURATION", ""))  # Matroska's way
    if tagged is None:
        return math.nan
    hours, minutes, rest = tagged.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def decoded(
    packets: list[Any], needed: list[int] | None = None
) -> Iterator[tuple[int, float, Any]]:
    """(packet number, time in s, frame) in presentation order.

    A frame of None marks a damaged packet, and the end. With `needed` (times in the stream's
    own units) the decoder skips frames that are neither needed nor referred to by others, and
    stops after the last.
    """
    if not packets:
        return
    context, time_base = packets[0].stream.codec_context, packets[0].time_base
    context.flush_buffers()
    left = set(needed) if needed is not None else None
    for number, packet in enumerate([*packets, None]):
        skip = left is not None and packet is not None and packet.pts not in left
        context.skip_frame = "NONREF" if skip else "DEFAULT"
        try:
            for frame in context.decode(packet):
                if frame.is_corrupt:
                    yield number, 0.0, None
                    return
                if frame.pts is not None:
                    yield number, seconds(frame.pts, time_base), frame
                    if left is not None:
                        left.discard(frame.pts)
        except av.error.FFmpegError:
            yield number, 0.0, None
            return
        if left is not None and not left:
            return


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
