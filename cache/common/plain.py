"""Read files from strangers: regular files, and plain HDF5 data stored in the file itself."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError

MAX_TABLE_BYTES = 1 << 28
_MAX_ATTRIBUTE_BYTES = 1 << 16  # what HDF5 keeps of one in an object's header
_SMALL_BYTES = 1 << 23


def open_plain(path: Path) -> int:
    """A descriptor of a regular file for reading; raises CacheError for links, pipes, devices.

    A link could lead out of the cache folder, a pipe or device never ends. FileNotFoundError and
    PermissionError pass.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise CacheError(f"{path}: a link or a pipe, expected a plain file; refused") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CacheError(f"{path}: expected a plain file, found something else; refused")
    return descriptor


def read_plain(path: Path, limit_bytes: int) -> bytes:
    """All bytes of a regular file that is no larger than `limit_bytes`."""
    with os.fdopen(open_plain(path), "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise CacheError(f"{path}: larger than {limit_bytes:,} bytes, which no such file is")
    return data


def open_hdf5(path: Path) -> h5py.File:
    """A regular file opened as HDF5 for reading, without locks; CacheError when it can't be."""
    try:
        os.close(open_plain(path))
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise CacheError(f"{path}: not a readable HDF5 file ({error})") from None


def plain_dataset(file: h5py.File, name: str, chunked: bool = False) -> h5py.Dataset:
    """A contiguous dataset that no link leads out of `file` to.

    Raises CacheError for links, external, virtual or chunked storage, and for a claimed size
    beyond the file's own, which would cost memory before it failed. With `chunked`, chunked
    storage passes: the caller must read and bound the chunks itself.
    """
    path = Path(file.filename)
    with reading(path, name):
        for depth in range(1, name.count("/") + 2):
            link = file.get("/".join(name.split("/")[:depth]), getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise CacheError(f"{path}: {name} is missing, or a link elsewhere; refused")
        dataset = file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise CacheError(f"{path}: {name} is not a dataset")
        in_chunks = dataset.chunks is not None
        if dataset.is_virtual or dataset.external or (in_chunks and not chunked):
            raise CacheError(f"{path}: {name} is not stored contiguously in this file; refused")
        if dataset.dtype.kind not in "Siuf":
            raise CacheError(f"{path}: {name} holds {dataset.dtype}, no plain data; refused")
        if dataset.nbytes > path.stat().st_size and not in_chunks:
            raise CacheError(f"{path}: {name} claims more bytes than the file has; refused")
        if not in_chunks and dataset.id.get_storage_size() < dataset.nbytes:
            raise CacheError(f"{path}: {name} claims bytes that were never written; refused")
    return dataset


def claimable_bytes(path: Path) -> int:
    """How many bytes a file's tables may claim together.

    A file with holes may claim any size and take none: a few times what it takes on the disk will
    do, for disks that compress. Some file systems don't tell (0): there its size counts.
    """
    found = path.stat()
    on_disk = 512 * found.st_blocks or found.st_size
    return min(found.st_size, 4 * on_disk + _SMALL_BYTES)


def whole(dataset: h5py.Dataset) -> npt.NDArray[Any]:
    """All values of a table, no larger than any table is, nor than `claimable_bytes` allows."""
    path = Path(dataset.file.filename)
    with reading(path, str(dataset.name)):
        if dataset.nbytes > min(MAX_TABLE_BYTES, claimable_bytes(path)):
            raise CacheError(f"{path}: {dataset.name} claims {dataset.nbytes:,} bytes; refused")
        values: npt.NDArray[Any] = dataset[()]
    return values


def write_text(file: h5py.File | h5py.Dataset, name: str, text: str) -> None:
    """Store an attribute as fixed-length UTF-8.

    h5py's own choice, text of variable length, is a pointer into a heap: one flipped bit there
    makes HDF5 read beyond its memory and ends the process.
    """
    data = text.encode("utf-8", "replace")
    file.attrs[name] = np.array(data, f"S{max(1, len(data))}")


def encode_text(values: Iterable[str], limit: int | None = None) -> npt.NDArray[Any]:
    """Fixed-length UTF-8 bytes, cut at whole characters: no object dtypes in the file."""
    encoded = [value.encode("utf-8", "replace") for value in values]
    if limit is not None:
        encoded = [value[:limit].decode("utf-8", "ignore").encode() for value in encoded]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def read_attribute(file: h5py.Group, name: str) -> str | int:
    """A text or whole number stored as plain data; raises CacheError for anything else."""
    path = Path(file.file.filename)
    with reading(path, name):
        stored = file.attrs.get_id(name)
        if stored.shape != () or stored.dtype.kind not in "Si":
            raise CacheError(f"{path}: the attribute {name} is no plain text or number; refused")
        if stored.dtype.itemsize > _MAX_ATTRIBUTE_BYTES:
            raise CacheError(f"{path}: the attribute {name} is longer than any is; refused")
        value = file.attrs[name]
        return value.decode() if isinstance(value, bytes) else int(value)


@contextlib.contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn what h5py raises on damaged files into a CacheError that names file and dataset."""
    try:
        yield
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CacheError(f"{path}: {name} can't be read ({error})") from None
