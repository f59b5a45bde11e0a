"""Prove that a cache is whole: every file against its checksum, every row against its own.

Shards are named by their digest; `cache.json`, `labels.h5`, `index.h5` and packs carry theirs. So
every flipped bit shows, and the index (or, without it, the shard) says which clips it hit.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.atomic import replace_file
from cache.errors import CacheError
from cache.folder import read_identity
from cache.index import Index
from cache.index_file import INDEX_FILE, load_index, parse_index
from cache.labels_file import read_labels
from cache.plain import read_plain
from cache.reader import open_cache
from cache.rows import RowFile, read_clips
from cache.schema import SHARD_FOLDER
from cache.sealed import check_seal
from cache.shard import Clip, file_sha256, shard_name

RECORD_FILE = "verified.json"
_RECORD_LIMIT_BYTES = 64 << 20


@dataclass
class Report:
    """What `verify` found.

    Attributes
    ----------
    problems: a sentence for each damaged file.
    damaged: for each damaged shard that is listed, the ids whose rows can't be used.
    """

    shards: int = 0
    clips: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: dict[str, list[str]] = field(default_factory=dict)

    @property
    def damaged_ids(self) -> list[str]:
        """Clips to extract again."""
        return sorted({clip_id for ids in self.damaged.values() for clip_id in ids})


def verify(path: Path, on_bytes: Callable[[int], object] = lambda count: None) -> Report:
    """Read every byte of a cache (folder or pack) and check it. Needs no media.

    `on_bytes` is called with the size of each part that was checked. Writes nothing.
    """
    if path.is_file():
        return _verify_pack(path, on_bytes)
    identity = read_identity(path)
    index = load_index(path, identity)
    report = Report(clips=len(index.clips))
    for check in (read_labels, lambda folder: _check_index(folder, identity)):
        try:
            check(path)
        except CacheError as error:
            report.problems.append(str(error))
    for name, problem in index.damaged.items():
        report.problems.append(f"{problem} (its clips are not known)")
        report.damaged[name] = []
    for name, facts in index.shards.items():
        shard = path / SHARD_FOLDER / name
        report.shards += 1
        on_bytes(facts.size)
        if matches_name(shard):
            continue
        lost = lost_ids(shard, name, index)
        where = f"rows {', '.join(lost)}" if lost else "the file's structure, no clip's row"
        report.problems.append(f"{shard}: its bytes don't match its name; damaged: {where}")
        report.damaged[name] = lost
    return report


def matches_name(shard: Path) -> bool:
    """Whether a shard can be read and its bytes give its name."""
    try:
        return shard_name(file_sha256(shard)) == shard.name
    except (CacheError, OSError):  # a link, a pipe, a bad sector
        return False


def intact_clips(path: Path, shard: str, index: Index) -> Iterator[Clip]:
    """The rows of the file at `path`, `shard` in the index, that still give their checksums.

    One after the other, wherever else the file is damaged.
    """
    layout = index.layout(shard)
    with contextlib.suppress(CacheError), RowFile(path, layout) as file:
        for member in index.members(shard):
            # Its pictures' table may be damaged, or the file end before it.
            with contextlib.suppress(CacheError):
                yield from read_clips(file.fetch, layout, [member], str(file.path))


def lost_ids(path: Path, shard: str, index: Index) -> list[str]:
    """The clips of a file whose rows no longer give their checksums, sorted."""
    intact = {clip.id for clip in intact_clips(path, shard, index)}
    return sorted({clip_id for _, clip_id, _ in index.members(shard)} - intact)


def write_record(folder: Path, report: Report) -> None:
    """Note in the cache when it was verified and which shards are damaged, for `make features`."""
    record = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "shards": report.shards,
        "clips": report.clips,
        "problems": len(report.problems),
        "damaged": report.damaged,
    }
    _store_record(folder, record)


def settle_record(folder: Path, shards: Iterable[str]) -> None:
    """Take shards that were repaired, or found whole, off the list of damaged ones."""
    record = read_record(folder)
    if record and record["damaged"].keys() & set(shards):
        record["damaged"] = {n: i for n, i in record["damaged"].items() if n not in set(shards)}
        _store_record(folder, record)


def _store_record(folder: Path, record: dict[str, Any]) -> None:
    replace_file(folder / RECORD_FILE, (json.dumps(record, indent=2) + "\n").encode())


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the last `verify` noted; None where there was none, or its note is unreadable."""
    try:
        record = json.loads(read_plain(folder / RECORD_FILE, _RECORD_LIMIT_BYTES))
        damaged = {str(n): [str(i) for i in ids] for n, ids in record["damaged"].items()}
        counts = {name: int(record[name]) for name in ("shards", "clips", "problems")}
        return {"at": str(record["at"]), **counts, "damaged": damaged}
    except (
        OSError,
        CacheError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
        OverflowError,
    ):
        return None


def _check_index(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / INDEX_FILE
    if not path.exists():
        return  # derived: readers do without
    try:
        parse_index(path, identity)
    except CacheError as error:
        raise CacheError(
            f"{error}; nothing is lost, it is derived: `make features` or `python -m cache "
            "repair` writes it anew"
        ) from None


def _verify_pack(path: Path, on_bytes: Callable[[int], object]) -> Report:
    report = Report(shards=1)
    try:
        check_seal(path, on_bytes)
        report.clips = len(open_cache(path))
    except CacheError as error:
        report.problems.append(str(error))
        report.damaged[path.name] = _damaged_in_pack(path)
    return report


def _damaged_in_pack(path: Path) -> list[str]:
    try:
        cache = open_cache(path)
    except CacheError:
        return []
    return [i for name in cache.index.shards for i in lost_ids(path, name, cache.index)]
