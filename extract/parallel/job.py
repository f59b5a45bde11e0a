"""The work of one shard, the same in every worker: a process here, or of a cluster."""

from __future__ import annotations

import functools
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cache.common.errors import CacheError, ConfigError, MediaError
from cache.common.settings import canonical_json
from cache.format.identity import Identity
from cache.format.index import Index
from cache.format.schema import SHARD_FOLDER
from cache.format.shard import SHARD_CLIPS, Clip, Failure, Written, write_shard
from extract.config import FEATURE_VERSION, ExtractConfig
from extract.identity import versions
from extract.parallel.guard import Patience, Stalled, noting, settle_in
from extract.sources import MediaSource

if TYPE_CHECKING:
    from cache.remote.store import Remote
    from extract.features.extractor import Extractor


@dataclass(frozen=True)
class Workers:
    """Who extracts, and with what.

    Attributes
    ----------
    weights: imagenet, a path, or random:SEED.
    device: auto, cpu or cuda.
    jobs: processes on this machine.
    stall_s: seconds after which a clip is given up.
    dask: address of a Dask scheduler whose workers are used instead; "" for none.
    store: URL that their shards go to, where they share no folder with this machine; "" for none.
    """

    weights: str
    device: str = "cpu"
    jobs: int = 1
    stall_s: float = 300.0
    dask: str = ""
    store: str = ""

    @property
    def described(self) -> str:
        """For people."""
        if self.dask:
            return f"the workers of {self.dask}"
        return f"{self.jobs} worker{'s' if self.jobs > 1 else ''}"


def pick_device(device: str, config: ExtractConfig) -> str:
    """The device that this machine's network runs on, cpu or cuda; auto takes a GPU if any."""
    if config.modalities == "audio":
        return "cpu"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device here; use auto or cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def groups_of(todo: list[MediaSource], jobs: int) -> list[list[MediaSource]]:
    """The clips of each shard: few enough that all workers have some to the end.

    A stretch of a recording is never divided.
    """
    clips = sum(len(source.clip_ids) for source in todo)
    size = max(1, min(SHARD_CLIPS, -(-clips // (4 * jobs))))
    groups: list[list[MediaSource]] = []
    filled = size
    for source in todo:
        if filled + len(source.clip_ids) > size:
            groups.append([])
            filled = 0
        groups[-1].append(source)
        filled += len(source.clip_ids)
    return groups


@dataclass(frozen=True)
class Done:
    """What a worker reports of a shard: its name and counts, who made it, in which time.

    `notes` are sentences about clips whose rows are made, but not without a doubt.
    """

    written: Written
    worker: str
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def clips(self) -> int:
        """How many clips were tried."""
        return self.written.clips + self.written.failures


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs besides its clips: paths and settings, never arrays.

    Attributes
    ----------
    folder: the cache, which the worker sees too; with a store it need not.
    workers: with what it works, how patiently, and where its shards go.
    attempts: how often clips failed before.
    replaced_ns: when the newest row or failure of a clip was made, by the clock of then (ns since
        1970); what this job makes is newer, even where that clock was ahead.
    note: how the names of notes in `folder` begin, by which the clip is known that killed its
        worker; "" for none.
    """

    folder: Path
    identity: Identity
    config: ExtractConfig
    workers: Workers
    attempts: dict[str, int]
    replaced_ns: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def __call__(self, sources: Sequence[MediaSource]) -> Done:
        """Extract some clips and write them as one shard."""
        from extract.features.extractor import Extractor, one_thread

        started = time.perf_counter()
        settle_in()
        self._check_worker(sources)
        weights, stall_s = self.workers.weights, self.workers.stall_s
        extractor = Extractor(self.config, weights, pick_device(self.workers.device, self.config))
        if extractor.weights_sha256 != self.identity.config["weights_sha256"]:
            raise CacheError(
                f"{_worker()}: the weights {weights} are others there than where the "
                "extraction was started, or changed while it ran"
            )
        clips: list[Clip] = []
        failures: list[Failure] = []
        with noting(self.folder, self.note) as note, one_thread(), Patience(stall_s) as patience:
            for source in sources:
                note(source.clip_ids[0])
                for clip_id, found in self._tried(extractor, source, patience):
                    if isinstance(found, Clip):
                        clips.append(found)
                    else:
                        failures.append(self.failure(source, clip_id, *found))
            written = self.write(clips, failures)
        return Done(written, _worker(), time.perf_counter() - started, tuple(extractor.notes))

    def _tried(
        self, extractor: Extractor, source: MediaSource, patience: Patience
    ) -> list[tuple[str, Clip | tuple[str, str]]]:
        """The row of each clip that is wanted of a source, or stage and message of its failure."""
        try:
            if source.problem:
                raise MediaError(source.path, "find", source.problem)
            if not source.offsets_s:
                return [(source.id, patience.call(functools.partial(extractor, source)))]
            rows = patience.call(lambda: list(extractor.windows(source)), len(source.offsets_s))
            return self._of_windows(source, rows)
        except MediaError as error:
            why = error.stage, str(error)
        except Stalled as error:
            why = "stalled", f"{source.path}: {error}"
        except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
            why = "unforeseen", f"{source.path}: unforeseen {type(error).__name__}: {error}"
        return [(clip_id, why) for clip_id in source.clip_ids]

    def _of_windows(
        self, source: MediaSource, rows: Sequence[tuple[str, Clip | MediaError]]
    ) -> list[tuple[str, Clip | tuple[str, str]]]:
        """What is wanted of a stretch's rows; there are none of windows beyond its end."""
        found: list[tuple[str, Clip | tuple[str, str]]] = [
            (clip_id, (row.stage, str(row)) if isinstance(row, MediaError) else row)
            for clip_id, row in rows
            if clip_id in source.wanted
        ]
        why = "end", f"{source.path}: it was longer when there was a row of this"
        return found + [(clip_id, why) for clip_id in source.gone]

    def write(self, clips: Sequence[Clip], failures: Sequence[Failure]) -> Written:
        """Write a shard to where this job's shards go."""
        provenance = {**self.identity.provenance, **versions()}
        identity = replace(self.identity, provenance=provenance)
        now_ns, made_by = time.time_ns(), canonical_json(provenance)
        ids = [*(clip.id for clip in clips), *(failure.id for failure in failures)]
        origins = {i: (max(now_ns, self.replaced_ns.get(i, 0) + 1), made_by) for i in ids}
        if not self.workers.store:
            return write_shard(self.folder, identity, clips, failures, origins)
        with tempfile.TemporaryDirectory() as scratch:
            written = write_shard(Path(scratch), identity, clips, failures, origins)
            data = (Path(scratch) / SHARD_FOLDER / written.name).read_bytes()
        _remote(self.workers.store).put(f"{SHARD_FOLDER}/{written.name}", data, lambda count: None)
        return written

    def finished(self, source: MediaSource, index: Index) -> bool:
        """Whether this job has left what it makes of a source; an older failure is nothing.

        Its clips are written in one shard: where it has left one of them, it has left all.
        """
        return any(self._left(source, clip_id, index) for clip_id in source.clip_ids)

    def _left(self, source: MediaSource, clip_id: str, index: Index) -> bool:
        failure = index.failures.get(clip_id)
        if failure is not None:
            tried = failure.attempt > self.attempts.get(clip_id, 0)
            return tried and source.made(failure)
        entry = index.clips.get(clip_id)
        return entry is not None and source.made(entry)

    def failure(self, source: MediaSource, clip_id: str, stage: str, message: str) -> Failure:
        """A failure row for a clip of a source, counting its attempts."""
        attempt = self.attempts.get(clip_id, 0) + 1
        return Failure(clip_id, stage, message, attempt, source.size, source.mtime_ns)

    def killed(self, source: MediaSource) -> Done:
        """The failures of the clips that take their worker with them, in a shard of their own."""
        message = f"{source.path}: the process died while it worked on this clip"
        failures = [self.failure(source, clip_id, "find", message) for clip_id in source.clip_ids]
        return Done(self.write([], failures), "", 0.0)

    def _check_worker(self, sources: Sequence[MediaSource]) -> None:
        """Refuse work whose failures would be this worker's, not the clips'."""
        if self.identity.feature_version != FEATURE_VERSION:
            raise CacheError(
                f"{_worker()}: its code computes features of version {FEATURE_VERSION}, expected "
                f"{self.identity.feature_version}; install the same release there"
            )
        for source in sources[:1]:
            if not source.path.parent.exists():
                raise CacheError(
                    f"{_worker()}: doesn't see the folder {source.path.parent}; mount the data at "
                    "the same place on every machine"
                )
        if not self.workers.store and not self.folder.is_dir():
            raise CacheError(
                f"{_worker()}: doesn't see the cache folder {self.folder}; mount it at the same "
                "place on every machine, or let the shards go to a URL with --store"
            )


@functools.cache
def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@functools.cache
def _remote(url: str) -> Remote:
    from cache.remote.store import Remote

    return Remote(url)
