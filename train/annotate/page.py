"""timeline.html: one page that plays a recording beside what was found in it; nothing is fetched.

The page's texts and pictures are one JSON, which scripts read; what they write are texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import Cache
from cache.common.cli import printable
from train.annotate import strips
from train.annotate.exports import Found
from train.annotate.recording import Recording, listed
from train.report import web
from train.report.drawing import base64_text
from train.report.media import address
from train.score.metrics import Array

FILE = "timeline.html"
HERE = Path(__file__).parent
_SCRIPTS = ("state", "draw", "player", "edit", "timeline", "hands")
_LEAST = 0.05
"""Candidates that are less sure, and curves that never reach it, are not on the page."""
_MOST_CANDIDATES = 20_000
_MOST_CURVE_BYTES = 6_000_000


def page(
    recording: Recording, cache: Cache, folder: Path, facts: Sequence[tuple[str, str]]
) -> bytes:
    """The page of a recording, to be written into `folder`.

    cache: has its windows, for frames and sound; facts: what made it, names and texts.
    """
    style, script = web.source("timeline.css", HERE), scripts()
    text = web.template("timeline.html", HERE).render(
        title=printable(recording.name),
        policy=web.policy(style, script),
        style=style,
        script=script,
        data=web.embedded(
            {**data(recording, folder), **_pictures(recording, cache), "facts": facts}
        ),
    )
    return text.encode("utf-8", "replace")


def scripts() -> str:
    """What the page runs: one module of several files."""
    return "".join(web.source(f"{name}.js", HERE) for name in _SCRIPTS)


def data(recording: Recording, folder: Path) -> dict[str, Any]:
    """What the page knows of a recording, without its pictures; `state.js` names its parts."""
    number = {name: place for place, name in enumerate(recording.classes)}
    least, kept = _kept(recording)
    return {
        "recording": recording.name,
        "listed": listed(recording.name, recording.media_name),
        "media": {"name": recording.media_name, "address": address(recording.media, folder)},
        "length": recording.length_s,
        "unseen": recording.unseen,
        "classes": recording.classes,
        "thresholds": recording.threshold,
        "least": least,
        "candidates": [
            (number[one.category], one.start_s, one.end_s, one.confidence) for one in kept
        ],
        "truth": None if recording.truth is None else [_edges(one) for one in recording.truth],
        "curves": _curves(recording),
    }


def _edges(one: Found) -> tuple[str, float, float]:
    return one.category, one.start_s, one.end_s


def _kept(recording: Recording) -> tuple[float, list[Found]]:
    """The lowest threshold that the page offers, and the candidates that it needs for that."""
    sure = sorted((one.confidence for one in recording.candidates), reverse=True)
    least = max([_LEAST, *sure[_MOST_CANDIDATES : _MOST_CANDIDATES + 1]])
    found = set(map(id, recording.found))
    lowest = min(least, float(np.mean(recording.threshold)))
    return lowest, [
        one for one in recording.candidates if one.confidence > least or id(one) in found
    ]


def _curves(recording: Recording) -> dict[str, Any]:
    """The probabilities worth drawing, in 255ths, base64, by the number of their class."""
    values: Array = recording.timeline.probability
    shown = np.flatnonzero(values.max(axis=0, initial=0) >= _LEAST).tolist()
    pooled = max(1, -(-len(values) * len(shown) // _MOST_CURVE_BYTES))
    starts = np.arange(0, len(values), pooled)
    of = {}
    for place in shown:
        largest = np.maximum.reduceat(values[:, place], starts)
        of[str(place)] = base64_text(np.round(largest * 255).astype(np.uint8).tobytes())
    return {"step": recording.timeline.step_s * pooled, "of": of}


def _pictures(recording: Recording, cache: Cache) -> dict[str, Any]:
    """Frames and sound."""
    rows = recording.rows
    return {
        "frames": [{"time": time, "jpeg": jpeg} for time, jpeg in strips.frames(cache, rows)],
        "sound": [
            {"start": tile.start_s, "end": tile.end_s, "png": tile.png}
            for tile in strips.sound(cache, rows, recording.length_s)
        ],
    }
