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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.settings import canonical_json

FORMAT = "avel-cache"
FORMAT_VERSION = 1
SHARD_FOLDER = "shards"
SPLITS = ("train", "val", "test")
MAX_ID_BYTES = 255
MAX_MESSAGE_BYTES = 500
AUDIO_FEATURES = ("mfcc", "mel", "chroma", "contrast", "tonnetz")


@dataclass(frozen=True)
class Field:
    """One stacked dataset of a shard: `shape` is per clip, without the leading N."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str


def feature_fields(config: Mapping[str, Any]) -> list[Field]:
    """The feature datasets that a cache made with `config` holds, in file order.

    `config` is the resolved extraction settings as stored in `cache.json`.
    """
    fields: list[Field] = []
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
    return fields


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
