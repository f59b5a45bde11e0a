"""Join caches made with the same settings; `unpack` is joining one pack into a folder.

Merging is associative and commutative in effect: whichever way caches are joined, the same rows,
failures and events come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.check.examine import check_shard
from cache.common.atomic import check_room, replace_file
from cache.common.errors import CacheError
from cache.format.identity import IDENTITY_FILE, Identity, refusal
from cache.format.index_file import load_index, save_index
from cache.format.lock import claimed
from cache.format.row_table import Member
from cache.format.schema import SHARD_FOLDER
from cache.format.sealed import check_seal
from cache.format.shard import Clip, Written, is_named_by, write_shard
from cache.labels.annotations import changed_splits
from cache.labels.store import write_labels
from cache.reader import Cache, open_cache
from cache.share.choose import Choice, Group, check_readable, choose, pieces
from cache.share.merge_labels import merge_labels


@dataclass
class Merged:
    """What a merge did; `changed_splits`: ids whose split is another than in a cache joined."""

    added: int = 0
    there_already: int = 0
    settled: list[str] = field(default_factory=list)
    failures: int = 0
    changed_splits: dict[str, str] = field(default_factory=dict)


def merge(
    sources: Sequence[Path],
    target: Path,
    prefer: str | None = None,
    on_clips: Callable[[int], object] = lambda count: None,
) -> Merged:
    """Bring every clip, failure and event of `sources` (folders or packs) into the folder `target`.

    What `target` holds already takes part. `prefer` settles conflicts: "newest", or one of the
    paths given. Raises CacheError when settings differ, for unsettled conflicts, and for a pack
    that is damaged, before anything is written. Cut short, the same call goes on from where it
    stopped.
    """
    caches = [_opened(path) for path in sources]
    for cache in caches[1:]:
        if cache.fingerprint != caches[0].fingerprint:
            raise CacheError(refusal(cache.path, caches[0].identity, cache.identity))
    if target.is_file():
        raise CacheError(f"{target}: a file; expected the folder of a cache, or a new one")
    first = _preferred(prefer, [target, *sources])
    if not (target / IDENTITY_FILE).exists():  # whatever is wrong shows before a cache is made
        source = first - 1 if first else None
        merge_labels(caches, source)
        choose(caches, prefer == "newest", source)
    with claimed(target, caches[0].identity) as identity:
        here = open_cache(target)
        labels = merge_labels([here, *caches], first)
        choice = choose([here, *caches], prefer == "newest", first)
        clips = sum(map(len, choice.rows[1:]))
        needed = clips * here.declaration.row_bytes
        need = f"about {needed / 1e9:.2f} GB needed for {clips} clips"
        check_room(target, needed, need, " or name a folder on another disk")
        done = Merged(settled=choice.settled, there_already=len(choice.rows[0]))
        for number, cache in enumerate(caches, 1):
            done.added += len(choice.rows[number])
            done.failures += len(choice.failures[number])
            _bring(cache, here, identity, choice, number, on_clips)
        before = here.stored_labels()
        if labels is not None:
            if not (before and before.equals(labels)):
                write_labels(target, labels)
            for table in [*(cache.stored_labels() for cache in caches), before]:
                done.changed_splits |= changed_splits(table, labels)
        index = load_index(target, identity)
        if index.stale:
            save_index(target, identity, index)
    return done


def _opened(path: Path) -> Cache:
    """A source, of which nothing would be left out in silence."""
    cache = open_cache(path)
    check_readable(cache)
    if cache.packed:  # rows have checksums of their own; failures and origins have only this one
        try:
            check_seal(path)
        except CacheError as error:
            raise CacheError(f"{error}; `python -m cache verify` names the clips it hit") from None
    return cache


def _preferred(prefer: str | None, paths: Sequence[Path]) -> int | None:
    """The place of the path that `prefer` names; None for none and for "newest"."""
    if prefer in (None, "newest"):
        return None
    if Path(prefer) not in paths:
        expected = ", ".join(map(str, paths))
        raise CacheError(f"prefer: expected newest or one of {expected}, found {prefer!r}")
    return paths.index(Path(prefer))


def _bring(
    cache: Cache,
    here: Cache,
    identity: Identity,
    choice: Choice,
    number: int,
    on_clips: Callable[[int], object],
) -> None:
    """Copy what one source gives: whole shards where all of one is wanted, else its rows."""
    found = pieces(cache, choice, number)
    for name, clips in found.whole.items():
        path = cache.shard_path(name)
        check_shard(path, identity)
        data = path.read_bytes()
        if not is_named_by(name, data):
            raise CacheError(f"{path}: changed while it was copied; run the same command again")
        replace_file(here.path / SHARD_FOLDER / name, data)
        on_clips(clips)
    for group in found.groups:
        on_clips(write_group(here.path, identity, group, cache.read_members).clips)


def write_group(
    folder: Path,
    identity: Identity,
    group: Group,
    read: Callable[[str, list[Member]], list[Clip]],
) -> Written:
    """Write some rows and failures as a new shard, as old as they were."""
    clips = [clip for name, members in group.parts for clip in read(name, members)]
    return write_shard(folder, identity, clips, group.failures, group.origins)
