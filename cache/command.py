"""What the three command lines share: errors become one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from cache.atomic import advice
from cache.errors import AvelError


def exit_code(action: Callable[[], int]) -> int:
    """Run a command; returns its exit code, 2 for an error that a person reads, 130 for Ctrl-C.

    A polite kill (SIGTERM) stops it like Ctrl-C: what is unfinished is cleared away.
    """
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        code = action()
        sys.stdout.flush()  # here, where its errors are told, and not at exit
        return code
    except AvelError as error:
        print(f"error: {printable(str(error), keep=chr(10))}", file=sys.stderr)
    except BrokenPipeError:
        _close_stdout()  # whoever read our output has gone
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        _close_stdout()
        where = printable(str(error.filename or "the output"))
        print(f"error: {where}: {error.strerror}: {advice(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 2


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def say(text: str, error: bool = False) -> None:
    """Print text that may hold words from files: the one way in which a terminal hears of them.

    Line ends stay; whatever else could steer a terminal becomes "?". With `error`, to stderr.
    """
    print(printable(text, keep="\n"), file=sys.stderr if error else sys.stdout, flush=True)


def printable(value: Any, keep: str = "") -> Any:
    """Plain values with every character that could steer a terminal as "?", but those in `keep`.

    What a cache from a stranger says of itself may hold escape sequences.
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c in keep else "?" for c in value)
    if isinstance(value, dict):
        return {printable(name): printable(part, keep) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [printable(part, keep) for part in value]
    return value


def _close_stdout() -> None:
    """Send what is still to be written nowhere, so that it can't fail once more at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
