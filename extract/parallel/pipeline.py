"""Shards → workers → index. What is finished is never lost, and never done twice."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from joblib import Parallel, delayed

from cache import CacheError
from cache.common.atomic import remove_leftovers
from cache.common.cli import say
from cache.common.progress import Progress
from cache.format.identity import Identity
from cache.format.index import Index, extend_index, shard_files
from cache.format.index_file import load_index, save_index
from extract.config import ExtractConfig
from extract.parallel.guard import WORKING, interrupted
from extract.parallel.job import Done, ShardJob, Workers, groups_of
from extract.sources import MediaSource

DEATHS = 3
"""So often may processes die in a row before any has begun with a clip."""
_SHOWN_WORKERS = 12
_SHOWN_NOTES = 12


def run(
    todo: Sequence[MediaSource],
    folder: Path,
    identity: Identity,
    workers: Workers,
    index: Index,
    alone: bool = True,
) -> tuple[Index, bool]:
    """Extract clips into the cache, of which `index` is known; call with the writer's lock held.

    Returns the index as it is then and whether every clip was tried (False after Ctrl-C). A worker
    that dies takes no other clip with it: what it was working on is tried alone, and becomes a
    failure if that kills it again. With `alone` unset, other parts of the same extraction may be
    writing: nothing that may be theirs is cleared away, and who ends last writes the index.
    """
    note = f"{WORKING}{secrets.token_hex(4)}-"
    job = _job(todo, folder, identity, workers, index, "" if workers.dask else note)
    tally, finished = Tally(), True
    try:
        with (
            Progress(sum(map(_clips, todo)), "clip", "extract") as progress,
            _receiver(workers.store, folder) as receive,
            contextlib.closing(_shards(job, list(todo))) as shards,
        ):
            for done in shards:
                receive(done.written.name, done.written.bytes)
                progress.add(done.clips, failures=done.written.failures)
                tally.add(done)
    except KeyboardInterrupt:  # no worker of ours is left: closing the shards ended them
        finished = False
        say("\nstopping: what is finished is kept", error=True)
    finally:
        interrupted(folder, WORKING if alone else note)
        if alone:
            remove_leftovers(folder)
        index = extend_index(index, shard_files(folder), folder, identity)
        if alone:
            save_index(folder, identity, index)
    tally.show()
    return index, finished


def _job(
    todo: Sequence[MediaSource],
    folder: Path,
    identity: Identity,
    workers: Workers,
    index: Index,
    note: str,
) -> ShardJob:
    """What the workers need besides their clips, by what the cache holds now."""
    attempts = {clip_id: failure.attempt for clip_id, failure in index.failures.items()}
    replaced_ns = newest_ns(index, (clip_id for source in todo for clip_id in source.clip_ids))
    config = ExtractConfig.of(identity)
    return ShardJob(folder, identity, config, workers, attempts, replaced_ns, note)


def _clips(source: MediaSource) -> int:
    return len(source.clip_ids)


def newest_ns(index: Index, ids: Iterable[str]) -> dict[str, int]:
    """When the newest row or failure of each clip was made that has any, ns since 1970."""
    found: dict[str, int] = {}
    for one in index.reported:
        found[one.failure.id] = max(one.created_ns, found.get(one.failure.id, 0))
    wanted = set(ids)
    for clip_id in wanted & set(index.clips):
        found[clip_id] = max(index.clips[clip_id].created_ns, found.get(clip_id, 0))
    return {clip_id: when for clip_id, when in found.items() if clip_id in wanted}


def _shards(job: ShardJob, todo: list[MediaSource]) -> Generator[Done, None, None]:
    """Every clip of `todo` in some shard, made by a cluster or by processes here."""
    if job.workers.dask:
        from extract.parallel.cluster import cluster_shards

        return cluster_shards(job, todo)
    return _local_shards(job, todo, job.workers.jobs)


@contextlib.contextmanager
def _receiver(store: str, folder: Path) -> Iterator[Callable[[str, int], None]]:
    """Brings a finished shard here; nothing to do where it was written into the cache itself."""
    if not store:
        yield lambda name, size: None
        return
    from extract.parallel.store import Fetcher

    with Fetcher(store, folder) as fetcher:
        yield fetcher.fetch


@dataclass
class Tally:
    """Clips and seconds of each worker, and what they noted about clips."""

    workers: dict[str, tuple[int, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, done: Done) -> None:
        """Count a shard."""
        clips, seconds = self.workers.get(done.worker, (0, 0.0))
        self.workers[done.worker] = clips + done.clips, seconds + done.seconds
        self.notes += done.notes

    def show(self) -> None:
        """Print the notes, and each worker's own rate, the slowest first, where there are several.

        Of either as many as fit a screen.
        """
        for note in self.notes[:_SHOWN_NOTES]:
            say(f"note      {note}", one_line=True)
        if len(self.notes) > _SHOWN_NOTES:
            say(f"note      and {len(self.notes) - _SHOWN_NOTES} more clips with such notes")
        rates = sorted((c / max(s, 1e-9), name, c) for name, (c, s) in self.workers.items())
        if len(rates) < 2:
            return
        for rate, name, clips in rates[:_SHOWN_WORKERS]:
            say(f"worker    {name}: {clips} clips, {rate:.1f} clips/s")
        if len(rates) > _SHOWN_WORKERS:
            say(f"worker    and {len(rates) - _SHOWN_WORKERS} more, none slower")


def _local_shards(job: ShardJob, todo: list[MediaSource], jobs: int) -> Generator[Done, None, None]:
    """Every clip of `todo` in some shard, whatever becomes of the processes."""
    if job.config.modalities != "video":
        from extract.features.audio import warm_up

        warm_up(job.config)
    remaining, suspects, unexplained = todo, set[str](), 0
    while remaining:
        groups = groups_of(remaining, jobs)
        try:
            yield from _parallel(job, groups, min(jobs, len(groups)))
            return
        except OSError as error:  # no room for their semaphores in /dev/shm, no more processes, …
            if jobs == 1:
                raise
            say(f"note      no worker processes ({error}): going on in this one alone", error=True)
            jobs, suspects = 1, set()
        except BrokenProcessPool:
            suspects = interrupted(job.folder, job.note)
            unexplained = 0 if suspects else unexplained + 1
            if unexplained == DEATHS:
                raise CacheError(
                    "the worker processes died before they began with a clip; leave them more "
                    "memory, or start fewer with --jobs"
                ) from None
        index = load_index(job.folder, job.identity)
        remaining = [source for source in remaining if not job.finished(source, index)]
        for source in [source for source in remaining if source.clip_ids[0] in suspects]:
            remaining.remove(source)
            yield _alone(job, source)


def _parallel(job: ShardJob, groups: list[list[MediaSource]], jobs: int) -> Iterator[Done]:
    """The groups as shards, as they come; BrokenProcessPool when a process dies."""
    parallel = Parallel(
        n_jobs=jobs,
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch="2*n_jobs",
        max_nbytes=None,  # workers get paths, never arrays: nothing to map into memory
    )
    yield from parallel(delayed(job)(group) for group in groups)


def _alone(job: ShardJob, source: MediaSource) -> Done:
    """Try a clip that may have killed a worker, beside no other."""
    try:
        [done] = _parallel(job, [[source]], 2)  # for one alone, joblib takes this very process
    except BrokenProcessPool:
        return job.killed(source)
    return done
