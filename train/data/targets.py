"""What is to be learned of each clip: the events of its recording that overlap it, cut to it.

A label row belongs to a recording and is on its clock; a clip is a window of a recording. Where a
cache has no windows, each clip is its own recording's. Shapes: R samples, E events of a clip at
most, W windows and n events of one recording.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache import Cache, Labels
from cache.format.schema import BACKGROUND

SEVERAL_FROM = 0.05
"""From which share of the training clips with two events or more a set is one of several events."""
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
_Sample = tuple[int, int, list[int]]
"""A label row of the recording, the clip's row in the cache, the rows of its events."""


@dataclass(frozen=True)
class Targets:
    """What is true of R clips.

    Attributes
    ----------
    clips: (R,) the row of each in the cache.
    rows: (R,) the number of a label row of its recording, of its own event where it has one.
    category: (R, E), BACKGROUND for a clip without an event. Fewer than E events of a clip are
        repeated: a repetition changes no target.
    start_s, end_s: (R, E) from the clip's start, cut to the clip; 0 and 0 without an event.
    count: (R,) how many events it has.
    """

    clips: Numbers
    rows: Numbers
    category: Numbers
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    count: Numbers


def looked_at(cache: Cache) -> Container[str]:
    """The recordings of which a cache has any features."""
    return cache if cache.declaration.hop_s is None else cache.recordings


def targets(cache: Cache, labels: Labels, rows: Numbers, several: bool) -> Targets:
    """The samples of some label rows, whose recordings have features, in the rows' order.

    One for each clip and event that overlap; with `several`, one for each clip. And one for each
    clip of these recordings that no row overlaps, among all label rows, where none is weak: it has
    no event. Of rows that overlap a clip, only those in `rows` count as its events.
    """
    if cache.declaration.hop_s is None:
        found = _of_clips(cache, labels, rows, several)
    else:
        found = _of_windows(cache, labels, rows, several)
    return _targets(cache, labels, sorted(found))


def _of_clips(cache: Cache, labels: Labels, rows: Numbers, several: bool) -> Iterator[_Sample]:
    """Each clip is a recording of its own, and no more of that is known than its label rows say."""
    groups = _by_recording(labels, rows) if several else [[row] for row in rows.tolist()]
    for group in groups:
        events = [row for row in group if labels.category[row] != BACKGROUND]
        yield group[0], cache.row(labels.ids[group[0]]), events


def _of_windows(cache: Cache, labels: Labels, rows: Numbers, several: bool) -> Iterator[_Sample]:
    recordings = {labels.ids[row] for row in rows.tolist()}
    everything = [row for row, name in enumerate(labels.ids) if name in recordings]
    of_labels = {labels.ids[some[0]]: np.array(some) for some in _by_recording(labels, everything)}
    for group in _by_recording(labels, rows):
        own, recording = np.array(group), labels.ids[group[0]]
        places = cache.recordings[recording]
        offset_s = np.array([cache.windows[place].offset_s for place in places])
        known = of_labels[recording]
        occupied = _overlap(labels, known, offset_s, cache.clip_seconds).any(axis=1)
        free = ~occupied & ~labels.weak[known].any()
        inside = _overlap(labels, own, offset_s, cache.clip_seconds)
        for window, place in enumerate(places):
            events = own[inside[window]].tolist()
            if several and events:
                yield events[0], place, events
            elif events:
                yield from ((row, place, [row]) for row in events)
            elif free[window]:
                yield group[0], place, []


def _by_recording(labels: Labels, rows: Iterable[int]) -> list[list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[labels.ids[row]].append(int(row))
    return list(found.values())


def _overlap(
    labels: Labels, rows: Numbers, offset_s: npt.NDArray[np.float64], clip_seconds: float
) -> Flags:
    """(W, n) which rows are events that overlap which windows; an empty event lies in its own."""
    start, end, begin = labels.start_s[rows], labels.end_s[rows], offset_s[:, None]
    reaches = (end > begin) | ((start == end) & (end == begin))
    overlap: Flags = reaches & (start < begin + clip_seconds) & ~labels.background[rows]
    return overlap


def _targets(cache: Cache, labels: Labels, found: Sequence[_Sample]) -> Targets:
    most = max((len(events) for _, _, events in found), default=1) or 1
    clips = np.array([place for _, place, _ in found], np.int64)
    count = np.array([len(events) for _, _, events in found], np.int64)
    padded = [[*events, *(events[:1] or [-1]) * (most - len(events))] for _, _, events in found]
    number = np.array(padded, np.int64).reshape(len(found), most)
    offset = np.array([cache.windows[place].offset_s for place in clips.tolist()])[:, None]
    empty = number < 0
    length = np.inf if cache.declaration.hop_s is None else cache.clip_seconds  # else cut already
    start = (labels.start_s[number] - offset).clip(0.0, length)
    end = (labels.end_s[number] - offset).clip(0.0, length)
    return Targets(
        clips=clips,
        rows=np.array([row for row, _, _ in found], np.int64),
        category=np.where(empty, BACKGROUND, labels.category[number]),
        start_s=np.where(empty, 0.0, start),
        end_s=np.where(empty, 0.0, end),
        count=count,
    )


def how_many(cache: Cache, labels: Labels, rows: Numbers) -> tuple[int, int]:
    """Of some label rows' clips, how many have an event, and how many two or more."""
    count = targets(cache, labels, rows, several=True).count
    return int((count > 0).sum()), int((count > 1).sum())
