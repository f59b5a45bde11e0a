"""From a timeline to a list of events: candidates, and which of them are said.

Candidates are boxes between change points ("sound event bounding boxes", Ebbers, Germain, Wichern
& Le Roux, Interspeech 2024): where a class's probability rises or falls most steeply says when,
and its mean in between says how sure it is. So a threshold, whichever it is, leaves the times as
they are. Shapes: S cells, K classes, E events.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from cache.common.settings import Settings
from train.score.events import EventList, Whole
from train.score.metrics import Array
from train.score.ranking import mean_average_precision
from train.score.recordings import TOLERANCES, event_f1, segment_counts
from train.score.timeline import Timeline

_FLOOR = 0.02  # a candidate that is less sure is none
_FLAT = 1e-9
_AT_ONCE = 1 << 22  # numbers that are read off together
_MOST_CLASSES = 1 << 20
CRITERIA = ("1s", "1s,20%")
"""The tolerances of the event F1 that, with the mean average precision of the candidates, choose
how a timeline is read off: two ways of placing events, and ranking them."""
SIDE_S = 1.0  # was best of 0.5 to 2 s for every kind of model (docs/experiments.md)
JOINS = (0.3, 0.2, 0.5)
SHORTEST_S = (0.0, 0.5, 1.0)
ENOUGH = 0.01
THRESHOLDS = tuple(round(0.05 * k, 2) for k in range(1, 19))


class ReadOff(Settings):
    """How a timeline becomes a list of events."""

    threshold: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        min_length=1, max_length=_MOST_CLASSES
    )
    """For each class, how sure a candidate must be to be said, in [0, 1]."""
    side_s: float = Field(gt=0, le=60)
    """Seconds before and after a moment whose means tell a rise from a fall there."""
    join: float = Field(ge=0, le=1)
    """Two candidates are one where between them the mean is this share of the surer one's."""
    shortest_s: float = Field(ge=0, le=3600)
    """Shorter candidates are none."""

    def record(self) -> dict[str, Any]:
        """As JSON holds it; `parse` reads it."""
        return self.model_dump(mode="json")

    def events(self, timelines: Sequence[Timeline]) -> EventList:
        """What is said of recordings; there may be nothing. A recording's number is its place."""
        return self.said(self.candidates(timelines))

    def said(self, candidates: EventList) -> EventList:
        """Those candidates that are sure enough for their class."""
        return candidates.of(candidates.confidence >= np.array(self.threshold)[candidates.category])

    def candidates(self, timelines: Sequence[Timeline]) -> EventList:
        """All events that there might be, which average precision ranks by confidence."""
        lists = [self._of_one(number, timeline) for number, timeline in enumerate(timelines)]
        return EventList.together(lists)

    def _of_one(self, number: int, timeline: Timeline) -> EventList:
        classes = timeline.probability.shape[1]
        if classes != len(self.threshold):
            raise ValueError(
                f"a timeline of {classes} classes, thresholds of {len(self.threshold)}"
            )
        some = np.flatnonzero(timeline.probability.max(axis=0) >= _FLOOR)
        parts = np.array_split(some, 1 + timeline.probability.size // _AT_ONCE)
        return EventList.together([self._of_classes(number, timeline, part) for part in parts])

    def _of_classes(self, number: int, timeline: Timeline, classes: Whole) -> EventList:
        rows = np.ascontiguousarray(timeline.probability[:, classes].T)
        row, first, stop = boxes(rows, max(1, round(self.side_s / timeline.step_s)))
        mass = np.concatenate([np.zeros((len(rows), 1)), rows.cumsum(axis=1)], axis=1)
        row, first, stop = joined(mass, row, first, stop, self.join)
        confidence = ((mass[row, stop] - mass[row, first]) / (stop - first)).clip(0.0, 1.0)
        edges = np.round(np.arange(rows.shape[1] + 1) * timeline.step_s, 6)
        start_s, end_s = edges[first], np.minimum(edges[stop], timeline.length_s)
        kept = (confidence >= _FLOOR) & (end_s - start_s >= max(self.shortest_s, _FLAT) - _FLAT)
        every = EventList(np.full(len(row), number), classes[row], start_s, end_s, confidence)
        return every.of(kept)


def boxes(probability: Array, side: int) -> tuple[Whole, Whole, Whole]:
    """Rows, first and last-plus-one cells between a rise and the next fall, (B,) each.

    probability (K, S). The change at a moment is the mean of the `side` cells after it less that of
    those before it; outside the recording is 0. A stretch in which it is positive has one rise, at
    its largest change, one in which it is negative one fall; they take turns. Of equal changes the
    innermost counts.
    """
    cells = probability.shape[1]
    mass = np.pad(probability, [(0, 0), (side + 1, side)]).cumsum(axis=1)
    now = mass[:, side : side + cells + 1]
    change = (mass[:, 2 * side : 2 * side + cells + 1] - now) - (now - mass[:, : cells + 1])
    change /= side
    row, cell = np.nonzero(np.abs(change) > _FLAT)
    value = change[row, cell]
    sign = value > 0
    begins = np.flatnonzero(
        np.diff(row, prepend=-1).astype(bool) | np.diff(sign, prepend=~sign[:1])
    )
    if not len(begins):
        return (np.zeros(0, np.int64),) * 3
    stretch = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(row)))
    steepest = np.maximum.reduceat(np.abs(value), begins)
    at = np.flatnonzero(np.abs(value) >= steepest[stretch] - _FLAT)
    last = np.flatnonzero(np.diff(stretch[at], append=-1))
    first = np.append(0, last[:-1] + 1)
    return row[begins[::2]], cell[at[last[::2]]], cell[at[first[1::2]]]


def joined(
    mass: Array, row: Whole, first: Whole, stop: Whole, join: float
) -> tuple[Whole, Whole, Whole]:
    """Neighbours become one where the mean between them is `join` of the larger of theirs, or more.

    mass (K, S + 1): sums of the probability up to each cell; boxes as of `boxes`.
    """
    mean = (mass[row, stop] - mass[row, first]) / np.maximum(stop - first, 1)
    gap = first[1:] - stop[:-1]
    between = (mass[row[1:], first[1:]] - mass[row[1:], stop[:-1]]) / np.maximum(gap, 1)
    apart = (row[1:] != row[:-1]) | (between < join * np.maximum(mean[1:], mean[:-1]))
    begins = np.flatnonzero(np.concatenate([np.ones(min(1, len(row)), bool), apart]))
    ends = np.append(begins[1:], len(row)).astype(np.int64) - 1
    return row[begins], first[begins], stop[ends[: len(begins)]]


def choose_read_off(timelines: Sequence[Timeline], truth: EventList) -> ReadOff:
    """The way of reading off that is best on validation recordings.

    Best is the mean of the average precision of its candidates (over all tIoU levels) and of the
    event F1 at each of the tolerances CRITERIA; of equals the first. Few recordings say little, so
    the grids are coarse and one threshold stands for all classes. Of it the event F1 says little:
    over wide ranges what is gained is lost. So half of what chooses it is the F1 of seconds, and it
    is the highest that is as good as the best but for ENOUGH, as that has fewer false alarms.
    truth: its recordings are numbered as the timelines are.
    """
    classes = timelines[0].probability.shape[1]
    best: tuple[float, ReadOff, EventList, Array] | None = None
    for join, shortest_s in product(JOINS, SHORTEST_S):
        way = ReadOff(threshold=(0.0,) * classes, side_s=SIDE_S, join=join, shortest_s=shortest_s)
        candidates = way.candidates(timelines)
        placing = _placing(candidates, truth)
        ranking = mean_average_precision(truth, candidates) or 0.0
        value = (ranking + len(CRITERIA) * placing.max()) / (1 + len(CRITERIA))
        if best is None or value > best[0] + _FLAT:
            best = value, way, candidates, placing
    assert best is not None
    _, way, candidates, placing = best
    lengths_s = np.array([one.length_s for one in timelines])
    telling = (placing + _covering(candidates, truth, lengths_s, classes)) / 2
    level = THRESHOLDS[np.flatnonzero(telling >= telling.max() - ENOUGH)[-1]]
    return way.revised(threshold=(level,) * classes)


def _covering(candidates: EventList, truth: EventList, lengths_s: Array, classes: int) -> Array:
    """The F1 of seconds of what each of THRESHOLDS leaves of the candidates."""
    found = []
    for level in THRESHOLDS:
        said = candidates.of(candidates.confidence >= level)
        right, missed, besides, _ = segment_counts(truth, said, lengths_s, classes)
        hits = 2 * int(right.sum())
        found.append(hits / max(hits + int(missed.sum() + besides.sum()), 1))
    return np.array(found)


def _placing(candidates: EventList, truth: EventList) -> Array:
    """The mean event F1 at CRITERIA of what each of THRESHOLDS leaves of the candidates."""
    said = [candidates.of(candidates.confidence >= level) for level in THRESHOLDS]
    scores = [[event_f1(truth, one, *TOLERANCES[name]) or 0.0 for name in CRITERIA] for one in said]
    mean: Array = np.mean(scores, axis=1)
    return mean
