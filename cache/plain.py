"""Read HDF5 from strangers: plain data only, stored in the file itself, no larger than the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from cache.errors import CacheError


def plain_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A contiguous dataset that no link leads out of `file` to.

    Raises CacheError for links, external, virtual or chunked storage, and for a claimed size
    beyond the file's own, which would cost memory before it failed.
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
        if dataset.is_virtual or dataset.external or dataset.chunks is not None:
            raise CacheError(f"{path}: {name} is not stored contiguously in this file; refused")
        if dataset.dtype.kind not in "Siuf":
            raise CacheError(f"{path}: {name} holds {dataset.dtype}, no plain data; refused")
        if dataset.nbytes > path.stat().st_size:
            raise CacheError(f"{path}: {name} claims more bytes than the file has; refused")
    return dataset


def write_text(file: h5py.File | h5py.Dataset, name: str, text: str) -> None:
    """Store an attribute as fixed-length UTF-8.

    h5py's own choice, text of variable length, is a pointer into a heap: one flipped bit there
    makes HDF5 read beyond its memory and ends the process.
    """
    data = text.encode("utf-8", "replace")
    file.attrs[name] = np.array(data, f"S{max(1, len(data))}")


def read_attribute(file: h5py.File, name: str) -> str | int:
    """A text or whole number stored as plain data; raises CacheError for anything else."""
    path = Path(file.filename)
    with reading(path, name):
        stored = file.attrs.get_id(name)
        if stored.shape != () or stored.dtype.kind not in "Si":
            raise CacheError(f"{path}: the attribute {name} is no plain text or number; refused")
        value = file.attrs[name]
        return value.decode() if isinstance(value, bytes) else int(value)


@contextlib.contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn what h5py raises on damaged files into a CacheError that names file and dataset."""
    try:
        yield
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CacheError(f"{path}: {name} can't be read ({error})") from None
