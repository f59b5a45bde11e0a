"""What new labels change of old ones, event by event, and corrections of some recordings alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cache.common.errors import AnnotationError
from cache.format.names import look, one_form
from cache.labels.annotations import Labels, counts, labels_of_rows, rows_of, some
from cache.labels.files import Row

_CORRECTED = "; corrected by "
_FILES, _NOTES = 5, 50
_MOST_PAIRS = 1 << 20
Event = tuple[str, float | None, float | None]  # class, start and end in seconds, or when unknown


@dataclass
class Changes:
    """Events that differ between two label tables, by recording, as sentences.

    Moved events have other times, and overlap what they were, or were weak; renamed ones have
    other classes at the same times. Splits don't count.
    """

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)

    def described(self) -> Iterator[str]:
        """A line for each kind that there is: how many, and the first of them."""
        for kind, events in vars(self).items():
            if events:
                yield f"events    {len(events)} {kind}: {some(events)}"


def event_changes(before: Labels | None, after: Labels) -> Changes:
    """Compare two label tables event by event."""
    found = Changes()
    old, new = _events(before), _events(after)
    for recording in sorted(old.keys() | new.keys()):
        gone = list((old[recording] - new[recording]).elements())
        come = list((new[recording] - old[recording]).elements())
        found.renamed += [
            f"{recording} {_when(a)} {a[0]} → {b[0]}" for a, b in _paired(gone, come, _renaming)
        ]
        found.moved += [
            f"{recording} {a[0]} {_when(a)} → {_when(b)}" for a, b in _paired(gone, come, _moving)
        ]
        found.removed += [f"{recording} {event[0]} {_when(event)}" for event in gone]
        found.added += [f"{recording} {event[0]} {_when(event)}" for event in come]
    return found


def corrected(before: Labels, found: Labels, file: str) -> Labels:
    """`before`, with all rows of the recordings that `found` has replaced by those there.

    `file` is where the corrections come from. Classes keep their order, new ones follow. Raises
    AnnotationError for a class that differs in case or spaces alone from one there was.
    """
    known = {look(name): name for name in map(one_form, before.classes)}
    for name in found.classes:
        if known.get(look(name), name) != name:
            raise AnnotationError(
                f"{file}: the class {name!r} differs from {known[look(name)]!r}, which the cache "
                "has, in case, spaces or the form of a character alone; write it alike"
            )
    replacing: dict[str, list[Row]] = defaultdict(list)
    for row in rows_of(found):
        replacing[row.id].append(row)
    replaced, kept = set(replacing), rows_of(before)
    rows: list[Row] = []
    for row in kept:
        rows += replacing.pop(row.id, []) if row.id in replaced else [row]
    rows += [row for more in replacing.values() for row in more]
    notes = [note for note in before.notes if note not in counts(kept)]
    notes += [note for note in found.notes if note not in counts(rows_of(found))]
    base, _, files = before.source.partition(_CORRECTED)
    names = [name for name in files.split(", ") if name and name != file][1 - _FILES :]
    source = f"{base}{_CORRECTED}{', '.join([*names, file])}"
    notes = [*list(dict.fromkeys(notes))[-_NOTES:], *counts(rows)]
    return labels_of_rows(rows, source, notes, list(known.values()))


def _events(labels: Labels | None) -> dict[str, Counter[Event]]:
    found: dict[str, Counter[Event]] = defaultdict(Counter)
    for row in rows_of(labels) if labels else []:
        if row.category:
            found[row.id][row.event[1:]] += 1
    return found


def _paired(
    gone: list[Event], come: list[Event], distance: Callable[[Event, Event], float | None]
) -> list[tuple[Event, Event]]:
    """Take the pairs that belong together out of both lists, the nearest first."""
    if len(gone) * len(come) > _MOST_PAIRS:
        return []
    pairs = [
        (apart, i, j)
        for i, one in enumerate(gone)
        for j, other in enumerate(come)
        if (apart := distance(one, other)) is not None
    ]
    taken: dict[int, int] = {}
    for _, i, j in sorted(pairs):
        if i not in taken and j not in taken.values():
            taken[i] = j
    found = [(gone[i], come[j]) for i, j in sorted(taken.items())]
    gone[:] = [one for i, one in enumerate(gone) if i not in taken]
    come[:] = [one for j, one in enumerate(come) if j not in taken.values()]
    return found


def _renaming(one: Event, other: Event) -> float | None:
    return 0.0 if one[1:] == other[1:] else None


def _moving(one: Event, other: Event) -> float | None:
    if one[0] != other[0]:
        return None
    if one[1] is None or one[2] is None or other[1] is None or other[2] is None:
        return 0.0
    overlap = min(one[2], other[2]) - max(one[1], other[1])
    return abs(one[1] - other[1]) + abs(one[2] - other[2]) if overlap > 0 else None


def _when(event: Event) -> str:
    return "somewhere" if event[1] is None else f"{event[1]:.10g} to {event[2]:.10g} s"
