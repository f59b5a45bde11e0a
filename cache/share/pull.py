"""Fetch what is lacking here from the cache at a URL: all, some splits, or a list of clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cache.check.examine import check_shard
from cache.common.atomic import check_room, replace_file
from cache.common.errors import CacheError
from cache.common.side_by_side import side_by_side
from cache.format.identity import IDENTITY_FILE, Identity
from cache.format.index import Index, extend_index, shard_files
from cache.format.index_file import save_index
from cache.format.lock import claimed
from cache.format.names import one_form
from cache.format.schema import SHARD_FOLDER, SPLITS
from cache.format.windows import window_of
from cache.labels.store import LABELS_FILE
from cache.reader import Cache, open_cache
from cache.remote.cache import RemoteCache
from cache.share.merge_labels import plan_labels
from cache.share.plan import CopyPlan, NewShard, WholeShard, plan_copy, preferred


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


def plan_pull(folder: Path, there: RemoteCache, options: PullOptions) -> CopyPlan:
    """What a pull would move; raises CacheError when it is refused. Writes nothing."""
    if folder.is_file():
        raise CacheError(f"{folder}: a file; expected the folder of a cache, or a new one")
    here = open_cache(folder) if (folder / IDENTITY_FILE).exists() else None
    source = _source(there)
    prefer = preferred(options.prefer, {"here": here, "there": source})
    with there.named():
        wanted = _wanted(source, there.remote.url, options)
        plan = plan_copy(here, [source], prefer, options.prefer == "newest", wanted)
        plan_labels(plan, source, here, prefer, "there")
    if there.unlisted:
        plan.notes.append(
            f"{len(there.unlisted)} shard(s) there are not in its index yet (a push under way, or "
            "one that was cut) and are left out"
        )
    return plan


def pull(
    folder: Path,
    there: RemoteCache,
    plan: CopyPlan,
    options: PullOptions,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> Index:
    """Fetch what `plan_pull` planned. Cut short, the next pull goes on from there.

    Returns the index of what is here now.
    """
    with claimed(folder, _source(there).identity) as identity:
        otherwise = ", fetch a part with --only or --ids, or name a folder on another disk"
        check_room(folder, plan.bytes, f"{plan.bytes / 1e9:.2f} GB to fetch", otherwise)

        def fetch(shard: WholeShard) -> None:
            there.remote.get_shard(shard.name, shard.size, folder, on_bytes)
            _prove(folder / SHARD_FOLDER / shard.name, identity, there.remote.url)

        def fetch_rows(new: NewShard) -> None:
            new.write(folder, identity, there.read_members)
            on_bytes(new.bytes)

        tasks = [partial(fetch, shard) for shard in plan.whole]
        tasks += [partial(fetch_rows, new) for new in plan.new]
        try:
            side_by_side(options.jobs, tasks)
            if plan.labels and there.labels_file is not None:
                replace_file(folder / LABELS_FILE, there.labels_file)
        finally:
            known = None if plan.receiver is None else plan.receiver.index
            # What others wrote since the plan is in the folder's files.
            index = extend_index(known, shard_files(folder), folder, identity)
            save_index(folder, identity, index)
    return index


def _prove(path: Path, identity: Identity, url: str) -> None:
    """Delete a shard that arrived as it was there, and is not whole; CacheError names the URL."""
    try:
        check_shard(path, identity)
    except CacheError as error:
        path.unlink()
        raise CacheError(f"{url}: {error}") from None


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
    """The clips that --only and --ids name; None for all. A recording's id names its windows."""
    clips = _clips_of_recordings(source)
    wanted: set[str] | None = None
    if options.only:
        unknown = [name for name in options.only if name not in SPLITS]
        if unknown:
            raise CacheError(f"--only: expected {', '.join(SPLITS)}, found {', '.join(unknown)}")
        labels = source.stored_labels()
        if labels is None:
            raise CacheError(f"{url}: has no labels, so it is not known which clips are in a split")
        chosen = {labels.ids[row] for name in options.only for row in labels.rows(name)}
        wanted = {clip_id for i in chosen for clip_id in clips.get(i, [i])}
    if options.ids is not None:
        known = {one_form(i): i for i in (*source.ids, *source.index.failures, *clips)}
        named = {known.get(one_form(i), i) for i in options.ids}
        asked = {clip_id for i in named for clip_id in clips.get(i, [i])}
        absent = sorted(i for i in asked if i not in source and i not in source.index.failures)
        if absent:
            raise CacheError(
                f"{url}: {len(absent)} of the clips asked for are not there: "
                f"{', '.join(absent[:10])}{' …' if len(absent) > 10 else ''}"
            )
        wanted = asked if wanted is None else wanted & asked
    return wanted


def _clips_of_recordings(source: Cache) -> dict[str, list[str]]:
    """The clips of each recording, those that failed too; empty where clips are no windows."""
    found: dict[str, list[str]] = {}
    if source.declaration.hop_s is not None:
        for clip_id in (*source.ids, *source.index.failures):
            found.setdefault(window_of(clip_id).recording, []).append(clip_id)
    return found
