"""Shards on the workers of a Dask cluster, through joblib's Dask backend.

Tasks carry paths and settings; workers read the media from, and write shards to, storage that
they reach themselves. A worker that dies costs its shard: Dask gives it to another. A shard that
keeps killing workers is taken apart, and the clip that does it becomes a failure.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from joblib import Parallel, delayed, parallel_config

from cache.common.cli import say
from cache.common.errors import CacheError, ConfigError
from extract.sources import MediaSource
from extract.work.job import Done, ShardJob
from extract.work.pipeline import groups_of

CONNECT_S = 20
CHECK_S = 2.0
QUEUED_SHARDS = 1024
"""Shards that the scheduler holds; enough for as many workers as may join."""
LOST_S = 30.0
_NUMBER = re.compile(r"shard-(\d+)_")


@dataclass(frozen=True, eq=False)
class Task:
    """A numbered shard; its name is what Dask's dashboard and error messages show."""

    job: ShardJob
    number: int

    @property
    def __name__(self) -> str:
        return f"shard-{self.number}"

    def __call__(self, sources: Sequence[MediaSource]) -> tuple[int, Done]:
        """The shard's number with what its worker reports."""
        return self.number, self.job(sources)


@contextlib.contextmanager
def cluster_engine(
    job: ShardJob, address: str
) -> Iterator[Callable[[list[MediaSource]], Iterator[Done]]]:
    """A function that turns sources into shards on the cluster at `address`."""
    client = _connect(address)
    logging.disable(logging.ERROR)  # what it logs, with tracebacks, `Watch` tells in a sentence
    try:
        workers = _ready_workers(client, address)
        say(f"cluster   {address}, {workers} worker{'s' if workers > 1 else ''}")
        yield lambda todo: _all_shards(job, todo, client, address)
    finally:
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


def _all_shards(
    job: ShardJob, todo: list[MediaSource], client: Any, address: str
) -> Iterator[Done]:
    """Every clip of `todo` in some shard, whatever becomes of the workers."""
    from distributed.scheduler import KilledWorker

    left = dict(enumerate(groups_of(todo, max(1, len(client.nthreads())))))
    doubtful: list[MediaSource] = []
    while left:
        try:
            for number, done in _watched(job, dict(left), client, address):
                del left[number]
                yield done
        except KilledWorker as killed:
            number = _number_of(killed)
            suspects = left.pop(number)
            if len(suspects) == 1:
                doubtful += suspects  # or what waited beside it on the same worker
            else:
                after = number + len(suspects) + max([number, *left], default=0)
                left |= {after + place: [one] for place, one in enumerate(suspects)}

    for source in doubtful:
        try:
            for _, done in _watched(job, {0: [source]}, client, address):
                yield done
        except KilledWorker:
            yield job.killed(source)


def _number_of(killed: Any) -> int:
    found = _NUMBER.search(str(killed.task))
    if found is None:
        raise CacheError(f"a task of the cluster was lost: {killed}") from killed
    return int(found[1])


def _watched(
    job: ShardJob, groups: dict[int, list[MediaSource]], client: Any, address: str
) -> Iterator[tuple[int, Done]]:
    """Results as they come; looks after the scheduler meanwhile, which joblib doesn't."""
    answers: queue.SimpleQueue[tuple[int, Done] | BaseException | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(job, groups, client, answers), daemon=True).start()
    watch = Watch(client, address)
    while True:
        try:
            answer = answers.get(timeout=CHECK_S)
        except queue.Empty:
            watch.look()
            continue
        if answer is None:
            return
        if isinstance(answer, BaseException):
            raise watch.explained(answer)
        yield answer


def _pump(
    job: ShardJob,
    groups: dict[int, list[MediaSource]],
    client: Any,
    answers: queue.SimpleQueue[tuple[int, Done] | BaseException | None],
) -> None:
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        """joblib's, which takes a cluster of one worker for none and would do the work here."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            """Workers may come and go; the scheduler knows."""
            return max(2, len(client.nthreads()))

        def submit(self, func: Any, callback: Any = None) -> Any:
            """Tell of tasks that the scheduler gave up as well; joblib waits for them for ever."""
            future = super().submit(func, callback)
            future.add_done_callback(lambda done: done.exception() and callback(done.exception()))
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            """A task's result, or what became of it."""
            if isinstance(out, BaseException):
                raise out
            return super().retrieve_result_callback(out)

    try:
        with parallel_config(backend=Backend(client=client)):
            parallel = Parallel(
                return_as="generator_unordered", batch_size=1, pre_dispatch=QUEUED_SHARDS
            )
            tasks = (delayed(Task(job, number))(group) for number, group in groups.items())
            for answer in parallel(tasks):
                answers.put(answer)
        answers.put(None)
    except BaseException as error:  # noqa: BLE001 - it is raised where the answers are read
        answers.put(error)


class Watch:
    """Notices that a cluster has lost its scheduler, or has no workers."""

    def __init__(self, client: Any, address: str) -> None:
        self._client, self._address = client, address
        self._lost_at: float | None = None
        self._told_idle = False

    def look(self) -> None:
        """Raise CacheError when the scheduler is gone for good; tell when workers are."""
        if self._client.status == "running":
            self._lost_at = None
            idle = not self._client.scheduler_info(n_workers=-1)["workers"]
            if idle and not self._told_idle:
                say(f"note      {self._address}: no workers now; waiting", error=True)
            self._told_idle = idle
            return
        self._lost_at = self._lost_at or time.monotonic()
        if self._client.status == "closed" or time.monotonic() - self._lost_at > LOST_S:
            raise self._gone()

    def explained(self, error: BaseException) -> BaseException:
        """The error, or what it means where tasks ended because the scheduler did."""
        lost = isinstance(error, CancelledError) or "Cancelled" in type(error).__name__
        if lost or (self._client.status != "running" and isinstance(error, OSError)):
            return self._gone()
        return error

    def _gone(self) -> CacheError:
        return CacheError(
            f"--dask {self._address}: the scheduler is gone; what is finished is kept. Start it "
            "again and run the same command, which goes on from there"
        )
