"""Shards → workers → index. What is finished is never lost, and never done twice."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cache.atomic import remove_leftovers
from cache.errors import CacheError, MediaError
from cache.index import Index
from cache.index_file import load_index, save_index
from cache.plain import read_plain
from cache.progress import Progress
from cache.schema import MAX_ID_BYTES
from cache.shard import Clip, Failure, Written, write_shard
from extract.clips import Source
from extract.config import ExtractConfig

SHARD_CLIPS = 32
WORKING = ".working-"
PARENT_CHECK_S = 0.5


def run(
    todo: Sequence[Source],
    folder: Path,
    identity: dict[str, Any],
    weights: str,
    device: str,
    jobs: int,
) -> tuple[Index, bool]:
    """Extract clips into the cache; call with the writer's lock held.

    Returns the index and whether every clip was tried (False after Ctrl-C). A worker that dies
    takes no other clip with it: what it was working on is tried alone, and if that kills it
    again, becomes a failure.
    """
    index = load_index(folder, identity)
    attempts = {clip_id: failure.attempt for clip_id, failure in index.failures.items()}
    config = ExtractConfig.of(identity)
    job = ShardJob(folder, identity, config, weights, device, attempts)
    if config.modalities != "video":
        from extract.audio import warm_up

        warm_up(config)
    finished = True
    _interrupted(folder)  # notes of a run that was killed say nothing about this one
    with Progress(len(todo), "clip", "extract") as progress:
        try:
            for written in _all_shards(job, list(todo), jobs):
                progress.add(written.clips + written.failures, failures=written.failures)
        except KeyboardInterrupt:
            finished = False
            print("\nstopping: what is finished is kept", file=sys.stderr)
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
    remove_leftovers(folder)
    _interrupted(folder)
    index = load_index(folder, identity)
    save_index(folder, identity, index)
    return index, finished


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs besides its clips: paths and settings, never arrays."""

    folder: Path
    identity: dict[str, Any]
    config: ExtractConfig
    weights: str
    device: str
    attempts: dict[str, int]

    def __call__(self, sources: Sequence[Source]) -> Written:
        """Extract some clips and write them as one shard."""
        from extract.features import Extractor, one_thread

        if multiprocessing.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
            _end_with_parent()
        extractor = Extractor(self.config, self.weights, self.device)
        if extractor.weights_sha256 != self.identity["config"]["weights_sha256"]:
            raise CacheError(f"the weights {self.weights} changed while the extraction ran")
        clips: list[Clip] = []
        failures: list[Failure] = []
        note = self.folder / f"{WORKING}{os.getpid()}"
        with one_thread():
            for source in sources:
                note.write_text(source.id, encoding="utf-8")
                try:
                    clips.append(extractor(source))
                except MediaError as error:
                    failures.append(self.failure(source, error.stage, str(error)))
                except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
                    message = f"{source.path}: unforeseen {type(error).__name__}: {error}"
                    failures.append(self.failure(source, "unforeseen", message))
        written = write_shard(self.folder, self.identity, clips, failures)
        note.unlink(missing_ok=True)
        return written

    def finished(self, source: Source, index: Index) -> bool:
        """Whether this job has left a row or a failure of the clip; an older failure is neither."""
        failure = index.failures.get(source.id)
        if failure is not None:
            tried = failure.attempt > self.attempts.get(source.id, 0)
            return tried and source.made(failure)
        entry = index.clips.get(source.id)
        return entry is not None and source.made(entry)

    def failure(self, source: Source, stage: str, message: str) -> Failure:
        """A failure row for a clip, counting its attempts."""
        attempt = self.attempts.get(source.id, 0) + 1
        return Failure(source.id, stage, message, attempt, source.size, source.mtime_ns)


@cache
def _end_with_parent() -> None:
    """End this worker soon after its parent was killed, which frees the lock that covers both.

    Left alone, it would finish its shard beside the next writer and then wait for minutes.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _all_shards(job: ShardJob, todo: list[Source], jobs: int) -> Iterator[Written]:
    """Every clip of `todo` in some shard, whatever becomes of the workers."""
    remaining = list(todo)
    while remaining:
        size = max(1, min(SHARD_CLIPS, -(-len(remaining) // (4 * jobs))))
        groups = [remaining[place : place + size] for place in range(0, len(remaining), size)]
        try:
            yield from _parallel(job, groups, jobs)
            return
        except TerminatedWorkerError:
            index = load_index(job.folder, job.identity)
            suspects = _interrupted(job.folder)
            remaining = [source for source in remaining if not job.finished(source, index)]
            for source in [source for source in remaining if source.id in suspects]:
                remaining.remove(source)
                yield _alone(job, source)


def _parallel(job: ShardJob, groups: list[list[Source]], jobs: int) -> Iterator[Written]:
    parallel = Parallel(
        n_jobs=min(jobs, len(groups)),
        return_as="generator_unordered",
        batch_size=1,
        pre_dispatch="2*n_jobs",
        max_nbytes=None,  # workers get paths, never arrays: nothing to map into memory
    )
    yield from parallel(delayed(job)(group) for group in groups)


def _alone(job: ShardJob, source: Source) -> Written:
    """Try a clip that may have killed a worker, in a process of its own."""
    executor = get_reusable_executor(max_workers=1, reuse=False)
    try:
        written: Written = executor.submit(job, [source]).result()
        return written
    except TerminatedWorkerError:
        failure = job.failure(
            source, "find", f"{source.path}: the process died while it worked on this clip"
        )
        return write_shard(job.folder, job.identity, [], [failure])
    finally:
        executor.shutdown(wait=True, kill_workers=True)


def _interrupted(folder: Path) -> set[str]:
    """The clips that workers were at when they died; their notes are removed."""
    ids = set()
    for note in folder.glob(f"{WORKING}*"):
        with contextlib.suppress(OSError, CacheError):  # no note of ours: not worth a word
            ids.add(read_plain(note, MAX_ID_BYTES).decode("utf-8", "replace"))
        note.unlink(missing_ok=True)
    return ids


def provenance(weights: str, weights_file_sha256: str) -> dict[str, Any]:
    """What made the features, for people: not part of the fingerprint."""
    packages = ("torch", "torchvision", "librosa", "cv2", "av", "soundfile", "soxr")
    return {
        "weights": weights,
        "weights_file_sha256": weights_file_sha256,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: import_module(name).__version__ for name in packages},
    }
