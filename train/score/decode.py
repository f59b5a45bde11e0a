"""From the gate to an interval: the probability of each part of a clip, and what is read off it.

AVE annotates and scores whole seconds (Tian et al. 2018), so for its segments the gate's steps,
whatever their width, are averaged over each. Start and end are read off a finer grid of cells.
Shapes: N clips, T steps, S seconds, G cells, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.score.calibrate import Calibration
from train.score.metrics import Array, Predictions, second_count

FINE = 10
"""Cells in a second, of clips of up to a minute; longer clips have coarser cells, at least one."""
_MOST_CELLS = 600
_BLOCK = 1 << 22  # numbers held at once while intervals are compared
_LITTLE = 1e-9


@dataclass(frozen=True)
class Evidence:
    """What a model says of N clips before start and end are read off: float64 on the host.

    probability: (N, K) of the classes; start_s, end_s: (N,) of the interval head; on: (N, S) of
    each second and cells: (N, G) of each cell that the event is heard and seen there.
    """

    probability: Array
    start_s: Array
    end_s: Array
    on: Array
    cells: Array

    @classmethod
    def mean(cls, members: Sequence[Evidence]) -> Evidence:
        """The mean of several models' evidence (Lakshminarayanan et al. 2017); one's is its own."""
        names = cls.__dataclass_fields__
        return cls(**{n: np.mean([getattr(one, n) for one in members], axis=0) for n in names})

    def calibrated(self, calibration: Calibration) -> Evidence:
        """The same, as probabilities that came true on validation (see Calibration)."""
        return Evidence(
            calibration.classes(self.probability),
            self.start_s,
            self.end_s,
            calibration.gate(self.on),
            calibration.gate(self.cells),
        )

    def on_grid(self, grid_s: float, clip_seconds: float) -> Array:
        """The probability in each part of the clip that is `grid_s` long, or about: (N, G / ·)."""
        part = cells_in_part(self.cells.shape[1], self.on.shape[1], grid_s)
        if part * self.on.shape[1] == self.cells.shape[1]:
            return self.on
        chance: Array = self.cells.reshape(len(self.cells), -1, part).mean(axis=2)
        return chance

    def read_off(self, calibration: Calibration, clip_seconds: float) -> dict[str, Predictions]:
        """Predictions whose start and end are, as "gate", those of `best_interval`, and, as
        "interval", those of the interval head.
        """
        chance = self.on_grid(calibration.grid_s, clip_seconds)
        first, stop = best_interval(chance)
        if calibration.whole_clip:
            first, stop = np.zeros_like(first), np.full_like(stop, chance.shape[1])
        width = np.float64(clip_seconds / chance.shape[1])
        start_s, end_s = first * width, stop * width
        event = event_confidence(self.on, start_s, end_s, clip_seconds)
        return {
            "gate": Predictions(self.probability, start_s, end_s, self.on, event),
            "interval": Predictions(self.probability, self.start_s, self.end_s, event=event),
        }


def cell_count(clip_seconds: float) -> int:
    """G, a multiple of the clip's seconds."""
    seconds = second_count(clip_seconds)
    return seconds * max(1, min(FINE, _MOST_CELLS // seconds))


def cells_in_part(cells: int, seconds: int, grid_s: float) -> int:
    """How many of a clip's cells are a part that is `grid_s` long, or about; at most a second."""
    one = cells // seconds
    return max(n for n in range(1, one + 1) if one % n == 0 and n <= grid_s * one + 1e-6)


def second_probability(gate_logits: Tensor, steps: Tensor, seconds: int) -> Tensor:
    """Mean gate over each second, weighted by how much of each step lies in it: (N, S) in [0, 1].

    gate_logits (N, T), -inf where a step is padding; steps (N, T, 2) as fractions of the clip.
    A second in which no step lies is 0.
    """
    edge = torch.arange(seconds + 1, device=steps.device) / seconds
    begin, end = steps[:, :, :1], steps[:, :, 1:]
    overlap = (torch.minimum(end, edge[1:]) - torch.maximum(begin, edge[:-1])).clamp_min(0.0)
    overlap = overlap * torch.isfinite(gate_logits).unsqueeze(-1)
    mass = (gate_logits.sigmoid().unsqueeze(1) @ overlap).squeeze(1)
    return mass / overlap.sum(dim=1).clamp_min(1e-9)


def cell_probability(gate_logits: Tensor, steps: Tensor, cells: int) -> Tensor:
    """Gate at the middle of each cell, linear between the middles of steps: (N, G) in [0, 1].

    gate_logits and steps as in `second_probability`. Before the first and after the last middle it
    stays as it is there; a cell in which no step lies is 0.
    """
    near, inside = _near(torch.isfinite(gate_logits), steps, cells)
    value = (gate_logits.sigmoid().unsqueeze(1) @ near).squeeze(1)
    return value / near.sum(dim=1).clamp_min(1e-9) * inside


def class_probability(gate_logits: Tensor, each: Tensor, steps: Tensor, cells: int) -> Tensor:
    """The same of each class, the gate's probability times its own: (N, G, K) in [0, 1].

    each (N, T, K): see `Output`.
    """
    near, inside = _near(torch.isfinite(gate_logits), steps, cells)
    value = near.transpose(1, 2) @ (gate_logits.sigmoid().unsqueeze(2) * each.sigmoid())
    return value / near.sum(dim=1).clamp_min(1e-9).unsqueeze(2) * inside.unsqueeze(2)


def _near(known: Tensor, steps: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """How near each step is to each cell, (N, T, G), and in which cells one lies, (N, G)."""
    middle = (torch.arange(cells, device=steps.device) + 0.5) / cells
    begin, end = steps[:, :, :1], steps[:, :, 1:]
    known = known.unsqueeze(-1)
    near = 1 - (middle - (begin + end) / 2).abs() / (end - begin).clamp_min(1e-9)
    near = near.clamp_min(0.0) * known
    return near, ((begin <= middle) & (middle < end) & known).any(dim=1)


def best_interval(probability: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last-plus-one cell of the interval with the largest expected tIoU.

    probability (N, G) → two (N,) int64, at least one cell apart. Of all intervals I it is that with
    the largest Σ_in p / (length of I + Σ_out p): expected intersection over expected union. Of
    equals the longest counts, so that a gate of zeros gives the whole clip.
    """
    count, cells = probability.shape
    mass = np.concatenate([np.zeros((count, 1)), (probability + _LITTLE).cumsum(axis=1)], axis=1)
    length = np.arange(cells, 0, -1)  # the longest intervals come first
    stop = np.concatenate([np.arange(n, cells + 1) for n in length])
    first = stop - np.repeat(length, cells + 1 - length)
    best = np.zeros(count, np.int64)
    block = max(1, _BLOCK // len(first))
    for begin in range(0, count, block):
        some = mass[begin : begin + block]
        inside = some[:, stop] - some[:, first]
        score = inside / ((stop - first) + some[:, -1:] - inside)
        best[begin : begin + block] = score.argmax(axis=1)
    return first[best], stop[best]


def event_confidence(on: Array, start_s: Array, end_s: Array, clip_seconds: float) -> Array:
    """How sure it is that a clip has an event: the mean of `on` (N, S) over what was read off it.

    start_s, end_s (N,) → (N,) in [0, 1]. Seconds count as far as they lie in the interval.
    """
    edge = np.linspace(0.0, clip_seconds, on.shape[1] + 1)
    inside = np.minimum(end_s[:, None], edge[1:]) - np.maximum(start_s[:, None], edge[:-1])
    inside = inside.clip(min=0.0)
    mean: Array = (on * inside).sum(axis=1) / inside.sum(axis=1).clip(min=1e-9)
    return mean.clip(0.0, 1.0)
