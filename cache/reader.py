"""Many shards read as one dataset. Readers never write, never lock, and open files lazily."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.annotations import Labels
from cache.errors import CacheError
from cache.folder import read_identity, read_labels
from cache.index import Index, load_index
from cache.schema import ROW_FIELDS, Field, feature_fields
from cache.shard import Shard

Array = npt.NDArray[Any]


class Cache:
    """A feature cache opened for reading; make one with `open_cache`.

    Attributes
    ----------
    path: the folder.
    fingerprint, config, provenance: what the features depend on, and what made them.
    ids: the N finished clips, sorted; row n of everything below is clip ids[n].
    fields: name → Field of each feature dataset (shapes without the leading N).
    index: where each clip is, and the failures.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], index: Index) -> None:
        self.path = path
        self.identity = dict(identity)
        self.fingerprint: str = identity["fingerprint"]
        self.config: dict[str, Any] = identity["config"]
        self.provenance: dict[str, Any] = identity["provenance"]
        self.index = index
        self.ids = sorted(index.clips)
        self.fields: dict[str, Field] = {spec.name: spec for spec in feature_fields(self.config)}
        self._row_of = {clip_id: row for row, clip_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._row_of

    def row(self, clip_id: str) -> int:
        """Row number of a clip; CacheError if it has no features."""
        try:
            return self._row_of[clip_id]
        except KeyError:
            failure = self.index.failures.get(clip_id)
            why = f"it failed: {failure.message}" if failure else "it was never extracted"
            raise CacheError(f"{self.path}: no features of the clip {clip_id!r}: {why}") from None

    @property
    def labels(self) -> Labels:
        """The annotation rows; CacheError if the cache has none."""
        labels = read_labels(self.path)
        if labels is None:
            raise CacheError(
                f"{self.path}: no labels in this cache; run `make features` on its set"
            )
        return labels

    def read(self, name: str, rows: Sequence[int] | npt.NDArray[np.int64] | None = None) -> Array:
        """A dataset for the given clips (default: all): (len(rows), …), in the order asked."""
        wanted = np.arange(len(self.ids)) if rows is None else np.asarray(rows, np.int64)
        spec = self.fields.get(name) or next((f for f in ROW_FIELDS if f.name == name), None)
        if spec is None:
            raise CacheError(f"{self.path}: no dataset {name!r}; it has {', '.join(self.fields)}")
        out = np.empty((len(wanted), *spec.shape), spec.dtype)
        for places, arrays in self.by_shard([name], wanted):
            out[places] = arrays[name]
        return out

    def by_shard(
        self, names: Iterable[str], rows: npt.NDArray[np.int64] | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Array]]]:
        """Read several datasets, each shard opened once.

        Yields (places, arrays): `arrays[name][k]` belongs to `rows[places[k]]`.
        """
        wanted = np.arange(len(self.ids)) if rows is None else np.asarray(rows, np.int64)
        groups: dict[str, list[tuple[int, int]]] = {}
        for place, row in enumerate(wanted):
            entry = self.index.clips[self.ids[row]]
            groups.setdefault(entry.shard, []).append((entry.row, place))
        names = list(names)
        for name, members in groups.items():
            members.sort()
            inside = np.array([row for row, _ in members], np.int64)
            places = np.array([place for _, place in members], np.int64)
            with self._open(name) as shard:
                whole = len(inside) == len(shard.ids) and bool(np.all(np.diff(inside) == 1))
                low, high = int(inside[0]), int(inside[-1]) + 1
                arrays = {}
                for dataset in names:
                    block = shard.read(dataset, slice(low, high))
                    arrays[dataset] = block if whole else block[inside - low]
            yield places, arrays

    def jpegs(self, clip_id: str) -> list[bytes]:
        """The F pictures, JPEG-encoded, of exactly what the network saw of a clip."""
        self.row(clip_id)
        entry = self.index.clips[clip_id]
        with self._open(entry.shard) as shard:
            return shard.jpegs(entry.row)

    def _open(self, name: str) -> Shard:
        return Shard(self.path / "shards" / name, self.identity)


def open_cache(path: Path | str) -> Cache:
    """Open a cache folder for reading.

    Raises CacheError when it is no cache, or made by another format version.
    """
    folder = Path(path)
    identity = read_identity(folder)
    return Cache(folder, identity, load_index(folder, identity))
