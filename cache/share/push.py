"""Send what the cache at a URL lacks. Its index is written last, so nothing shows half-done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cache.common.errors import CacheError
from cache.common.plain import read_plain
from cache.common.side_by_side import side_by_side
from cache.format.identity import IDENTITY_FILE, refusal
from cache.format.index import Index, joined, summarize
from cache.format.index_file import INDEX_FILE, render_index
from cache.format.schema import SHARD_FOLDER
from cache.format.shard import is_named_by
from cache.labels.store import LABELS_FILE, MAX_LABEL_BYTES
from cache.reader import Cache
from cache.remote.cache import RemoteCache
from cache.remote.store import Remote
from cache.share.merge_labels import plan_labels
from cache.share.plan import CopyPlan, NewShard, WholeShard, plan_copy, preferred

# Each further round means that yet another push ended in between.
_ROUNDS = 20


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    prefer: "here", "there" or "newest" settles clips that both hold with different bytes;
    jobs: uploads at a time; read_back: prove each file by reading it back from there.
    """

    prefer: str | None = None
    jobs: int = 4
    read_back: bool = True


def plan_push(cache: Cache, there: RemoteCache, options: PushOptions) -> CopyPlan:
    """What a push would copy; raises CacheError when it is refused."""
    if cache.packed:
        raise CacheError(f"{cache.path}: a packed file; copy it as it is, or unpack it to push")
    if there.remote.read_only:
        raise CacheError(
            f"{there.remote.url}: web servers take no uploads; push to a folder, over ssh, or to "
            "object storage"
        )
    there.remote.refuse_link()
    cache.refuse_damaged()
    with there.named():
        _check_same(cache, there)
        receiver = there.completed(cache.identity, cache.index)
        prefer = preferred(options.prefer, {"here": cache, "there": receiver})
        plan = plan_copy(receiver, [cache], prefer, options.prefer == "newest")
        plan_labels(plan, cache, there.cache, prefer, "here")
    return plan


def push(
    cache: Cache,
    there: RemoteCache,
    plan: CopyPlan,
    options: PushOptions,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> None:
    """Send what `plan_push` planned. Cut short, the next push goes on from there."""
    remote = there.remote
    remote.remove_leftovers()

    def send(shard: WholeShard) -> Index:
        path = cache.shard_path(shard.name)
        data = read_plain(path, shard.size)
        if not is_named_by(shard.name, data):
            raise CacheError(
                f"{path}: damaged here; run `python -m cache repair {cache.path}`, then `make "
                "features`, and push again"
            )
        remote.put(f"{SHARD_FOLDER}/{shard.name}", data, on_bytes, options.read_back)
        return cache.index.restricted({shard.name})

    def send_rows(new: NewShard) -> Index:
        written = new.write(there.scratch, cache.identity, cache.read_members)
        path = there.scratch / SHARD_FOLDER / written.name
        quietly(f"{SHARD_FOLDER}/{written.name}", path.read_bytes())
        index = summarize(path, cache.identity)
        path.unlink()
        on_bytes(new.bytes)
        return index

    quietly = partial(remote.put, on_bytes=lambda count: None, read_back=options.read_back)
    tasks = [partial(send, shard) for shard in plan.whole]
    tasks += [partial(send_rows, new) for new in plan.new]
    sent = side_by_side(options.jobs, tasks)
    if plan.labels:
        quietly(LABELS_FILE, read_plain(cache.path / LABELS_FILE, MAX_LABEL_BYTES))
    _write_index(cache, remote, joined(cache.declaration, [cache.index, *sent]), quietly)


def _write_index(
    cache: Cache, remote: Remote, known: Index, put: Callable[[str, bytes], None]
) -> None:
    """List all that is there, until a look finds nothing unlisted; `known` saves fetching it.

    Pushes may end at the same time, and there are no locks at the other end to lean on. Each
    looks after it wrote, so whoever writes last has seen the shards of all.
    """
    for _ in range(_ROUNDS):
        with RemoteCache(remote) as now, now.named():
            _check_same(cache, now)
            index = now.completed(cache.identity, known).index
            if now.cache is not None and now.listed == set(index.shards) and not now.index_problem:
                return
            put(INDEX_FILE, render_index(cache.identity, index))
            if now.cache is None:  # last of all: before, nobody takes it for a cache
                put(IDENTITY_FILE, cache.identity.render())
    raise CacheError(
        f"{remote.where(INDEX_FILE)}: others keep writing it; all shards have arrived, push again "
        "to have them listed"
    )


def _check_same(cache: Cache, there: RemoteCache) -> None:
    if there.cache is not None and there.cache.fingerprint != cache.fingerprint:
        raise CacheError(refusal(there.remote.url, cache.identity, there.cache.identity))
