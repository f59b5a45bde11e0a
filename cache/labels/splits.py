"""Which split an id is in, where the annotations don't say: a matter of the id alone.

So a set can grow, and two people's sets agree on the clips that both have.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from cache.format.schema import NO_SPLIT, SPLITS
from cache.labels.files import Event, Row

_BEGINS = (0.0, 0.70, 0.85)  # of train, val and test among all places in [0, 1)
_ENDS = (0.70, 0.85, 1.0)


def divide(rows: Sequence[Row], seed: int, before: Iterable[Row]) -> tuple[list[int], int]:
    """The split of each row, and how many ids are elsewhere than the seed alone would put them.

    An id that has a split in `before` keeps it (and where it has several, each event its own);
    any other goes where `seed` and the id put it: 70 % to train, 15 % each to val and test.
    """
    events: dict[Event, list[int]] = defaultdict(list)
    known: dict[str, int] = {}
    for row in before:
        if row.split != NO_SPLIT:
            events[row.event].append(row.split)
            known.setdefault(row.id, row.split)
    ids = dict.fromkeys(row.id for row in rows)
    alone, placed = _placed(ids, seed, {}), _placed(ids, seed, known)
    splits = [events[row.event].pop(0) if events.get(row.event) else placed[row.id] for row in rows]
    return splits, len({r.id for r, n in zip(rows, splits, strict=True) if n != alone[r.id]})


def _placed(ids: Collection[str], seed: int, known: Mapping[str, int]) -> dict[str, int]:
    """The split of each id: the known one, else the one whose part of [0, 1) the id's hash is in.

    From three ids on no split stays empty: the id whose place is nearest to the empty part goes
    there, if it is not known and leaves none empty behind.
    """
    place = {clip_id: _place(clip_id, seed) for clip_id in ids}
    placed = {
        clip_id: known.get(clip_id, sum(at >= begin for begin in _BEGINS) - 1)
        for clip_id, at in place.items()
    }
    for split in range(len(SPLITS)) if len(placed) >= len(SPLITS) else ():
        counts = [sum(n == other for n in placed.values()) for other in range(len(SPLITS))]
        spare = [i for i, n in placed.items() if i not in known and counts[n] > 1]
        if not counts[split] and spare:
            nearest = min(spare, key=lambda i: (_distance(place[i], split), i))
            placed[nearest] = split
    return placed


def _place(clip_id: str, seed: int) -> float:
    """A place in [0, 1) that an id has on every machine."""
    digest = hashlib.sha256(f"{seed}:{clip_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _distance(place: float, split: int) -> float:
    return max(_BEGINS[split] - place, place - _ENDS[split], 0.0)
