"""Read a pack: a whole cache in one sealed HDF5 file, laid out like one large shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.common.plain import open_hdf5, plain_dataset, read_attribute, reading, whole
from cache.format.identity import IDENTITY_LIMIT_BYTES, Identity, parse_identity
from cache.format.index import Index, index_of
from cache.format.schema import FORMAT, Declaration
from cache.format.shard_file import Shard
from cache.labels.annotations import Labels
from cache.labels.store import history_of, labels_of

PACKED_VERSION = 1
LABELS_GROUP = "labels/"


def read_pack(path: Path) -> tuple[Identity, Index]:
    """Identity and index of a pack; CacheError when the file is none, or damaged."""
    identity = pack_identity(path)
    with Shard(path, identity) as shard:
        if len(set(shard.ids)) != len(shard.ids):
            raise CacheError(f"{path}: has an id in two rows, which no pack has; refused")
        chunks = _chunk_tables(path, shard, identity.declaration)
        index = index_of(path.name, path.stat().st_size, shard, identity.declaration, chunks)
    return identity, index


def _chunk_tables(
    path: Path, shard: Shard, declared: Declaration
) -> dict[str, npt.NDArray[np.int64]]:
    """Where each compressed row is; empty for a pack that is not compressed."""
    if "chunks" not in shard:
        return {}
    found = {}
    for spec in declared.fields:
        shape = (len(shard.ids), 2)
        values = whole(shard.checked(f"chunks/{spec.name}", shape, np.dtype(np.int64)))
        # No sum of two numbers from a stranger: it may overflow.
        if np.any(values < 0) or np.any(values[:, 0] > path.stat().st_size - values[:, 1]):
            raise CacheError(
                f"{path}: compressed rows of {spec.name} lie outside the file; refused"
            )
        found[spec.name] = values
    return found


def pack_identity(path: Path) -> Identity:
    """The `cache.json` that a pack carries."""
    with open_hdf5(path) as file:
        with reading(path, "format"):
            packed = "packed" in file.attrs and read_attribute(file, "format") == FORMAT
        if not packed:
            raise CacheError(
                f"{path}: not a packed cache; expected a cache folder, or a file that "
                "`python -m cache pack` wrote"
            )
        version = read_attribute(file, "packed")
        if version != PACKED_VERSION:
            raise CacheError(
                f"{path}: a pack of version {version}, this program reads {PACKED_VERSION}"
            )
        with reading(path, "cache_json"):
            data = plain_dataset(file, "cache_json")
            if data.nbytes > IDENTITY_LIMIT_BYTES:
                raise CacheError(f"{path}: cache_json is larger than any identity; refused")
            text = data[()].tobytes()
    return parse_identity(text, f"{path}: cache_json")


def read_pack_labels(path: Path) -> tuple[Labels | None, list[dict[str, Any]]]:
    """The labels in a pack (None where it has none), and the tables they replaced."""
    with open_hdf5(path) as file:
        with reading(path, "labels"):
            if "labels" not in file:
                return None, []
        return labels_of(file, LABELS_GROUP), history_of(file, LABELS_GROUP)
