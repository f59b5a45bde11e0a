"""Cached audio steps → the means and deviations of wider windows, which the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.format.fields import Rate


def pool_steps(
    features: Sequence[npt.NDArray[Any]],
    steps: npt.NDArray[Any],
    clock: Rate,
    window_s: float,
    windows: int,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the valid steps in each window of `window_s` seconds.

    Each of `features` is (n, steps, D_i); `clock` says when its steps are, and step k is valid
    where k < steps[n]. Returns the means of all, then the deviations of all: (n, windows, 2 ΣD)
    float32, zero in windows without a valid step, not finite where one of its valid steps is not;
    and which windows have one, (n, windows) bool.
    """
    total = features[0].shape[1]
    time_s = clock.first_s + np.arange(total) * (1 / clock.rate_hz)
    window = np.clip((time_s / window_s).astype(np.int64), 0, windows - 1)
    ends = np.searchsorted(window, np.arange(windows), side="right")
    begins = np.concatenate([[0], ends[:-1]])
    spans = list(zip(begins.tolist(), ends.tolist(), strict=True))
    lengths = np.asarray(steps, np.int64)[:, None]
    counts = torch.from_numpy(np.minimum(ends, lengths) - np.minimum(begins, lengths))
    share = (1 / counts.clamp_min(1).float())[:, :, None]
    tails = [(clip, n) for clip, n in enumerate(lengths[:, 0].tolist()) if n < total]
    width = sum(part.shape[2] for part in features)
    pooled = torch.empty(len(lengths), windows, 2 * width)
    at = 0
    for part in features:
        here = slice(at, at := at + part.shape[2])
        means, deviations = pooled[:, :, :width][:, :, here], pooled[:, :, width:][:, :, here]
        values = torch.from_numpy(part).to(torch.float32, copy=True)
        _silence(values, tails)
        for k, (begin, end) in enumerate(spans):
            inside = values[:, begin:end]
            means[:, k] = inside.sum(dim=1).mul_(share[:, k])
            inside -= means[:, k : k + 1]
        _silence(values, tails)
        values.square_()
        for k, (begin, end) in enumerate(spans):
            deviations[:, k] = values[:, begin:end].sum(dim=1).mul_(share[:, k]).sqrt_()
    return pooled, counts > 0


def _silence(values: Tensor, tails: Sequence[tuple[int, int]]) -> None:
    """Zero the steps that (clip, length) doesn't have."""
    for clip, length in tails:
        values[clip, length:] = 0
