"""Pictures of clips: where the model looks and listens, and what it predicts. Headless."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from train.report.drawing import (
    GREY,
    MAPS,
    PREDICTED,
    TRUE,
    file_name,
    heat,
    opened,
    save_figures,
)
from train.report.views import View
from train.score.metrics import Array

_FRAME_PX = 224


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
    frames, cells = len(weights), weights[0].size
    columns = min(4, frames)
    rows = -(-frames // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.6 * columns + 1, 2.9 * rows + 0.9), layout="constrained"
    )
    whole: dict[str, Any] = {"extent": (0, 1, 0, 1)}
    for frame, axis in enumerate(np.atleast_1d(axes).flat):
        axis.set_xticks([])
        axis.set_yticks([])
        if frame >= frames:
            axis.axis("off")
            continue
        if view.pictures:
            picture = opened(view.pictures[frame], _FRAME_PX, view.id)
            axis.imshow(np.asarray(picture), **whole)
        axis.imshow(heat(weights)[frame], interpolation="bilinear", **whole)
        time_s = view.frame_time_s[frame]
        inside = view.true_s is not None and view.true_s[0] <= time_s < view.true_s[1]
        axis.set_xlabel(f"{time_s:.2f} s" + ("  in the event" if inside else ""))
        for side in axis.spines.values():
            side.set(color=TRUE if inside else GREY, linewidth=4 if inside else 1)
    scale = PowerNorm(0.5, vmin=float(weights.min()), vmax=float(weights.max()) + 1e-9)
    figure.colorbar(
        ScalarMappable(scale, MAPS),
        ax=axes,
        shrink=0.8,
        label=f"share of the frame's attention (even: {1 / cells:.3f})",
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
    """The gate of each part of the clip, with the true and the predicted interval under it."""
    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    draw_timeline(axis, view)
    axis.set_ylabel("gate: the event is on")
    axis.set_xlabel("time (s)")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axis.set_title(view.title, fontsize=11, parse_math=False)
    return figure


def draw_timeline(axis: Axes, view: View) -> None:
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


def _of(view: View, what: str) -> str:
    return f"{what}, {view.attention_of}" if view.attention_of else what


def _streams(name: str) -> tuple[str, str]:
    asks, _, answers = name.partition("_to_")
    return asks, answers or asks


def _map(axis: Axes, view: View, name: str, weights: Array) -> Any:
    asks, answers = _streams(name)
    across, down = (
        view.edges(answers, weights.shape[1]),
        view.edges(asks, weights.shape[0]),
    )
    mesh = axis.pcolormesh(across, down, weights, cmap=MAPS, vmin=0)
    axis.set_xlim(0, view.clip_seconds)
    axis.set_ylim(view.clip_seconds, 0)
    if view.true_s is not None:
        for edge in view.true_s:
            axis.axvline(edge, color="white", linewidth=0.8, linestyle="--")
            axis.axhline(edge, color="white", linewidth=0.8, linestyle="--")
    return mesh
