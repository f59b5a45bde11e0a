"""Which clip is where: derived from the shards, kept in `index.h5` so that nobody re-reads them.

The index holds nothing that the shards don't. A reader uses it where it is current and reads the
newer shards itself; only a writer, under the lock, stores it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.errors import CacheError
from cache.folder import replace_file
from cache.plain import plain_dataset, read_attribute, reading, write_text
from cache.schema import row_digest
from cache.shard import Failure, Shard, encode_text

INDEX_FILE = "index.h5"
_SHARD_NAME = re.compile(r"[0-9a-f]{32}\.h5")
_COLUMNS = {
    "row": "int32",
    "valid_s": "float64",
    "media_s": "float64",
    "media_size": "int64",
    "media_mtime_ns": "int64",
}
_STORED = (
    *("shard/name", "shard/size", "shard/created_ns", "clip/id", "clip/shard"),
    *(f"clip/{column}" for column in _COLUMNS),
    "failures_json",
)


@dataclass(frozen=True)
class Entry:
    """Where one clip's row is, and what it was made from."""

    shard: str
    row: int
    valid_s: float
    media_s: float
    media_size: int
    media_mtime_ns: int


@dataclass
class ShardSummary:
    """What the index keeps of one shard."""

    size: int
    created_ns: int
    entries: dict[str, Entry]
    failures: list[Failure]


@dataclass
class Index:
    """The shards of a cache, and for each clip the newest row or failure.

    Attributes
    ----------
    shards: summary of each readable shard, by file name.
    clips: where each finished clip is.
    failures: the latest failure of each clip that has no row made since.
    damaged: shards that can't be read, with the reason.
    stale: whether the stored index lacks something found here.
    """

    shards: dict[str, ShardSummary]
    damaged: dict[str, str] = field(default_factory=dict)
    stale: bool = False
    clips: dict[str, Entry] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)

    def resolve(self) -> None:
        """Fill `clips` and `failures`: of several rows of one id, the newest counts."""
        self.clips, self.failures = {}, {}
        for _, shard in sorted(self.shards.items(), key=lambda item: (item[1].created_ns, item[0])):
            for failure in shard.failures:
                self.failures[failure.id] = failure
                self.clips.pop(failure.id, None)
            for clip_id, entry in shard.entries.items():
                self.clips[clip_id] = entry
                self.failures.pop(clip_id, None)


def load_index(folder: Path, identity: Mapping[str, Any]) -> Index:
    """Read the index, and any shard that it does not cover."""
    known = _stored(folder, identity)
    index = Index(shards={})
    for path in sorted((folder / "shards").glob("*.h5")):
        if not _SHARD_NAME.fullmatch(path.name):
            continue
        summary = known.pop(path.name, None)
        size = path.stat().st_size
        if summary is not None and summary.size == size:
            index.shards[path.name] = summary
            continue
        index.stale = True
        try:
            index.shards[path.name] = summarize(path, identity)
        except CacheError as error:
            index.damaged[path.name] = str(error)
    index.stale = index.stale or bool(known)
    index.resolve()
    return index


def summarize(path: Path, identity: Mapping[str, Any]) -> ShardSummary:
    """Read what the index keeps from a shard itself."""
    with Shard(path, identity) as shard:
        columns = {name: shard.read(f"rows/{name}") for name in _COLUMNS if name != "row"}
        entries = {
            clip_id: Entry(path.name, row, *(column[row].item() for column in columns.values()))
            for row, clip_id in enumerate(shard.ids)
        }
        return ShardSummary(path.stat().st_size, shard.created_ns, entries, shard.failures())


def save_index(folder: Path, identity: Mapping[str, Any], index: Index) -> None:
    """Store the index. Call with the writer's lock held."""
    names = list(index.shards)
    rows = [(n, e) for n, name in enumerate(names) for e in index.shards[name].entries.items()]
    failures = [
        {"shard": n, **vars(failure)}
        for n, name in enumerate(names)
        for failure in index.shards[name].failures
    ]
    arrays = {
        "shard/name": np.array([name.encode() for name in names], "S35"),
        "clip/id": encode_text(clip_id for _, (clip_id, _) in rows),
        "clip/shard": np.array([number for number, _ in rows], np.int32),
        "failures_json": np.frombuffer(json.dumps(failures).encode(), np.uint8),
    }
    for column in ("size", "created_ns"):
        values = [getattr(index.shards[name], column) for name in names]
        arrays[f"shard/{column}"] = np.array(values, np.int64)
    for column, dtype in _COLUMNS.items():
        arrays[f"clip/{column}"] = np.array([getattr(e, column) for _, (_, e) in rows], dtype)
    with h5py.File("index", "w", driver="core", backing_store=False) as file:
        for name, array in arrays.items():
            file[name] = array
        write_text(file, "sha256", row_digest(identity["fingerprint"], arrays).hex())
        file.flush()
        data = file.id.get_file_image()
    replace_file(folder / INDEX_FILE, data)


def _stored(folder: Path, identity: Mapping[str, Any]) -> dict[str, ShardSummary]:
    """The summaries in `index.h5`; empty when it is missing, damaged or foreign (it is derived)."""
    path = folder / INDEX_FILE
    try:
        with reading(path, "the index"), h5py.File(path, "r", locking=False) as file:
            arrays = {name: plain_dataset(file, name)[()] for name in _STORED}
            digest = row_digest(identity["fingerprint"], arrays).hex()
            if read_attribute(file, "sha256") == digest:
                return _summaries(arrays)
    except CacheError:
        pass  # whatever is wrong with it, the shards say the same
    return {}


def _summaries(arrays: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> dict[str, ShardSummary]:
    names = [name.decode() for name in arrays["shard/name"].tolist()]
    sizes, created = (arrays[f"shard/{name}"].tolist() for name in ("size", "created_ns"))
    shards = [ShardSummary(size, when, {}, []) for size, when in zip(sizes, created, strict=True)]
    ids, places = arrays["clip/id"].tolist(), arrays["clip/shard"].tolist()
    columns = [arrays[f"clip/{name}"].tolist() for name in _COLUMNS]
    for clip_id, place, *values in zip(ids, places, *columns, strict=True):
        shards[place].entries[clip_id.decode()] = Entry(names[place], *values)
    for failure in json.loads(arrays["failures_json"].tobytes()):
        shards[failure.pop("shard")].failures.append(Failure(**failure))
    return dict(zip(names, shards, strict=True))
