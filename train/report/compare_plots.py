"""Pictures of several runs at once: their curves over each other, their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from train.report.drawing import GREY, label
from train.report.tables import CRITERION_LABELS

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#777777")
"""Okabe and Ito's, told apart with every common colour blindness."""
_STYLES = ("-", "--", "-.", ":")
_SCORES = {
    **{f"val_{name}": f"validation: {label}" for name, label in CRITERION_LABELS.items()},
    "val_top1": "validation: top-1",
    "val_class_loss": "validation: loss of the class",
}
History = Sequence[Mapping[str, float]]


def curves_figure(runs: Mapping[str, Sequence[History]]) -> Figure:
    """Training loss and validation score over epochs, of runs by name: a history for each model.

    Of several models of a run the mean is drawn, and each faintly.
    """
    known = [entry for models in runs.values() for history in models for entry in history]
    score = next(name for name in _SCORES if all(name in entry for entry in known))
    panels = {"train_loss": "training: loss", score: _SCORES[score]}
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for number, (name, models) in enumerate(runs.items()):
            colour, style = COLOURS[number % len(COLOURS)], _STYLES[number % len(_STYLES)]
            curves = [[entry[key] for entry in history] for history in models]
            for curve in curves if len(curves) > 1 else []:
                axis.plot(range(1, len(curve) + 1), curve, color=colour, alpha=0.25, linewidth=1)
            shortest = min(map(len, curves))
            mean = np.mean([curve[:shortest] for curve in curves], axis=0)
            axis.plot(range(1, shortest + 1), mean, style, color=colour, label=label(name, 40))
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(color="#dddddd")
    for text in axes[1].legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    return figure


def differences_figure(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]], labels: Mapping[str, str]
) -> Figure:
    """Differences by what was taken from what, and by score, as dots with their intervals.

    found: estimates, see `train.score.intervals.Estimate`; labels: of each score.
    """
    height = 1.2 + len(labels) * (0.25 + 0.14 * len(found))
    figure, axis = plt.subplots(figsize=(8, height), layout="constrained")
    for number, (name, estimates) in enumerate(found.items()):
        offset = 0.7 * ((number + 0.5) / len(found) - 0.5)
        known = [(place, estimates[key]) for place, key in enumerate(labels) if key in estimates]
        for place, one in known:
            low, high = (
                one[end] if one[end] is not None else one["mean"] for end in ("low", "high")
            )
            axis.errorbar(
                one["mean"],
                place + offset,
                xerr=[[max(0.0, one["mean"] - low)], [max(0.0, high - one["mean"])]],
                fmt="osD^v"[number % 5],
                color=COLOURS[(number + 1) % len(COLOURS)],
                capsize=2,
                markersize=4,
                label=label(name, 60) if place == known[0][0] else None,
            )
    axis.axvline(0, color=GREY, linewidth=1)
    axis.set_yticks(range(len(labels)), list(labels.values()), fontsize=9)
    axis.set(ylim=(len(labels) - 0.5, -0.5), xlabel="difference, 95 % interval")
    axis.grid(axis="x", color="#dddddd")
    axis.set_axisbelow(True)
    legend = axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1, frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
