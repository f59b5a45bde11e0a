"""What a cache holds, row by row. `docs/format.md` is its prose.

A cache is a folder::

    cache.json      identity: format, fingerprint, declared fields, settings, provenance
    labels.h5       annotation rows, classes, splits (replaceable without touching features)
    index.h5        which clip is where; derived from the shards, rebuilt when it is stale
    shards/<32 hex digits>.h5    about 32 clips each; the name is the file's own SHA-256 (half)

Which features there are is declared in `cache.json`; nothing here knows how they are computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from cache.format.fields import (
    MAX_CLIP_S,
    MAX_ROW_BYTES,
    Field,
    Times,
    check_number,
    check_whole,
    row_bytes,
)

FORMAT = "avel-cache"
FORMAT_VERSION = 2
SHARD_FOLDER = "shards"
SPLITS = ("train", "val", "test")
NO_SPLIT = -1
BACKGROUND = -1  # the category of a clip without an event
MAX_ID_BYTES = 255
MAX_CLASS_BYTES = 255
MAX_MESSAGE_BYTES = 500
MAX_TEXT_BYTES = 1 << 15  # of settings and provenance: HDF5 attributes hold 64 KiB
MAX_FIELDS = 64
MAX_SIDE_PX = 1 << 14

ROW_FIELDS = (
    Field("rows/valid_s", (), "float64", "s of the clip that exist, at most clip_seconds"),
    Field("rows/media_s", (), "float64", "s that the media file declares (NaN: not declared)"),
    Field("rows/audio_steps", (), "int32", "valid audio steps; the rest of T is NaN"),
    Field("rows/audio_start_s", (), "float64", "s from clip start at which the sound begins"),
    Field("rows/media_size", (), "int64", "bytes of the media"),
    Field("rows/media_mtime_ns", (), "int64", "ns since 1970"),
    Field("rows/media_sha256", (32,), "uint8", "SHA-256 of the media bytes that were read"),
    Field("rows/sha256", (32,), "uint8", "SHA-256 of the row, see row_digest"),
)
JPEG_BYTES, JPEG_END = "video/jpeg", "video/jpeg_end"


@dataclass(frozen=True)
class Pictures:
    """The JPEGs kept of each clip: how many, and the side of each, which is a square."""

    count: int
    side_px: int


@dataclass(frozen=True)
class Declaration:
    """What a clip's row holds: the one object that shapes, dtypes and bounds are taken from.

    Raises ValueError or TypeError for what describes no row, or one of absurd size: it may come
    from a stranger, and memory is claimed by these shapes.
    """

    clip_seconds: float
    fields: tuple[Field, ...]
    pictures: Pictures | None = None
    hop_s: float | None = None
    """Seconds from window to window of a recording; None where clips are no windows."""

    def __post_init__(self) -> None:
        check_number("clip_seconds", self.clip_seconds, 0, MAX_CLIP_S)
        if self.hop_s is not None:
            check_number("hop_s", self.hop_s, 0, self.clip_seconds)
        if not 0 < len(self.fields) <= MAX_FIELDS:
            raise ValueError(f"expected 1 to {MAX_FIELDS} fields, found {len(self.fields)}")
        for field in self.fields:
            field.check()
            if isinstance(field.clock, Times):
                self._check_times(field, field.clock.times)
        names = [field.name for field in self.fields]
        if len({*names, JPEG_BYTES, JPEG_END}) < len(names) + 2:
            raise ValueError("a field is declared twice, or in the place of the pictures")
        if len({(field.clock, field.shape[0]) for field in self.fields if field.has_steps}) > 1:
            raise ValueError("audio fields with a rate: expected one rate and number of steps")
        if self.pictures is not None:
            check_whole("pictures: count", self.pictures.count, MAX_ROW_BYTES)
            check_whole("pictures: side_px", self.pictures.side_px, MAX_SIDE_PX)
        if row_bytes(self.row_layout.values()) > MAX_ROW_BYTES:
            raise ValueError(f"rows of more than {MAX_ROW_BYTES:,} bytes")

    def _check_times(self, field: Field, name: str) -> None:
        times = next((one for one in self.fields if one.name == name), None)
        wanted = (field.stream, field.shape[:1], "float64", None)
        if times is None or (times.stream, times.shape, times.dtype, times.clock) != wanted:
            raise ValueError(
                f"{field.name}: its times, {str(name)[:80]!r}, are no {field.stream} field of "
                f"float64 {field.shape[:1]}"
            )

    @cached_property
    def times(self) -> frozenset[str]:
        """The fields that hold times, in seconds from the clip's start."""
        return frozenset(f.clock.times for f in self.fields if isinstance(f.clock, Times))

    @cached_property
    def row_layout(self) -> Mapping[str, Field]:
        """Every dataset of a shard that has one row a clip, by name, in file order.

        With pictures, `video/jpeg_end` (their ends in `video/jpeg`) is among them.
        """
        fields = [*ROW_FIELDS, *self.fields]
        if self.pictures is not None:
            shape = (self.pictures.count,)
            fields.append(Field(JPEG_END, shape, "int64", f"byte in {JPEG_BYTES}"))
        return {field.name: field for field in fields}

    @property
    def stored_names(self) -> list[str]:
        """The datasets whose places an index keeps, in its order."""
        return [*self.row_layout, *([JPEG_BYTES] if self.pictures is not None else [])]

    @property
    def row_bytes(self) -> int:
        """Bytes that one clip takes, without its pictures."""
        return row_bytes(self.row_layout.values())

    def record(self) -> dict[str, Any]:
        """What `cache.json` says of it."""
        return {
            "clip_seconds": self.clip_seconds,
            "fields": [field.record() for field in self.fields],
            "pictures": None if self.pictures is None else dict(vars(self.pictures)),
            **({} if self.hop_s is None else {"hop_s": self.hop_s}),
        }

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """The declaration in a `cache.json`; ValueError, TypeError or KeyError for none."""
        fields, pictures = record["fields"], record["pictures"]
        if not isinstance(fields, list) or len(fields) > MAX_FIELDS:
            raise ValueError(f"fields: expected a list of at most {MAX_FIELDS}")
        return cls(
            record["clip_seconds"],
            tuple(map(Field.parse, fields)),
            None if pictures is None else Pictures(**pictures),
            record.get("hop_s"),
        )


def row_digest(clip_id: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """SHA-256 of one clip's row, 32 bytes.

    Hashes the id, then for each array, sorted by name: name, dtype, shape and C-order bytes.
    """
    digest = hashlib.sha256(clip_id.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.digest()
