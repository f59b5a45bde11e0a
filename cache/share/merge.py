"""Join caches made with the same settings; `unpack` is joining one pack into a folder.

Merging is associative and commutative in effect: whichever way caches are joined, the same rows,
failures and events come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cache.check.examine import check_shard
from cache.common.atomic import check_room, replace_file
from cache.common.errors import CacheError
from cache.format.identity import IDENTITY_FILE, Identity, refusal
from cache.format.index import extend_index, shard_files
from cache.format.index_file import save_index
from cache.format.lock import claimed
from cache.format.schema import SHARD_FOLDER
from cache.format.sealed import check_seal
from cache.format.shard import is_named_by
from cache.labels.annotations import Labels, changed_splits
from cache.labels.store import write_labels
from cache.reader import Cache, open_cache
from cache.share.merge_labels import merge_labels
from cache.share.plan import CopyPlan, WholeShard, plan_copy, preferred


def merge(
    sources: Sequence[Cache],
    target: Path,
    prefer: str | None = None,
    on_clips: Callable[[int], object] = lambda count: None,
) -> CopyPlan:
    """Bring every clip, failure and event of `sources` (folders or packs) into the folder `target`.

    What `target` holds already takes part. `prefer` settles conflicts: "newest", or the path of
    one of them. Raises CacheError when settings differ, for unsettled conflicts, and for a pack
    that is damaged, before anything is written. Cut short, the same call goes on from where it
    stopped. Returns what was done.
    """
    for cache in sources:
        _check_source(cache)
    for cache in sources[1:]:
        if cache.fingerprint != sources[0].fingerprint:
            raise CacheError(refusal(cache.path, sources[0].identity, cache.identity))
    if target.is_file():
        raise CacheError(f"{target}: a file; expected the folder of a cache, or a new one")
    if not (target / IDENTITY_FILE).exists():  # whatever is wrong shows before a cache is made
        _plan(None, sources, target, prefer)
    with claimed(target, sources[0].identity) as identity:
        here = open_cache(target)  # under the lock: nobody else adds to it
        plan, labels = _plan(here, sources, target, prefer)
        need = f"about {plan.bytes / 1e9:.2f} GB needed for {plan.clips} clips"
        check_room(target, plan.bytes, need, " or name a folder on another disk")
        for shard in plan.whole:
            _copy(shard, target, identity)
            on_clips(shard.clips)
        for new in plan.new:
            on_clips(new.write(target, identity, new.giver.read_members).clips)
        if labels is not None:
            _put_labels(plan, labels, here, sources)
        index = extend_index(here.index, shard_files(target), target, identity)
        if index.stale:
            save_index(target, identity, index)
    return plan


def _check_source(cache: Cache) -> None:
    """Raise CacheError for a source of which something would be left out in silence."""
    cache.refuse_damaged()
    if cache.packed:  # rows have checksums of their own; failures and origins have only this one
        try:
            check_seal(cache.path)
        except CacheError as error:
            raise CacheError(f"{error}; `python -m cache verify` names the clips it hit") from None


def _plan(
    here: Cache | None, sources: Sequence[Cache], target: Path, prefer: str | None
) -> tuple[CopyPlan, Labels | None]:
    """What to copy into `here`, and the labels of all; CacheError for contradictions."""
    by_path = {str(target): here}
    for cache in sources:
        by_path.setdefault(str(cache.path), cache)
    named = prefer if prefer in (None, "newest") else str(Path(prefer))
    chosen = preferred(named, by_path)
    labels = merge_labels([*sources] if here is None else [here, *sources], chosen)
    return plan_copy(here, sources, chosen, prefer == "newest"), labels


def _copy(shard: WholeShard, target: Path, identity: Identity) -> None:
    path = shard.giver.shard_path(shard.name)
    check_shard(path, identity)
    data = path.read_bytes()
    if not is_named_by(shard.name, data):
        raise CacheError(f"{path}: changed while it was copied; run the same command again")
    replace_file(target / SHARD_FOLDER / shard.name, data)


def _put_labels(plan: CopyPlan, labels: Labels, here: Cache, sources: Sequence[Cache]) -> None:
    before = here.stored_labels()
    if not (before and before.equals(labels)):
        write_labels(here.path, labels)
    for table in [*(cache.stored_labels() for cache in sources), before]:
        plan.changed_splits |= changed_splits(table, labels)
