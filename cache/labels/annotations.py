"""Annotation and split files → labels. Labels are kept per row: an id may stand in several."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.common.errors import AnnotationError
from cache.format.names import one_form
from cache.format.schema import BACKGROUND, NO_SPLIT, SPLITS
from cache.labels.background import BACKGROUND_FILE
from cache.labels.files import Event, Row
from cache.labels.formats import RECORDINGS_FILE, read_rows
from cache.labels.splits import divide

DEFAULT_SEED = 42
_SHOWN = 5
_TIMES = ("start_s", "end_s")


@dataclass(frozen=True, repr=False)
class Labels:
    """R label rows: which recording, which class, from when to when, in which split.

    A row is an event, or says that its recording has none. A clip that is no window of a longer
    recording is one itself.

    Attributes
    ----------
    ids: recording of each row; an id may stand in several rows.
    classes: class names in order of first appearance.
    category: (R,) int64 index into `classes`; BACKGROUND (-1) for a recording without an event.
    start_s, end_s: (R,) float64 seconds from the recording's start; start = end is an empty
        event; NaN and NaN: it happens, and when isn't known (a weak label); 0 and 0 for a
        recording without an event.
    split: (R,) int8 index into ("train", "val", "test"), or -1 for none.
    source: where the rows and the splits came from, for people.
    notes: what was changed on reading (events cut at the clip's end, …).
    """

    ids: list[str]
    classes: list[str]
    category: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    split: npt.NDArray[np.int8]
    source: str = ""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Row numbers of a split, in file order."""
        return np.flatnonzero(self.split == SPLITS.index(split)).astype(np.int64)

    @property
    def background(self) -> npt.NDArray[np.bool_]:
        """(R,) which rows say that their clip has no event."""
        return np.equal(self.category, BACKGROUND)

    @property
    def weak(self) -> npt.NDArray[np.bool_]:
        """(R,) which rows say what happens, not when."""
        return np.isnan(self.start_s)

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """(R,) which rows are events and say when."""
        return ~self.weak & ~self.background

    def names(self) -> list[str]:
        """The class name of each row; "" for a clip without an event."""
        return ["" if k == BACKGROUND else self.classes[k] for k in self.category.tolist()]

    def counted(self) -> str:
        """How many events, and how many clips without one, if any, in words."""
        empty = int(self.background.sum())
        more = f", {without_an_event(empty)}" if empty else ""
        return f"{len(self) - empty} events{more}"

    def equals(self, other: Labels) -> bool:
        """Whether both hold the same rows, classes and splits."""
        mine, theirs = (
            (labels.ids, labels.classes, labels.notes, labels.source) for labels in (self, other)
        )
        return mine == theirs and all(
            np.array_equal(getattr(self, name), getattr(other, name), equal_nan=name in _TIMES)
            for name in ("category", *_TIMES, "split")
        )

    def __repr__(self) -> str:
        recordings = len(set(self.ids))
        return f"Labels({self.counted()}, {len(self.classes)} classes, {recordings} recordings)"

    def leaks(self) -> dict[tuple[str, str], list[str]]:
        """Ids that stand in two splits, for each pair of splits that shares any."""
        members = {name: {self.ids[row] for row in self.rows(name)} for name in SPLITS}
        shared = {(a, b): sorted(members[a] & members[b]) for a, b in combinations(SPLITS, 2)}
        return {pair: ids for pair, ids in shared.items() if ids}


def read_annotations(
    path: Path,
    clip_seconds: float | None,
    split_seed: int = DEFAULT_SEED,
    before: Labels | None = None,
) -> Labels:
    """Read an annotation file of any format of docs/labels.md, or a folder of them.

    To AVE's belong the split files and the list of clips without an event beside it; the list may
    name splits where the annotations don't, or not. Where nothing names splits, an id that has one
    in `before`, the labels that a cache has now, keeps it; the others are divided 70/15/15 by
    `split_seed` and the id alone. Events are cut at `clip_seconds`; with None, for a cache of
    windows, they stay whole.

    Raises AnnotationError that names every bad line (the first ten).
    """
    found = read_rows(path)
    rows, notes = found.rows, list(dict.fromkeys(found.notes))
    if clip_seconds is not None:
        rows = _within(path, rows, clip_seconds, notes)
    rows = _once(rows, notes)
    rows, divided, elsewhere = _divided(rows, split_seed, before)
    own = [called for name, called in found.files.items() if name not in divided]
    parts = [", ".join([*own, found.splits] if own and found.splits else own)]
    if divided:
        called = ", ".join(found.files.get(name, name) for name in divided)
        parts.append(f"{called}, divided 70/15/15 by id with seed {split_seed}")
        parts[-1] += f", but {elsewhere} ids keep an earlier split" if elsewhere else ""
    return labels_of_rows(rows, "; ".join(filter(None, parts)), notes + counts(rows))


def _divided(rows: list[Row], seed: int, before: Labels | None) -> tuple[list[Row], list[str], int]:
    """Give splits to the rows of files that name none.

    Returns all rows, those files, and how many ids are elsewhere than the seed would put them.
    """

    def listed(row: Row) -> bool:
        return row.file in (BACKGROUND_FILE, RECORDINGS_FILE)

    own = {listed(row) for row in rows if row.split != NO_SPLIT}
    loose = [row for row in rows if listed(row) not in own]
    splits, elsewhere = divide(loose, seed, rows_of(before) if before and loose else [])
    found = iter(splits)
    rows = [row if listed(row) in own else replace(row, split=next(found)) for row in rows]
    return rows, list(dict.fromkeys(row.file for row in loose)), elsewhere


def counts(rows: Sequence[Row]) -> list[str]:
    """What a person should know of rows without a split, a time, or an event."""
    loose = Counter(bool(row.category) for row in rows if row.split == NO_SPLIT)
    notes = [f"{loose[True]} event(s) are in no split"] if loose[True] else []
    notes += [f"{without_an_event(loose[False])} in no split"] if loose[False] else []
    empty = sum(not row.category for row in rows)
    weak = sum(math.isnan(row.start_s) for row in rows)
    notes += [f"{weak} event(s) say what, not when"] if weak else []
    return notes + ([without_an_event(empty)] if empty else [])


def without_an_event(clips: int) -> str:
    """So many clips without an event, in words."""
    return f"{clips} clip{'' if clips == 1 else 's'} without an event"


def changed_splits(before: Labels | None, after: Labels) -> dict[str, str]:
    """The ids that were in other splits before: id → `train → test`."""
    old, new = (_splits_of_ids(labels) for labels in (before, after))
    return {
        clip_id: f"{_named(old[clip_id])} → {_named(new[clip_id])}"
        for clip_id in sorted(old.keys() & new.keys())
        if old[clip_id] != new[clip_id]
    }


def describe_changes(changes: Mapping[str, str]) -> str:
    """`changed_splits` in one sentence: how many ids, and the first of them."""
    ids = "id" if len(changes) == 1 else "ids"
    return f"{len(changes)} {ids} changed: " + some(f"{i} ({way})" for i, way in changes.items())


def remarks(before: Labels | None, after: Labels) -> Iterator[str]:
    """What a person should hear of labels that replace others (or none), line by line."""
    if changes := changed_splits(before, after):
        yield f"splits    {describe_changes(changes)}"
    for (a, b), ids in after.leaks().items():
        yield f"leak      {len(ids)} id(s) in both {a} and {b}; see --drop-leaks of train"
    for note in after.notes:
        yield f"note      {note}"


def _within(path: Path, rows: list[Row], clip_seconds: float, notes: list[str]) -> list[Row]:
    """Cut events at the clip's end (the media is cut there too)."""
    inside = [row for row in rows if not row.start_s >= clip_seconds]  # NaN is somewhere in it
    events = any(row.category for row in rows)
    if len(inside) < len(rows):
        notes.append(f"{len(rows) - len(inside)} event(s) begin after {clip_seconds:g} s: left out")
    cut = sum(row.end_s > clip_seconds for row in inside)
    if cut:
        notes.append(f"{cut} event(s) end after {clip_seconds:g} s: cut there")
    if events and not any(row.category for row in inside):
        raise AnnotationError(f"{path}: no event begins within the first {clip_seconds:g} s")
    return [replace(r, end_s=clip_seconds) if r.end_s > clip_seconds else r for r in inside]


def _once(rows: list[Row], notes: list[str]) -> list[Row]:
    """Each row once."""
    found: dict[tuple[Event, int], Row] = {}
    for row in rows:
        found.setdefault((row.event, row.split), row)
    again = sum(bool(row.category) for row in rows)
    again -= sum(bool(row.category) for row in found.values())
    if again:
        notes.append(f"{again} event(s) repeat another: left out")
    return list(found.values())


def labels_of_rows(
    rows: Sequence[Row], source: str, notes: list[str], order: Sequence[str] = ()
) -> Labels:
    """The table; classes as in `order`, and in order of first appearance behind these."""
    used = dict.fromkeys(row.category for row in rows if row.category)
    first = dict.fromkeys(name for name in order if name in used)
    number = {name: place for place, name in enumerate(first | used)}
    return Labels(
        ids=[row.id for row in rows],
        classes=list(number),
        category=np.array([number.get(row.category, BACKGROUND) for row in rows], np.int64),
        start_s=np.array([row.start_s for row in rows], np.float64),
        end_s=np.array([row.end_s for row in rows], np.float64),
        split=np.array([row.split for row in rows], np.int8),
        source=source,
        notes=notes,
    )


def rows_of(labels: Labels) -> list[Row]:
    """The rows of a label table, names in NFC."""
    columns = (labels.start_s, labels.end_s, labels.split)
    return [
        Row(one_form(clip_id), one_form(name), start_s, end_s, split)
        for clip_id, name, start_s, end_s, split in zip(
            labels.ids, labels.names(), *(column.tolist() for column in columns), strict=True
        )
    ]


def _splits_of_ids(labels: Labels | None) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for row in rows_of(labels) if labels else []:
        found[row.id].add(row.split)
    return found


def _named(splits: Collection[int]) -> str:
    return "+".join("none" if n == NO_SPLIT else SPLITS[n] for n in sorted(splits))


def some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    shown = list(names)
    more = " …" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
