"""From the gate to whole seconds: the probability of each, and the best-scoring run of them.

AVE annotates and scores whole seconds (Tian et al. 2018), so the gate's steps, whatever their
width, are averaged over each. Shapes: N clips, T steps, S seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.score.metrics import Array, Predictions


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


def best_run(probability: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last-plus-one second of the run with the largest sum of probability - 1/2.

    probability (N, S) → two (N,) int64. The run has at least one second. Found in one pass (the
    maximum-sum run, Bentley 1984).
    """
    count, seconds = probability.shape
    score = probability - 0.5
    best = np.full(count, -np.inf)
    first, stop = np.zeros(count, np.int64), np.ones(count, np.int64)
    total, begin = np.zeros(count), np.zeros(count, np.int64)
    for second in range(seconds):
        fresh = total <= 0
        begin = np.where(fresh, second, begin)
        total = np.where(fresh, 0.0, total) + score[:, second]
        better = total > best
        best = np.where(better, total, best)
        first, stop = np.where(better, begin, first), np.where(better, second + 1, stop)
    return first, stop


def read_off_seconds(probability: Array, on: Array, clip_seconds: float) -> Predictions:
    """Predictions whose start and end are the best run of `on` (N, S); probability (N, K)."""
    first, stop = best_run(on)
    width = np.float64(clip_seconds / on.shape[1])
    start_s, end_s = first * width, stop * width
    event = event_confidence(on, start_s, end_s, clip_seconds)
    return Predictions(probability, start_s, end_s, on, event)


def event_confidence(on: Array, start_s: Array, end_s: Array, clip_seconds: float) -> Array:
    """How sure it is that a clip has an event: the mean of `on` (N, S) over what was read off it.

    start_s, end_s (N,) → (N,) in [0, 1]. Seconds count as far as they lie in the interval.
    """
    edge = np.linspace(0.0, clip_seconds, on.shape[1] + 1)
    inside = np.minimum(end_s[:, None], edge[1:]) - np.maximum(start_s[:, None], edge[:-1])
    inside = inside.clip(min=0.0)
    mean: Array = (on * inside).sum(axis=1) / inside.sum(axis=1).clip(min=1e-9)
    return mean.clip(0.0, 1.0)


def ensemble(
    members: Sequence[Mapping[str, Predictions]], clip_seconds: float
) -> dict[str, Predictions]:
    """The mean of several models' answers to the same clips, for each decoding.

    Class probabilities and the probability of each second are averaged, and the best run is read
    off the mean; start and end of the head are averaged (Lakshminarayanan et al. 2017).
    """

    def mean(decoding: str, name: str) -> Array:
        values: Array = np.mean([getattr(member[decoding], name) for member in members], axis=0)
        return values

    probability = mean("interval", "probability")
    gate = read_off_seconds(probability, mean("gate", "on"), clip_seconds)
    start_s, end_s = mean("interval", "start_s"), mean("interval", "end_s")
    interval = Predictions(probability, start_s, end_s, event=gate.event)
    return {"gate": gate, "interval": interval}
