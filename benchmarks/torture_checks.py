"""What must hold after a command was killed, and after it was run again to its end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cache import Cache, CacheError, open_cache
from cache.check.examine import matches_name
from cache.check.verify import verify
from cache.common.atomic import TEMPORARY
from cache.format.identity import IDENTITY_FILE
from cache.format.schema import SHARD_FOLDER
from cache.remote.cache import RemoteCache
from cache.remote.store import Remote
from cache.share.diff import describe_difference, difference
from extract.parallel.guard import WORKING

Digests = dict[Path, str]


@dataclass(frozen=True)
class State:
    """What of a target (the folder of a cache, or a pack) is to be seen at one instant."""

    finished: dict[str, int]
    unfinished: frozenset[tuple[str, int]]


def state_of(target: Path) -> State:
    """Finished shards (or the pack) with their sizes; unfinished files with their times."""
    finished, unfinished = {}, set()
    for path in _files_around(target):
        try:
            facts = path.stat()
        except FileNotFoundError:  # it gets its name just now
            continue
        if path.name.startswith((TEMPORARY, WORKING)):
            unfinished.add((path.name, facts.st_mtime_ns))
        elif path == target or path.parent.name == SHARD_FOLDER:
            finished[path.name] = facts.st_size
    return State(finished, frozenset(unfinished))


def begun(before: State, now: State, extracting: bool) -> bool:
    """Whether a command has begun with its clips; extraction loads its network before it has."""
    notes = {name for name, _ in now.unfinished - before.unfinished}
    if extracting:
        notes = {name for name in notes if name.startswith(WORKING)}
    return bool(notes) or now.finished != before.finished


def _files_around(target: Path) -> list[Path]:
    """All files that a command can have touched: those of the folder, or beside the pack."""
    if target.suffix == ".h5":
        return [p for p in target.parent.glob("*") if p == target or p.name.startswith(TEMPORARY)]
    return [path for path in target.rglob("*") if path.is_file()]


def digests(paths: Iterable[Path]) -> Digests:
    """The SHA-256 of every file below some folders, and of some files."""
    found = {}
    for top in paths:
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def changed(before: Digests, paths: Iterable[Path]) -> list[str]:
    """Files that are not as they were."""
    now = digests(paths)
    return [
        f"{path}: was {'changed' if path in now and path in before else 'added or removed'}"
        for path in sorted({*before, *now})
        if before.get(path) != now.get(path)
    ]


def lost(before: State, target: Path) -> list[str]:
    """What was finished before and is not there any more, byte for byte."""
    now = state_of(target).finished
    return [
        f"{target}: {name} was finished, and is gone or has another size now"
        for name, size in before.finished.items()
        if now.get(name) != size
    ]


def damaged(target: Path, expected: Cache, remote: bool) -> list[str]:
    """What shows under a final name and is not whole, or is not what the command should write."""
    if target.suffix == ".h5":
        return _checked(target, expected, complete=True) if target.exists() else []
    found = [
        f"{path}: does not match its name"
        for path in sorted((target / SHARD_FOLDER).glob("*.h5"))
        if path.name[0] != "." and not matches_name(path)
    ]
    if remote:
        found += _seen_from_afar(target)
    if (target / IDENTITY_FILE).exists():
        found += _checked(target, expected, complete=False)
    return found


def incomplete(target: Path, expected: Cache, remote: bool) -> list[str]:
    """In what a target that should be complete is not, temporary files among it."""
    if not target.exists():
        return [f"{target}: was not written"]
    left = [f"{target}: {name} is left over" for name, _ in sorted(state_of(target).unfinished)]
    return damaged(target, expected, remote) + _checked(target, expected, complete=True) + left


def _checked(target: Path, expected: Cache, complete: bool) -> list[str]:
    try:
        found = verify(target).problems
        return found + _differing(expected, open_cache(target), complete)
    except CacheError as error:
        return [str(error)]


def _differing(expected: Cache, cache: Cache, complete: bool) -> list[str]:
    """How a cache differs from the expected one; before it is complete, it may lack things."""
    found = difference(expected, cache)
    if not complete:
        found.only_a = []
        found.failures = {i: pair for i, pair in found.failures.items() if pair[1]}
        if cache.stored_labels() is None:
            found.events, found.classes = {}, None
    return [f"{cache.path}: {describe_difference(found)}"] if found else []


def _seen_from_afar(target: Path) -> list[str]:
    """What another machine would trip over: a listed shard that is not there, a broken table."""
    try:
        with RemoteCache(Remote(target.as_uri())) as there:
            if there.cache is None:
                return []
            problems = [there.index_problem] if there.index_problem else []
            gone = sorted(n for n in there.listed if not (target / SHARD_FOLDER / n).exists())
            return [*problems, *(f"{target}: its index lists {name}, not there" for name in gone)]
    except CacheError as error:
        return [str(error)]


def share_left(target: Path, expected: Path) -> float:
    """About how much of the work is left to do, 0 to 1."""
    if target.suffix == ".h5":
        return 1.0
    there, all_of_it = (sum(state_of(path).finished.values()) for path in (target, expected))
    return max(0.0, 1.0 - there / max(1, all_of_it))


def stage_of(target: Path, expected: Path) -> str:
    """How far a command had come when it was stopped."""
    if target.suffix == ".h5":
        return "file there" if target.exists() else "no file yet"
    share = share_left(target, expected)
    if share == 1.0:
        return "no shard yet"
    return "some shards there" if share > 0.02 else "all shards there"
