"""A clip on one picture: frames and where the model looks, sound, gate, truth and answer.

All rows share one axis of seconds. Letters are large: the picture is read on phones, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.report.drawing import (
    GREY,
    MAPS,
    PREDICTED,
    TRUE,
    edged,
    heat,
    label,
    opened,
)
from train.report.views import View, heard, loudness, span

_WIDTH, _LEFT, _RIGHT = 12.8, 1.52, 0.3  # inches
_SMALL, _LARGE = 19, 23  # points
_FRAME_PX, _GAP = 224, 0.1
_LETTER = 0.62  # its width, of its height
Row = tuple[float, Callable[[Axes, View], None]]
"""Inches of a row, and what draws it."""


def card_figure(view: View) -> Figure:
    """The card of one clip, 1280 pixels wide at 100 dots an inch."""
    rows = _rows(view)
    height = sum(inches + _GAP for inches, _ in rows.values()) + 1.15
    figure = plt.figure(figsize=(_WIDTH, height))
    top = height - 0.55
    figure.text(
        _LEFT / _WIDTH, 1 - 0.2 / height, label(view.id, 60), va="top", color=GREY,
        fontsize=_SMALL - 3, parse_math=False,
    )  # fmt: skip
    for name, (inches, draw) in rows.items():
        top -= inches
        width = (_WIDTH - _LEFT - _RIGHT) / _WIDTH
        axis = figure.add_axes((_LEFT / _WIDTH, top / height, width, inches / height))
        axis.set(xlim=(0, view.clip_seconds), xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=_SMALL)
        axis.yaxis.set_label_coords(-0.013, 0.5)
        draw(axis, view)
        _edges(axis, view)
        top -= _GAP
    axis.tick_params(labelsize=_SMALL, length=5)
    axis.set_xticks(np.arange(0, view.clip_seconds + 1e-6, max(1, round(view.clip_seconds / 10))))
    axis.set_xlabel("seconds", fontsize=_SMALL)
    return figure


def _rows(view: View) -> Mapping[str, Row]:
    rows: dict[str, Row] = {}
    if view.pictures:
        wide = (_WIDTH - _LEFT - _RIGHT) / len(view.pictures)
        rows["looks at" if "spatial" in view.attention else "frames"] = min(wide, 2.2), _frames
    if view.mel is not None and len(heard(view.mel)):
        rows["sound"] = 1.1, _sound
    rows["gate" if view.by_gate else "gate, not\ndecisive"] = 1.3, _gate
    if view.true_s is not None or view.empty:
        rows["true"] = 0.55, _true
    rows["predicted"] = 0.55, _predicted
    return rows


def _frames(axis: Axes, view: View) -> None:
    edges = view.edges("video", len(view.pictures))
    look = view.attention.get("spatial")
    colours = None if look is None else heat(look)
    for number, data in enumerate(view.pictures):
        gap = 0.004 * view.clip_seconds
        extent = (edges[number] + gap, edges[number + 1] - gap, 0, 1)
        axis.imshow(np.asarray(opened(data, _FRAME_PX, view.id)), extent=extent, aspect="auto")
        if colours is not None:
            axis.imshow(colours[number], extent=extent, aspect="auto", interpolation="bilinear")
    axis.set(xlim=(0, view.clip_seconds), ylim=(0, 1))
    axis.axis("on")
    axis.spines[:].set_visible(False)


def _sound(axis: Axes, view: View) -> None:
    assert view.mel is not None
    shown = heard(view.mel)
    extent = (0, len(shown) / len(view.mel) * view.clip_seconds, 0, 1)
    axis.imshow(loudness(shown).T[::-1], extent=extent, aspect="auto", cmap=MAPS)
    axis.set(xlim=(0, view.clip_seconds), ylim=(0, 1))


def _gate(axis: Axes, view: View) -> None:
    axis.stairs(view.on, view.part_edges(), fill=True, color="#c9dbe7")
    line = "-" if view.by_gate else ":"
    axis.stairs(
        view.on, view.part_edges(), baseline=None, color="black", linewidth=2.2, linestyle=line
    )
    axis.axhline(0.5, color=GREY, linewidth=1, linestyle="--")
    axis.set(ylim=(0, 1.04), yticks=[0, 1])
    axis.tick_params(labelsize=_SMALL - 5)


def _true(axis: Axes, view: View) -> None:
    if view.true_s is None:
        _bar(axis, view, None, TRUE, "no event")
    else:
        _bar(
            axis, view, view.true_s, TRUE, f"{label(view.category or '', 26)}, {span(view.true_s)}"
        )


def _predicted(axis: Axes, view: View) -> None:
    said = f"{label(view.predicted, 26)} ({view.confidence:.0%}), {span(view.predicted_s)}"
    none = view.event is False
    text = f"no event; else {said}" if none else said
    _bar(axis, view, None if none else view.predicted_s, PREDICTED, text)


def _bar(axis: Axes, view: View, edges: tuple[float, float] | None, color: str, text: str) -> None:
    """An interval as a bar with its words behind it, before it, or in it, where there is room."""
    axis.set(ylim=(0, 1))
    axis.spines[:].set_visible(False)
    axis.set_facecolor("#f3f4f6")
    inch = view.clip_seconds / (_WIDTH - _LEFT - _RIGHT)
    need, gap = len(text) * _LETTER * _LARGE / 72 * inch, 0.12 * inch
    start, end = edges or (0.0, 0.0)
    axis.barh(0.5, end - start, left=start, height=0.86, color=color)
    at, side, ink = end + gap, "left", "black"
    if end + need > view.clip_seconds:
        at, side = start - gap, "right"
        if need > start:
            at, side = start + gap, "left"
            ink = "white" if color == TRUE and end - start > need else "black"
    effects = edged(4) if ink == "black" else []
    axis.text(
        at, 0.47, text, ha=side, va="center", fontsize=_LARGE, color=ink, parse_math=False,
        path_effects=effects, zorder=4,
    )  # fmt: skip


def _edges(axis: Axes, view: View) -> None:
    """Start and end, true and predicted, through every row."""
    said = None if view.event is False else view.predicted_s
    for edges, color, style in ((view.true_s, TRUE, "-"), (said, PREDICTED, (0, (4, 3)))):
        for edge in edges or ():
            axis.axvline(edge, color=color, linewidth=2.2, linestyle=style, path_effects=edged(3.6))
