"""Pictures of a whole run: intervals, training curves, which classes are mixed up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from train.report.drawing import GREY, PREDICTED, TRUE, label
from train.report.tables import CRITERION_LABELS
from train.report.views import View
from train.score.metrics import Array


def intervals_figure(rows: Sequence[Mapping[str, Any]], clip_seconds: float) -> Figure:
    """True against predicted intervals of at most 40 events, evenly chosen, sorted by class."""
    rows = [row for row in rows if row["category"] is not None]
    ordered = sorted(rows, key=lambda row: (row["category"], row["start_s"], row["end_s"]))
    picks = np.unique(np.linspace(0, len(ordered) - 1, min(40, len(ordered))).astype(int))
    figure, axis = plt.subplots(figsize=(9, 1.6 + 0.27 * len(picks)), layout="constrained")
    names = []
    for place, pick in enumerate(picks):
        row = ordered[pick]
        axis.barh(
            place - 0.2, row["end_s"] - row["start_s"], left=row["start_s"], height=0.38, color=TRUE
        )
        axis.barh(
            place + 0.2,
            row["predicted_end_s"] - row["predicted_start_s"],
            left=row["predicted_start_s"],
            height=0.38,
            color=PREDICTED,
        )
        wrong = row["predicted"] != row["category"]
        said = f"  (said {label(row['predicted'], 30)})" if wrong else ""
        names.append(label(row["category"], 30) + said)
    axis.set_yticks(range(len(picks)), names, fontsize=8, parse_math=False)
    axis.set(xlim=(0, clip_seconds), ylim=(len(picks) - 0.4, -0.6), xlabel="time (s)")
    axis.grid(axis="x", color="#dddddd")
    axis.set_axisbelow(True)
    handles = [Patch(color=color) for color in (TRUE, PREDICTED)]
    axis.legend(
        handles,
        ["true", "predicted"],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        frameon=False,
    )
    return figure


def gates_figure(views: Sequence[View]) -> Figure:
    """The gate of several clips, three in a row, with true and predicted intervals under it."""
    rows = -(-len(views) // 3)
    figure, axes = plt.subplots(
        rows, 3, figsize=(13, 0.4 + 2.1 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, view in zip(axes.flat, views, strict=False):
        _draw_timeline(axis, view)
        said = "" if view.predicted == view.category else f", said {label(view.predicted, 26)}"
        true = "no event" if view.empty else label(view.category or "", 26)
        title = f"{true}{said}  ({label(view.id, 20)})"
        axis.set_title(title, fontsize=9, parse_math=False)
    for axis in axes.flat[len(views) :]:
        axis.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.supylabel("gate: heard and seen", fontsize=10)
    return figure


def curves_figure(history: Sequence[Mapping[str, float]], kept: int) -> Figure:
    """Losses, validation scores and the learning rate over epochs; `kept` has the weights."""
    epoch = [entry["epoch"] for entry in history]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    losses = {
        "train_class_loss": "train, class",
        "train_interval_loss": "train, interval (L1)",
        "train_gate_loss": "train, gate",
        "val_class_loss": "validation, class",
    }
    which, lists = (CRITERION_LABELS[key] for key in ("localized_iou", "segment_map"))
    scores = {"val_top1": "top-1", "val_miou": "mIoU", "val_localized_iou": which}
    if history and "val_segment_map" in history[0]:  # of several events
        del losses["train_interval_loss"]
        scores = {"val_segment_map": lists}
    scores = {name: label for name, label in scores.items() if all(name in e for e in history)}
    panels = [
        ("loss", losses),
        ("validation score", scores),
        ("learning rate", {"learning_rate": "learning rate"}),
    ]
    colors = (TRUE, PREDICTED, "#009E73", "#CC79A7")
    for axis, (title, series) in zip(axes, panels, strict=True):
        for (name, legend), color, style in zip(
            series.items(), colors, ("-", "--", "-.", ":"), strict=False
        ):
            axis.plot(epoch, [entry[name] for entry in history], style, color=color, label=legend)
        axis.axvline(kept, color=GREY, linewidth=1, linestyle=":", label=f"kept: epoch {kept}")
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
    axes[1].set_ylim(0, 1.02)
    axes[2].set_yscale("log")
    return figure


def forest_figure(
    predictors: Mapping[str, Mapping[str, Mapping[str, Any]]], scores: Mapping[str, str]
) -> Figure:
    """Each predictor's scores as dots, with whiskers where there is an interval.

    predictors: by name and score an estimate (see `train.score.intervals.Estimate`), the model
    first; scores: label of each score, in the order in which they are drawn.
    """
    figure, axis = plt.subplots(
        figsize=(8, 1.4 + len(scores) * (0.2 + 0.12 * len(predictors))), layout="constrained"
    )
    colors = (PREDICTED, "#009E73", "#CC79A7", GREY, TRUE)
    for number, (name, found) in enumerate(predictors.items()):
        known = [place for place, key in enumerate(scores) if key in found]
        drawn = [found[key] for key in scores if key in found]
        means = np.array([one["mean"] for one in drawn])
        edges = np.array(
            [[one[end] if one[end] is not None else one["mean"] for end in ("low", "high")]
             for one in drawn]
        ).reshape(-1, 2)  # fmt: skip
        offset = 0.7 * ((number + 0.5) / len(predictors) - 0.5)
        axis.errorbar(
            means,
            np.array(known) + offset,
            xerr=np.abs(edges - means[:, None]).T,
            fmt="osD^v"[number % 5],
            color=colors[number % 5],
            capsize=2,
            markersize=4,
            linewidth=1.2,
            label=label(name, 40),
        )
    axis.set_yticks(range(len(scores)), list(scores.values()), fontsize=9)
    axis.set(xlim=(-0.02, 1.02), ylim=(len(scores) - 0.5, -0.5), xlabel="score, 95 % interval")
    axis.grid(axis="x", color="#dddddd")
    axis.set_axisbelow(True)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8)
    return figure


def confusion_figure(counts: Array, classes: Sequence[str]) -> Figure:
    """Confusion matrix: colour is the share of the true class, figures are counts."""
    number = len(classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.5, 0.34 * number + 2.6)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    image = axis.imshow(share, cmap="cividis", vmin=0, vmax=1)
    names = [label(name, 30) for name in classes]
    axis.set_xticks(range(number), names, rotation=90, fontsize=8, parse_math=False)
    axis.set_yticks(range(number), names, fontsize=8, parse_math=False)
    axis.set(xlabel="predicted", ylabel="true")
    for row, column in np.argwhere(counts > 0):
        color = "black" if share[row, column] > 0.5 else "white"
        text = f"{counts[row, column]:g}"
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, shrink=0.8, label="share of the true class")
    return figure


def _draw_timeline(axis: Axes, view: View) -> None:
    """The gate of each part as a stair, the predicted and the true interval under it."""
    line = "-" if view.by_gate else ":"
    axis.stairs(
        view.on,
        view.part_edges(),
        baseline=None,
        color="black",
        linewidth=1.8,
        linestyle=line,
        label=view.gate_name,
    )
    axis.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    start, end = view.predicted_s
    axis.barh(-0.1, end - start, left=start, height=0.1, color=PREDICTED, label="predicted")
    if view.true_s is not None:
        start, end = view.true_s
        axis.barh(-0.24, end - start, left=start, height=0.1, color=TRUE, label="true")
    axis.set(xlim=(0, view.clip_seconds), ylim=(-0.34, 1.05))
    axis.set_yticks([0, 0.5, 1])
