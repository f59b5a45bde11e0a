"""A shard opened with suspicion: it may be damaged, or come from a stranger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.common.plain import (
    claimable_bytes,
    open_hdf5,
    plain_dataset,
    read_attribute,
    reading,
    whole,
)
from cache.common.strict_json import loads
from cache.format.fields import row_bytes
from cache.format.identity import Identity
from cache.format.names import check_id
from cache.format.rows import Layout, make_layout
from cache.format.schema import (
    FORMAT,
    JPEG_BYTES,
    JPEG_END,
    MAX_TEXT_BYTES,
    ROW_FIELDS,
)
from cache.format.shard import END_OF_TIME_NS, Failure, Origin

Array = npt.NDArray[Any]
_ROW_BYTES = row_bytes(ROW_FIELDS)
_FAILURE_BYTES = 64  # the path of its media is in the message of each


class Shard:
    """A shard (or a pack, which is one large shard) opened for reading its tables.

    Raises CacheError when the file is no shard of this cache, or holds anything that a shard
    written by this project can't: links, external or virtual storage, other dtypes or shapes.
    Use as a context manager.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        self._file = open_hdf5(path)
        self._plain: dict[str, h5py.Dataset] = {}
        try:
            check_fingerprint(self._file, identity)
            self._declared = identity.declaration
            self._fields = identity.declaration.row_layout
            self._count_of("rows/id", _ROW_BYTES)
            with reading(path, "rows/id"):
                self.ids = [value.decode() for value in self.text("rows/id").tolist()]
            for problem in filter(None, map(check_id, self.ids)):
                raise CacheError(f"{path}: {problem}; refused")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, name: str) -> bool:
        with reading(self.path, name):
            return name in self._file

    @property
    def has_pictures(self) -> bool:
        """Whether the cache holds pictures."""
        return JPEG_END in self._fields

    @property
    def id_place(self) -> tuple[int, int]:
        """First byte of `rows/id` and the bytes of one id; (0, 0) in a shard without rows."""
        dataset = self.checked("rows/id", (len(self.ids),), None)
        with reading(self.path, "rows/id"):
            return (dataset.id.get_offset(), dataset.dtype.itemsize) if self.ids else (0, 0)

    @property
    def created_ns(self) -> int:
        """When the shard was written, ns since 1970; the newest row of an id counts."""
        value = read_attribute(self._file, "created_ns")
        if not isinstance(value, int) or not 0 <= value < END_OF_TIME_NS:
            raise CacheError(f"{self.path}: created_ns is {value!r}, no time; refused")
        return value

    @property
    def provenance(self) -> str:
        """What made the rows: the text as stored, JSON unless it is damaged or a stranger's."""
        return self._bounded(read_attribute(self._file, "provenance"))

    def origins(self) -> tuple[list[Origin], list[Origin]]:
        """When and by what each row, and each failure, was made."""
        failures = self._count_of("failures/id", _FAILURE_BYTES)
        if "origin" not in self:
            origin = self.created_ns, self.provenance
            return [origin] * len(self.ids), [origin] * failures
        with reading(self.path, "the origins of its rows"):
            text = whole(self.checked("origin/made_by_json", None, np.dtype(np.uint8))).tobytes()
            made_by = [self._bounded(entry) for entry in loads(text)]
            found = []
            for group, count in (("rows", len(self.ids)), ("failures", failures)):
                when, by = (
                    whole(self.checked(f"origin/{group}_{name}", (count,), np.dtype(np.int64)))
                    for name in ("created_ns", "made_by")
                )
                if count and not (by.min() >= 0 <= when.min() <= when.max() < END_OF_TIME_NS):
                    raise CacheError(f"{self.path}: origin/{group}… has impossible values; refused")
                texts = (made_by[place] for place in by.tolist())
                found.append(list(zip(when.tolist(), texts, strict=True)))
        return found[0], found[1]

    def _bounded(self, text: object) -> str:
        if not isinstance(text, str) or len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
            raise CacheError(f"{self.path}: a provenance is no short text; refused")
        return text

    def read(self, name: str) -> Array:
        """A whole dataset by its documented name: (N, …)."""
        return whole(self.dataset(name))

    def dataset(self, name: str) -> h5py.Dataset:
        """The checked h5py dataset of a feature or row field."""
        spec = self._fields.get(name)
        if spec is None:
            raise CacheError(f"{self.path}: no dataset {name!r}; it has {', '.join(self._fields)}")
        return self.checked(name, (len(self.ids), *spec.shape), np.dtype(spec.dtype))

    def layout(self, chunks: Mapping[str, npt.NDArray[np.int64]] | None = None) -> Layout:
        """Where the rows are in the file; every dataset is checked for it.

        Those in `chunks` are compressed: their bytes are found there, never by HDF5.
        """
        chunks = chunks or {}
        datasets = {name: self.dataset(name) for name in self._fields if name not in chunks}
        if JPEG_END in self._fields:
            data = self.checked(JPEG_BYTES, None, np.dtype(np.uint8))
            ends = datasets[JPEG_END]
            with reading(self.path, JPEG_END):
                last = int(ends[-1, -1]) if ends.size else 0
                if data.ndim != 1 or last != data.size:
                    raise CacheError(f"{self.path}: {JPEG_END} doesn't fit {JPEG_BYTES}")
            datasets[JPEG_BYTES] = data
        with reading(self.path, "the places of its datasets"):
            places = {name: d.id.get_offset() for name, d in datasets.items() if d.size}
            offsets = [places.get(name, 0) for name in self._declared.stored_names]
            return make_layout(self._declared, offsets, chunks)

    def _count_of(self, name: str, bytes_each: int) -> int:
        """How many texts a list has; CacheError for more than the file has room for.

        Asked before the list is read, as each becomes an object that is larger than itself.
        """
        shape = self.checked(name, None, None).shape
        count = shape[0] if shape else 0
        if count * bytes_each > claimable_bytes(self.path) + 64 * bytes_each:
            raise CacheError(f"{self.path}: {name} claims {count:,} entries; refused")
        return int(count)

    def failures(self) -> list[Failure]:
        """The clips that failed in this shard."""
        self._count_of("failures/id", _FAILURE_BYTES)
        texts = [self.text(f"failures/{name}") for name in ("id", "stage", "message")]
        with reading(self.path, "failures"):
            numbers = [
                whole(self.checked(f"failures/{name}", texts[0].shape, np.dtype(np.int64)))
                for name in ("attempt", "media_size", "media_mtime_ns")
            ]
            found = [
                Failure(
                    row[0].decode(),
                    *(text.decode("utf-8", "replace") for text in row[1:3]),
                    *map(int, row[3:]),
                )
                for row in zip(*texts, *numbers, strict=True)
            ]
        for failure in found:
            problem = check_id(failure.id)
            if problem:
                raise CacheError(f"{self.path}: {problem}; refused")
        return found

    def text(self, name: str) -> Array:
        """A list of short texts, as stored: (n,) bytes."""
        dataset = self.checked(name, None, None)
        with reading(self.path, name):
            if dataset.dtype.kind != "S" or dataset.ndim != 1 or dataset.dtype.itemsize > 4096:
                raise CacheError(f"{self.path}: {name} is not a list of short texts")
        return whole(dataset)

    def checked(
        self, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any] | None
    ) -> h5py.Dataset:
        """A plain dataset of exactly this shape and dtype, where they are given."""
        dataset = self._plain.get(name)
        if dataset is None:
            dataset = self._plain[name] = plain_dataset(self._file, name)
        with reading(self.path, name):
            # Not `in (None, …)`: to numpy, None is float64.
            other = dtype is not None and dataset.dtype != dtype
            if other or (shape is not None and dataset.shape != shape):
                raise CacheError(
                    f"{self.path}: {name} is {dataset.dtype} {dataset.shape}, "
                    f"expected {dtype} {shape}"
                )
        return dataset


def check_fingerprint(file: h5py.File, identity: Identity) -> None:
    """Raise CacheError unless an open file belongs to the cache with this identity."""
    path = file.filename
    with reading(Path(path), "format"):
        known = "format" in file.attrs
    if not known or read_attribute(file, "format") != FORMAT:
        raise CacheError(f"{path}: not a shard of a feature cache")
    found = str(read_attribute(file, "fingerprint"))
    if found != identity.fingerprint:
        raise CacheError(
            f"{path}: a shard of another cache: its fingerprint is {found[:16]!r}…, "
            f"this cache's is {identity.fingerprint[:16]}…"
        )
