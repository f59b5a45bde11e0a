"""Names, shapes, dtypes and units of everything in a cache. `docs/format.md` is its prose.

A cache is a folder::

    cache.json      identity: format, fingerprint, resolved extraction settings, provenance
    labels.h5       annotation rows, classes, splits (replaceable without touching features)
    index.h5        which clip is where; derived from the shards, rebuilt when it is stale
    shards/<32 hex digits>.h5    about 32 clips each; the name is the file's own SHA-256 (half)

Shapes use N clips in the shard, T audio steps, F frames, C channels, D features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.common.settings import canonical_json

FORMAT = "avel-cache"
FORMAT_VERSION = 1
FIRST_FEATURE_VERSION = 1  # of runs whose features.json names none: they were made before it did
SHARD_FOLDER = "shards"
SPLITS = ("train", "val", "test")
NO_SPLIT = -1
MAX_ID_BYTES = 255
MAX_CLASS_BYTES = 255
MAX_MESSAGE_BYTES = 500
MAX_ROW_BYTES = 1 << 28
MAX_TEXT_BYTES = 1 << 15  # of settings and provenance: HDF5 attributes hold 64 KiB
AUDIO_FEATURES = ("mfcc", "mel", "chroma", "contrast", "tonnetz")


@dataclass(frozen=True)
class Field:
    """One stacked dataset of a shard: `shape` is per clip, without the leading N."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str

    @property
    def bytes_per_clip(self) -> int:
        """Bytes of one clip's row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def feature_fields(config: Mapping[str, Any]) -> list[Field]:
    """The feature datasets that a cache made with `config` holds, in file order.

    `config` is the resolved extraction settings as stored in `cache.json`. Raises ValueError,
    KeyError or TypeError for settings that describe no row, or one of absurd size: they may come
    from a stranger, and memory is claimed by these shapes.
    """
    fields: list[Field] = []
    for name in ("clip_seconds", "sample_rate_hz", "hop_samples", "n_mfcc", "n_mels"):
        # A text times a number is a longer text: gigabytes of it, if a stranger likes.
        if type(config[name]) not in (int, float):
            raise TypeError(f"{name} is {str(config[name])[:40]!r}, no number")
    if config["modalities"] != "video":
        steps = (
            1 + round(config["clip_seconds"] * config["sample_rate_hz"]) // config["hop_samples"]
        )
        dtype = "float16" if config["audio_profile"] == "fast" else "float32"
        widths = {
            "mfcc": (3 * config["n_mfcc"], "MFCC, then delta, then delta-delta"),
            "mel": (config["n_mels"], "dB"),
            "chroma": (12, "1 (each step's maximum is 1)"),
            "contrast": (7, "dB"),
            "tonnetz": (6, "1"),
        }
        for name, (width, unit) in widths.items():
            fields.append(Field(f"audio/{name}", (steps, width), dtype, unit))
    if config["modalities"] != "audio":
        frames, channels = config["num_frames"], {"small": 576, "large": 960}[config["backbone"]]
        cells = -(-config["frame_size_px"] // 32)
        shape = (frames, channels, cells, cells)
        fields.append(Field("video/maps", shape, "float16", "activation"))
        fields.append(Field("video/frame_time_s", (frames,), "float64", "s from clip start"))
    lengths = [length for spec in fields for length in spec.shape]
    if not all(isinstance(length, int) and length > 0 for length in lengths):
        raise ValueError(f"settings that give no row: {dict(config)}")
    if row_bytes(fields) > MAX_ROW_BYTES:
        raise ValueError(f"settings that give rows of more than {MAX_ROW_BYTES:,} bytes")
    return fields


def row_bytes(fields: Iterable[Field]) -> int:
    """Bytes that one clip takes in the given datasets."""
    return sum(spec.bytes_per_clip for spec in fields)


def row_layout(config: Mapping[str, Any]) -> list[Field]:
    """Every dataset of a shard that has one row a clip, in file order.

    With video, `video/jpeg_end` (the pictures' ends in `video/jpeg`) is among them.
    """
    features = feature_fields(config)
    maps = [spec for spec in features if spec.name == "video/maps"]
    ends = [Field(JPEG_END, spec.shape[:1], "int64", "byte in video/jpeg") for spec in maps]
    return [*ROW_FIELDS, *features, *ends]


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


def fingerprint(config: Mapping[str, Any], feature_version: int) -> str:
    """64 hex digits that are equal exactly when two caches' numbers may be mixed.

    Covers the resolved extraction settings (the weights' SHA-256 among them), the version of the
    feature code and the format version; not paths, workers, order, machine or library versions.
    """
    identity = {
        "config": dict(config),
        "feature_version": feature_version,
        "format_version": FORMAT_VERSION,
    }
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def config_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One readable line per setting that differs: `name: ours → theirs`."""
    return [
        f"{name}: {ours.get(name, 'absent')!r} here, {theirs.get(name, 'absent')!r} in the cache"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
