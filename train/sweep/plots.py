"""The pictures of a sweep's page: history, importance, slices, parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.report.drawing import GREY, PREDICTED, TRUE
from train.sweep.study import shown_value, state_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_COLUMNS = 4


def history(trials: Sequence[FrozenTrial], criterion: str) -> Figure:
    """Scores by the trials' numbers, pruned ones by their last look, and the best so far."""
    figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
    known = [(one, one.value) for one in trials if one.value is not None]
    done = [(one.number, value) for one, value in known if state_of(one) == "complete"]
    cut = [(one.number, value) for one, value in known if state_of(one) == "pruned"]
    if cut:
        places, last = zip(*cut, strict=True)
        axes.scatter(places, last, s=16, color=GREY, marker="x", label="pruned")
    numbers, values = zip(*done, strict=True)
    axes.scatter(numbers, values, s=22, color=TRUE, label="to the end")
    axes.step(
        numbers, np.maximum.accumulate(values), where="post", color=PREDICTED, label="best so far"
    )
    axes.set(xlabel="trial", ylabel=criterion)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def importance(shares: Mapping[str, float]) -> Figure:
    """Bars, the most important first."""
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.32 * len(shares)), layout="constrained")
    names = list(shares)[::-1]
    bars = axes.barh(names, [shares[name] for name in names], color=TRUE)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share", xlim=(0, 1.12 * max(max(shares.values()), 1e-9)))
    return figure


def slices(done: Sequence[FrozenTrial], names: Sequence[str], criterion: str) -> Figure:
    """A small plot for each setting: its values against the score."""
    rows = -(-len(names) // _COLUMNS)
    figure, grid = plt.subplots(
        rows, _COLUMNS, figsize=(11, 2.5 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    for number, axes in enumerate(grid.flat):
        axes.set_axis_on() if number < len(names) else axes.set_axis_off()
    for name, axes in zip(names, grid.flat, strict=False):
        some = [one for one in done if name in one.params]
        places = [_place(one, name) for one in some]
        axes.scatter(places, [one.value for one in some], s=16, color=TRUE, alpha=0.7)
        _ticks(axes, done, name)
        axes.set_xlabel(name)
    for axes in grid[:, 0]:
        axes.set_ylabel(criterion)
    return figure


def parallel(done: Sequence[FrozenTrial], names: Sequence[str], criterion: str) -> Figure:
    """A line for each trial through its settings and its score; the best fifth coloured."""
    axes_names = [*names, criterion]
    figure, axes = plt.subplots(figsize=(11, 4.2), layout="constrained")
    best = {one.number for one in done[: max(1, len(done) // 5)]}
    values = np.array([float(one.value or 0.0) for one in done])
    low, high = values.min(), max(values.max(), values.min() + 1e-9)
    for one, value in sorted(zip(done, values, strict=True), key=lambda p: p[0].number in best):
        heights = [_share(done, one, name) for name in names] + [(value - low) / (high - low)]
        own = one.number in best
        axes.plot(heights, color=PREDICTED if own else GREY, alpha=0.9 if own else 0.25, lw=1.3)
    for place, name in enumerate(axes_names):
        axes.axvline(place, color="black", lw=0.6)
        ends = (low, high) if name == criterion else _ends(done, name)
        for height, end in zip((-0.06, 1.03), ends, strict=True):
            axes.text(place, height, shown_value(end), ha="center", fontsize=8)
    axes.set_xticks(range(len(axes_names)), axes_names, rotation=20, ha="right")
    axes.set(yticks=[], ylim=(-0.1, 1.1))
    axes.spines[:].set_visible(False)
    return figure


def _is_log(one: FrozenTrial, name: str) -> bool:
    return bool(getattr(one.distributions[name], "log", False))


def _place(one: FrozenTrial, name: str) -> float:
    """Where a trial's value stands on its axis: a number, its logarithm, or a choice's place."""
    choices = getattr(one.distributions[name], "choices", None)
    if choices is not None:
        return float(choices.index(one.params[name]))
    value = float(one.params[name])
    return math.log10(value) if _is_log(one, name) else value


def _places(done: Sequence[FrozenTrial], name: str) -> list[float]:
    return [_place(one, name) for one in done if name in one.params]


def _share(done: Sequence[FrozenTrial], one: FrozenTrial, name: str) -> float:
    """How far up its axis, from 0 to 1, a trial's value stands."""
    places = _places(done, name)
    wide = max(places) - min(places)
    return (_place(one, name) - min(places)) / wide if wide else 0.5


def _ends(done: Sequence[FrozenTrial], name: str) -> tuple[object, object]:
    """The values at an axis's ends."""
    ordered = sorted(done, key=lambda one: _place(one, name))
    return ordered[0].params[name], ordered[-1].params[name]


def _ticks(axes: Axes, done: Sequence[FrozenTrial], name: str) -> None:
    first = done[0].distributions[name]
    choices = getattr(first, "choices", None)
    if choices is not None:
        axes.set_xticks(range(len(choices)), [shown_value(value) for value in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
    elif getattr(first, "log", False):
        low, high = math.log10(first.low), math.log10(first.high)  # type: ignore[attr-defined]
        places = np.linspace(low, high, 3)
        axes.set_xticks(places, [shown_value(10**place) for place in places])
