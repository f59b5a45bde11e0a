"""Scores of what is said of each class in each second, before any event is read off it.

Shapes: N clips, S seconds, K classes.
"""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy
from sklearn.metrics import average_precision_score

from train.score.metrics import Array

_SURE = 1e-6


def cross_entropy(true: Array, said: Array) -> float:
    """Of true shares and probabilities (N, S, K): summed over classes, the mean over seconds."""
    chance = np.clip(said, _SURE, 1 - _SURE)
    loss = -(xlogy(true, chance) + xlogy(1 - true, 1 - chance))
    return float(loss.sum(axis=2).mean())


def mean_average_precision(true: Array, said: Array) -> float | None:
    """Mean over classes of the average precision of finding the class's seconds.

    true (N, S, K): a second is one of the class's where more than half of it is; said (N, S, K).
    Classes without any are left out; None where there are none at all.
    """
    areas = [
        average_precision_score(on.ravel(), said[..., k].ravel())
        for k in range(true.shape[2])
        if (on := true[..., k] > 0.5).any()
    ]
    return float(np.mean(areas)) if areas else None
