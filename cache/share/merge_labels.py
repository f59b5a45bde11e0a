"""Whose labels count when caches are joined or copied: equal rows are one, contradictions named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from cache.common.cli import printable
from cache.common.errors import CacheError
from cache.format.names import one_form
from cache.format.schema import BACKGROUND
from cache.labels.annotations import Labels, changed_splits
from cache.labels.store import labels_sha256
from cache.reader import Cache
from cache.share.plan import CopyPlan

Event = tuple[str, float | None, float | None, int]
_NOTES, _CHARACTERS = 20, 250
_SHOWN = 200  # characters of a source


def merge_labels(caches: Sequence[Cache], prefer: Cache | None) -> Labels | None:
    """The labels of several caches as one table; None where none has any.

    Events are joined clip by clip. A clip with different events (or splits) in two tables is a
    contradiction: the table of the cache `prefer` decides; where that has no word on the clip,
    CacheError names it. Equal tables stay as they are; joined ones are sorted by id, and their
    classes by name unless all tables list the same classes.
    """
    found = [(cache, labels) for cache in caches if (labels := cache.stored_labels())]
    if not found:
        return None
    tables = [labels for _, labels in found]
    if all(_same(tables[0], labels) for labels in tables[1:]):
        return tables[0]
    events = [events_by_clip(labels) for labels in tables]
    order = sorted(range(len(found)), key=lambda place: found[place][0] is not prefer)
    joined: dict[str, list[Event]] = {}
    contradictions = set()
    for place in order:
        for clip_id, rows in events[place].items():
            if joined.setdefault(clip_id, rows) != rows:
                contradictions.add(clip_id)
    for (cache, _), by_clip in zip(found, events, strict=True):
        contradictions -= set(by_clip) if cache is prefer else set()
    if contradictions:
        some = ", ".join(sorted(contradictions)[:10])
        raise CacheError(
            f"{len(contradictions)} clip(s) have different events or splits in these caches: "
            f"{some}{' …' if len(contradictions) > 10 else ''}; settle it with --prefer PATH, "
            "or give all of them the same labels with `python -m cache relabel`"
        )
    lists = {tuple(map(one_form, labels.classes)) for labels in tables if labels.classes}
    classes = list(lists.pop()) if len(lists) == 1 else sorted({c for part in lists for c in part})
    return _table(joined, classes, tables)


def _same(one: Labels, other: Labels) -> bool:
    return events_by_clip(one) == events_by_clip(other) and one.classes == other.classes


def events_by_clip(labels: Labels) -> dict[str, list[Event]]:
    """Each recording's events, sorted: class name (in NFC), start, end, split.

    None and None for times that aren't known. A recording without an event has one row, with ""
    for the class.
    """
    found: dict[str, list[Event]] = defaultdict(list)
    columns = (labels.weak, labels.start_s, labels.end_s, labels.split)
    for clip_id, name, weak, start_s, end_s, split in zip(
        labels.ids, labels.names(), *(c.tolist() for c in columns), strict=True
    ):
        times = (None, None) if weak else (start_s, end_s)
        found[clip_id].append((one_form(name), *times, split))
    return {clip_id: sorted(rows, key=_order) for clip_id, rows in found.items()}


def _order(event: Event) -> tuple[str, bool, Event]:
    return event[0], event[1] is not None, event  # None is compared with None alone


def plan_labels(
    plan: CopyPlan, giver: Cache, receiver: Cache | None, prefer: Cache | None, side: str
) -> None:
    """Note whether the giver's labels replace the receiver's: where it has none, or older ones.

    `side` is what `--prefer` calls the giver.
    """
    theirs = giver.stored_labels()
    ours = None if receiver is None else receiver.stored_labels()
    if theirs is None or receiver is None or ours is None:
        plan.labels = theirs is not None
    elif labels_sha256(ours) == labels_sha256(theirs):
        return
    elif _replaced(giver, ours) or prefer is giver:
        plan.labels, plan.changed_splits = True, changed_splits(ours, theirs)
    elif not _replaced(receiver, theirs) and prefer is None:
        plan.notes.append(
            f"the labels differ ({_named(ours)}, {ours.counted()}, against {_named(theirs)}, "
            f"{theirs.counted()}) and stay as they are; --prefer {side} replaces them"
        )


def _named(labels: Labels) -> str:
    return str(printable(labels.source[:_SHOWN]))


def _replaced(cache: Cache, labels: Labels) -> bool:
    """Whether a cache's labels came to stand where these stood."""
    digest = labels_sha256(labels)
    return any(entry.get("sha256") == digest for entry in cache.label_history())


def _table(joined: dict[str, list[Event]], classes: list[str], tables: list[Labels]) -> Labels:
    rows = [(clip_id, *event) for clip_id in sorted(joined) for event in joined[clip_id]]
    number = {"": BACKGROUND} | {name: place for place, name in enumerate(classes)}
    return Labels(
        ids=[row[0] for row in rows],
        classes=classes,
        category=np.array([number[row[1]] for row in rows], np.int64),
        start_s=np.array([row[2] for row in rows], np.float64),
        end_s=np.array([row[3] for row in rows], np.float64),
        split=np.array([row[4] for row in rows], np.int8),
        source=_cut(" + ".join(sorted({part for t in tables for part in t.source.split(" + ")}))),
        notes=[_cut(n) for n in sorted({n for labels in tables for n in labels.notes})[:_NOTES]],
    )


def _cut(text: str) -> str:
    """So that joining again and again stays storable: an attribute holds no long text."""
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"
