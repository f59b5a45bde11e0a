"""The rows of a cache as one structured array: where each is, and what it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
RowPlace = tuple[int, str, bytes]
"""Number of a row in its file, its clip, and the SHA-256 of the row."""


class Entry(NamedTuple):
    """Where one clip's row is, what it was made from, and the SHA-256 of the row."""

    shard: str
    row: int
    valid_s: float
    media_s: float
    media_size: int
    media_mtime_ns: int
    jpeg_bytes: int = 0
    created_ns: int = 0
    made_by: int = 0
    sha256: bytes = b""


# The columns of the row table, in the order of Entry.
COLUMNS: dict[str, Any] = {
    "shard": np.int32,
    "row": np.int32,
    "valid_s": np.float64,
    "media_s": np.float64,
    "media_size": np.int64,
    "media_mtime_ns": np.int64,
    "jpeg_bytes": np.int64,
    "created_ns": np.int64,
    "made_by": np.int32,
    "sha256": (np.uint8, 32),
}


def row_table(ids: Array, **columns: Any) -> Array:
    """R rows as one structured array: `id` and COLUMNS; absent columns are zero."""
    table = np.zeros(len(ids), [("id", ids.dtype), *((n, *_pair(t)) for n, t in COLUMNS.items())])
    table["id"] = ids
    for name, values in columns.items():
        table[name] = values
    return table


def _pair(kind: Any) -> tuple[Any, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


class ClipTable(Mapping[str, Entry]):
    """The clips that count, by id in sorted order; entries are made when asked for."""

    def __init__(self, names: Sequence[str], rows: Array) -> None:
        self.rows = rows
        self.ids = [value.decode() for value in rows["id"].tolist()]
        self._names = names
        self._place: dict[str, int] = dict(zip(self.ids, range(len(self.ids)), strict=True))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._place

    def __getitem__(self, clip_id: str) -> Entry:
        _, shard, *values, sha256 = self.rows[self.place(clip_id)].item()
        return Entry._make([self._names[shard], *values, bytes(sha256)])

    def place(self, clip_id: str) -> int:
        """Place of a clip among the sorted ids; KeyError if it is not there."""
        return self._place[clip_id]

    def by_file(self) -> Iterator[tuple[str, Array]]:
        """The rows of each file that has any, in the order of the file."""
        if len(self.rows):
            rows = self.rows[np.lexsort((self.rows["row"], self.rows["shard"]))]
            for part in np.split(rows, np.flatnonzero(np.diff(rows["shard"])) + 1):
                yield self._names[int(part["shard"][0])], part


def row_members(rows: Array) -> list[RowPlace]:
    """(row, id, SHA-256 of the row) of each row of a table."""
    ids = [value.decode() for value in rows["id"].tolist()]
    return list(zip(rows["row"].tolist(), ids, map(bytes, rows["sha256"]), strict=True))
