"""Several caches joined by id, read as one: each keeps its own features, and stays untouched.

What is said of a clip itself (labels, lengths, pictures) is the first cache's that says it.
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.format.identity import Identity
from cache.format.shard import Failure
from cache.format.windows import Window
from cache.labels.annotations import Labels
from cache.reader import Array, Cache, Rows, open_cache

JOINED = "joined"
"""The setting by which a run knows that it was trained on several caches."""


class JoinedCache(Cache):
    """The clips that all of several caches have: what can be asked of a `Cache` to train from it.

    Raises CacheError where they don't belong together: clips of different lengths, windows with
    different hops, or two fields of one name.

    Attributes
    ----------
    caches: as they were named; the first says in which order clips are read.
    ids: the clips that all have, sorted.
    lacking: path → ids that another cache has, and this one has not.
    """

    def __init__(self, caches: Sequence[Cache]) -> None:
        self.caches = list(caches)
        self.path = Path(" + ".join(str(one.path) for one in self.caches))
        self.packed = False
        _check_alike(self.caches)
        first = self.caches[0]
        self.declaration, self.clip_seconds = first.declaration, first.clip_seconds
        self.fields = {name: field for one in self.caches for name, field in one.fields.items()}
        parts = [{"fingerprint": one.fingerprint, "config": one.config} for one in self.caches]
        self.config = {JOINED: parts}
        made_by = {JOINED: [one.provenance for one in self.caches]}
        self.provenance = made_by
        self.identity = Identity(0, self.config, self.declaration, made_by)
        self.fingerprint = self.identity.fingerprint
        self.ids = sorted(set.intersection(*(set(one.ids) for one in self.caches)))
        together = set().union(*(one.ids for one in self.caches))
        self.lacking = {one.path: sorted(together - set(one.ids)) for one in self.caches}
        if not self.ids:
            raise CacheError(f"{self.path}: these caches have no clip in common")
        self._row: dict[object, int] = {clip_id: row for row, clip_id in enumerate(self.ids)}
        self._rows_of = [
            np.array([one.row(clip_id) for clip_id in self.ids], np.int64) for one in self.caches
        ]

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._row

    def refuse_damaged(self) -> None:
        """As of each cache."""
        for one in self.caches:
            one.refuse_damaged()

    def row(self, clip_id: str) -> int:
        """Row number of a clip; CacheError, naming the cache that lacks it, where there is none."""
        if clip_id not in self._row:
            for one in self.caches:
                one.row(clip_id)
        return self._row[clip_id]

    def stored_labels(self) -> Labels | None:
        """The annotation rows of the first cache that has any."""
        found = (one.stored_labels() for one in self.caches)
        return next((labels for labels in found if labels is not None), None)

    @cached_property
    def windows(self) -> list[Window]:
        """Each clip's recording and offset in it, in id order."""
        return [self.caches[0].windows[row] for row in self._rows_of[0].tolist()]

    @cached_property
    def row_digests(self) -> list[bytes]:
        """SHA-256 over the digests of each clip's rows, in id order."""
        digests = [one.row_digests for one in self.caches]
        places = zip(*(at.tolist() for at in self._rows_of), strict=True)
        rows = (b"".join(map(list.__getitem__, digests, place)) for place in places)
        return [hashlib.sha256(row).digest() for row in rows]

    @cached_property
    def failures(self) -> dict[str, Failure]:
        """What failed in any of the caches, by clip id."""
        return {i: why for one in reversed(self.caches) for i, why in one.failures.items()}

    @cached_property
    def lengths_s(self) -> tuple[Array, Array]:
        """As of the first cache."""
        valid_s, media_s = self.caches[0].lengths_s
        return valid_s[self._rows_of[0]], media_s[self._rows_of[0]]

    @cached_property
    def media_stamps(self) -> tuple[Array, Array]:
        """As of the first cache."""
        size, mtime_ns = self.caches[0].media_stamps
        return size[self._rows_of[0]], mtime_ns[self._rows_of[0]]

    def read(self, name: str, rows: Rows | None = None) -> Array:
        """A dataset for the given clips (default: all), from the cache that has it."""
        wanted = self._wanted(rows)
        place = next((n for n, one in enumerate(self.caches) if name in one.fields), 0)
        return self.caches[place].read(name, self._rows_of[place][wanted])

    def by_shard(
        self, names: Iterable[str], rows: Rows | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Array]]]:
        """Read several datasets, in the order of the first cache's files; see `Cache.by_shard`."""
        wanted, names = self._wanted(rows), list(names)
        for places in self.places_by_shard(wanted):
            yield places, {name: self.read(name, wanted[places]) for name in names}

    def places_by_shard(self, rows: Rows) -> list[npt.NDArray[np.int64]]:
        """Places in `rows`, an array for each shard of the first cache that has any."""
        return self.caches[0].places_by_shard(self._rows_of[0][self._wanted(rows)])

    def jpegs(self, clip_id: str) -> list[bytes]:
        """The pictures of a clip, of the first cache that keeps any; none where no cache does."""
        keeps = (one for one in self.caches if one.declaration.pictures is not None)
        cache = next(keeps, None)
        return [] if cache is None else cache.jpegs(clip_id)

    def sources(self, rows: Rows) -> list[tuple[Cache, npt.NDArray[np.int64]]]:
        """Each cache, and where the given clips are in it."""
        wanted = self._wanted(rows)
        return [(one, at[wanted]) for one, at in zip(self.caches, self._rows_of, strict=True)]


def _check_alike(caches: Sequence[Cache]) -> None:
    first = caches[0]
    for other in caches[1:]:
        for what in ("clip_seconds", "hop_s"):
            ours, theirs = getattr(first.declaration, what), getattr(other.declaration, what)
            if ours != theirs:
                raise CacheError(
                    f"{other.path}: {what} {theirs}, in {first.path} it is {ours}: clips of "
                    "these caches are not the same parts of their media"
                )
    names = Counter(name for one in caches for name in one.fields)
    if twice := [name for name, count in names.items() if count > 1]:
        where = " and ".join(str(one.path) for one in caches if twice[0] in one.fields)
        raise CacheError(f"{twice[0]} stands in {where}: name one of them alone")


def open_caches(path: Path | str) -> Cache:
    """Open a cache, or several to be joined by id, named as a shell separates words.

    Examples
    --------
    >>> cache = open_caches("features")
    >>> joined = open_caches("features clap 'two words'")  # doctest: +SKIP
    """
    if not Path(path).exists():
        try:
            words = shlex.split(str(path))
        except ValueError:
            words = []
        if len(words) > 1:
            return JoinedCache([open_cache(word) for word in words])
    return open_cache(path)


@dataclass(frozen=True)
class Gathered:
    """Several datasets of some clips, in the order they were asked for.

    arrays: by name; steps: how many steps of each audio field a clip has, (n,) by name; valid_s:
    (n,) s of each clip that exist.
    """

    arrays: dict[str, Array]
    steps: dict[str, Array]
    valid_s: Array


def gather(cache: Cache, names: Sequence[str], rows: Rows) -> Gathered:
    """Read several datasets of some clips, each shard opened once."""
    wanted = np.asarray(rows, np.int64)
    sources = cache.sources(wanted) if isinstance(cache, JoinedCache) else [(cache, wanted)]
    arrays: dict[str, Array] = {}
    steps: dict[str, Array] = {}
    valid_s = np.empty(0)
    for number, (one, at) in enumerate(sources):
        own = [name for name in names if name in one.fields]
        if not own and number:
            continue
        found = _in_order(one, [*own, "rows/valid_s", "rows/audio_steps"], at)
        arrays |= {name: found[name] for name in own}
        steps |= {name: found["rows/audio_steps"] for name in own if one.fields[name].has_steps}
        valid_s = valid_s if number else found["rows/valid_s"]
    return Gathered(arrays, steps, valid_s)


def _in_order(cache: Cache, names: Sequence[str], rows: npt.NDArray[np.int64]) -> dict[str, Array]:
    parts = list(cache.by_shard(names, rows))
    if len(parts) == 1 and (parts[0][0] == np.arange(len(rows))).all():
        return parts[0][1]
    layout = cache.declaration.row_layout
    whole = {name: np.empty((len(rows), *layout[name].shape), layout[name].dtype) for name in names}
    for places, arrays in parts:
        for name, array in arrays.items():
            whole[name][places] = array
    return whole
