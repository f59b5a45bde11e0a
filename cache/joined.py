"""Several caches joined by id, read as one: each keeps its own features, and stays untouched.

What is one's own (labels, pictures, lengths) is the first cache's that has it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.format.fields import Field
from cache.format.windows import Window
from cache.labels.annotations import Labels
from cache.reader import Array, Cache, Rows, open_cache


class JoinedCache:
    """The clips that all of several caches have; what can be asked of a `Cache`, as far as it goes.

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
        first = self.caches[0]
        for other in self.caches[1:]:
            for what in ("clip_seconds", "hop_s"):
                ours, theirs = getattr(first.declaration, what), getattr(other.declaration, what)
                if ours != theirs:
                    raise CacheError(
                        f"{other.path}: {what} {theirs}, in {first.path} it is {ours}: clips of "
                        "these caches are not the same parts of their media"
                    )
        names = Counter(name for one in self.caches for name in one.fields)
        if twice := [name for name, count in names.items() if count > 1]:
            where = " and ".join(str(one.path) for one in self.caches if twice[0] in one.fields)
            raise CacheError(f"{twice[0]} stands in {where}: name one of them alone")
        self.ids = sorted(set.intersection(*(set(one.ids) for one in self.caches)))
        together = set().union(*(one.ids for one in self.caches))
        self.lacking = {one.path: sorted(together - set(one.ids)) for one in self.caches}
        if not self.ids:
            raise CacheError(f"{self.path}: these caches have no clip in common")
        self._rows = {
            one.path: np.array([one.row(clip_id) for clip_id in self.ids], np.int64)
            for one in self.caches
        }
        self._row: dict[object, int] = {clip_id: row for row, clip_id in enumerate(self.ids)}

    @property
    def path(self) -> str:
        """Their paths, for messages."""
        return " + ".join(str(one.path) for one in self.caches)

    @cached_property
    def fields(self) -> dict[str, Field]:
        """name → Field of each feature, the first cache's first."""
        return {name: field for one in self.caches for name, field in one.fields.items()}

    @property
    def clip_seconds(self) -> float:
        """Length of a clip, s."""
        return self.caches[0].clip_seconds

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits over the fingerprints of all, in their order."""
        text = "\n".join(one.fingerprint for one in self.caches)
        return hashlib.sha256(text.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._row

    def row(self, clip_id: str) -> int:
        """Row number of a clip; CacheError, naming the cache that lacks it, where there is none."""
        if clip_id not in self._row:
            for one in self.caches:
                one.row(clip_id)
        return self._row[clip_id]

    @property
    def labels(self) -> Labels:
        """The annotation rows of the first cache that has any; CacheError if none has."""
        found = (one.stored_labels() for one in self.caches)
        return next((labels for labels in found if labels is not None), None) or (
            self.caches[0].labels
        )

    @cached_property
    def windows(self) -> list[Window]:
        """Each clip's recording and offset in it, in id order."""
        first = self.caches[0]
        return [first.windows[row] for row in self._rows[first.path].tolist()]

    def read(self, name: str, rows: Rows | None = None) -> Array:
        """A dataset for the given clips (default: all), from the cache that has it."""
        cache = self._owner(name)
        mine = self._rows[cache.path]
        return cache.read(name, mine if rows is None else mine[np.asarray(rows, np.int64)])

    def by_shard(
        self, names: Iterable[str], rows: Rows | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Array]]]:
        """Read several datasets, in the order of the first cache's files; see `Cache.by_shard`."""
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        names = list(names)
        for places in self.places_by_shard(wanted):
            yield places, {name: self.read(name, wanted[places]) for name in names}

    def places_by_shard(self, rows: Rows) -> list[npt.NDArray[np.int64]]:
        """Places in `rows`, an array for each shard of the first cache that has any."""
        first = self.caches[0]
        return first.places_by_shard(self._rows[first.path][np.asarray(rows, np.int64)])

    def jpegs(self, clip_id: str) -> list[bytes]:
        """The pictures of a clip, of the first cache that keeps any; none where no cache does."""
        keeps = (one for one in self.caches if one.declaration.pictures is not None)
        cache = next(keeps, None)
        return [] if cache is None else cache.jpegs(clip_id)

    def _owner(self, name: str) -> Cache:
        """The cache that has a field; what is said of rows themselves is the first one's."""
        for one in self.caches:
            if name in one.fields:
                return one
        return self.caches[0]


def open_caches(paths: Sequence[Path | str]) -> Cache | JoinedCache:
    """Open a cache, or several to be joined by id. See `open_cache`."""
    caches = [open_cache(path) for path in paths]
    return caches[0] if len(caches) == 1 else JoinedCache(caches)
