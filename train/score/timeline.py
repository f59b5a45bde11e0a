"""Windows of a recording become one timeline: for each class a probability of each tenth second.

Shapes: W windows, T steps of each, S cells of the timeline, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.score.metrics import Array

CELL_S = 0.1
"""Seconds of a cell. Finer than a step: where an event begins lies between two steps' middles."""
_FLOOR = 0.05  # weight of a window at its own edges, against 1 in its middle
_LITTLE = 1e-9


@dataclass(frozen=True)
class Timeline:
    """What a model says of one recording.

    probability: (S, K) float64 in [0, 1]; cell k is [k, k + 1) · step_s, the last one may reach
    beyond length_s, the recording's seconds. Cells that no window covers are 0.
    """

    probability: Array
    step_s: float
    length_s: float


def merge_windows(
    offsets_s: Array, probability: Array, clip_seconds: float, length_s: float
) -> Timeline:
    """The mean of overlapping windows, in which a window counts most at its middle.

    offsets_s: (W,) where each window of `clip_seconds` begins; probability: (W, T, K) of its T
    equal steps, NaN where a step has no answer (it is padding). Weights are a raised cosine, as in
    overlap-add, over a floor: what one window alone covers, as the recording's edges, is said by
    that window as it is. Between the middles of steps a window's answer is linear; before the
    first and after the last it stays as it is there.
    """
    _, steps, classes = probability.shape
    cells = max(1, int(np.ceil(length_s / CELL_S - 1e-6)))
    middle = (np.arange(cells) + 0.5) * CELL_S
    total, weight = np.zeros((cells, classes)), np.zeros(cells)
    width = clip_seconds / steps
    for offset_s, answer in zip(offsets_s, probability, strict=True):
        first, stop = np.searchsorted(middle, [offset_s, offset_s + clip_seconds])
        at = middle[first:stop] - offset_s
        known = np.isfinite(answer).all(axis=1)
        near = (1 - np.abs(at[:, None] / width - (np.arange(steps) + 0.5))).clip(min=0) * known
        near /= near.sum(axis=1, keepdims=True).clip(min=_LITTLE)
        inside = known[np.minimum(at / width, steps - 1).astype(np.int64)]
        counts = inside * (_FLOOR + (1 - _FLOOR) * np.sin(np.pi * at / clip_seconds) ** 2)
        total[first:stop] += counts[:, None] * (near @ np.where(known[:, None], answer, 0.0))
        weight[first:stop] += counts
    merged = (total / weight.clip(min=_LITTLE)[:, None]).clip(0.0, 1.0)
    return Timeline(merged, CELL_S, length_s)
