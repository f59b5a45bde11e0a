"""Shards on the workers of a Dask cluster.

Tasks carry paths and settings; workers read the media from, and write shards to, storage that
they reach themselves. A worker that dies costs its shard: Dask gives it to another. A shard that
keeps killing workers is taken apart, and the clip that does it becomes a failure.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from cache.common.cli import say
from cache.common.errors import CacheError, ConfigError
from extract.parallel.job import Done, ShardJob, groups_of
from extract.sources import MediaSource

CONNECT_S = 20
CHECK_S = 2.0
QUEUED_SHARDS = 1024
"""Shards that the scheduler holds; enough for as many workers as may join."""


def cluster_shards(job: ShardJob, todo: list[MediaSource]) -> Generator[Done, None, None]:
    """Every clip of `todo` in some shard, whatever becomes of the workers.

    Raises CacheError when the scheduler is lost, and ConfigError when none answers.
    """
    doubtful: list[MediaSource] = []
    with _connected(job.workers.dask) as client:
        groups = deque(groups_of(todo, max(1, len(client.nthreads()))))
        for group, done in _results(job, groups, client):
            if done is not None:
                yield done
            elif len(group) > 1:
                groups += [[source] for source in group]
            else:
                doubtful += group  # or what waited beside it on the same worker
        for source in doubtful:
            for _, done in _results(job, deque([[source]]), client):
                yield done or job.killed(source)


def _results(
    job: ShardJob, groups: deque[list[MediaSource]], client: Any
) -> Iterator[tuple[list[MediaSource], Done | None]]:
    """Each group with its shard, as they come; None where the group killed too many workers.

    Takes the groups away, also those that are added meanwhile.
    """
    from distributed import as_completed

    under_way: dict[Any, list[MediaSource]] = {}
    futures = as_completed(loop=client.loop)  # type: ignore[no-untyped-call]

    def submit() -> None:
        while groups and len(under_way) < QUEUED_SHARDS:
            group = groups.popleft()
            future = client.submit(job, group, key=f"shard-{uuid.uuid4()}", pure=False)
            under_way[future] = group
            futures.add(future)  # type: ignore[no-untyped-call]

    submit()
    for future in futures:
        yield under_way.pop(future), _result(future, job.workers.dask, client)
        submit()


def _result(future: Any, address: str, client: Any) -> Done | None:
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        done: Done = future.result()
        return done
    except KilledWorker:
        return None
    except (CancelledError, OSError) as error:
        # The client may not know yet that the line is dead which has just said so.
        ours = isinstance(error, OSError) and not isinstance(error, CommClosedError)
        if ours and client.status == "running":
            raise
        raise CacheError(
            f"--dask {address}: the scheduler is gone; what is finished is kept. Start it again "
            "and run the same command, which goes on from there"
        ) from None


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """A client of the cluster, whose workers are fit for the work."""
    client = _connect(address)
    logging.disable(logging.ERROR)  # what it logs, with tracebacks, is told here in a sentence
    ended = threading.Event()
    watch = threading.Thread(target=_watch_workers, args=(client, address, ended), daemon=True)
    try:
        workers = _ready_workers(client, address)
        say(f"cluster   {address}, {workers} worker{'s' if workers > 1 else ''}")
        watch.start()
        yield client
    finally:
        ended.set()
        if watch.is_alive():
            watch.join()
        client.close(timeout=5)
        logging.disable(logging.NOTSET)


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError(
            "--dask needs the package distributed, here and on the workers: pip install distributed"
        ) from None
    try:
        return Client(address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"--dask {address}: no scheduler answers there ({error}); start one with "
            "`dask scheduler`, and give the address that it prints"
        ) from None


def _ready_workers(client: Any, address: str) -> int:
    """How many workers there are; refuses those that would run several clips in one process."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    threads = [name for name, facts in workers.items() if facts["nthreads"] > 1]
    if threads:
        raise ConfigError(
            f"--dask {address}: the worker {threads[0]} has {workers[threads[0]]['nthreads']} "
            "threads, of which one alone can compute; start workers with "
            "`dask worker --nthreads 1 --nworkers CORES`"
        )
    return len(workers)


def _watch_workers(client: Any, address: str, ended: threading.Event) -> None:
    """Tell, each time that they have gone, that there are no workers."""
    told = False
    while not ended.wait(CHECK_S):
        facts = client.scheduler_info(n_workers=-1)
        if client.status == "running":
            idle = not facts["workers"]
            if idle and not told:
                say(f"note      {address}: no workers now; waiting", error=True)
            told = idle
