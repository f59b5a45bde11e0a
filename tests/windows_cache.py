"""Small caches of windows, with the recordings' events in their features, and files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_cache import CONFIG, _clip
from tiny_runs import TINY

from cache import Labels
from cache.format.identity import Identity, claim
from cache.format.shard import Failure, write_shard
from cache.format.windows import Window
from extract.config import ExtractConfig
from extract.features.declare import declare

CLIP_S, HOP_S = 2.0, 1.0
CLASSES = ("Class 0", "Class 1", "Class 2")
Event = tuple[int, float, float]


def windows_cache(
    folder: Path,
    recordings: Mapping[str, tuple[float, Sequence[Event]]],
    media: Path | None = None,
    missing: Sequence[str] = (),
    hop_s: float | None = HOP_S,
) -> Path:
    """A cache of tiny windows of recordings: seconds and events (class, start, end) of each.

    media: a folder that gets a file for each, `<recording>.mp4`, which the rows are of. missing:
    windows that failed.
    """
    settings: dict[str, Any] = {**CONFIG, **TINY}
    if hop_s is not None:
        settings["hop_seconds"] = hop_s
    identity = Identity(1, settings, declare(ExtractConfig.parse(settings)), {})
    claim(folder, identity)
    patterns = 2 * np.random.default_rng(1234).standard_normal((len(CLASSES), 2048))
    rng = np.random.default_rng(0)
    for name, (length_s, events) in recordings.items():
        size, time_ns = _media(media, name)
        clips, failures = [], []
        for offset_s in np.arange(0, max(length_s - CLIP_S, 0) + 0.01, hop_s or length_s).tolist():
            clip_id = Window(name, offset_s).clip_id
            if clip_id in missing:
                failures.append(Failure(clip_id, "video", "a damaged part", 1, size, time_ns))
                continue
            clip = _clip(rng, clip_id, 0, _inside(events, offset_s), patterns, settings)
            clips.append(replace(clip, media_s=length_s, media_size=size, media_mtime_ns=time_ns))
        write_shard(folder, identity, clips, failures)
    return folder


def _inside(events: Sequence[Event], offset_s: float) -> Labels:
    """The first event that a window holds a part of, on the window's clock; or an empty one."""
    cut = [
        (category, max(start - offset_s, 0.0), min(end - offset_s, CLIP_S))
        for category, start, end in events
    ]
    category, start, end = next((one for one in cut if one[1] < one[2]), (0, 0.0, 0.0))
    return Labels(
        ["x"], list(CLASSES), np.array([category]), np.array([start]), np.array([end]),
        np.zeros(1, np.int8), "synthetic",
    )  # fmt: skip


def _media(folder: Path | None, name: str) -> tuple[int, int]:
    """Size and time of a recording's file, which is no more than its name in bytes."""
    if folder is None:
        return 0, 0
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.mp4"
    path.write_text(name)
    state = path.stat()
    return state.st_size, state.st_mtime_ns
