"""Prove that a cache is whole: every file against its checksum, every row against its own.

Shards are named by their digest; `cache.json`, `labels.h5`, `index.h5` and packs carry theirs. So
every flipped bit shows, and the index (or, without it, the shard) says which clips it hit. A digest
proves only that a file is as it was written, so rows and index are looked into as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.check.examine import examine, gone_shards, lost_rows
from cache.common.atomic import replace_file
from cache.common.errors import CacheError
from cache.common.plain import read_plain
from cache.common.strict_json import loads
from cache.format.identity import Identity, read_identity
from cache.format.index import Index, extend_index, shard_files
from cache.format.index_file import INDEX_FILE, parse_index
from cache.format.schema import SHARD_FOLDER
from cache.format.sealed import check_seal
from cache.labels.store import read_labels
from cache.reader import open_cache

RECORD_FILE = "verified.json"
_RECORD_LIMIT_BYTES = 16 << 20
_DERIVED = (
    "nothing is lost, it is derived: `make features` or `python -m cache repair` writes it anew"
)


@dataclass
class Report:
    """What `verify` found.

    Attributes
    ----------
    problems: a sentence for each damaged file.
    damaged: for each damaged shard that is listed, the ids whose rows can't be used; none where
        only the index is wrong about it.
    unknown: damaged shards of which nobody knows what rows they had.
    """

    shards: int = 0
    clips: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: dict[str, list[str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

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
    stored, index_problems = _stored_index(path, identity)
    files = shard_files(path)  # after the index, so that all it names is found
    index = extend_index(stored, files, path, identity)
    report = Report(clips=len(index.clips))
    try:
        read_labels(path)
    except CacheError as error:
        report.problems.append(str(error))
    report.problems += index_problems
    misled = []
    for name, size in files.items():
        finding = examine(path / SHARD_FOLDER / name, stored, identity)
        report.shards += 1
        on_bytes(size)
        if finding.problem or finding.misled:
            report.damaged[name] = list(finding.lost)
        if finding.problem:
            report.problems.append(finding.problem)
        if finding.index is None:
            report.unknown.append(name)
        if finding.misled:
            misled.append(name)
    for name, gone in gone_shards(stored, index).items():
        report.damaged[name] = sorted(gone.rows)
        report.problems.append(gone.problem(path / SHARD_FOLDER / name))
    if misled:
        report.problems.append(
            f"{path / INDEX_FILE}: says otherwise of {len(misled)} shard(s) than they do "
            f"themselves, first {misled[0]}; {_DERIVED}"
        )
    return report


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
        record = loads(read_plain(folder / RECORD_FILE, _RECORD_LIMIT_BYTES))
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


def _stored_index(folder: Path, identity: Identity) -> tuple[Index | None, list[str]]:
    """What `index.h5` says, and what is wrong with it; a cache may do without one."""
    path = folder / INDEX_FILE
    if not path.exists():
        return None, []
    try:
        return parse_index(path, identity), []
    except CacheError as error:
        return None, [f"{error}; {_DERIVED}"]


def _verify_pack(path: Path, on_bytes: Callable[[int], object]) -> Report:
    report = Report(shards=1)
    try:
        check_seal(path, on_bytes)
    except CacheError as error:
        report.problems.append(str(error))
    try:
        cache = open_cache(path)
        index = cache.index
    except CacheError as error:
        report.problems = report.problems or [str(error)]
        report.damaged[path.name] = []
        return report
    report.clips = len(index.clips)
    try:
        cache.stored_labels()
    except CacheError as error:
        report.problems = report.problems or [str(error)]
    lost = lost_rows(path, index)
    if lost or report.problems:
        report.damaged[path.name] = list(lost)
    if lost and not report.problems:
        clip_id, why = next(iter(lost.items()))
        report.problems.append(
            f"{path}: {len(lost)} row(s) of it can't be used, first {clip_id}: {why}"
        )
    return report
