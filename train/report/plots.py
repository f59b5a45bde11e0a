"""Pictures of clips: where the model looks and listens, and what it predicts. Headless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from train.report.attention import attention_figure, heads_figure, titled
from train.report.clip_card import card_figure
from train.report.drawing import (
    GREY,
    HEAT,
    HOTTEST,
    PREDICTED,
    TRUE,
    file_name,
    heat,
    opened,
    save_figures,
)
from train.report.views import View

_FRAME_PX = 224
_OVER_TIME = {
    "temporal": (
        {"audio": "audio attends to audio", "video": "video attends to video"},
        "temporal self-attention",
    ),
    "cross_modal": (
        {"audio_to_video": "audio asks video", "video_to_audio": "video asks audio"},
        "cross-modal attention",
    ),
}


def draw_clip(folder: Path, view: View, heads: bool = False) -> list[Path]:
    """The pictures of one clip, as PNG files named after its id (see `file_name`), its card first.

    heads: each head's attention as well.
    """
    figures = {"card": card_figure(view)}
    if "spatial" in view.attention:
        figures["spatial"] = spatial_figure(view)
    for kind, (names, what) in _OVER_TIME.items():
        if any(name in view.attention for name in names):
            figures[kind] = attention_figure(view, names, what)
            if heads:
                figures[f"{kind}_heads"] = heads_figure(view, names, f"{what}, every head")
    name = file_name(view.id)
    return save_figures(folder, {f"{name}_{kind}": figure for kind, figure in figures.items()})


def spatial_figure(view: View) -> Figure:
    """Spatial attention over each frame, on the picture that the network saw."""
    weights = view.attention["spatial"]
    frames = len(weights)
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
        axis.set_xlabel(f"{time_s:.2f} s")
        spans = {"top": (view.true_s, TRUE), "bottom": (view.predicted_s, PREDICTED)}
        for name, side in axis.spines.items():
            edges, color = spans.get(name, (None, GREY))
            inside = edges is not None and edges[0] <= time_s < edges[1]
            side.set(color=color if inside else GREY, linewidth=6 if inside else 1)
    bar = figure.colorbar(
        ScalarMappable(PowerNorm(0.5, vmin=1, vmax=HOTTEST), HEAT),
        ax=axes,
        shrink=0.8,
        ticks=[1, 1.2, 1.5, 2, HOTTEST],
        label="attention against even, the same in all clips",
    )
    bar.ax.set_yticklabels(["even", "1.2×", "1.5×", "2×", "3× or more"])
    words = "Blue above a frame: the event is on; orange below: it is predicted to be."
    figure.supxlabel(words, fontsize=10)
    figure.suptitle(f"{view.title}\n{titled(view, 'spatial attention')}", parse_math=False)
    return figure
