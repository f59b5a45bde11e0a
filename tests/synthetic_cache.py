"""Small seeded caches whose events really are in the features: a class pattern, in both streams."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from cache import Labels
from cache.format.identity import Identity, claim
from cache.format.shard import Clip, write_shard
from cache.labels.store import write_labels
from extract.config import ExtractConfig
from extract.features.declare import declare

CONFIG: dict[str, Any] = {
    "modalities": "both",
    "audio_profile": "fast",
    "clip_seconds": 10.0,
    "sample_rate_hz": 22050,
    "hop_samples": 512,
    "n_mfcc": 40,
    "n_mels": 64,
    "backbone": "small",
    "num_frames": 8,
    "frame_size_px": 224,
}
_SHARD_CLIPS = 32


def labels_for(clips: int, classes: int, seed: int = 0) -> Labels:
    """One event per clip in whole seconds; a third fill the clip; split 60/20/20 by row."""
    rng = np.random.default_rng(seed)
    category = np.arange(clips, dtype=np.int64) % classes
    start = rng.integers(0, 7, clips).astype(np.float64)
    end = np.minimum(start + rng.integers(2, 6, clips), 10.0)
    whole = rng.random(clips) < 1 / 3
    split = np.array([(0, 0, 0, 1, 2)[(n // classes) % 5] for n in range(clips)], np.int8)
    return Labels(
        ids=[f"clip{n:05d}" for n in range(clips)],
        classes=[f"Class {k}" for k in range(classes)],
        category=category,
        start_s=np.where(whole, 0.0, start),
        end_s=np.where(whole, 10.0, end),
        split=split,
        source="synthetic",
    )


def make_cache(
    folder: Path,
    clips: int = 60,
    classes: int = 3,
    seed: int = 0,
    labels: Labels | None = None,
    missing: Sequence[str] = (),
    signal: float = 2.0,
    distinct: int | None = None,
    **config: Any,
) -> Path:
    """Write a cache of `clips` clips and its labels; `missing` ids get no features.

    Only `distinct` clips are computed where it is given; the others repeat them (for benchmarks).
    """
    rng = np.random.default_rng(seed)
    settings = {**CONFIG, **config}
    declared = declare(ExtractConfig.parse(settings))
    identity = Identity(1, settings, declared, {"made_by": "synthetic_cache"})
    claim(folder, identity)
    labels = labels or labels_for(clips, classes, seed)
    write_labels(folder, labels)
    first = {clip_id: row for row, clip_id in reversed(list(enumerate(labels.ids)))}
    patterns = np.random.default_rng(1234).standard_normal((len(labels.classes), 2048))
    rows = [(clip_id, row) for clip_id, row in sorted(first.items()) if clip_id not in missing]
    made = [
        _clip(rng, clip_id, row, labels, patterns * signal, settings)
        for clip_id, row in rows[:distinct]
    ]
    for begin in range(0, len(rows), _SHARD_CLIPS):
        part = [
            replace(made[place % len(made)], id=rows[place][0])
            for place in range(begin, min(begin + _SHARD_CLIPS, len(rows)))
        ]
        write_shard(folder, identity, part)
    return folder


def _clip(
    rng: np.random.Generator,
    clip_id: str,
    row: int,
    labels: Labels,
    patterns: npt.NDArray[np.float64],
    settings: dict[str, Any],
) -> Clip:
    pattern = patterns[labels.category[row]]
    start, end = labels.start_s[row], labels.end_s[row]
    features: dict[str, npt.NDArray[Any]] = {}
    pictures: list[bytes] = []
    steps = 0
    at = 0
    for field in declare(ExtractConfig.parse(settings)).fields:
        if field.name.startswith("audio/"):
            steps, width = field.shape
            time_s = np.arange(steps) * settings["hop_samples"] / settings["sample_rate_hz"]
            on = ((start <= time_s) & (time_s < end))[:, None]
            values = 0.3 * rng.standard_normal(field.shape, np.float32) + on * pattern[:width]
            features[field.name] = values.astype(field.dtype)
        elif field.name == "video/frame_time_s":
            frames = field.shape[0]
            features[field.name] = (np.arange(frames) + 0.5) * settings["clip_seconds"] / frames
        else:
            frames, channels, cells, _ = field.shape
            time_s = (np.arange(frames) + 0.5) * settings["clip_seconds"] / frames
            on = (start <= time_s) & (time_s < end)
            values = 0.3 * np.abs(rng.standard_normal(field.shape, np.float32))
            at = int(rng.integers(0, cells - 1))
            values[on, :, at : at + 2, 2:4] += np.abs(pattern[None, -channels:, None, None])
            features[field.name] = values.astype(field.dtype)
            pictures = [picture(bool(shown), at, settings["frame_size_px"]) for shown in on]
    return Clip(
        clip_id,
        features,
        pictures,
        valid_s=settings["clip_seconds"],
        media_s=settings["clip_seconds"],
        audio_steps=steps,
    )


@functools.cache
def picture(shown: bool, at: int, size_px: int) -> bytes:
    """A grey picture with a bright square where the event's pattern is."""
    pixels = np.full((size_px, size_px, 3), 90, np.uint8)
    if shown:
        pixels[at * 32 : at * 32 + 64, 64:128] = (250, 220, 60)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=80)
    return data.getvalue()
