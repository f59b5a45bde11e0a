"""report.html of recordings: scores, and the worst recordings with their timelines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import Cache
from train.report.media import playable
from train.report.page import media_note, ticks, write_page
from train.runs.recordings import RecordingAnswer
from train.score.events import EventList
from train.score.metrics import Array
from train.score.named import Result
from train.score.recordings import ratios

_SHOWN = 24
_POSSIBLE = 0.2  # a class that is nowhere more probable than that has a lane only where it is true
_POINTS = 300  # of a lane's outline


def write_recordings(
    place: Path,
    result: Result,
    answer: RecordingAnswer,
    cache: Cache,
    media: Sequence[Path] | None = None,
) -> Path:
    """Write `report.html` beside scores: recordings, lowest segment F1 first, and the scores.

    media: where the recordings' files are, None where nobody said.
    """
    order, names = worst_first(answer)[:_SHOWN], answer.recordings.names
    ids = {names[n]: cache.ids[cache.recordings[names[n]][0]] for n in order}
    files = playable(cache, media or (), ids.values(), place)
    every = [
        {**shown(answer, n, result["classes"]), "media": files.get(ids[names[n]])} for n in order
    ]
    return write_page(
        "recordings.html",
        place,
        result,
        sure=None,
        confusion=None,
        note=_note(len(order), len(names)),
        media_note=media_note(list(ids.values()), None if media is None else files),
        recordings=every,
    )


def _note(shown: int, known: int) -> str:
    if shown == known:
        return f"All {known}, the lowest segment F1 first."
    return f"The {shown} with the lowest segment F1 of {known}, the lowest first."


def worst_first(answer: RecordingAnswer) -> list[int]:
    """Numbers of the recordings by segment F1; one in which nothing is true or said counts 1."""
    return [int(number) for number in np.argsort(_segment_f1(answer), kind="stable")]


def _segment_f1(answer: RecordingAnswer) -> Array:
    known, classes = answer.recordings, len(answer.read_off.threshold)
    above, below = ratios(known.truth, answer.found, known.lengths_s, classes)["segment_f1"]
    return np.where(below > 0, above / below.clip(min=1), 1.0)


def shown(answer: RecordingAnswer, number: int, classes: list[str]) -> dict[str, Any]:
    """What the template needs of one recording."""
    timeline, name = answer.timelines[number], answer.recordings.names[number]
    true, said = (
        one.of(one.recording == number) for one in (answer.recordings.truth, answer.found)
    )
    possible = np.flatnonzero(timeline.probability.max(axis=0) >= _POSSIBLE)
    lanes = sorted({*possible.tolist(), *true.category.tolist(), *said.category.tolist()})
    share = max(1, len(timeline.probability) // _POINTS)
    length_s = timeline.length_s
    score = float(_segment_f1(answer)[number])
    return {
        "name": name,
        "length": f"{length_s:.1f}",
        "seconds": length_s,
        "told": f"events: {len(true)} true, {len(said)} said; segment F1 {score:.3f}",
        "cells": -(-len(timeline.probability) // share),
        "ticks": ticks(length_s),
        "lanes": [
            {
                "name": classes[lane],
                "alt": f"{classes[lane]}: true {_spans(true, lane)}; said {_spans(said, lane)}",
                "path": _outline(timeline.probability[:, lane], share),
                "bars": [*_bars(true, lane, "t", length_s), *_bars(said, lane, "p", length_s)],
            }
            for lane in lanes
        ],
    }


def _outline(probability: Array, share: int) -> str:
    """A probability (S,) as the outline of a stair (SVG path, y down), `share` cells to a step."""
    padded = np.pad(probability, (0, -len(probability) % share), mode="edge")
    steps = padded.reshape(-1, share).max(axis=1)
    path = " ".join(f"V{1 - value:.3f} H{n}" for n, value in enumerate(steps, 1))
    return f"M0 1 {path} V1 Z"


def _bars(events: EventList, lane: int, kind: str, length_s: float) -> list[dict[str, str]]:
    own = events.of(events.category == lane)
    return [
        {
            "kind": kind,
            "left": f"{100 * start / length_s:.3f}",
            "width": f"{100 * (end - start) / length_s:.3f}",
        }
        for start, end in zip(own.start_s, own.end_s, strict=True)
    ]


def _spans(events: EventList, lane: int) -> str:
    own = events.of(events.category == lane)
    spans = zip(own.start_s, own.end_s, strict=True)
    return ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in spans) or "nowhere"
