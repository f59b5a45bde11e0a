"""One recording that was looked at: what was found, what is true, what was not looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache import Cache, Labels
from cache.labels.media_names import media_id
from train.annotate.exports import Found
from train.runs.recordings import covered_s
from train.score.timeline import Timeline

_WORTH_TELLING_S = 0.05
Spans = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Recording:
    """A recording and all that is said of it. Times are seconds from its start.

    Attributes
    ----------
    media: its file, None where that is not known.
    length_s: of the media where it declares that, else up to where it was looked at.
    unseen: the parts that no window covers.
    candidates: all events that there might be, in order of time; threshold: for each class, how
        sure one must be to be said; truth: None where it is not known.
    """

    name: str
    media: Path | None
    rows: tuple[int, ...]
    length_s: float
    unseen: Spans
    classes: tuple[str, ...]
    timeline: Timeline
    candidates: tuple[Found, ...]
    threshold: tuple[float, ...]
    truth: tuple[Found, ...] | None = None

    @property
    def media_name(self) -> str:
        """What the recording is called in lists: its file's name, else its own."""
        return self.name if self.media is None else self.media.name

    @property
    def found(self) -> list[Found]:
        """The events that are said; there may be none."""
        least = dict(zip(self.classes, self.threshold, strict=True))
        return [one for one in self.candidates if one.confidence >= least[one.category]]

    @property
    def unseen_s(self) -> float:
        """Seconds that were not looked at."""
        return sum(end - start for start, end in self.unseen)

    def per_second(self) -> dict[str, list[float]]:
        """Each class's mean probability in each second."""
        cells = max(1, round(1 / self.timeline.step_s))
        starts = np.arange(0, len(self.timeline.probability), cells)
        sums = np.add.reduceat(self.timeline.probability, starts, axis=0)
        many = np.diff(starts, append=len(self.timeline.probability))[:, None]
        return dict(zip(self.classes, (sums / many).T.round(4).tolist(), strict=True))


def spans(cache: Cache, rows: Sequence[int]) -> tuple[float, Spans]:
    """A recording's length, s, and its parts that none of its windows covers."""
    covered = covered_s(cache, rows)
    media_s = cache.lengths_s[1][list(rows)]
    length_s = float(max([covered[:, 1].max(), *media_s[np.isfinite(media_s)]]))
    unseen, reached = list[tuple[float, float]](), 0.0
    for start, end in [*covered.tolist(), (length_s, length_s)]:
        if start - reached >= _WORTH_TELLING_S:
            unseen.append((round(reached, 3), round(start, 3)))
        reached = max(reached, end)
    return round(length_s, 3), tuple(unseen)


def true_events(labels: Labels | None) -> dict[str, tuple[Found, ...]]:
    """What labels say of each recording, in order of time; of none that they don't say when of."""
    if labels is None:
        return {}
    found = dict[str, list[Found]]()
    for row, name in enumerate(labels.ids):
        own, category = found.setdefault(name, []), int(labels.category[row])
        if category >= 0:
            times = float(labels.start_s[row]), float(labels.end_s[row])
            own.append(Found(labels.classes[category], *times, 1.0))
    return {
        name: tuple(sorted(events, key=lambda one: (one.start_s, one.end_s)))
        for name, events in found.items()
        if all(math.isfinite(one.start_s + one.end_s) for one in events)
    }


def listed(name: str, media_name: str) -> str:
    """What a recording is called in lists: its file's name where that says which one is meant.

    Else its own, as of files that have one name in two folders.
    """
    return media_name if media_id(media_name) == name else name
