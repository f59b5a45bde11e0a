"""The commands that `torture.py` kills, each with what it writes into and what it must give."""

from __future__ import annotations

import argparse
import inspect
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from torture_checks import State, begun, share_left, state_of  # noqa: E402

from cache import open_cache  # noqa: E402

POLL_S = 0.005


@dataclass
class Case:
    """One way to use a command.

    Attributes
    ----------
    line: the arguments of `python -m`, given the target.
    expected: a cache that holds what the target must hold in the end; the first, uninterrupted
        run writes it where it is not there yet.
    sources: folders and files that the command must leave as they are.
    start: the cache that the target is a copy of to begin with.
    startup_s, work_s: seconds of an uninterrupted run until it begins with its clips, and after.
    """

    command: str
    way: str
    line: Callable[[Path], list[str]]
    expected: Path
    sources: tuple[Path, ...] = ()
    start: Path | None = None
    startup_s: float = 0.0
    work_s: float = 0.0

    @property
    def remote(self) -> bool:
        """Whether the target is the other end of a transfer."""
        return self.command == "push"

    def prepare(self, folder: Path) -> Path:
        """A new target."""
        target = folder / ("pack.h5" if self.command == "pack" else "target")
        target.unlink() if target.is_file() else shutil.rmtree(target, ignore_errors=True)
        if self.start:
            shutil.copytree(self.start, target)
        return target

    def left_s(self, target: Path) -> float:
        """Seconds that the work on a target that is partly written will take."""
        at_first = share_left(self.start, self.expected) if self.start else 1.0
        return float(self.work_s * share_left(target, self.expected) / at_first)


@dataclass(frozen=True)
class Runner:
    """Starts commands, with their output kept in a log file."""

    log: Path
    env: Mapping[str, str] = field(default_factory=dict)

    def start(self, line: list[str]) -> subprocess.Popen[bytes]:
        """Start in a new process group, so that workers can be killed with their parent."""
        with self.log.open("ab") as log:
            log.write(f"\n$ {' '.join(line)}\n".encode())
            return subprocess.Popen(
                [sys.executable, "-m", *line],
                cwd=ROOT,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, line: list[str]) -> None:
        """Run to the end."""
        self.expect_success(self.start(line).wait())

    def expect_success(self, code: int) -> None:
        """End the script where a command failed that nobody stopped."""
        if code:
            raise SystemExit(f"a command ended with exit code {code}:\n{self.last_words()}")

    def last_words(self) -> str:
        """The last command in the log, and the end of what it said."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "$ " + text.rpartition("\n$ ")[2][-2000:]

    def measure(self, case: Case, target: Path) -> None:
        """Time an uninterrupted run, until it begins with its clips and from there on."""
        before, started = state_of(target), time.monotonic()
        process = self.start(case.line(target))
        wait_for_work(process, case, target, before)
        first = time.monotonic()
        self.expect_success(process.wait())
        case.startup_s, case.work_s = first - started, time.monotonic() - first


def wait_for_work(
    process: subprocess.Popen[bytes], case: Case, target: Path, before: State
) -> None:
    """Return when a command has begun with its clips, or the process has ended."""
    extracting = case.command == "extract"
    while process.poll() is None and not begun(before, state_of(target), extracting):
        time.sleep(POLL_S)


def all_cases(
    options: argparse.Namespace, run: Runner, folder: Path, ssh: Callable[[Path], str] | None
) -> dict[str, list[Case]]:
    """Every command with the ways to use it; makes the caches that they start from."""
    cases = {"extract": [_extraction(options, folder / "reference")]}
    if set(options.only) == {"extract"}:
        return cases
    source = options.cache or folder / "reference"
    if not source.exists():
        run.finish(cases["extract"][0].line(source))
    halves = first, second = folder / "first", folder / "second"
    earlier = folder / "earlier.h5"  # an older pack, in the folder that packs are written into
    _make_halves(run, source, halves)
    run.finish(["cache", "pack", str(first), str(earlier)])

    def case(way: str, line: list[str | None], *sources: Path, start: Path | None = None) -> Case:
        """None in `line` stands for the target."""
        command = str(line[1])
        return Case(command, way, _filled(line), source, sources, start)

    merge: list[str | None] = ["cache", "merge", str(first), str(second), "--into", None]
    onto: list[str | None] = ["cache", "merge", str(second), "--into", None]
    cases["merge"] = [
        case("two halves", merge, *halves),
        case("into a half", onto, second, start=first),
    ]
    pack: list[str | None] = ["cache", "pack", str(source), None]
    compress: list[str | None] = [*pack, "--compress"]
    cases["pack"] = [case("plain", pack, source, earlier), case("gzip", compress, source, earlier)]
    cases["push"], cases["pull"] = _transfers(source, folder, first, ssh)
    return cases


def _filled(line: list[str | None]) -> Callable[[Path], list[str]]:
    return lambda target: [str(target) if part is None else part for part in line]


def _extraction(options: argparse.Namespace, reference: Path) -> Case:
    line = ["extract", "--data", str(options.data), "--cache", None, "--weights", options.weights]
    line += ["--jobs", "2", "--max-failures", str(options.max_failures)]
    return Case("extract", "jobs 2", _filled(line), reference)


def _make_halves(run: Runner, source: Path, halves: tuple[Path, Path]) -> None:
    """Two parts of a cache that have a fifth of its clips, and all failures, in common."""
    cache = open_cache(source)
    ids, failed = list(cache.ids), list(cache.index.failures)
    for half, part in zip(
        halves, (ids[: len(ids) * 3 // 5], ids[len(ids) * 2 // 5 :]), strict=True
    ):
        names = half.with_suffix(".txt")
        names.write_text("\n".join([*part, *failed]), encoding="utf-8")
        run.finish(["cache", "pull", str(source), str(half), "--ids", str(names)])


def _transfers(
    source: Path, folder: Path, first: Path, ssh: Callable[[Path], str] | None
) -> tuple[list[Case], list[Case]]:
    def push_line(target: Path, far: bool = False) -> list[str]:
        url = ssh(target) if ssh and far else target.as_uri()
        return ["cache", "push", str(source), url]

    def pull_line(target: Path, far: bool = False, *options: str) -> list[str]:
        url = ssh(source) if ssh and far else source.as_uri()
        return ["cache", "pull", url, str(target), *options]

    def train_line(target: Path) -> list[str]:
        return pull_line(target, False, "--only", "train")

    part = folder / "train"
    push = [
        Case("push", "file", push_line, source, (source,)),
        Case("push", "onto a half", push_line, source, (source,), first),
    ]
    pull = [
        Case("pull", "file", pull_line, source, (source,)),
        Case("pull", "train only", train_line, part, (source,)),
    ]
    if ssh:
        push.append(Case("push", "ssh", lambda t: push_line(t, True), source, (source,)))
        pull.append(Case("pull", "ssh", lambda t: pull_line(t, True), source, (source,)))
    return push, pull


@contextmanager
def ssh_server(folder: Path) -> Iterator[tuple[Callable[[Path], str] | None, Mapping[str, str]]]:
    """The tests' sshd: what makes a URL of a folder (None without sshd), and clients' settings."""
    with ExitStack() as stack:
        try:
            import asyncssh  # noqa: F401 - only to see whether it is there
            import pytest
            import servers
        except ImportError as error:
            print(f"no ssh: {error}", file=sys.stderr)
            yield None, {}
            return

        class Folders:
            """What the fixture needs of pytest."""

            @staticmethod
            def mktemp(name: str) -> Path:
                (folder / name).mkdir()
                return folder / name

        serve = contextmanager(inspect.unwrap(servers.ssh_server))
        try:
            server = stack.enter_context(serve(Folders))
        except pytest.skip.Exception as reason:
            print(f"no ssh: {reason}", file=sys.stderr)
            yield None, {}
            return
        yield server.url, server.env
