"""Attention over time as pictures: what each moment attends to, and what the heads have in common.

All scales are the same for all heads and clips: attention is shown against even attention.
Shapes: H heads, Q asking and L answering steps or frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from train.report.drawing import EVEN, GREY, PREDICTED, TRUE, edged
from train.report.views import View, span
from train.score.metrics import Array

_MOST = 3.0  # times even attention, where colours and axes end
_LAGS = 20  # bins over lags from minus to plus the clip's length
_LITTLE = 1e-6
_WORDS = (
    "Green: more attention than if it were spread evenly; purple: less. "
    "Lines: the event's edges, blue true, orange dashed predicted.\nThe same scales in all clips."
)


def attention_figure(view: View, names: Mapping[str, str], what: str) -> Figure:
    """For each direction the mean over heads, how much goes into the event, and how far it looks.

    names: of the maps, (H, Q, L) each, and what they are in words.
    """
    shown = {name: text for name, text in names.items() if name in view.attention}
    figure, axes = plt.subplots(
        len(shown), 3, figsize=(14.5, 4.4 * len(shown) + 1.4), squeeze=False, layout="constrained"
    )
    figure.suptitle(f"{view.title}\n{titled(view, what)}", fontsize=12, parse_math=False)
    for (name, text), (left, middle, right) in zip(shown.items(), axes, strict=True):
        weights = view.attention[name]
        mesh = _map(left, view, name, weights.mean(axis=0))
        left.set_title(f"{text}: mean of {len(weights)} heads", fontsize=11)
        asks, answers = _streams(name)
        left.set(xlabel=f"{answers} answers from (s)", ylabel=f"{asks} asks at (s)")
        bar = figure.colorbar(mesh, ax=left, ticks=[1 / _MOST, 1 / 2, 1, 2, _MOST])
        bar.ax.set_yticklabels(["⅓", "½", "even", "2×", "3×"])
        bar.ax.minorticks_off()
        _into_event(middle, view, name)
        _lags(right, view, name)
    figure.supxlabel(_WORDS, fontsize=10)
    return figure


def heads_figure(view: View, names: Mapping[str, str], what: str) -> Figure:
    """Every head's map, all on one scale, four in a row."""
    shown = {name: text for name, text in names.items() if name in view.attention}
    heads = [(name, n) for name in shown for n in range(len(view.attention[name]))]
    rows = -(-len(heads) // 4)
    figure, axes = plt.subplots(
        rows, 4, figsize=(12, 2.9 * rows + 1.3), squeeze=False, layout="constrained"
    )
    figure.suptitle(f"{view.title}\n{titled(view, what)}", fontsize=12, parse_math=False)
    for axis in axes.flat[len(heads) :]:
        axis.axis("off")
    for axis, (name, head) in zip(axes.flat, heads, strict=False):
        _map(axis, view, name, view.attention[name][head])
        axis.set_title(f"{shown[name]}, head {head + 1}", fontsize=9)
        axis.tick_params(labelsize=8)
    figure.supxlabel(f"answers from (s)\n{_WORDS}", fontsize=10)
    figure.supylabel("asks at (s)", fontsize=10)
    return figure


def titled(view: View, what: str) -> str:
    """What is drawn, and of which pass and model."""
    return f"{what}, {view.attention_of}" if view.attention_of else what


def share_into(view: View, name: str, span_s: tuple[float, float]) -> tuple[Array, Array, float]:
    """How much of each head's attention goes into a part of the clip: (H,) asked in it, and (H,)
    asked outside it, NaN where nothing is asked there; and how much of even attention would.
    """
    weights = view.attention[name]
    asks, answers = _streams(name)
    asked = _inside(view.edges(asks, weights.shape[1]), span_s)
    answered = _inside(view.edges(answers, weights.shape[2]), span_s)
    into = weights @ answered
    inside, outside = (
        into @ some / some.sum() if some.sum() > _LITTLE else np.full(len(into), np.nan)
        for some in (asked, 1 - asked)
    )
    return inside, outside, float(answered.mean())


def _inside(edges: Array, span_s: tuple[float, float]) -> Array:
    """How much of each cell lies in a part of the clip: (n,) in [0, 1]."""
    overlap = np.minimum(edges[1:], span_s[1]) - np.maximum(edges[:-1], span_s[0])
    return np.asarray(overlap.clip(min=0) / np.diff(edges))


def _into_event(axis: Axes, view: View, name: str) -> None:
    """A dot a head: how much of its attention goes into the event, asked in it and outside."""
    event = view.predicted_s if view.true_s is None else view.true_s
    which = "predicted" if view.true_s is None else "true"
    inside, outside, even = share_into(view, name, event)
    heads = 1 + np.arange(len(inside))
    axis.axvline(even, color=GREY, linestyle="--", label=f"even: {even:.0%}")
    axis.plot(inside, heads, "o", color="#1b7837", label=f"asked in it: mean {inside.mean():.0%}")
    if np.isfinite(outside).all():
        text = f"asked outside: mean {outside.mean():.0%}"
        axis.plot(outside, heads, "o", color="#762a83", fillstyle="none", label=text)
    axis.set(xlim=(-0.02, 1.02), ylim=(len(heads) + 0.6, 0.4), yticks=heads, ylabel="head")
    axis.set_title(f"share that goes into the {which} event, {span(event)}", fontsize=11)
    axis.set_xlabel("share of a head's attention")
    axis.grid(axis="x", color="#dddddd")
    axis.legend(fontsize=8, loc="best")


def _lags(axis: Axes, view: View, name: str) -> None:
    """How far from the moment that asks attention goes, against even attention."""
    weights = view.attention[name]
    asks, answers = _streams(name)
    when, whence = (
        (edges[1:] + edges[:-1]) / 2
        for edges in (view.edges(asks, weights.shape[1]), view.edges(answers, weights.shape[2]))
    )
    lags = (whence[None, :] - when[:, None]).ravel()
    bins = np.linspace(-view.clip_seconds, view.clip_seconds, _LAGS + 1)
    even = np.histogram(lags, bins, weights=np.full(lags.shape, 1 / len(whence)))[0]
    each = [np.histogram(lags, bins, weights=head.ravel())[0] for head in weights]
    ratios = np.array(each) / np.where(even > 0, even, np.nan)
    for number, ratio in enumerate(ratios):
        text = "each head" if number == 0 else None
        axis.stairs(ratio, bins, baseline=None, color="#bbbbbb", linewidth=1, label=text)
    axis.stairs(ratios.mean(axis=0), bins, baseline=None, color="black", linewidth=2, label="mean")
    axis.axhline(1, color=GREY, linestyle="--", label="even")
    axis.set(xlim=(bins[0], bins[-1]), ylim=(0, _MOST), ylabel="times even", xticks=bins[::5])
    axis.set_title("how far it looks", fontsize=11)
    axis.set_xlabel("seconds before (−) and after the moment that asks")
    axis.legend(fontsize=8, loc="upper right")


def _streams(name: str) -> tuple[str, str]:
    asks, _, answers = name.partition("_to_")
    return asks, answers or asks


def _map(axis: Axes, view: View, name: str, weights: Array) -> Any:
    """Attention (Q, L) against even attention, with the edges of the event on both axes."""
    asks, answers = _streams(name)
    across, down = view.edges(answers, weights.shape[1]), view.edges(asks, weights.shape[0])
    ratio = (weights * weights.shape[1]).clip(1 / _MOST, _MOST)
    mesh = axis.pcolormesh(across, down, ratio, cmap=EVEN, norm=LogNorm(1 / _MOST, _MOST))
    axis.set_xlim(0, view.clip_seconds)
    axis.set_ylim(view.clip_seconds, 0)
    for edges, color, style in ((view.true_s, TRUE, "-"), (view.predicted_s, PREDICTED, "--")):
        for edge in edges or ():
            for line in (axis.axvline, axis.axhline):
                line(edge, color=color, linewidth=1.4, linestyle=style, path_effects=edged(2.6))
    return mesh
