"""Read HDF5 from strangers: plain data only, stored in the file itself, no larger than the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import h5py

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
        if dataset.nbytes > path.stat().st_size:
            raise CacheError(f"{path}: {name} claims more bytes than the file has; refused")
    return dataset


@contextlib.contextmanager
def reading(path: Path, name: str) -> Iterator[None]:
    """Turn what h5py raises on damaged files into a CacheError that names file and dataset."""
    try:
        yield
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CacheError(f"{path}: {name} can't be read ({error})") from None
