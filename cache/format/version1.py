"""Caches of format version 1 declare nothing: their settings say which fields they hold.

They stay as they are, in version 1; new ones are not made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from cache.common.settings import canonical_json
from cache.format.fields import Field, Rate, Times
from cache.format.schema import Declaration, Pictures

VERSION = 1
FIRST_FEATURE_VERSION = 1  # of runs whose features.json names none: they were made before it did
_MAP_CHANNELS = {"small": 576, "large": 960}
_PX_PER_CELL = 32


def declared_by(config: Mapping[str, Any]) -> Declaration:
    """What the settings in a version 1 `cache.json` declare.

    Raises ValueError, KeyError or TypeError for settings, perhaps a stranger's, that give no row.
    """
    for name in ("clip_seconds", "sample_rate_hz", "hop_samples", "n_mfcc", "n_mels"):
        if type(config[name]) not in (int, float):
            raise TypeError(f"{name} is {str(config[name])[:40]!r}, no number")
    fields = [] if config["modalities"] == "video" else _audio_fields(config)
    if config["modalities"] == "audio":
        return Declaration(config["clip_seconds"], tuple(fields))
    frames, side_px = config["num_frames"], config["frame_size_px"]
    cells = -(-side_px // _PX_PER_CELL)
    shape = (frames, _MAP_CHANNELS[config["backbone"]], cells, cells)
    times = "video/frame_time_s"
    fields.append(Field("video/maps", shape, "float16", "activation", Times(times)))
    fields.append(Field(times, (frames,), "float64", "s from clip start"))
    return Declaration(config["clip_seconds"], tuple(fields), Pictures(frames, side_px))


def _audio_fields(config: Mapping[str, Any]) -> list[Field]:
    rate_hz, hop = config["sample_rate_hz"], config["hop_samples"]
    steps = 1 + round(config["clip_seconds"] * rate_hz) // hop
    dtype = "float16" if config["audio_profile"] == "fast" else "float32"
    features = {
        "mfcc": (3 * config["n_mfcc"], "MFCC, then delta, then delta-delta"),
        "mel": (config["n_mels"], "dB"),
        "chroma": (12, "1 (each step's maximum is 1)"),
        "contrast": (7, "dB"),
        "tonnetz": (6, "1"),
    }
    return [
        Field(f"audio/{name}", (steps, width), dtype, unit, Rate(rate_hz / hop))
        for name, (width, unit) in features.items()
    ]


def fingerprint(config: Mapping[str, Any], feature_version: int) -> str:
    """The fingerprint, 64 hex digits, of a version 1 cache."""
    covered = {
        "config": dict(config),
        "feature_version": feature_version,
        "format_version": VERSION,
    }
    return hashlib.sha256(canonical_json(covered).encode()).hexdigest()
