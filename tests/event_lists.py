"""Lists of events and timelines for the tests: drawn at random, or written as rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.score.events import EventList
from train.score.timeline import Timeline

Row = tuple[int, int, float, float] | tuple[int, int, float, float, float]


def rows(*events: Row) -> EventList:
    """Events of (recording, category, start, end[, confidence])."""
    table = np.array([(*event, 1.0)[:5] for event in events], np.float64).reshape(-1, 5)
    recording, category = table[:, :2].T.astype(np.int64)
    return EventList(recording, category, *table[:, 2:].T)


def drawn(
    seed: int, recordings: int = 6, classes: int = 4, each: int = 8
) -> tuple[EventList, EventList, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """True events, found ones that are near some of them, and the recordings' lengths.

    True times are multiples of 0.1 s, found ones of 1 ms; confidences differ; the last recording
    has no event.
    """
    rng = np.random.default_rng(seed)
    lengths_s = np.round(rng.uniform(20, 60, recordings), 1)
    true: list[Row] = []
    said: list[Row] = []
    for number in range(recordings - 1):
        for _ in range(each):
            category = int(rng.integers(classes))
            start = round(rng.uniform(0, lengths_s[number] - 12), 1)
            end = round(start + rng.uniform(0.5, 10), 1)
            true.append((number, category, start, end))
            if rng.random() < 0.7:
                moved = np.round(np.array([start, end]) + rng.normal(0, 0.7, 2), 3)
                left, right = sorted(moved.clip(0, lengths_s[number]).tolist())
                other = category if rng.random() < 0.8 else int(rng.integers(classes))
                said.append((number, other, left, right + 0.1, rng.random()))
    for _ in range(recordings):
        number, start = int(rng.integers(recordings)), round(rng.uniform(0, 15), 3)
        said.append((number, int(rng.integers(classes)), start, start + 2.5, rng.random()))
    return rows(*true), rows(*said), lengths_s


def timelines(
    truth: EventList, lengths_s: Sequence[float], classes: int, sure: float = 0.9, low: float = 0.05
) -> list[Timeline]:
    """What a model would say that knows the truth: `sure` inside events, `low` outside."""
    found = []
    for number, length_s in enumerate(lengths_s):
        probability = np.full((int(np.ceil(length_s * 10 - 1e-6)), classes), low)
        own = truth.of(truth.recording == number)
        for category, start, end in zip(own.category, own.start_s, own.end_s, strict=True):
            probability[round(start * 10) : round(end * 10), category] = sure
        found.append(Timeline(probability, 0.1, length_s))
    return found
