"""Pictures: where the model looks and listens, what it predicts, how it learned. Headless."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from cache.atomic import plain_folder, replace_file

Array = npt.NDArray[np.float64]
FOLDER = "attention_visualization"
# Okabe and Ito's colours: told apart with every common colour blindness.
TRUE, PREDICTED, GREY = "#0072B2", "#E69F00", "#777777"
_MAPS = "magma"


@dataclass(frozen=True)
class View:
    """One clip to draw: its attention maps without the leading N, times in seconds.

    pictures: F encoded JPEGs (none without video); true_s is None for unlabelled clips.
    """

    id: str
    attention: Mapping[str, Array]
    clip_seconds: float
    step_s: float
    frame_time_s: Array
    pictures: Sequence[bytes]
    predicted: str
    confidence: float
    predicted_s: tuple[float, float]
    category: str | None = None
    true_s: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """What is true and what was predicted, in one or two lines."""
        start, end = self.predicted_s
        text = f"predicted: {self.predicted} ({self.confidence:.0%}), {start:.1f}–{end:.1f} s"
        if self.true_s is None:
            return f"{self.id}\n{text}"
        start, end = self.true_s
        return f"{self.id}   true: {self.category}, {start:g}–{end:g} s\n{text}"


def draw_clip(folder: Path, view: View) -> list[Path]:
    """Every picture of one clip, as PNG files named after its id."""
    plain_folder(folder)
    figures = {}
    if "spatial" in view.attention:
        figures["spatial"] = spatial_figure(view)
    figures["temporal"] = heads_figure(
        view,
        {"audio": "audio attends to audio", "video": "video attends to video"},
        "temporal self-attention",
    )
    if "audio_to_video" in view.attention:
        names = {
            "audio_to_video": "audio asks video",
            "video_to_audio": "video asks audio",
        }
        figures["cross_modal"] = heads_figure(view, names, "cross-modal attention")
    figures["timeline"] = timeline_figure(view)
    return [_save(figure, folder / f"{view.id}_{name}.png") for name, figure in figures.items()]


def spatial_figure(view: View) -> Figure:
    """Spatial attention over each frame, on the picture that the network saw."""
    weights = view.attention["spatial"]
    low, high = float(weights.min()), float(weights.max())
    frames = len(weights)
    columns = min(4, frames)
    rows = -(-frames // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns + 1, 2.9 * rows + 0.9), layout="constrained"
    )
    image = None
    for frame, axis in enumerate(np.atleast_1d(axes).flat):
        axis.set_xticks([])
        axis.set_yticks([])
        if frame >= frames:
            axis.axis("off")
            continue
        if view.pictures:
            with Image.open(io.BytesIO(view.pictures[frame])) as picture:
                axis.imshow(picture.convert("RGB"), extent=(0, 1, 0, 1))
        image = axis.imshow(
            weights[frame],
            extent=(0, 1, 0, 1),
            interpolation="bilinear",
            cmap=_MAPS,
            # Faint where the model doesn't look, so that the picture stays visible.
            alpha=0.7 * np.sqrt((weights[frame] - low) / max(high - low, 1e-9)),
            norm=PowerNorm(0.5, vmin=low, vmax=max(high, low + 1e-9)),
        )
        time_s = view.frame_time_s[frame]
        inside = view.true_s is not None and view.true_s[0] <= time_s < view.true_s[1]
        axis.set_xlabel(f"{time_s:.2f} s" + ("  in the event" if inside else ""))
        for side in axis.spines.values():
            side.set(color=TRUE if inside else GREY, linewidth=4 if inside else 1)
    assert image is not None
    cells = weights.shape[1] * weights.shape[2]
    figure.colorbar(
        image, ax=axes, shrink=0.8, label=f"share of the frame's attention (even: {1 / cells:.3f})"
    )
    figure.suptitle(view.title)
    return figure


def heads_figure(view: View, names: Mapping[str, str], what: str) -> Figure:
    """Attention maps with seconds on both axes: the mean over heads, then the heads apart."""
    shown = {name: text for name, text in names.items() if name in view.attention}
    heads = max((len(view.attention[name]) for name in shown), default=0)
    columns = -(-heads // 2)
    figure = plt.figure(figsize=(5.2 + 2.1 * columns, 4.7 * len(shown) + 0.8), layout="constrained")
    figure.suptitle(f"{view.title}\n{what}", fontsize=12)
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (name, text) in zip(parts, shown.items(), strict=True):
        weights = view.attention[name]
        left, right = part.subfigures(1, 2, width_ratios=[5.0, 2.1 * columns])
        axis = left.subplots()
        mesh = _map(axis, view, name, weights.mean(axis=0))
        axis.set_title(f"{text}: mean of {len(weights)} heads", fontsize=11)
        asks, answers = _streams(name)
        axis.set_ylabel(f"{asks} asks at (s)")
        axis.set_xlabel(f"{answers} answers from (s)")
        left.colorbar(mesh, ax=axis, label="weight")
        small = right.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
        for head, place in enumerate(small.flat):
            if head >= len(weights):
                place.axis("off")
                continue
            _map(place, view, name, weights[head])
            place.set_title(f"head {head + 1}", fontsize=9)
            place.tick_params(labelsize=8)
    return figure


def timeline_figure(view: View) -> Figure:
    """The per-step gate over the clip, with the true and the predicted interval under it."""
    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    _timeline(axis, view)
    axis.set_ylabel("gate: the event is on")
    axis.set_xlabel("time (s)")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axis.set_title(view.title, fontsize=11)
    return figure


def gates_figure(views: Sequence[View]) -> Figure:
    """The gate of several clips, three in a row, with true and predicted intervals under it."""
    rows = -(-len(views) // 3)
    figure, axes = plt.subplots(
        rows, 3, figsize=(13, 0.4 + 2.1 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, view in zip(axes.flat, views, strict=False):
        _timeline(axis, view)
        said = "" if view.predicted == view.category else f", said {view.predicted}"
        axis.set_title(f"{view.category}{said}  ({view.id})", fontsize=9)
    for axis in axes.flat[len(views) :]:
        axis.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.supylabel("gate: heard and seen", fontsize=10)
    return figure


def _timeline(axis: Axes, view: View) -> None:
    gate = view.attention["gate"]
    if "audio" not in view.attention:
        axis.plot(view.frame_time_s, gate, "o-", color="black", label="gate")
    else:
        edges = np.arange(len(gate) + 1) * view.step_s
        axis.stairs(gate, edges, color="black", fill=False, linewidth=1.8, label="gate")
    start, end = view.predicted_s
    axis.barh(-0.1, end - start, left=start, height=0.1, color=PREDICTED, label="predicted")
    if view.true_s is not None:
        start, end = view.true_s
        axis.barh(-0.24, end - start, left=start, height=0.1, color=TRUE, label="true")
    axis.set(xlim=(0, view.clip_seconds), ylim=(-0.34, 1.05))
    axis.set_yticks([0, 0.5, 1])


def intervals_figure(rows: Sequence[Mapping[str, Any]], clip_seconds: float) -> Figure:
    """True against predicted intervals of at most 40 events, evenly chosen, sorted by class."""
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
        names.append(row["category"] + (f"  (said {row['predicted']})" if wrong else ""))
    axis.set_yticks(range(len(picks)), names, fontsize=8)
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


def curves_figure(history: Sequence[Mapping[str, float]], best: int) -> Figure:
    """Losses, validation scores and the learning rate over epochs."""
    epoch = [entry["epoch"] for entry in history]
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    panels = [
        (
            "loss",
            {
                "train_class_loss": "train, class",
                "train_interval_loss": "train, interval (L1)",
                "train_gate_loss": "train, gate",
                "val_class_loss": "validation, class",
            },
        ),
        (
            "validation score",
            {"val_top1": "top-1", "val_miou": "mIoU", "val_localized_iou": "mIoU, wrong class = 0"},
        ),
        ("learning rate", {"learning_rate": "learning rate"}),
    ]
    colors = (TRUE, PREDICTED, "#009E73", "#CC79A7")
    for axis, (title, series) in zip(axes, panels, strict=True):
        for (name, label), color, style in zip(
            series.items(), colors, ("-", "--", "-.", ":"), strict=False
        ):
            axis.plot(epoch, [entry[name] for entry in history], style, color=color, label=label)
        axis.axvline(best, color=GREY, linewidth=1, linestyle=":", label=f"best: epoch {best}")
        axis.set(title=title, xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
    axes[1].set_ylim(0, 1.02)
    axes[2].set_yscale("log")
    return figure


def confusion_figure(counts: Array, classes: Sequence[str]) -> Figure:
    """Confusion matrix: colour is the share of the true class, figures are counts."""
    number = len(classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.5, 0.34 * number + 2.6)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    image = axis.imshow(share, cmap="cividis", vmin=0, vmax=1)
    axis.set_xticks(range(number), classes, rotation=90, fontsize=8)
    axis.set_yticks(range(number), classes, fontsize=8)
    axis.set(xlabel="predicted", ylabel="true")
    for row, column in np.argwhere(counts > 0):
        color = "black" if share[row, column] > 0.5 else "white"
        text = f"{counts[row, column]:g}"
        axis.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, shrink=0.8, label="share of the true class")
    return figure


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as `<name>.png` and close them."""
    plain_folder(folder)
    return [_save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def _streams(name: str) -> tuple[str, str]:
    asks, _, answers = name.partition("_to_")
    return asks, answers or asks


def edges(view: View, stream: str, length: int) -> Array:
    """Edges in seconds of the cells of a map's axis, (length + 1,)."""
    if stream == "audio":
        return np.linspace(0.0, length * view.step_s, length + 1)
    middle = (view.frame_time_s[1:] + view.frame_time_s[:-1]) / 2
    last = 2 * view.frame_time_s[-1] - (middle[-1] if len(middle) else 0.0)
    return np.array([0.0, *middle, last], np.float64)


def _map(axis: Axes, view: View, name: str, weights: Array) -> Any:
    asks, answers = _streams(name)
    across, down = (
        edges(view, answers, weights.shape[1]),
        edges(view, asks, weights.shape[0]),
    )
    mesh = axis.pcolormesh(across, down, weights, cmap=_MAPS, vmin=0)
    axis.set_xlim(0, view.clip_seconds)
    axis.set_ylim(view.clip_seconds, 0)
    if view.true_s is not None:
        for edge in view.true_s:
            axis.axvline(edge, color="white", linewidth=0.8, linestyle="--")
            axis.axhline(edge, color="white", linewidth=0.8, linestyle="--")
    return mesh


def _save(figure: Figure, path: Path) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    plt.close(figure)
    replace_file(path, picture.getvalue())
    return path
