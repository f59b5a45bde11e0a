"""Several trainings side by side: forked processes, which share the features that were read before.

Each runs on one thread (see `threads` in `train.config`), since the last digits of a sum depend on
how many threads made it: so a training gives the same numbers whoever runs beside it. What a
process says comes to the first one line by line, with the training's name before it.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from types import FrameType
from typing import Any, TypeVar

import torch

from cache.common.cli import say
from cache.common.cores import cores
from cache.common.errors import AvelError

T = TypeVar("T")
_PER_CORE = 4
_PATIENCE_S = 10.0
_SAID, _DONE, _FAILED, _STOPPED = range(4)


class ProcessError(AvelError):
    """A process beside this one ended before its work was done."""


@contextlib.contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads while the block runs; None leaves it alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def most_at_once(tasks: int) -> int:
    """How many of some tasks of one thread each to run at a time; 1 where none can be forked.

    More than there are cores: of five tasks on two, three rounds would leave a core idle in the
    last; all at once, the kernel shares the cores out evenly. On a machine with a GPU none: torch
    can't be forked there once gradients were computed.
    """
    here = cores()
    if here < 2 or not sys.platform.startswith("linux") or torch.cuda.is_available():
        return 1
    return min(tasks, _PER_CORE * here)


def side_by_side(tasks: Mapping[str, Callable[[], T]], at_once: int) -> dict[str, T]:
    """The results of named tasks, each from a process of its own, `at_once` at a time.

    The tasks must use the CPU alone. After the first that fails the others are stopped and its
    error is raised: AvelError as it was raised there, KeyboardInterrupt, or ProcessError where it
    ended otherwise (killed by somebody, out of memory). No process outlives this one.
    """
    import torch._dynamo  # noqa: F401 - each process's first optimizer would, which takes it 2 s

    waiting, running, done = dict(tasks), dict[Connection, _Process](), dict[str, T]()
    life, held = os.pipe()  # the processes read to its end, which comes when this one is gone
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = next(iter(waiting))
                one = _Process.start(name, waiting.pop(name), life, held)
                running[one.output] = one
            for output in wait([*running]):
                one = running[output]  # type: ignore[index]
                kind, value = one.receive()
                if kind == _SAID:
                    say(f"{one.name}: {value[1]}", error=value[0])
                elif kind == _DONE:
                    done[one.name] = value
                    running.pop(one.output).process.join()
                else:
                    raise KeyboardInterrupt if kind == _STOPPED else value
    finally:
        for one in running.values():
            one.process.terminate()
        for one in running.values():
            one.end()
        os.close(life)
        os.close(held)
    return {name: done[name] for name in tasks}


@dataclass(frozen=True)
class _Process:
    name: str
    process: ForkProcess
    output: Connection

    @classmethod
    def start(cls, name: str, task: Callable[[], Any], life: int, held: int) -> _Process:
        context = multiprocessing.get_context("fork")
        output, said = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(task, said, life, held), daemon=True)
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of forks beside threads: those of numpy's and torch's products stand
            # still here, and a process with one thread doesn't ask for them.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        said.close()
        return cls(name, process, output)

    def receive(self) -> tuple[int, Any]:
        """What the process tells next: what it says, its result, or why there is none."""
        try:
            return pickle.loads(self.output.recv_bytes())  # type: ignore[no-any-return]
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed ({signal.Signals(-code).name})" if code < 0 else "ended unexpectedly"
            why = "; was there memory for so many at once?" if -code == signal.SIGKILL else ""
            return _FAILED, ProcessError(f"{self.name}: its process {how}{why}")

    def end(self) -> None:
        """Wait until a process that was told to stop has done so; kill it where it doesn't."""
        self.process.join(_PATIENCE_S)
        self.process.kill()
        self.process.join()


class _Lines(io.TextIOBase):
    """An output whose whole lines go to the first process."""

    def __init__(self, to: Connection, error: bool) -> None:
        self._to, self._error, self._rest = to, error, ""

    def write(self, text: str) -> int:
        """Send the lines that are whole now."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            _send(self._to, _SAID, (self._error, line))
        return len(text)


def _send(to: Connection, kind: int, value: object) -> None:
    to.send_bytes(pickle.dumps((kind, value)))


def _run(task: Callable[[], object], to: Connection, life: int, held: int) -> None:
    """In the new process: do the task, send its result, end when the first process is gone."""
    os.close(held)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first stops the others
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    sys.stdout, sys.stderr = _Lines(to, error=False), _Lines(to, error=True)
    try:
        with cpu_threads(1):
            _send(to, _DONE, task())
    except AvelError as error:
        _send(to, _FAILED, error)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            _send(to, _STOPPED, None)


def _end_with(life: int) -> None:
    os.read(life, 1)
    os.kill(os.getpid(), signal.SIGTERM)  # half-written files are cleared away


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
