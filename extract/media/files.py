"""Open files of strangers: regular files only, and pictures of a bounded size, alone or in folders.

Links to regular files are followed (git-annex and data sets on other disks are made of them); a
folder, a pipe or a device that has a picture's name is refused before anything is read from it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.sources import centres_s, pictures

Picture = npt.NDArray[np.uint8]
"""(height, width, 3) RGB, upright."""

MAX_PIXELS = 1 << 26
"""Largest picture, still or moving, that is decoded: 8,192 × 8,192, twice 8K video."""
MAX_PICTURE_BYTES = 1 << 28
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?s?")
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_JPEG_SCAN = b"\xda"
_JPEG_FRAMES = frozenset(bytes([kind]) for kind in range(0xC0, 0xD0) if kind % 4 or kind == 0xC0)
_JPEG_ALONE = frozenset(bytes([kind]) for kind in (0x01, *range(0xD0, 0xD9)))


def open_media(path: Path) -> BufferedReader:
    """A regular file for reading; raises OSError for anything else, without waiting for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("a folder, a pipe or a device, not a regular file")
    return os.fdopen(descriptor, "rb")


def media_sha256(path: Path) -> bytes:
    """SHA-256 of a file's bytes; raises OSError as `open_media` does."""
    with open_media(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass
class Album:
    """A folder's pictures in order, and what was made of those that have been read.

    `length_s` is how long the recording is, which they divide evenly.
    """

    folder: Path
    prepare: Callable[[Picture], Any] = lambda picture: picture
    made: dict[int, Any] = field(default_factory=dict)

    @cached_property
    def paths(self) -> list[Path]:
        """Of the pictures, in order; MediaError where there are none."""
        try:
            paths = pictures(self.folder)
        except OSError as error:
            raise MediaError(self.folder, "video", f"expected pictures, found: {error}") from None
        if not paths:
            raise MediaError(self.folder, "video", "expected .jpg or .png pictures, found none")
        return paths

    def picture(self, place: int, digest: Any) -> Any:
        """A picture, prepared, each decoded once; its bytes are added to `digest`."""
        path = self.paths[place]
        data = read_bytes(path)
        digest.update(data)
        if place not in self.made:
            self.made[place] = self.prepare(np.asarray(decode_picture(path, data), np.uint8))
        return self.made[place]


def read_pictures(
    album: Album, span_s: tuple[float, float], length_s: float, config: ExtractConfig, digest: Any
) -> tuple[list[Any], npt.NDArray[np.float64], str]:
    """An album's pictures on screen at the sampled moments of a clip, each with its time in s.

    The pictures divide `length_s`, the recording's whole length, evenly; the clip is the part
    [from, to) of it, `span_s`, and those before and after are not looked at. The bytes of those
    read are added to `digest`. The last value is a sentence on what their names say otherwise, ""
    for nothing. Raises MediaError naming the folder or the picture.
    """
    paths, (begin_s, end_s) = album.paths, span_s
    targets_s = begin_s + centres_s(end_s - begin_s, config.num_frames)
    chosen = np.minimum((targets_s / length_s * len(paths)).astype(int), len(paths) - 1)
    frames = [album.picture(place, digest) for place in chosen.tolist()]
    times_s = np.maximum(chosen * (length_s / len(paths)) - begin_s, 0.0)
    return frames, times_s, _disagreement(paths, length_s)


def _disagreement(paths: list[Path], length_s: float) -> str:
    """What the pictures' names say against the length they divide; "" where they say nothing.

    Names tell a time only where all of them are seconds, one at least with a decimal point.
    """
    if max(path.name.count(".") for path in paths) < 2:
        return ""
    if not all(_SECONDS.fullmatch(path.stem) for path in paths):
        return ""
    times_s = sorted(float(path.stem.rstrip("s")) for path in paths)
    step_s = (times_s[-1] - times_s[0]) / max(1, len(paths) - 1)
    end_s = times_s[-1] - times_s[0] + step_s
    if abs(end_s - length_s) <= step_s:
        return ""
    return (
        f"{paths[0].parent}: the names of its pictures span {end_s:.2f} s, the sound lasts "
        f"{length_s:.2f} s; the pictures were spread evenly over the sound"
    )


def read_bytes(path: Path) -> bytes:
    """The bytes of a picture's file, of no more than a picture may have, and one."""
    try:
        with open_media(path) as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(min(size, MAX_PICTURE_BYTES) + 1)
    except OSError as error:
        raise MediaError(path, "video", f"expected a picture, found: {error}") from None


def decode_picture(path: Path, data: bytes) -> cv2.typing.MatLike:
    """A still picture, upright, (height, width, 3) uint8 RGB.

    Its size is read from its header before it is decoded. Raises MediaError naming the file.
    """
    try:
        _check(path, data)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise MediaError(path, "video", f"expected a picture, found: {error}") from None
    if picture is None:
        raise MediaError(
            path,
            "video",
            f"expected a whole picture, found {len(data)} unreadable bytes; copy or make it again",
        )
    return picture


def _check(path: Path, data: bytes) -> None:
    """Refuse what is no picture, is cut, or would take more memory than a picture needs."""
    if len(data) > MAX_PICTURE_BYTES:
        problem = f"at most {MAX_PICTURE_BYTES:,} bytes, found more"
        raise MediaError(path, "video", f"expected a picture of {problem}")
    try:
        size = picture_size(data)
    except struct.error:
        size = None
    if size is None:
        raise MediaError(
            path,
            "video",
            f"expected a picture (JPEG, PNG or WebP), found {len(data)} unreadable bytes; "
            "copy or make it again",
        )
    if size[0] * size[1] > MAX_PIXELS:
        raise MediaError(
            path,
            "video",
            f"expected a picture of at most {MAX_PIXELS:,} pixels, found {size[0]} × {size[1]}; "
            "scale it down",
        )


def picture_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) by the header of a JPEG, PNG, WebP, BMP or GIF; None for anything else.

    Raises struct.error where the header is cut.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", data, 16)
        return (width, height) if b"IEND" in data else None  # else it is cut
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
        return abs(width), abs(height)
    if data.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack_from("<HH", data, 6)
        return width, height
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the segments to the frame header, passing over stray bytes as decoders do."""
    place = 2
    while (marker := _JPEG_MARKER.search(data, place)) and marker[1] != _JPEG_SCAN:
        place = marker.end()
        if marker[1] in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 3)
            return width, height
        if marker[1] not in _JPEG_ALONE:
            place += struct.unpack_from(">H", data, place)[0]
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return width, height
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None
