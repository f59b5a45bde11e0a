"""What a model says, corrected by what validation showed: few numbers, held near 1 by few clips.

A model that knows its training clips by heart is too sure of itself on others, the more so the
fewer they are. Temperature scaling (Guo et al. 2017) corrects the classes, Platt scaling (Platt
1999) the gate. Shapes: N clips, K classes, S seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit, xlogy

from cache.common.settings import Settings
from train.score.metrics import Array

GRIDS_S = (1.0, 0.5, 0.1)
"""What people's boundaries may be multiples of; the last is also for those that are none."""
_NEAR = 0.01  # a boundary this near to a multiple, in seconds, is one
_SURE = 1e-6
_SPREAD = 0.5  # sd of the prior of the logarithms of temperature and scale
_LOOKS = 3  # a clip's seconds say as much as this many would that knew nothing of one another


class Calibration(Settings):
    """How a model's answers are corrected and read off. The plain one corrects nothing."""

    class_temperature: float = Field(default=1.0, gt=0, le=100)
    """The logarithms of the class probabilities are divided by this."""
    gate_scale: float = Field(default=1.0, gt=0, le=100)
    """The gate's logits are multiplied by this, …"""
    gate_shift: float = Field(default=0.0, ge=-100, le=100)
    """… and this is added."""
    whole_clip: bool = False
    """Whether the whole clip is always said: on validation the gate's intervals were worse."""
    grid_s: float = Field(default=0.1, gt=0, le=1)
    """Start and end are multiples of this, as those of the training events are."""

    def classes(self, probability: Array) -> Array:
        """Class probabilities (N, K), corrected."""
        if self.class_temperature == 1:
            return probability
        scaled = np.maximum(probability, _SURE) ** (1 / self.class_temperature)
        corrected: Array = scaled / scaled.sum(axis=1, keepdims=True)
        return corrected

    def gate(self, probability: Array) -> Array:
        """Probabilities that the event is heard and seen, of any shape, corrected; 0 stays 0."""
        if self.gate_scale == 1 and self.gate_shift == 0:
            return probability
        inner = np.clip(probability, _SURE, 1 - _SURE)
        corrected = expit(self.gate_scale * logit(inner) + self.gate_shift)
        return np.where(probability > 0, corrected, 0.0)

    @classmethod
    def mean(cls, members: Sequence[Calibration]) -> Calibration:
        """How the mean of corrected answers is read off: nothing is corrected twice."""
        whole_clip = all(one.whole_clip for one in members)
        return cls(whole_clip=whole_clip, grid_s=members[0].grid_s)


def grid_of(start_s: Array, end_s: Array) -> float:
    """The coarsest of GRIDS_S that all boundaries (N,) lie on: AVE's are whole seconds."""
    edges = np.concatenate([start_s, end_s])
    for grid_s in GRIDS_S[:-1]:
        if np.all(np.abs(edges - np.round(edges / grid_s) * grid_s) < _NEAR):
            return grid_s
    return GRIDS_S[-1]


def class_temperature(probability: Array, category: npt.NDArray[np.int64]) -> float:
    """The temperature with the least cross-entropy on N clips: probability (N, K), category (N,).

    Temperature scaling, on the logarithms of what is already a mean of several softmaxes.
    """
    log = np.log(np.maximum(probability, _SURE))

    def cost(log_temperature: float) -> float:
        scaled = log / np.exp(log_temperature)
        own = scaled[np.arange(len(category)), category]
        loss = np.logaddexp.reduce(scaled, axis=1) - own
        return float(loss.sum() + _held(log_temperature))

    return float(np.exp(minimize_scalar(cost, bounds=(-3, 3), method="bounded").x))


def gate_scale_and_shift(on: Array, true: Array) -> tuple[float, float]:
    """The scale and the shift with the least cross-entropy: on (N, S), true (N, S) in [0, 1]."""
    x = logit(np.clip(on, _SURE, 1 - _SURE))

    def cost(values: Array) -> float:
        chance = np.clip(expit(np.exp(values[0]) * x + values[1]), _SURE, 1 - _SURE)
        loss = -(xlogy(true, chance) + xlogy(1 - true, 1 - chance)).mean(axis=1)
        return float(_LOOKS * loss.sum() + _held(values[0]) + _held(values[1] / 2))

    found = minimize(cost, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-3})
    return float(np.exp(found.x[0])), float(found.x[1])


def _held(value: float) -> float:
    """Minus the logarithm of the prior."""
    return 0.5 * (value / _SPREAD) ** 2
