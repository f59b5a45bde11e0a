"""Pictures of clips: where the model looks and listens, and what it predicts. Headless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from cache.common.atomic import plain_folder, replace_file
from train.report.drawing import GREY, PREDICTED, TRUE, file_name, label, opened, png

Array = npt.NDArray[np.float64]
FOLDER = "attention_visualization"
_MAPS = "magma"
_FRAME_PX = 224


@dataclass(frozen=True)
class View:
    """One clip to draw: its attention maps without the leading N, times in seconds.

    Attributes
    ----------
    attention: the maps, and of which model and direction they are, for people.
    on: (S,) the answer's probability of each of the clip's seconds.
    by_gate: whether start and end were read off `on`, or are the interval head's.
    pictures: F encoded JPEGs (none without video).
    true_s: None for unlabelled clips.
    """

    id: str
    attention: Mapping[str, Array]
    attention_of: str
    on: Array
    by_gate: bool
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
        """What is true and what was predicted, in two or three lines."""
        start, end = self.predicted_s
        lines = [label(self.id, 80)]
        if self.true_s is not None:
            lines.append(f"true: {label(self.category or '')}, {span(self.true_s)}")
        return "\n".join(
            [
                *lines,
                f"predicted: {label(self.predicted)} ({self.confidence:.0%}), {span((start, end))}",
            ]
        )

    @property
    def gate_name(self) -> str:
        """What the line of `on` is called: a gate that didn't decide must not look as if it had."""
        return "gate" if self.by_gate else "gate (start and end\nare the interval head's)"


def span(edges: tuple[float, float]) -> str:
    """An interval as text, with at most two decimals."""
    return "–".join(f"{round(edge, 2):g}" for edge in edges) + " s"


def draw_clip(folder: Path, view: View) -> list[Path]:
    """Every picture of one clip, as PNG files named after its id (see `file_name`)."""
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
    name = file_name(view.id)
    return save_figures(folder, {f"{name}_{kind}": figure for kind, figure in figures.items()})


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
            picture = opened(view.pictures[frame], _FRAME_PX, view.id)
            axis.imshow(np.asarray(picture), extent=(0, 1, 0, 1))
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
    figure.suptitle(f"{view.title}\n{_of(view, 'spatial attention')}", parse_math=False)
    return figure


def heads_figure(view: View, names: Mapping[str, str], what: str) -> Figure:
    """Attention maps with seconds on both axes: the mean over heads, then the heads apart."""
    shown = {name: text for name, text in names.items() if name in view.attention}
    heads = max((len(view.attention[name]) for name in shown), default=0)
    columns = -(-heads // 2)
    figure = plt.figure(figsize=(5.2 + 2.1 * columns, 4.7 * len(shown) + 0.8), layout="constrained")
    figure.suptitle(f"{view.title}\n{_of(view, what)}", fontsize=12, parse_math=False)
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
    """The gate of each second, with the true and the predicted interval under it."""
    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    _timeline(axis, view)
    axis.set_ylabel("gate: the event is on")
    axis.set_xlabel("time (s)")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axis.set_title(view.title, fontsize=11, parse_math=False)
    return figure


def gates_figure(views: Sequence[View]) -> Figure:
    """The gate of several clips, three in a row, with true and predicted intervals under it."""
    rows = -(-len(views) // 3)
    figure, axes = plt.subplots(
        rows, 3, figsize=(13, 0.4 + 2.1 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, view in zip(axes.flat, views, strict=False):
        _timeline(axis, view)
        said = "" if view.predicted == view.category else f", said {label(view.predicted, 26)}"
        title = f"{label(view.category or '', 26)}{said}  ({label(view.id, 20)})"
        axis.set_title(title, fontsize=9, parse_math=False)
    for axis in axes.flat[len(views) :]:
        axis.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.supylabel("gate: heard and seen", fontsize=10)
    return figure


def _timeline(axis: Axes, view: View) -> None:
    line = "-" if view.by_gate else ":"
    axis.stairs(
        view.on,
        second_edges(view),
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


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as `<name>.png` and close them."""
    plain_folder(folder)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        replace_file(paths[-1], png(figure, dpi=110))
    return paths


def _of(view: View, what: str) -> str:
    return f"{what}, {view.attention_of}" if view.attention_of else what


def _streams(name: str) -> tuple[str, str]:
    asks, _, answers = name.partition("_to_")
    return asks, answers or asks


def second_edges(view: View) -> Array:
    """Edges of the clip's seconds, (S + 1,); a clip that is not of whole ones has equal parts."""
    return np.linspace(0.0, view.clip_seconds, len(view.on) + 1)


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
