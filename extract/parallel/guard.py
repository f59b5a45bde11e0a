"""What keeps one clip, or a parent that was killed, from costing a worker more than it must."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from cache import CacheError
from cache.common.atomic import noted
from cache.common.plain import read_plain
from cache.format.schema import MAX_ID_BYTES

WORKING = ".working-"
PARENT_CHECK_S = 0.5
T = TypeVar("T")


@contextlib.contextmanager
def noting(folder: Path, name: str) -> Iterator[Callable[[str], object]]:
    """A function that notes which clip is worked on now; the note goes at the end.

    It is a file in `folder` whose name begins with `name`; where that is "", nothing is noted.
    """
    if not name:
        yield lambda clip_id: None
        return
    with noted(folder / f"{name}{os.getpid()}") as write:
        yield write


def interrupted(folder: Path, notes: str) -> set[str]:
    """The clips that workers were at when they died; their notes are removed."""
    ids = set()
    for note in folder.glob(f"{notes}*"):
        with contextlib.suppress(OSError, CacheError):  # no note of ours: not worth a word
            ids.add(read_plain(note, MAX_ID_BYTES).decode("utf-8", "replace"))
        with contextlib.suppress(OSError):  # another user's
            note.unlink()
    return ids


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

    def call(self, action: Callable[[], T], clips: int = 1) -> T:
        """What `action` for so many clips returns or raises; Stalled when it takes too long."""
        limit_s = self.limit_s * clips
        if multiprocessing.parent_process() is not None:
            faulthandler.dump_traceback_later(2 * limit_s, exit=True)
        self._calls.put(action)
        try:
            value, error = self._answers.get(timeout=limit_s)
        except queue.Empty:
            self._calls.put(None)  # it ends if it ever comes to its end
            self._start()
            raise Stalled(
                f"took longer than {limit_s:g} s and was left behind; look at the file and "
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


@functools.cache
def settle_in() -> None:
    """What a worker does once: leave Ctrl-C to its parent, and end when that was killed.

    Left alone, a worker would finish its shard beside the next writer and then wait for minutes.
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
