"""Prove that a cache is whole: every shard against its name, every row against its checksum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import CacheError
from cache.folder import read_identity, read_labels
from cache.index import load_index
from cache.shard import Shard, file_sha256


@dataclass
class Report:
    """What `verify` found: sentences per damaged shard, and the clips that are affected."""

    shards: int = 0
    clips: int = 0
    problems: list[str] = field(default_factory=list)
    damaged_ids: list[str] = field(default_factory=list)


def verify(folder: Path, on_shard: Callable[[int], object] = lambda size: None) -> Report:
    """Read every byte of the cache and check it. Needs no media and writes nothing.

    `on_shard` is called with the size in bytes of each shard that was checked.
    """
    identity = read_identity(folder)
    index = load_index(folder, identity)
    report = Report(clips=len(index.clips))
    try:
        read_labels(folder)
    except CacheError as error:
        report.problems.append(str(error))
    for problem in index.damaged.values():
        report.problems.append(f"{problem} (its clips are not known)")
    for name, summary in index.shards.items():
        path = folder / "shards" / name
        report.shards += 1
        on_shard(summary.size)
        if file_sha256(path)[:32] == path.stem:
            continue
        try:
            with Shard(path, identity) as shard:
                ids = shard.damaged_rows()
                where = f"rows {', '.join(ids)}" if ids else "the file's structure, no clip's row"
        except CacheError as error:
            ids, where = list(summary.entries), str(error)
        report.problems.append(f"{path}: its bytes don't match its name; damaged: {where}")
        report.damaged_ids.extend(ids)
    return report
