"""Many shards, or one packed file, read as one dataset.

Readers never write, never lock, and open files lazily.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.common.cli import printable
from cache.common.errors import CacheError
from cache.common.plain import open_hdf5, plain_dataset, reading
from cache.format.contents import pictures_problem
from cache.format.fields import Field
from cache.format.identity import Identity, read_identity
from cache.format.index import Index
from cache.format.index_file import load_index
from cache.format.row_table import RowPlace
from cache.format.rows import RowFile, proved_clips, read_jpegs
from cache.format.schema import SHARD_FOLDER
from cache.format.shard import Clip, Failure, Origin
from cache.format.windows import Window, window_of
from cache.labels.annotations import Labels
from cache.labels.store import read_label_history, read_labels
from cache.pack_file import read_pack, read_pack_labels

Array = npt.NDArray[Any]
Rows = Sequence[int] | npt.NDArray[np.int64]
_SMALL_BYTES = 4096  # below, one read and a copy cost less than a buffer per row


class Cache:
    """A feature cache opened for reading; make one with `open_cache`.

    Attributes
    ----------
    path, packed: the folder or the packed file, and whether it is one.
    identity, declaration: the whole content of its `cache.json`, and what a row holds.
    fingerprint, config, provenance: what the features depend on, and what made them.
    clip_seconds: length of a clip, s.
    ids: the N finished clips, sorted; row n of everything below is clip ids[n].
    fields: name → Field of each feature dataset (shapes without the leading N).
    index: where each clip is, and the failures.
    """

    def __init__(self, path: Path, identity: Identity, index: Index) -> None:
        self.path, self.packed = path, path.is_file()
        self.identity, self.declaration = identity, identity.declaration
        self.fingerprint: str = identity.fingerprint
        self.config: dict[str, Any] = dict(identity.config)
        self.provenance: dict[str, Any] = dict(identity.provenance)
        self.clip_seconds = float(identity.declaration.clip_seconds)
        self.index = index
        self.ids = index.live.ids
        self.fields: dict[str, Field] = {spec.name: spec for spec in self.declaration.fields}
        self._shards = list(index.shards)
        self._id_places: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self.index.clips

    def refuse_damaged(self) -> None:
        """Raise CacheError where a shard can't be read: its clips would be left out in silence."""
        damaged = self.index.damaged
        if damaged:
            raise CacheError(
                f"{len(damaged)} shard(s) of {self.path} can't be read, first: "
                f"{next(iter(damaged.values()))}; run `python -m cache repair` on that cache first"
            )

    def row(self, clip_id: str) -> int:
        """Row number of a clip; CacheError if it has no features."""
        try:
            return self.index.live.place(clip_id)
        except KeyError:
            failure = self.index.failures.get(clip_id)
            why = (
                f"it failed: {printable(failure.message)}" if failure else "it was never extracted"
            )
            raise CacheError(f"{self.path}: no features of the clip {clip_id!r}: {why}") from None

    @property
    def labels(self) -> Labels:
        """The annotation rows; CacheError if the cache has none."""
        labels = self.stored_labels()
        if labels is None:
            raise CacheError(
                f"{self.path}: no labels in this cache; run `make features` on its set, or "
                "`python -m cache relabel`"
            )
        return labels

    def stored_labels(self) -> Labels | None:
        """The annotation rows, or None where the cache has none."""
        return read_pack_labels(self.path)[0] if self.packed else read_labels(self.path)

    def label_history(self) -> list[dict[str, Any]]:
        """The label tables that these labels replaced, oldest first."""
        return read_pack_labels(self.path)[1] if self.packed else read_label_history(self.path)

    def read(self, name: str, rows: Rows | None = None) -> Array:
        """A dataset for the given clips (default: all): (len(rows), …), in the order asked.

        Bytes go from the file to their place in the result, without a copy between.
        """
        wanted = self._wanted(rows)
        spec = self._spec(name)
        out: Array = np.empty((len(wanted), *spec.shape), spec.dtype)
        for shard, inside, places in self._by_shard(wanted):
            with self._opened(shard, inside, wanted[places]) as file:
                if spec.bytes_per_clip < _SMALL_BYTES:
                    out[places] = file.read(name, inside)
                else:
                    file.read_into(name, inside, [out[n : n + 1] for n in places.tolist()])
        return out

    def by_shard(
        self, names: Iterable[str], rows: Rows | None = None
    ) -> Iterator[tuple[npt.NDArray[np.int64], dict[str, Array]]]:
        """Read several datasets, each shard opened once.

        Yields (places, arrays): `arrays[name][k]` belongs to `rows[places[k]]`.
        """
        names = [self._spec(name).name for name in names]
        wanted = self._wanted(rows)
        for shard, inside, places in self._by_shard(wanted):
            with self._opened(shard, inside, wanted[places]) as file:
                arrays = {name: file.read(name, inside) for name in names}
            yield places, arrays

    def places_by_shard(self, rows: Rows) -> list[npt.NDArray[np.int64]]:
        """Places in `rows`, an array for each shard that has any, in the order they lie in it."""
        return [places for _, _, places in self._by_shard(self._wanted(rows))]

    def jpegs(self, clip_id: str) -> list[bytes]:
        """The pictures, JPEG-encoded, of exactly what the network saw of a clip.

        Raises CacheError where one is anything but a JPEG of the declared size: what draws them
        need not fear them.
        """
        row = self.row(clip_id)
        entry = self.index.clips[clip_id]
        with self._opened(entry.shard, np.array([entry.row]), np.array([row])) as file:
            pictures = read_jpegs(file.fetch, file.layout, entry.row, str(file.path))
        problem = pictures_problem(pictures, self.declaration.pictures)
        if problem:
            raise CacheError(f"{file.path}: the clip {clip_id!r}: {problem}; refused")
        return pictures

    @cached_property
    def windows(self) -> list[Window]:
        """Each clip's recording and offset in it, in id order."""
        if self.declaration.hop_s is None:
            return [Window(clip_id) for clip_id in self.ids]
        return [window_of(clip_id) for clip_id in self.ids]

    @cached_property
    def recordings(self) -> dict[str, list[int]]:
        """The rows of each recording that has any, in the order of their offsets."""
        found: dict[str, list[int]] = {}
        for row in sorted(range(len(self)), key=self.windows.__getitem__):
            found.setdefault(self.windows[row].recording, []).append(row)
        return found

    @cached_property
    def lengths_s(self) -> tuple[Array, Array]:
        """Seconds of each clip that exist, and that its media declares (NaN: it doesn't)."""
        rows = self.index.live.rows
        return rows["valid_s"], rows["media_s"]

    @cached_property
    def media_stamps(self) -> tuple[Array, Array]:
        """Bytes and time of change (ns) of the file that each clip was made of."""
        rows = self.index.live.rows
        return rows["media_size"], rows["media_mtime_ns"]

    @property
    def failures(self) -> Mapping[str, Failure]:
        """The clips that have no features, and why."""
        return self.index.failures

    @cached_property
    def row_digests(self) -> list[bytes]:
        """SHA-256 of each clip's row, in id order."""
        return list(map(bytes, self.index.live.rows["sha256"]))

    @cached_property
    def row_origins(self) -> list[Origin]:
        """When (ns since 1970) and by what (JSON text) each clip's row was made, in id order."""
        rows, made_by = self.index.live.rows, self.index.made_by
        pairs = zip(rows["created_ns"].tolist(), rows["made_by"].tolist(), strict=True)
        return [(when, made_by[number]) for when, number in pairs]

    @cached_property
    def failure_origins(self) -> dict[str, Origin]:
        """The same of each failure that counts, by clip id."""
        return {
            one.failure.id: (one.created_ns, one.made_by)
            for one in self.index.reported
            if self.index.failures.get(one.failure.id) is one.failure
        }

    def read_members(self, shard: str, members: Sequence[RowPlace]) -> list[Clip]:
        """Whole rows of one file, each proved; CacheError names those that are damaged."""
        with self.open_rows(shard) as file:
            return proved_clips(file.fetch, file.layout, members, str(file.path))

    def open_rows(self, shard: str) -> RowFile:
        """One file of rows, opened for reading; use as a context manager."""
        return RowFile(self.shard_path(shard), self.index.layout(shard))

    def _opened(self, shard: str, inside: Array, clips: Array) -> RowFile:
        """One file of rows, opened; it holds the clips at the ascending rows `inside`.

        Raises CacheError where ids and checksums there are not those that the index, which may be
        damaged or a stranger's, gives these clips: no row is taken for another's.
        """
        file = self.open_rows(shard)
        if self.packed:  # its index is made of its own tables
            return file
        try:
            first, stop = int(inside[0]), int(inside[-1]) + 1
            spans = [file.layout.span("rows/sha256", first, stop)]
            begin, width = self.index.shards[shard].ids
            if width <= 0:
                begin, width = self._id_place(shard)
            spans.append((begin + first * width, begin + stop * width))
            digests, ids = file.fetch(spans)
            live, at = self.index.live.rows[clips], inside - first
            same = np.frombuffer(digests, np.uint8).reshape(-1, 32)[at] == live["sha256"]
            if not (same.all() and (np.frombuffer(ids, f"S{width}")[at] == live["id"]).all()):
                raise CacheError(
                    f"{file.path}: holds other rows than the cache's index says: one of them is "
                    "damaged; run `python -m cache repair` on the cache"
                )
        except BaseException:
            file.close()
            raise
        return file

    def _id_place(self, shard: str) -> tuple[int, int]:
        """Where a shard's ids are by its own word: an index of an earlier release has none."""
        if shard not in self._id_places:
            path = self.shard_path(shard)
            with open_hdf5(path) as file:
                dataset = plain_dataset(file, "rows/id")
                with reading(path, "rows/id"):
                    self._id_places[shard] = dataset.id.get_offset(), dataset.dtype.itemsize
        return self._id_places[shard]

    def shard_path(self, shard: str) -> Path:
        """Where a file of rows is."""
        return self.path if self.packed else self.path / SHARD_FOLDER / shard

    def _spec(self, name: str) -> Field:
        spec = self.declaration.row_layout.get(name)
        if spec is None:
            raise CacheError(f"{self.path}: no dataset {name!r}; it has {', '.join(self.fields)}")
        return spec

    def _wanted(self, rows: Rows | None) -> npt.NDArray[np.int64]:
        return np.arange(len(self.ids)) if rows is None else np.asarray(rows, np.int64)

    def _by_shard(
        self, wanted: npt.NDArray[np.int64]
    ) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """(shard, ascending rows inside it, their places in `wanted`)."""
        if not len(wanted):
            return
        live = self.index.live.rows
        shard, row = live["shard"][wanted], live["row"][wanted].astype(np.int64)
        order = np.lexsort((row, shard))
        for places in np.split(order, np.flatnonzero(np.diff(shard[order])) + 1):
            yield self._shards[int(shard[places[0]])], row[places], places


def open_cache(path: Path | str) -> Cache:
    """Open a cache folder, or a packed cache file, for reading.

    Raises CacheError when it is no cache, or made by another format version.
    """
    path = Path(path)
    if path.is_file():
        return Cache(path, *read_pack(path))
    identity = read_identity(path)
    return Cache(path, identity, load_index(path, identity))
