"""Shards that a cluster's workers put to a URL, brought into the cache folder here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cache import CacheError, open_cache
from cache.common.progress import Progress
from cache.common.side_by_side import side_by_side
from cache.format.identity import Identity, refusal
from cache.format.index import shard_files
from cache.format.index_file import save_index
from cache.remote.cache import RemoteCache
from cache.remote.store import Remote
from cache.share.push import PushOptions, plan_push, push

FETCHES = 4


class Fetcher:
    """Fetches shards from the store while others are being made; use as a context manager."""

    def __init__(self, url: str, folder: Path) -> None:
        self._remote, self._folder = Remote(url), folder
        self._pool = ThreadPoolExecutor(FETCHES)
        self._under_way: list[Future[None]] = []

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        for future in self._under_way if kind is None else []:
            future.result()

    def fetch(self, name: str, size: int) -> None:
        """Begin to copy a shard here; errors show when the context ends."""
        copy = self._remote.get_shard
        self._under_way.append(self._pool.submit(copy, name, size, self._folder, _uncounted))


def fetch_finished(url: str, folder: Path, identity: Identity) -> int:
    """Bring here what an earlier run left at the store; returns how many shards.

    Raises CacheError when what is there was made with other settings.
    """
    with RemoteCache(Remote(url)) as there:
        if there.cache is not None and there.cache.fingerprint != identity.fingerprint:
            raise CacheError(refusal(there.remote.url, identity, there.cache.identity))
    remote = Remote(url)
    remote.refuse_link()
    found = remote.shards()
    if found is None:
        raise CacheError(
            f"{remote.url}: web servers take no shards; name a folder, ssh:// or s3:// URL"
        )
    here = shard_files(folder)
    lacking = {name: size for name, size in found.items() if name not in here}
    with Progress(len(lacking), "shard", "fetch", quiet_s=1.0) as progress:

        def task(name: str, size: int) -> Callable[[], None]:
            def fetch() -> None:
                remote.get_shard(name, size, folder, _uncounted)
                progress.add(1)

            return fetch

        side_by_side(FETCHES, [task(name, size) for name, size in lacking.items()])
    return len(lacking)


def publish_cache(url: str, folder: Path) -> None:
    """Make the store a cache of its own: labels, index and settings beside the shards."""
    cache = open_cache(folder)
    if cache.index.stale:
        save_index(folder, cache.identity, cache.index)
    with RemoteCache(Remote(url)) as there:
        options = PushOptions(prefer="newest")
        push(cache, there, plan_push(cache, there, options), options)


def _uncounted(count: int) -> None:
    """Bytes are not shown: the clips are."""
