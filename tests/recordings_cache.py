"""Tiny caches of windows of recordings, whose events (any number, overlapping) are in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_cache import CONFIG, picture
from tiny_runs import TINY

from cache import Labels
from cache.format.identity import Identity, claim
from cache.format.shard import Clip, write_shard
from cache.format.windows import Window
from cache.labels.store import write_labels
from extract.config import ExtractConfig
from extract.features.declare import declare

CLIP_S, HOP_S = 2.0, 1.0
CLASSES = ["Class 0", "Class 1", "Class 2"]
Event = tuple[int, float, float]


@dataclass(frozen=True)
class Recording:
    """A made-up recording: events are (class, start, end) in seconds; none is background."""

    name: str
    length_s: float
    split: int
    events: Sequence[Event] = ()


def drawn(count: int, seed: int = 0) -> list[Recording]:
    """Recordings of 6 to 10 s with up to four events, some overlapping, 60/20/20 by split."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        length_s = float(rng.integers(6, 11))
        starts = np.sort(np.round(rng.uniform(0, length_s - 1.5, rng.integers(0, 5)), 1))
        events = [
            (int(rng.integers(3)), float(start), round(min(start + 1.5, length_s), 1))
            for start in starts
        ]
        split = (0, 0, 0, 1, 2)[number % 5]
        found.append(Recording(f"rec{number:02d}", length_s, split, events))
    return found


def labels_of(recordings: Sequence[Recording]) -> Labels:
    """The label table, on the recordings' clocks."""
    rows = [
        (one.name, event, one.split)
        for one in recordings
        for event in one.events or [(-1, 0.0, 0.0)]
    ]
    return Labels(
        ids=[name for name, _, _ in rows],
        classes=list(CLASSES),
        category=np.array([event[0] for _, event, _ in rows], np.int64),
        start_s=np.array([event[1] for _, event, _ in rows], np.float64),
        end_s=np.array([event[2] for _, event, _ in rows], np.float64),
        split=np.array([split for _, _, split in rows], np.int8),
        source="made up",
    )


def recordings_cache(folder: Path, recordings: Sequence[Recording], seed: int = 0) -> Path:
    """A cache of windows of 2 s, one every second."""
    settings: dict[str, Any] = {**CONFIG, **TINY, "hop_seconds": HOP_S}
    identity = Identity(1, settings, declare(ExtractConfig.parse(settings)), {})
    claim(folder, identity)
    write_labels(folder, labels_of(recordings))
    for one in recordings:
        offsets_s = np.arange(0, max(one.length_s - CLIP_S, 0) + 0.01, HOP_S).tolist()
        windows = [Window(one.name, offset_s) for offset_s in offsets_s]
        write_shard(folder, identity, [_clip(one, window, seed) for window in windows])
    return folder


def _clip(recording: Recording, window: Window, seed: int) -> Clip:
    """What a class sounds and looks like is the sum of what its events in the window are."""
    parts = [
        moved(event, window.offset_s)
        for event in recording.events
        if event[1] < window.offset_s + CLIP_S and event[2] > window.offset_s
    ]
    return made_clip(window.clip_id, parts, recording.length_s, seed)


def moved(event: Event, offset_s: float) -> Event:
    """An event on the clock of a window that begins at offset_s, cut to it."""
    category, start, end = event
    return category, max(start - offset_s, 0.0), min(end - offset_s, CLIP_S)


def made_clip(clip_id: str, events: Sequence[Event], length_s: float, seed: int) -> Clip:
    """A clip of 2 s: noise, and for each event its class's pattern while it lasts."""
    rng = np.random.default_rng([seed, *clip_id.encode()])
    patterns = 2.0 * np.random.default_rng(1234).standard_normal((len(CLASSES), 2048))
    features: dict[str, np.ndarray[Any, Any]] = {}
    steps = 0
    for field in declare(ExtractConfig.parse({**CONFIG, **TINY})).fields:
        shape = field.shape
        if field.name == "video/frame_time_s":
            features[field.name] = (np.arange(shape[0]) + 0.5) * CLIP_S / shape[0]
            continue
        sound = field.name.startswith("audio/")
        steps = shape[0] if sound else steps
        middle = np.arange(shape[0]) * 512 / 22050 if sound else (np.arange(shape[0]) + 0.5)
        values = 0.3 * rng.standard_normal(shape, np.float32)
        values = values if sound else np.abs(values)
        for category, start, end in events:
            on = (start <= middle) & (middle < end)
            pattern = patterns[category]
            if sound:
                values[on] += pattern[: shape[1]]
            else:
                values[on, :, 2:4, 2:4] += np.abs(pattern[None, -shape[1] :, None, None])
        features[field.name] = values.astype(field.dtype)
    pictures = [picture(False, 0, TINY["frame_size_px"])] * TINY["num_frames"]
    return Clip(clip_id, features, pictures, valid_s=CLIP_S, media_s=length_s, audio_steps=steps)
