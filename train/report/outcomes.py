"""How events were answered: what went wrong with each, which come first, which are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from train.score.metrics import tiou

PLACED = 0.5
"""From this tIoU on an event of the right class counts as right on the page and in pictures."""
OUTCOMES = {
    "class": "of another class",
    "missed": "missed: said to have no event",
    "alarm": "false alarms: have no event",
    "place": f"placed badly, tIoU below {PLACED}",
    "right": f"right: the class, and tIoU of {PLACED} or more",
}
VERDICTS = {
    "class": "another class",
    "missed": "missed",
    "alarm": "false alarm",
    "place": "placed badly",
    "right": "right",
}


def events_to_draw(
    events: Sequence[Mapping[str, Any]], clip_seconds: float, count: int
) -> list[int]:
    """Which events to draw: the first shorter than the clip of each class, then any others.

    Clips without an event come last.
    """
    real = [(n, one) for n, one in enumerate(events) if one["category"] is not None]
    short = [n for n, one in real if one["end_s"] - one["start_s"] < clip_seconds]
    first: dict[str, int] = {}
    for number in short:
        first.setdefault(events[number]["category"], number)
    order = list(
        dict.fromkeys([*first.values(), *short, *(n for n, _ in real), *range(len(events))])
    )
    return order[:count]


def hardest(answered: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Numbers of the events, those answered worst first: what is wrong, by class, then by tIoU.

    Of events that were placed alike the longer come first: they are easier, so the last are the
    best of all. A clip without an event is right where that was answered.
    """

    def ease(number: int) -> tuple[bool, bool, float, float, str, int]:
        one = answered[number]
        right = outcome_of(one) == "right"
        if one["category"] is None:
            return right, right, float(right), 0.0, one["id"], number
        same = bool(one["category"] == one["predicted"])
        return right, same, overlap_of(one), one["start_s"] - one["end_s"], one["id"], number

    return sorted(answered, key=ease)


def outcome_of(row: Mapping[str, Any]) -> str:
    """Which of OUTCOMES an answered event is (see `train.runs.evaluate.answered_events`)."""
    if row["category"] is None:
        return "right" if row.get("event") is False else "alarm"
    return named(row.get("event"), row["category"] == row["predicted"], overlap_of(row))


def overlap_of(row: Mapping[str, Any]) -> float:
    """tIoU of an answered event."""
    names = ("start_s", "end_s", "predicted_start_s", "predicted_end_s")
    return overlap(*(float(row[name]) for name in names))


def named(event: bool | None, same: bool, tiou_: float) -> str:
    """Which of OUTCOMES an event has that was answered so; same: with its class."""
    if event is False:
        return "missed"
    return "right" if same and round(tiou_, 4) >= PLACED else "place" if same else "class"


def overlap(*edges: float) -> float:
    """tIoU of two intervals, given as start, end, start, end in seconds."""
    return float(tiou(*(np.array([edge], np.float64) for edge in edges))[0])
