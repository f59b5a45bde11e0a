"""Fetch what is lacking here from the cache at a URL: all, some splits, or a list of clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from cache.check.examine import check_shard
from cache.common.atomic import check_room, replace_file
from cache.common.errors import CacheError
from cache.format.identity import IDENTITY_FILE
from cache.format.index import Index, extend_index, shard_files
from cache.format.index_file import save_index
from cache.format.lock import claimed
from cache.format.names import one_form
from cache.format.row_table import Member
from cache.format.schema import SHARD_FOLDER, SPLITS
from cache.format.shard import Clip
from cache.labels.store import LABELS_FILE
from cache.reader import Cache, open_cache
from cache.remote.cache import RemoteCache
from cache.share.choose import Group
from cache.share.merge import write_group
from cache.share.transfer import (
    Move,
    plan_move,
    preference,
    rows_bytes,
    side_by_side,
    takes_labels,
)


@dataclass(frozen=True)
class PullOptions:
    """How to pull.

    only: splits to fetch; ids: clips to fetch (None: all); prefer: "here", "there" or "newest"
    settles clips that both hold with different bytes; jobs: downloads at a time.
    """

    only: tuple[str, ...] = ()
    ids: frozenset[str] | None = None
    prefer: str | None = None
    jobs: int = 4


def plan_pull(folder: Path, there: RemoteCache, options: PullOptions) -> Move:
    """What a pull would move; raises CacheError when it is refused. Writes nothing."""
    if folder.is_file():
        raise CacheError(f"{folder}: a file; expected the folder of a cache, or a new one")
    here = open_cache(folder) if (folder / IDENTITY_FILE).exists() else None
    side, newest = preference(options.prefer, giver="there", receiver="here")
    source = _source(there)
    with there.named():
        part = _part(source, _wanted(source, there.remote.url, options))
        move = plan_move(part, here, side, newest)
        move.labels = takes_labels(source, here, side, move, "there")
    if there.unlisted:
        move.notes.append(
            f"{len(there.unlisted)} shard(s) there are not in its index yet (a push under way, or "
            "one that was cut) and are left out"
        )
    return move


def pull(
    folder: Path,
    there: RemoteCache,
    move: Move,
    options: PullOptions,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> Index:
    """Move what `plan_pull` planned. Cut short, the next pull goes on from there.

    Returns the index of what is here now.
    """
    source = _source(there)
    with claimed(folder, source.identity) as identity:
        otherwise = ", fetch a part with --only or --ids, or name a folder on another disk"
        check_room(folder, move.bytes, f"{move.bytes / 1e9:.2f} GB to fetch", otherwise)

        def whole(name: str, size: int) -> None:
            there.remote.get_shard(name, size, folder, on_bytes)
            path = folder / SHARD_FOLDER / name
            try:
                check_shard(path, identity)
            except CacheError as error:
                path.unlink()
                raise CacheError(f"{there.remote.url}: {error}") from None

        def some(group: Group) -> None:
            write_group(folder, identity, group, read)

        def read(shard: str, members: Sequence[Member]) -> list[Clip]:
            clips = there.read_members(shard, members)
            on_bytes(rows_bytes(source, [clip_id for _, clip_id, _ in members]))
            return clips

        tasks = [partial(whole, name, size) for name, size in move.whole.items()]
        try:
            side_by_side(options.jobs, [*tasks, *(partial(some, group) for group in move.parts)])
            if move.labels and there.labels_file is not None:
                replace_file(folder / LABELS_FILE, there.labels_file)
        finally:
            index = extend_index(move.known, shard_files(folder), folder, identity)
            save_index(folder, identity, index)
    return index


def _source(there: RemoteCache) -> Cache:
    if there.cache is None:
        raise CacheError(
            f"{there.remote.url}: no feature cache there (expected {IDENTITY_FILE}); check the "
            "address, or push one there first"
        )
    if there.index_problem and not there.remote.folder:
        raise CacheError(
            f"{there.index_problem}; have its owner run `python -m cache repair`, which writes it "
            "anew, or a push there, which does too"
        )
    return there.cache


def _wanted(source: Cache, url: str, options: PullOptions) -> set[str] | None:
    """The ids that --only and --ids name; None for all."""
    wanted: set[str] | None = None
    if options.only:
        unknown = [name for name in options.only if name not in SPLITS]
        if unknown:
            raise CacheError(f"--only: expected {', '.join(SPLITS)}, found {', '.join(unknown)}")
        labels = source.stored_labels()
        if labels is None:
            raise CacheError(f"{url}: has no labels, so it is not known which clips are in a split")
        wanted = {labels.ids[row] for name in options.only for row in labels.rows(name)}
    if options.ids is not None:
        known = {one_form(i): i for i in (*source.ids, *source.index.failures)}
        asked = {known.get(one_form(i), i) for i in options.ids}
        absent = sorted(i for i in asked if i not in source and i not in source.index.failures)
        if absent:
            raise CacheError(
                f"{url}: {len(absent)} of the clips asked for are not there: "
                f"{', '.join(absent[:10])}{' …' if len(absent) > 10 else ''}"
            )
        wanted = asked if wanted is None else wanted & asked
    return wanted


def _part(source: Cache, wanted: Collection[str] | None) -> Cache:
    """The cache as if only the wanted clips counted in it; whole shards stay known."""
    if wanted is None:
        return source
    index = source.index
    live = index.live
    keep = np.array([clip_id in wanted for clip_id in live.ids], bool)
    part = replace(index)
    part.clips = live.chosen(keep)
    part.failures = {i: f for i, f in index.failures.items() if i in wanted}
    return Cache(source.path, source.identity, part)
