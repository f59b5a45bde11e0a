"""What differs between two caches: settings, clips, failures, events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cache.common.cli import printable
from cache.format.schema import ROW_FIELDS
from cache.labels.annotations import Labels
from cache.reader import Cache
from cache.share.merge_labels import Event, events_by_clip

_EXAMINED = 1000


@dataclass
class Difference:
    """What two caches A and B differ in; empty everywhere when they hold the same.

    Attributes
    ----------
    settings: setting → (in A, in B), the feature version among them.
    only_a, only_b: clips with features in one of them alone.
    rows: clips in both whose rows differ → the datasets that do, with the largest difference.
    failures: clips that fail in only one of them, or differently → what each says.
    events: clips whose events or splits differ → (in A, in B).
    classes: the class lists, where they differ.
    """

    settings: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    events: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    classes: tuple[list[str], list[str]] | None = None

    def __bool__(self) -> bool:
        return any(vars(self).values())


def difference(a: Cache, b: Cache) -> Difference:
    """Compare two caches; features are read only of clips whose checksums differ."""
    found = Difference(settings=_settings(a, b))
    found.only_a = [clip_id for clip_id in a.ids if clip_id not in b]
    found.only_b = [clip_id for clip_id in b.ids if clip_id not in a]
    both = [clip_id for clip_id in a.ids if clip_id in b]
    unequal = [i for i in both if a.row_digests[a.row(i)] != b.row_digests[b.row(i)]]
    same_arrays = a.fields == b.fields
    for number, clip_id in enumerate(unequal):
        examine = same_arrays and number < _EXAMINED
        found.rows[clip_id] = _row_difference(a, b, clip_id) if examine else {}
    told = [{i: f"{f.stage}: {f.message}" for i, f in c.index.failures.items()} for c in (a, b)]
    for clip_id in sorted({*told[0], *told[1]}):
        pair = told[0].get(clip_id, ""), told[1].get(clip_id, "")
        if pair[0] != pair[1]:
            found.failures[clip_id] = pair
    _compare_labels(a.stored_labels(), b.stored_labels(), found)
    return found


def _settings(a: Cache, b: Cache) -> dict[str, tuple[Any, Any]]:
    one, two = (
        {
            **cache.config,
            "feature_version": cache.identity.feature_version,
            "format_version": cache.identity.format_version,
        }
        for cache in (a, b)
    )
    return {
        name: (one.get(name), two.get(name))
        for name in sorted({*one, *two})
        if one.get(name) != two.get(name)
    }


def _row_difference(a: Cache, b: Cache, clip_id: str) -> dict[str, str]:
    found = {}
    names = [*a.fields, *(spec.name for spec in ROW_FIELDS if spec.name != "rows/sha256")]
    for name in names:
        one, two = (cache.read(name, [cache.row(clip_id)])[0] for cache in (a, b))
        if one.tobytes() != two.tobytes():
            found[name] = _largest(one, two)
    if a.jpegs(clip_id) != b.jpegs(clip_id):
        found["video/jpeg"] = "other bytes"
    return found


def _largest(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> str:
    if one.dtype.kind != "f":
        return "differs"
    with np.errstate(invalid="ignore"):  # infinities of a stranger's cache
        gap = np.abs(one.astype(np.float64) - two.astype(np.float64))
    if np.any(np.isnan(one) != np.isnan(two)):
        return "other steps are valid"
    return f"by at most {np.nanmax(gap, initial=0.0):.3g}"


def _compare_labels(one: Labels | None, two: Labels | None, found: Difference) -> None:
    a, b = (events_by_clip(labels) if labels else {} for labels in (one, two))
    for clip_id in sorted({*a, *b}):
        if a.get(clip_id) != b.get(clip_id):
            found.events[clip_id] = a.get(clip_id, []), b.get(clip_id, [])
    classes = one.classes if one else [], two.classes if two else []
    if classes[0] != classes[1]:
        found.classes = classes


def describe_difference(found: Difference, limit: int = 10) -> str:
    """The differences as text, at most `limit` clips of each kind."""
    lines = [f"setting    {n}: {x!r} in A, {y!r} in B" for n, (x, y) in found.settings.items()]
    lines += _listed("only in A", dict.fromkeys(found.only_a, ""), limit)
    lines += _listed("only in B", dict.fromkeys(found.only_b, ""), limit)
    rows = {
        clip_id: ", ".join(f"{name} {text}" for name, text in parts.items())
        for clip_id, parts in found.rows.items()
    }
    lines += _listed("features", rows, limit)
    pairs = {
        i: f"A: {x or 'no failure'}; B: {y or 'no failure'}" for i, (x, y) in found.failures.items()
    }
    lines += _listed("failure", pairs, limit)
    events = {i: f"A: {_events(x)}; B: {_events(y)}" for i, (x, y) in found.events.items()}
    lines += _listed("events", events, limit)
    if found.classes:
        lines.append(
            f"classes    A: {', '.join(found.classes[0])}; B: {', '.join(found.classes[1])}"
        )
    lines = printable(lines)
    return "\n".join(lines) if lines else "no difference in settings, clips, failures or events"


def _events(rows: list[Event]) -> str:
    """A clip's label rows; that it has no event is a row, no row at all is no word on it."""
    shown = ", ".join(str(row if row[0] else ("no event", row[-1])) for row in rows)
    return f"[{shown}]" if rows else "none"


def _listed(kind: str, clips: dict[str, str], limit: int) -> list[str]:
    lines = [
        f"{kind:<10} {i}" + (f": {text}" if text else "") for i, text in list(clips.items())[:limit]
    ]
    if len(clips) > limit:
        lines.append(f"{kind:<10} … and {len(clips) - limit} more clips, {len(clips)} in all")
    return lines
