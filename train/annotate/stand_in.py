"""Until `train.runs` has it: timelines of a single-event run, and how they are read off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cache import Cache
from train.data.features import load_features
from train.runs.trained import TrainedRun
from train.score.read_off import ReadOff
from train.score.timeline import Timeline, merge_windows


def timelines(
    run: TrainedRun, cache: Cache, clips: Sequence[str], device: str | None = None
) -> dict[str, Timeline]:
    """Class × gate of the windows of recordings."""
    rows = [cache.row(one) for one in clips]
    store = load_features(cache, run.config(device), list(clips), len(run.about.classes))
    said = run.answer(store).evidence
    joint = said.probability[:, None, :] * said.cells[:, :, None]
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(cache.windows[row].recording, []).append(place)
    live, result = cache.index.live.rows, {}
    for name, places in found.items():
        offsets = np.array([cache.windows[rows[place]].offset_s for place in places])
        valid = live["valid_s"][[rows[place] for place in places]]
        own = joint[places].copy()
        middle = (np.arange(own.shape[1]) + 0.5) * cache.clip_seconds / own.shape[1]
        own[middle[None] > valid[:, None]] = np.nan
        length = float((offsets + valid).max())
        result[name] = merge_windows(offsets, own, cache.clip_seconds, length)
    return result


def read_off(run: TrainedRun) -> ReadOff:
    """A threshold for all."""
    return ReadOff(threshold=(0.5,) * len(run.about.classes), side_s=1.0, join=0.5, shortest_s=0.5)
