"""Arrays by clip id in strangers' files, one clip at a time: nothing is unpickled, none too large.

A folder holds one `.npy` or `.npz` a clip; an HDF5 file holds a dataset a clip (or a group of
them), or one stacked dataset (N, …) whose rows a list of ids names.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.common.plain import open_hdf5, open_plain, plain_dataset, read_plain, reading
from cache.format.fields import MAX_ROW_BYTES
from cache.format.names import one_form
from cache.writer import Origin

Array = npt.NDArray[Any]
MAX_LIST_BYTES = 1 << 28
_SUFFIXES = (".npy", ".npz")
_BLOCK_BYTES = 1 << 26


@dataclass(frozen=True)
class Item:
    """One clip's arrays, read when they are asked for: by key, the field's name after its slash.

    `where` names the place in messages; `read` raises CacheError, OSError or ValueError.
    """

    id: str
    where: str
    origin: Origin
    read: Callable[[], Mapping[str, Array]]


def items_of(path: Path, keys: Sequence[str], dataset: str, ids: Path | None) -> list[Item]:
    """Every clip of a folder or an HDF5 file, sorted by place; CacheError where there is none."""
    if path.is_dir():
        found = _folder_items(path, keys)
    elif dataset:
        found = _stacked_items(path, keys, dataset, ids)
    else:
        found = _dataset_items(path, keys)
    if not found:
        raise CacheError(
            f"{path}: expected .npy or .npz files by clip id in a folder, or an HDF5 file with a "
            "dataset for each id (or --dataset NAME with --ids FILE), found none"
        )
    _refuse_twins(path, found)
    return found


def _refuse_twins(path: Path, found: Sequence[Item]) -> None:
    seen: dict[str, str] = {}
    for item in found:
        if item.id in seen:
            raise CacheError(
                f"{path}: the id {item.id!r} stands twice: {seen[item.id]} and {item.where}"
            )
        seen[item.id] = item.where


def _folder_items(folder: Path, keys: Sequence[str]) -> list[Item]:
    with os.scandir(folder) as entries:
        names = sorted(
            entry.name
            for entry in entries
            if entry.name.endswith(_SUFFIXES) and not entry.name.startswith(".")
        )
    return [_file_item(folder / name, keys) for name in names]


def _file_item(path: Path, keys: Sequence[str]) -> Item:
    state = path.lstat()
    origin = Origin(state.st_size, state.st_mtime_ns)
    load = _load_npz if path.suffix == ".npz" else _load_npy
    return Item(one_form(path.stem), path.name, origin, lambda: load(path, keys))


def _load_npy(path: Path, keys: Sequence[str]) -> dict[str, Array]:
    if len(keys) != 1:
        raise CacheError(f"{path}: one array, expected {len(keys)} ({', '.join(keys)}): use .npz")
    with os.fdopen(open_plain(path), "rb") as file:
        return {keys[0]: read_array(file, str(path))}


def _load_npz(path: Path, keys: Sequence[str]) -> dict[str, Array]:
    with os.fdopen(open_plain(path), "rb") as file, zipfile.ZipFile(file) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        if len(keys) == 1 and keys[0] not in members and len(members) == 1:
            members = {keys[0]: next(iter(members.values()))}
        if lacking := [key for key in keys if key not in members]:
            raise CacheError(
                f"{path}: no array {', '.join(lacking)}; it has {', '.join(members)[:200]}"
            )
        found = {}
        for key in keys:
            with archive.open(members[key]) as member:
                found[key] = read_array(member, f"{path}: {key}")
        return found


def read_array(file: IO[bytes], where: str) -> Array:
    """The array in an opened `.npy`: plain numbers, its size known before a byte of it is read."""
    version = np.lib.format.read_magic(file)
    header = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = header(file)
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "iuf" or size > MAX_ROW_BYTES:
        raise CacheError(
            f"{where}: expected numbers of at most {MAX_ROW_BYTES:,} bytes, found {dtype} {shape}"
        )
    data = file.read(size)
    if len(data) < size:
        raise CacheError(f"{where}: ends after {len(data):,} of {size:,} bytes")
    array: Array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return array


def _dataset_items(path: Path, keys: Sequence[str]) -> list[Item]:
    state = path.stat()
    origin = Origin(state.st_size, state.st_mtime_ns)
    with open_hdf5(path) as file:
        names = sorted(file)
    return [
        Item(one_form(name), f"{path.name}: {name}", origin, _one_dataset(path, name, keys))
        for name in names
    ]


def _one_dataset(path: Path, name: str, keys: Sequence[str]) -> Callable[[], Mapping[str, Array]]:
    def load() -> Mapping[str, Array]:
        with open_hdf5(path) as file:
            link = file.get(name, getlink=True)
            group = isinstance(link, h5py.HardLink) and isinstance(file[name], h5py.Group)
            places = {key: f"{name}/{key}" for key in keys} if group else {keys[0]: name}
            if len(places) < len(keys):
                raise CacheError(f"{path}: {name} is one array, expected {', '.join(keys)}")
            found = {}
            for key, place in places.items():
                stored = plain_dataset(file, place, chunked=True)
                with reading(path, place):
                    _check_bytes(path, place, stored, stored.nbytes)
                    found[key] = stored[()]
            return found

    return load


def _check_bytes(path: Path, name: str, stored: h5py.Dataset, size: int) -> None:
    chunk = math.prod(stored.chunks) * stored.dtype.itemsize if stored.chunks else 0
    if max(size, chunk) > MAX_ROW_BYTES:
        raise CacheError(f"{path}: {name}: a clip of {max(size, chunk):,} bytes; refused")


def _stacked_items(path: Path, keys: Sequence[str], dataset: str, ids: Path | None) -> list[Item]:
    if len(keys) != 1 or ids is None:
        raise CacheError(f"{path}: --dataset takes one field, and --ids FILE, an id a line")
    names = [
        one_form(line.strip()) for line in read_plain(ids, MAX_LIST_BYTES).decode().split("\n")
    ]
    names = names[:-1] if names and not names[-1] else names
    stack = Stack(path, dataset)
    if stack.shape[:1] != (len(names),):
        raise CacheError(
            f"{path}: {dataset} is {stack.shape}, expected {len(names)} rows as {ids} lists"
        )
    return [
        Item(name, f"{path.name}: row {row}", stack.origin, stack.reader(keys[0], row))
        for row, name in enumerate(names)
    ]


class Stack:
    """One stacked dataset (N, …), read in blocks of rows: a clip after the other costs no more."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        state = path.stat()
        self.origin = Origin(state.st_size, state.st_mtime_ns)
        self._file = open_hdf5(path)
        self._stored = plain_dataset(self._file, name, chunked=True)
        self.shape: tuple[int, ...] = self._stored.shape
        if not self.shape:
            raise CacheError(f"{path}: {name}: expected (clips, …), found one number")
        self._row_bytes = math.prod(self.shape[1:]) * self._stored.dtype.itemsize
        _check_bytes(path, name, self._stored, self._row_bytes)
        self._begin, self._block = 0, np.empty(0)

    def row(self, number: int) -> Array:
        """One row."""
        if not self._begin <= number < self._begin + len(self._block):
            rows = max(1, _BLOCK_BYTES // max(1, self._row_bytes))
            self._begin = number
            with reading(self.path, self.name):
                self._block = self._stored[number : number + rows]
        row: Array = self._block[number - self._begin]
        return row

    def reader(self, key: str, number: int) -> Callable[[], Mapping[str, Array]]:
        """Reads one row when it is called."""
        return lambda: {key: self.row(number)}

    def rows(self) -> Iterator[Array]:
        """Every row, in order."""
        for number in range(self.shape[0]):
            yield self.row(number)
