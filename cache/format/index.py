"""Which clip is where: derived from the shards, kept in `index.h5` so that nobody re-reads them.

The index holds nothing that the shards don't. A reader uses it where it is current and reads the
newer shards itself; only a writer, under the lock, stores it. It is kept as columns: opening a
cache of 200,000 clips makes no object per clip.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.common.plain import encode_text
from cache.format.identity import Identity
from cache.format.row_table import COLUMNS, ClipTable, Entry, RowPlace, row_members, row_table
from cache.format.rows import Layout, make_layout
from cache.format.schema import JPEG_END, SHARD_FOLDER, Declaration
from cache.format.shard import Failure, Origin
from cache.format.shard_file import Shard

Array = npt.NDArray[Any]
_SHARD_NAME = re.compile(r"[0-9a-f]{32}\.h5")


class ShardFacts(NamedTuple):
    """What the index keeps of one file of rows.

    offsets: first byte of each dataset, in the order of `Declaration.stored_names`.
    ids: first byte of `rows/id` and the bytes of one id; (0, 0) in indexes of earlier releases.
    """

    size: int
    offsets: tuple[int, ...]
    ids: tuple[int, int] = (0, 0)


class Reported(NamedTuple):
    """A failure as it stands in a shard, with when and by what it was made."""

    shard: str
    failure: Failure
    created_ns: int
    made_by: str


@dataclass
class Index:
    """The files of a cache, and for each clip the newest row or failure.

    Attributes
    ----------
    shards: facts of each readable file of rows, by name.
    rows: every row of them, as `row_table`; `rows["shard"]` numbers `shards`.
    reported: every failure that a shard holds.
    made_by: what made the rows, JSON texts; `rows["made_by"]` numbers them.
    declared: what a row holds, which gives the layout of rows.
    damaged: shards that can't be read, with the reason.
    stale: whether the stored index lacks something found here.
    chunks: of a compressed pack, where each row of a dataset is, see `rows.Layout`.
    clips: where each finished clip is: of several rows of an id, the newest.
    failures: the latest failure of each clip that has no row made since.
    """

    declared: Declaration
    shards: dict[str, ShardFacts] = field(default_factory=dict)
    rows: Array = field(default_factory=lambda: row_table(np.empty(0, "S1")))
    reported: list[Reported] = field(default_factory=list)
    made_by: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    stale: bool = False
    chunks: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    clips: Mapping[str, Entry] = field(init=False)
    failures: dict[str, Failure] = field(init=False)

    def __post_init__(self) -> None:
        names = list(self.shards)
        age = {name: place for place, name in enumerate(sorted(names))}
        newest = _newest(self.rows, np.array([age[name] for name in names], np.int64))
        latest: dict[str, Reported] = {}
        for entry in sorted(self.reported, key=lambda one: (one.created_ns, one.shard)):
            latest[entry.failure.id] = entry
        if latest:
            keep = [self._counts(row, latest, names) for row in self.rows[newest]]
            newest = newest[np.array(keep, bool)]
        self.clips = ClipTable(names, self.rows[newest])
        self.failures = {i: one.failure for i, one in latest.items() if i not in self.clips}

    @staticmethod
    def _counts(row: Any, latest: Mapping[str, Reported], names: Sequence[str]) -> bool:
        """Whether a row is at least as new as the last failure of its clip."""
        failed = latest.get(row["id"].decode())
        if failed is None:
            return True
        return (row["created_ns"], names[row["shard"]]) >= (failed.created_ns, failed.shard)

    def restricted(self, names: Collection[str]) -> Index:
        """The index of some of the shards alone."""
        if len(names) == len(self.shards):
            return self
        kept = {name: facts for name, facts in self.shards.items() if name in names}
        number = {name: place for place, name in enumerate(kept)}
        renumber = np.array([number.get(name, -1) for name in self.shards], np.int32)
        rows = self.rows.copy()
        rows["shard"] = renumber[rows["shard"]]
        reported = [one for one in self.reported if one.shard in kept]
        return Index(self.declared, kept, rows[rows["shard"] >= 0], reported, self.made_by)

    @property
    def live(self) -> ClipTable:
        """The clips that count, as columns."""
        assert isinstance(self.clips, ClipTable)
        return self.clips

    def layout(self, shard: str) -> Layout:
        """Where a file keeps its rows."""
        return make_layout(self.declared, self.shards[shard].offsets, self.chunks)

    def members(self, shard: str) -> list[RowPlace]:
        """(row, id, SHA-256 of the row) of every row of a shard, superseded ones too."""
        return row_members(self._rows_of(shard))

    def account(self, shard: str) -> tuple[Any, ...]:
        """Everything said of a shard, to be compared with what another index says of it."""
        rows = self._rows_of(shard)
        rows = rows[np.argsort(rows["row"], kind="stable")]
        made_by = [self.made_by[number] for number in rows["made_by"].tolist()]
        said = [rows[name].tobytes() for name in COLUMNS if name not in {"shard", "made_by"}]
        ids = rows["id"].tolist()
        facts = self.shards[shard]
        return facts.size, facts.offsets, ids, said, made_by, self.failed_in(shard)

    def failed_in(self, shard: str) -> list[Reported]:
        """The failures that a shard holds."""
        return self._failed.get(shard, [])

    @cached_property
    def _failed(self) -> dict[str, list[Reported]]:
        found: dict[str, list[Reported]] = {}
        for one in self.reported:
            found.setdefault(one.shard, []).append(one)
        return found

    def origins(self, shard: str) -> dict[str, Origin]:
        """When and by what each row and failure of a shard was made, by clip id."""
        failures = self.failed_in(shard)
        found = {one.failure.id: (one.created_ns, one.made_by) for one in failures}
        for row in self._rows_of(shard):
            found[row["id"].decode()] = int(row["created_ns"]), self.made_by[row["made_by"]]
        return found

    def _rows_of(self, shard: str) -> Array:
        found: Array = self.rows[self.rows["shard"] == list(self.shards).index(shard)]
        return found


def _newest(rows: Array, age: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Places of the rows that count, sorted by id: of several rows of an id, the newest.

    Of rows made at the same instant, the one in the shard with the larger `age` counts.
    """
    ids = rows["id"]
    if np.all(ids[:-1] < ids[1:]):
        return np.arange(len(rows))
    order = np.lexsort((age[rows["shard"]], rows["created_ns"]))
    order = order[np.argsort(ids[order], kind="stable")]
    last = np.append(ids[order[1:]] != ids[order[:-1]], True)[: len(order)]
    found: npt.NDArray[np.int64] = order[last]
    return found


def shard_files(folder: Path) -> dict[str, int]:
    """Name and size of every shard of a cache folder, sorted by name."""
    shards = folder / SHARD_FOLDER
    if shards.is_symlink():
        raise CacheError(f"{shards}: a link, expected a folder; refused: it may lead anywhere")
    sizes = {}
    try:
        with os.scandir(shards) as entries:
            for entry in entries:
                if _SHARD_NAME.fullmatch(entry.name):
                    # One that a repair has just set aside is gone; the others are not.
                    with contextlib.suppress(FileNotFoundError):
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CacheError(f"{folder}: can't be listed ({error.strerror})") from None
    return dict(sorted(sizes.items()))


def is_shard_name(name: str) -> bool:
    """Whether a name is one that a shard can have: never a path."""
    return _SHARD_NAME.fullmatch(name) is not None


def extend_index(
    known: Index | None, files: Mapping[str, int], folder: Path, identity: Identity
) -> Index:
    """The index of the shards in `files` (name → size), reading those that `known` lacks."""
    known = known or Index(identity.declaration)
    kept = known.restricted({n for n, f in known.shards.items() if files.get(n) == f.size})
    parts, damaged = [kept], {}
    for name in files:
        if name not in kept.shards:
            try:
                parts.append(summarize(folder / SHARD_FOLDER / name, identity))
            except CacheError as error:
                damaged[name] = str(error)
    if len(parts) == 1 and not damaged and len(kept.shards) == len(known.shards):
        return known
    return replace(joined(identity.declaration, parts), damaged=damaged, stale=True)


def joined(declared: Declaration, parts: Sequence[Index]) -> Index:
    """The index of several sets of shards, each shard counted once."""
    shards: dict[str, ShardFacts] = {}
    made_by: dict[str, int] = {}
    tables, reported = [], list[Reported]()
    for part in parts:
        new = part.restricted(set(part.shards) - set(shards))
        rows = new.rows.copy()
        rows["shard"] += len(shards)
        number = [made_by.setdefault(text, len(made_by)) for text in new.made_by]
        if len(rows):
            rows["made_by"] = np.array(number, np.int32)[rows["made_by"]]
            tables.append(rows)
        shards |= new.shards
        reported += new.reported
    rows = np.concatenate(tables) if tables else Index(declared).rows
    return Index(declared, shards, rows, reported, list(made_by))


def summarize(path: Path, identity: Identity) -> Index:
    """The index of a single shard, read from the shard itself."""
    with Shard(path, identity) as shard:
        return index_of(path.name, path.stat().st_size, shard, identity.declaration)


def index_of(
    name: str,
    size: int,
    shard: Shard,
    declared: Declaration,
    chunks: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> Index:
    """The index of one opened shard or pack."""
    layout = shard.layout(chunks)
    offsets = tuple(layout.offsets[name] for name in declared.stored_names)
    facts = ShardFacts(size, offsets, shard.id_place)
    by_row, by_failure = shard.origins()
    made_by = list(dict.fromkeys(text for _, text in by_row))
    number = {text: place for place, text in enumerate(made_by)}
    stored = ("valid_s", "media_s", "media_size", "media_mtime_ns", "sha256")
    columns: dict[str, Any] = {column: shard.read(f"rows/{column}") for column in stored}
    table = row_table(
        encode_text(shard.ids),  # as wide as they are: the widest table decides for all of them
        row=np.arange(len(shard.ids)),
        created_ns=[when for when, _ in by_row],
        made_by=[number[text] for _, text in by_row],
        **columns,
    )
    if shard.has_pictures and len(table):
        ends = shard.read(JPEG_END)[:, -1]
        table["jpeg_bytes"] = np.diff(ends, prepend=0)
    pairs = zip(shard.failures(), by_failure, strict=True)
    reported = [Reported(name, failure, *origin) for failure, origin in pairs]
    return Index(declared, {name: facts}, table, reported, made_by, chunks=chunks or {})
