"""Kill extraction, merge, pack, push and pull again and again; prove that nothing is ever lost.

    python benchmarks/torture.py --kills 100                                   # on a demo set
    python benchmarks/torture.py --data AVE_Dataset --weights random:0 --kills 100
    python benchmarks/torture.py --cache features --only push,pull --kills 40  # on your own cache

Each command runs in a process group of its own, which is killed whole (SIGKILL) at a random
instant: a sixth while it starts, a third in the last fifth of its work, the others anywhere in its
work. Every fifth is stopped politely instead (Ctrl-C, SIGTERM). After each: what was finished is
there byte for byte, sources are untouched, whatever bears a final name is whole, `verify` is
clean, and another machine would see a sound cache or none. Then the same command runs again, to be
killed again or to complete; what it gives is compared with a run that nobody interrupted, and no
temporary file may be left. A line for each kill, JSON in the end, exit code 1 on any violation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from torture_checks import changed, damaged, digests, incomplete, lost, stage_of, state_of
from torture_commands import Case, Runner, all_cases, ssh_server, wait_for_work

from cache import open_cache

COMMANDS = ("extract", "merge", "pack", "push", "pull")
POLITE = (signal.SIGINT, signal.SIGTERM)
POLITE_S = 60.0
FASTER = 0.8  # aim earlier after a run that ended before its kill: the machine is less busy now
AGAIN = 0.7  # the chance that what runs again after a kill is killed as well


@dataclass
class Count:
    """What was done to one command, and what came of it."""

    kills: int = 0
    completed: int = 0
    caught_half_written: int = 0
    polite: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    damaged: int = 0
    other: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Instant:
    """When and how to stop a command; `delay_s` counts from its start or its first clip."""

    delay_s: float
    from_start: bool
    signal: signal.Signals


class Torture:
    """All kills of one command."""

    def __init__(self, cases: list[Case], run: Runner, folder: Path, seed: str) -> None:
        self.count = Count()
        self.violations: list[str] = []
        self._cases, self._run, self._folder = cases, run, folder
        self._chance = random.Random(seed)

    def __call__(self, kills: int) -> None:
        """Kill so many times, the ways to use the command in turn."""
        started = time.monotonic()
        for case in self._cases:
            self._measure(case)
        turn = 0
        while self.count.kills < kills:
            self._cycle(self._cases[turn % len(self._cases)], kills)
            turn += 1
        self.count.seconds = round(time.monotonic() - started, 1)

    def _measure(self, case: Case) -> None:
        target = case.prepare(self._folder)
        self._run.measure(case, target)
        if not case.expected.exists():
            target.rename(case.expected)
        else:
            self._note("other", incomplete(target, open_cache(case.expected), case.remote))
        print(
            f"{case.command} ({case.way}): {case.startup_s:.1f} s to start, {case.work_s:.1f} s "
            "of work uninterrupted",
            file=sys.stderr,
        )

    def _cycle(self, case: Case, most: int) -> None:
        """From nothing to a complete target, however often it is killed on the way."""
        target, sources = case.prepare(self._folder), digests(case.sources)
        while self._stop_once(case, target):
            if case.command == "pack" and target.exists():
                break  # done: a further pack would refuse to overwrite it
            if self.count.kills == most or self._chance.random() > AGAIN:
                self._run.finish(case.line(target))
                break
        self.count.completed += 1
        self._note("other", changed(sources, case.sources))
        self._note("other", incomplete(target, open_cache(case.expected), case.remote))

    def _instant(self, case: Case, target: Path) -> Instant:
        number = self.count.kills + 1
        kind, place = self._chance.random(), self._chance.random()
        polite = POLITE[number // 5 % 2] if number % 5 == 0 else signal.SIGKILL
        if kind < 1 / 6:
            return Instant(place * case.startup_s, True, polite)
        place = 0.8 + 0.2 * place if kind < 1 / 2 else place
        return Instant(place * case.left_s(target), False, polite)

    def _stop_once(self, case: Case, target: Path) -> bool:
        """Start, wait, stop, check; False when the run ended before it was stopped."""
        when, sources = self._instant(case, target), digests(case.sources)
        old = state_of(target)
        process = self._run.start(case.line(target))
        try:
            if not when.from_start:
                wait_for_work(process, case, target, old)
            self._run.expect_success(process.wait(timeout=when.delay_s))
            case.work_s *= FASTER
            return False
        except subprocess.TimeoutExpired:
            before = state_of(target)
            self._stop(case, target, process, when, began=before != old)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.count.kills += 1
        gone = lost(before, target)
        broken = damaged(target, open_cache(case.expected), case.remote)
        self._note("lost", gone)
        self._note("damaged", broken)
        self._note("other", changed(sources, case.sources))
        stage, half = stage_of(target, case.expected), len(state_of(target).unfinished)
        self.count.stages[stage] += 1
        self.count.caught_half_written += bool(half)
        print(
            f"{case.command:7} {self.count.kills:3} ({case.way}) {when.signal.name} "
            f"{when.delay_s:5.2f} s after its {'start' if when.from_start else 'first clip'}: "
            f"{stage}, {half} half-written, {len(gone)} lost, {len(broken)} damaged",
            file=sys.stderr,
        )
        return True

    def _stop(
        self,
        case: Case,
        target: Path,
        process: subprocess.Popen[bytes],
        when: Instant,
        began: bool,
    ) -> None:
        """Stop the process; when it is asked politely, look at how it ends."""
        os.killpg(process.pid, when.signal)
        if when.signal is signal.SIGKILL:
            process.wait()
            return
        name = when.signal.name
        try:
            code = process.wait(timeout=POLITE_S)
        except subprocess.TimeoutExpired:
            text = f"{case.command} ({case.way}): still ran {POLITE_S:.0f} s after {name}"
            self._note("other", [text])
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return
        self.count.polite[f"{name}: {code}"] += 1
        # While Python itself starts it ends in its own ways; once all is written, in the system's.
        if code in (0, 130) or not began:
            return
        if code != -when.signal or incomplete(target, open_cache(case.expected), case.remote):
            self._note("other", [f"{case.command} ({case.way}): exit code {code} after {name}"])

    def _note(self, kind: str, found: list[str]) -> None:
        """Keep violations, and show them at once."""
        setattr(self.count, kind, getattr(self.count, kind) + len(found))
        self.violations += found
        for line in found:
            print(f"VIOLATION {line}", file=sys.stderr)
        if found:
            print(f"the commands' last words:\n{self._run.last_words()}", file=sys.stderr)


def main() -> int:
    """Kill, check, complete, compare; exit code 1 on any violation."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` had it ignored
    options = _options()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="avel-torture-") as scratch:
        folder = Path(scratch)
        if options.data is None:
            from extract.demo.__main__ import make_demo_set

            make_demo_set(folder / "demo", options.demo_clips, jobs=2)
            options.data, options.max_failures = folder / "demo", 1  # one clip has no sound
        (folder / "tmp").mkdir()
        with ssh_server(folder) as (url, env):
            run = Runner(folder / "log", {**env, "TMPDIR": str(folder / "tmp")})
            cases = all_cases(options, run, folder, url)
            tortures = {}
            for place, name in enumerate(options.only):
                share = options.kills // len(options.only)
                share += place < options.kills % len(options.only)
                tortures[name] = Torture(cases[name], run, folder, f"{options.seed} {name}")
                tortures[name](share)
        result = _result(tortures, folder / "tmp")
    result["ssh"] = url is not None
    result["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(result))
    return 1 if result["violations"] else 0


def _result(tortures: dict[str, Torture], scratch: Path) -> dict[str, object]:
    counts = {name: torture.count for name, torture in tortures.items()}
    totals = {
        key: sum(getattr(count, key) for count in counts.values())
        for key in ("kills", "completed", "caught_half_written", "lost", "damaged")
    }
    return {
        "benchmark": "torture",
        **totals,
        "violations": sum(len(torture.violations) for torture in tortures.values()),
        "left_in_temporary_folder": len(list(scratch.iterdir())),
        "commands": {name: vars(count) for name, count in counts.items()},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="clips; default: a demo set made for this")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--cache", type=Path, help="for all but extract; default: one of DATA")
    parser.add_argument("--kills", type=int, default=100, help="in all (default 100)")
    parser.add_argument(
        "--only", type=_commands, default=COMMANDS, help=f"some of {','.join(COMMANDS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    parser.add_argument("--max-failures", type=int, default=0)
    parser.add_argument("--demo-clips", type=int, default=32)
    options = parser.parse_args()
    options.data = options.data and options.data.absolute()
    options.cache = options.cache and options.cache.absolute()
    return options


def _commands(text: str) -> tuple[str, ...]:
    unknown = set(text.split(",")) - set(COMMANDS)
    if unknown:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(COMMANDS)}, found {text!r}")
    return tuple(text.split(","))


if __name__ == "__main__":
    sys.exit(main())
