"""The work of one shard, the same in every worker: a process here, or of a cluster."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import multiprocessing
import os
import platform
import queue
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cache.common.atomic import noted
from cache.common.errors import CacheError, MediaError
from cache.common.plain import read_plain
from cache.common.settings import canonical_json
from cache.format.index import Index
from cache.format.schema import MAX_ID_BYTES, SHARD_FOLDER
from cache.format.shard import Clip, Failure, Written, write_shard
from extract.config import FEATURE_VERSION, ExtractConfig
from extract.sources import MediaSource
from extract.work.workers import pick_device

if TYPE_CHECKING:
    from cache.remote.store import Remote

WORKING = ".working-"
PARENT_CHECK_S = 0.5
LIBRARIES = ("torch", "torchvision", "librosa", "cv2", "av", "soundfile", "soxr")
T = TypeVar("T")


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
    folder: the cache, which the worker sees too; with `store` it need not.
    store: URL that the shard goes to instead of `folder`; "" for none.
    attempts: how often clips failed before.
    replaced_ns: when the newest row or failure of a clip was made, by the clock of then (ns since
        1970); what this job makes is newer, even where that clock was ahead.
    stall_s: seconds after which a clip is given up.
    note: how the names of notes in `folder` begin, by which the clip is known that killed its
        worker; "" for none.
    """

    folder: Path
    identity: dict[str, Any]
    config: ExtractConfig
    weights: str
    device: str
    attempts: dict[str, int]
    replaced_ns: dict[str, int] = field(default_factory=dict)
    stall_s: float = 300.0
    store: str = ""
    note: str = ""

    def __call__(self, sources: Sequence[MediaSource]) -> Done:
        """Extract some clips and write them as one shard."""
        from extract.features.extractor import Extractor, one_thread

        started = time.perf_counter()
        _settle_in()
        self._check_worker(sources)
        device = pick_device(self.device, self.config)
        extractor = Extractor(self.config, self.weights, device)
        if extractor.weights_sha256 != self.identity["config"]["weights_sha256"]:
            raise CacheError(
                f"{_worker()}: the weights {self.weights} are others there than where the "
                "extraction was started, or changed while it ran"
            )
        clips: list[Clip] = []
        failures: list[Failure] = []
        with self._noting() as note, one_thread(), Patience(self.stall_s) as patience:
            for source in sources:
                note(source.id)
                try:
                    if source.problem:
                        raise MediaError(source.path, "find", source.problem)
                    clips.append(patience.call(functools.partial(extractor, source)))
                except MediaError as error:
                    failures.append(self.failure(source, error.stage, str(error)))
                except Stalled as error:
                    failures.append(self.failure(source, "stalled", f"{source.path}: {error}"))
                except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
                    message = f"{source.path}: unforeseen {type(error).__name__}: {error}"
                    failures.append(self.failure(source, "unforeseen", message))
            written = self.write(clips, failures)
        return Done(written, _worker(), time.perf_counter() - started, tuple(extractor.notes))

    def write(self, clips: Sequence[Clip], failures: Sequence[Failure]) -> Written:
        """Write a shard to where this job's shards go."""
        identity = {**self.identity, "provenance": self.identity["provenance"] | versions()}
        now_ns, made_by = time.time_ns(), canonical_json(identity["provenance"])
        ids = [*(clip.id for clip in clips), *(failure.id for failure in failures)]
        origins = {i: (max(now_ns, self.replaced_ns.get(i, 0) + 1), made_by) for i in ids}
        if not self.store:
            return write_shard(self.folder, identity, clips, failures, origins)
        with tempfile.TemporaryDirectory() as scratch:
            written = write_shard(Path(scratch), identity, clips, failures, origins)
            data = (Path(scratch) / SHARD_FOLDER / written.name).read_bytes()
        _remote(self.store).put(f"{SHARD_FOLDER}/{written.name}", data, lambda count: None)
        return written

    def finished(self, source: MediaSource, index: Index) -> bool:
        """Whether this job has left a row or a failure of the clip; an older failure is neither."""
        failure = index.failures.get(source.id)
        if failure is not None:
            tried = failure.attempt > self.attempts.get(source.id, 0)
            return tried and source.made(failure)
        entry = index.clips.get(source.id)
        return entry is not None and source.made(entry)

    def failure(self, source: MediaSource, stage: str, message: str) -> Failure:
        """A failure row for a clip, counting its attempts."""
        attempt = self.attempts.get(source.id, 0) + 1
        return Failure(source.id, stage, message, attempt, source.size, source.mtime_ns)

    def killed(self, source: MediaSource) -> Done:
        """The failure of a clip that takes its worker with it, in a shard of its own."""
        message = f"{source.path}: the process died while it worked on this clip"
        return Done(self.write([], [self.failure(source, "find", message)]), "", 0.0)

    def _check_worker(self, sources: Sequence[MediaSource]) -> None:
        """Refuse work whose failures would be this worker's, not the clips'."""
        if self.identity["feature_version"] != FEATURE_VERSION:
            raise CacheError(
                f"{_worker()}: its code computes features of version {FEATURE_VERSION}, expected "
                f"{self.identity['feature_version']}; install the same release there"
            )
        for source in sources[:1]:
            if not source.path.parent.exists():
                raise CacheError(
                    f"{_worker()}: doesn't see the folder {source.path.parent}; mount the data at "
                    "the same place on every machine"
                )
        if not self.store and not self.folder.is_dir():
            raise CacheError(
                f"{_worker()}: doesn't see the cache folder {self.folder}; mount it at the same "
                "place on every machine, or let the shards go to a URL with --store"
            )

    @contextlib.contextmanager
    def _noting(self) -> Iterator[Callable[[str], object]]:
        """A function that notes which clip is worked on now; the note goes once all is written."""
        if not self.note:
            yield lambda clip_id: None
            return
        with noted(self.folder / f"{self.note}{os.getpid()}") as write:
            yield write


class Stalled(Exception):
    """A clip took longer than a clip may take."""


class Patience:
    """Calls things one by one in a thread of its own, and goes on without the one that hangs.

    A call that outlasts `limit_s` is left to itself: a read from a dead network drive can't be
    stopped, only left behind. One that hangs without ever letting another thread run ends the
    process, after twice the limit, if that is a worker's; then the clip counts as one that kills.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._calls: queue.SimpleQueue[Callable[[], Any] | None]
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]]
        self._start()

    def __enter__(self) -> Patience:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)
        faulthandler.cancel_dump_traceback_later()

    def call(self, action: Callable[[], T]) -> T:
        """What `action` returns or raises; Stalled when it takes too long."""
        if multiprocessing.parent_process() is not None:
            faulthandler.dump_traceback_later(2 * self.limit_s, exit=True)
        self._calls.put(action)
        try:
            value, error = self._answers.get(timeout=self.limit_s)
        except queue.Empty:
            self._calls.put(None)  # it ends if it ever comes to its end
            self._start()
            raise Stalled(
                f"took longer than {self.limit_s:g} s and was left behind; look at the file and "
                "the disk it is on, or allow more with --stall-seconds, then use --retry-failed"
            ) from None
        if error is not None:
            raise error
        found: T = value
        return found

    def _start(self) -> None:
        self._calls, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
        pair = self._calls, self._answers
        threading.Thread(target=_serve, args=pair, daemon=True, name="clips").start()


def _serve(
    calls: queue.SimpleQueue[Callable[[], Any] | None],
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]],
) -> None:
    while (action := calls.get()) is not None:
        try:
            answers.put((action(), None))
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
            answers.put((None, error))


def interrupted(folder: Path, notes: str) -> set[str]:
    """The clips that workers were at when they died; their notes are removed."""
    ids = set()
    for note in folder.glob(f"{notes}*"):
        with contextlib.suppress(OSError, CacheError):  # no note of ours: not worth a word
            ids.add(read_plain(note, MAX_ID_BYTES).decode("utf-8", "replace"))
        with contextlib.suppress(OSError):  # another user's
            note.unlink()
    return ids


def versions() -> dict[str, str]:
    """What this process computes with, for people: not part of the fingerprint."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: import_module(name).__version__ for name in LIBRARIES},
    }


@functools.cache
def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@functools.cache
def _remote(url: str) -> Remote:
    from cache.remote.store import Remote

    return Remote(url)


@functools.cache
def _settle_in() -> None:
    """What a worker does once: leave Ctrl-C to its parent, and end when that was killed.

    Left alone, it would finish its shard beside the next writer and then wait for minutes.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if multiprocessing.parent_process() is None or not in_main_thread:
        return  # no worker of ours: its own master looks after it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
