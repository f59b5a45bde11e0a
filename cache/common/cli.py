"""What all command lines share: how words become options, how commands end, how they say things.

This module and `settings` beside it are the only ones that know argparse.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import math
import os
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from cache.common.atomic import advice
from cache.common.errors import AvelError
from cache.common.url import hidden, is_address, shown

Options = argparse.Namespace


def exit_code(action: Callable[[], int]) -> int:
    """Run a command; returns its exit code, 2 for an error that a person reads, 130 for Ctrl-C.

    A polite kill (SIGTERM) stops it like Ctrl-C: what is unfinished is cleared away. Output that
    is closed is none; characters that it can't show become "?".
    """
    _mend_streams()
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        code = action()
        sys.stdout.flush()  # here, where its errors are told, and not at exit
        return code
    except AvelError as error:
        say(f"error: {error}", error=True)
    except BrokenPipeError:
        _abandon(sys.stdout)  # whoever read our output has gone
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        _abandon(sys.stdout)
        where = printable(str(error.filename or "the output"))
        say(f"error: {where}: {error.strerror}: {advice(error)}", error=True)
    except KeyboardInterrupt:
        return 130
    except SystemExit:  # of --help, or a bad flag
        _abandon(sys.stdout)
        raise
    return 2


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def say(text: str, error: bool = False, one_line: bool = False) -> None:
    """Print text that may hold words from files: the one way in which a terminal hears of them.

    Line ends stay, but with `one_line`; whatever else could steer a terminal becomes "?";
    passwords and tokens in addresses are hidden. With `error`, to stderr, where what can't be said
    stops no work.
    """
    line = hidden(printable(text, keep="" if one_line else "\n"))
    if not error:
        print(line, flush=True)
        return
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def line_width() -> int | None:
    """Letters in a line of the terminal; None where what is printed goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say_over(text: str, before: int = 0) -> int:
    """Print lines in place of the `before` last ones of a terminal; returns how many there are.

    Lines that are longer than the terminal is wide, and those beyond its height, are cut.
    """
    size = shutil.get_terminal_size()
    lines = hidden(printable(text, keep="\n")).split("\n")[: max(1, size.lines - 1)]
    up = f"\x1b[{before}F" if before else ""
    wide = max(1, size.columns - 1)
    cut = "".join(f"{line}\n" if len(line) <= wide else f"{line[: wide - 1]}…\n" for line in lines)
    print(f"{up}\x1b[J{cut}", end="", flush=True)
    return len(lines)


def printable(value: Any, keep: str = "") -> Any:
    """Plain values with every character that could steer a terminal as "?", but those in `keep`.

    What a cache from a stranger says of itself may hold escape sequences, marks that turn the
    direction of writing, characters that are not seen, and halves of characters.
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c in keep else "?" for c in value)
    if isinstance(value, dict):
        return {printable(name): printable(part, keep) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [printable(part, keep) for part in value]
    return value


OnOff = argparse.BooleanOptionalAction
"""An option with a --no- of its own."""


class Parser(argparse.ArgumentParser):
    """The flags and words of a command, each spelled out in full.

    What it can't take ends the program with exit code 2 and, for a flag, the nearest that there
    is. Its errors repeat arguments, as file names of strangers are, without harm.
    """

    def __init__(self, prog: str | None = None, description: str | None = None, **more: Any):
        lines = any("\n" in (text or "") for text in (description, more.get("epilog")))
        shape = argparse.RawDescriptionHelpFormatter if lines else argparse.HelpFormatter
        more = {"formatter_class": shape, **more, "allow_abbrev": False}
        super().__init__(prog, description=description, **more)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Options | None = None
    ) -> tuple[Options, list[str]]:
        """The options, and no words left over: such end the program."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = re.findall(r"(?m)^ +(?:-\w, )?(--[\w-]+)", self.format_help())
            near = [
                flag
                for word in unknown
                if word.startswith("-")
                for flag in difflib.get_close_matches(word.partition("=")[0], flags, n=1)
            ]
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return options, []

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line, and end with exit code 2."""
        super().error(hidden(printable(message)))


def count(text: str) -> int:
    """A whole number, 0 or more, from a word of the command line."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, found {text!r}")
    return int(text)


def number(text: str) -> float:
    """A finite number from a word of the command line."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}")
    return value


def folder(text: str) -> Path:
    """A folder's name from a word of the command line; an empty one would be where we are."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of a folder, found none")
    return Path(text)


def local_path(text: str) -> Path:
    """A folder or file here from a word of the command line; an address is none."""
    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"expected a folder or file here, found the address {shown(text)}; push and pull take "
            "addresses (for a folder that is called so, write ./ before it)"
        )
    return Path(text)


class Caches(argparse.Action):
    """A cache, or (the flag repeated) several to be joined by id, as `cache.joined` names them."""

    def __call__(
        self, parser: argparse.ArgumentParser, options: Options, value: Any, flag: Any = None
    ) -> None:
        """Add a cache to those that were named before."""
        before = getattr(options, f"_{self.dest}", [])
        setattr(options, f"_{self.dest}", [*before, str(value)])
        named = [*before, str(value)]
        setattr(options, self.dest, Path(shlex.join(named) if before else value))


def _mend_streams() -> None:
    """Give a process whose output was closed one that goes nowhere, and one that can print "…"."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened gets the number, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif name == "stdout" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _abandon(stream: TextIO) -> None:
    """Write what is still to be written, or send it nowhere, so that it can't fail at exit."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
