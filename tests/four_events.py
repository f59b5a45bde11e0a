"""Four events whose scores can be worked out by hand, and what a predictor says of such."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from train.score.metrics import Array, Events, Predictions


def array(*values: npt.ArrayLike) -> Array:
    return np.array(values, np.float64)


TRUTH = Events(np.array([0, 1, 1, 2]), array(0, 2, 5, 0), array(10, 6, 7, 10))


def predictions(
    category: Sequence[int] | npt.NDArray[np.int64],
    start: Iterable[float],
    end: Iterable[float],
    classes: int = 4,
) -> Predictions:
    return Predictions(np.eye(classes)[category], array(*start), array(*end))
