"""Lists of events: any number in any number of recordings, true ones or found ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from train.score.metrics import Array

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EventList:
    """E events, in any order.

    recording and category: (E,) int64, numbers from 0; start_s and end_s: (E,) float64, seconds
    from the start of the recording; confidence: (E,) float64 in [0, 1], 1 for what is true.
    A recording without an event has no row. Rows that say "no event" or don't say when (categories
    below 0, times that are NaN) are no events: ValueError.
    """

    recording: Whole
    category: Whole
    start_s: Array
    end_s: Array
    confidence: Array

    def __post_init__(self) -> None:
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        if set(shapes.values()) != {(len(self.recording),)}:
            raise ValueError(f"an event has one of each: expected equal lengths, found {shapes}")
        if len(self) and min(self.recording.min(), self.category.min()) < 0:
            raise ValueError("numbers of recordings and categories begin at 0")
        if not np.all((self.start_s >= 0) & (self.start_s <= self.end_s)):
            raise ValueError("an event starts at 0 s or later, and doesn't end before it starts")
        if not np.all((self.confidence >= 0) & (self.confidence <= 1)):
            raise ValueError("confidence lies in [0, 1]")

    def __len__(self) -> int:
        return len(self.recording)

    @classmethod
    def true(cls, recording: Whole, category: Whole, start_s: Array, end_s: Array) -> EventList:
        """Events that are certain."""
        return cls(recording, category, start_s, end_s, np.ones(len(recording)))

    @classmethod
    def empty(cls) -> EventList:
        """No events."""
        return cls.true(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))

    @classmethod
    def together(cls, lists: Sequence[EventList]) -> EventList:
        """The events of several lists, one after another."""
        every = [cls.empty(), *lists]
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(one, name) for one in every]) for name in names))

    def of(self, rows: npt.NDArray[Any]) -> EventList:
        """Some of the events: numbers or a mask (E,)."""
        return EventList(*(getattr(self, field.name)[rows] for field in fields(self)))
