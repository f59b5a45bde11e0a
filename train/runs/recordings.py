"""Whole recordings of a split: what is true of them, what a run finds in them, how good that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cache import Cache
from cache.format.schema import BACKGROUND
from train.data.dataset import Rows
from train.data.targets import weak
from train.score.events import EventList
from train.score.metrics import Array

EventRow = dict[str, str | float]


@dataclass(frozen=True)
class Recordings:
    """The labelled recordings of a split, in the order of their names.

    names, lengths_s: (R,) each, the seconds from its start to the end of its last clip; truth:
    their events, cut there, a recording's number being its place; clips: the ids of their clips.
    """

    names: list[str]
    lengths_s: Array
    truth: EventList
    clips: list[str]

    @classmethod
    def of(cls, cache: Cache, rows: Rows, split: str) -> Recordings:
        """Of the rows that are kept; a recording of which a row doesn't say when is left out."""
        labels = rows.labels
        vague = {labels.ids[row] for row in np.flatnonzero(weak(labels))}
        names = sorted({labels.ids[row] for row in rows.kept[split]} - vague)
        place = {name: number for number, name in enumerate(names)}
        own = np.array([row for row in rows.kept[split] if labels.ids[row] in place], np.int64)
        number = np.array([place[labels.ids[row]] for row in own], np.int64)
        lengths_s = np.array([length_s(cache, name) for name in names])
        start_s, end_s, category = labels.start_s[own], labels.end_s[own], labels.category[own]
        there = (category != BACKGROUND) & (start_s < lengths_s[number])
        truth = EventList.true(
            number[there],
            category[there],
            start_s[there],
            np.minimum(end_s, lengths_s[number])[there],
        )
        clips = [cache.ids[row] for name in names for row in cache.recordings[name]]
        return cls(names, lengths_s, truth, clips)


def length_s(cache: Cache, recording: str) -> float:
    """Seconds from a recording's start to the end of its last clip."""
    rows = cache.recordings[recording]
    valid_s = cache.index.live.rows["valid_s"][rows]
    offsets_s = np.array([cache.windows[row].offset_s for row in rows])
    return float(np.max(offsets_s + valid_s))


def as_rows(names: Sequence[str], classes: Sequence[str], found: EventList) -> list[EventRow]:
    """A readable record for each event, by recording and time."""
    order = np.lexsort((found.end_s, found.start_s, found.recording))
    return [
        {
            "recording": names[found.recording[n]],
            "category": classes[found.category[n]],
            "start_s": float(found.start_s[n]),
            "end_s": float(found.end_s[n]),
            "confidence": float(found.confidence[n]),
        }
        for n in order
    ]
