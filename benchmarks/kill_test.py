"""Kill the extraction with SIGKILL again and again, and prove that nothing is lost or corrupted.

    python benchmarks/kill_test.py --data AVE_Dataset --weights random:0 --kills 10

`python -m extract` runs in a process group of its own, which is killed whole after a random time:
every fourth counted from its start, so that some kills hit the start-up, the others from the first
clip on, so that most hit the work and the writing. After each kill `verify` must be clean, and
every shard that was finished before must still be there. When a run completes before its kill, its
cache is compared and the next kill starts on an empty folder. The last cache is completed, and
every dataset compared, row for row and byte for byte, with one that was never interrupted. Exit
code 1 on any difference.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cache.reader import Cache, open_cache  # noqa: E402
from cache.schema import ROW_FIELDS  # noqa: E402
from cache.shard import TEMPORARY  # noqa: E402
from cache.verify import verify  # noqa: E402
from extract.pipeline import WORKING  # noqa: E402

BLOCK = 64

UNKNOWN_LENGTH_S = 15.0


class Extraction:
    """The command under test, with its output kept in a log file."""

    def __init__(self, options: argparse.Namespace, log: Path) -> None:
        self._start = [sys.executable, "-m", "extract", "--data", str(options.data)]
        self._end = ["--weights", options.weights, "--jobs", str(options.jobs)]
        self._end += ["--max-failures", str(options.max_failures)]
        self._log = log

    def start(self, cache: Path) -> subprocess.Popen[bytes]:
        """Start it in a new process group, so that its workers can be killed with it."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*self._start, "--cache", str(cache), *self._end],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, cache: Path) -> float:
        """Run it to its end; returns its seconds."""
        started = time.monotonic()
        code = self.start(cache).wait()
        if code:
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise SystemExit(f"the extraction ended with exit code {code}:\n{tail}")
        return time.monotonic() - started


def shards_of(cache: Path) -> set[str]:
    """Names of the finished shards."""
    return {path.name for path in (cache / "shards").glob("*.h5") if path.name[0] != "."}


def notes(cache: Path) -> set[tuple[str, int]]:
    """What the workers note down about the clip that they are at."""
    return {(path.name, path.stat().st_mtime_ns) for path in cache.glob(f"{WORKING}*")}


def wait_for_work(process: subprocess.Popen[bytes], cache: Path, before: object) -> None:
    """Return when a worker is at its first clip, or the process has ended."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # a note that goes away while we look
            if notes(cache) != before:
                return
        time.sleep(0.01)


def kill_once(
    run: Extraction, cache: Path, delay_s: float, from_start: bool
) -> dict[str, Any] | None:
    """Start, wait, kill, check; None when the run ended before its kill."""
    old = notes(cache)
    process = run.start(cache)
    try:
        if not from_start:
            wait_for_work(process, cache, old)
        code = process.wait(timeout=delay_s)
    except subprocess.TimeoutExpired:
        before = shards_of(cache)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    else:
        if code:
            raise SystemExit(f"the extraction ended by itself with exit code {code}")
        return None
    return {
        "after_s": round(delay_s, 2),
        "counted_from": "start" if from_start else "first clip",
        "shards_finished": len(before),
        "shards_lost": len(before - shards_of(cache)),
        "caught_writing": len(list((cache / "shards").glob(f"{TEMPORARY}*"))),
        "problems": verify(cache).problems if (cache / "cache.json").exists() else [],
    }


def differences(cache: Cache, reference: Cache) -> list[str]:
    """Everything in which a cache differs from the reference, clip by clip."""
    found = []
    if cache.fingerprint != reference.fingerprint:
        found.append("the fingerprints differ")
    if not cache.labels.equals(reference.labels):
        found.append("the labels differ")
    told = [
        {key: (row.stage, row.message) for key, row in side.index.failures.items()}
        for side in (cache, reference)
    ]
    if told[0] != told[1]:
        found.append(f"the failures differ: {told[0]} against {told[1]}")
    if cache.ids != reference.ids:
        found.append(f"the clips differ: {set(cache.ids) ^ set(reference.ids)}")
        return found
    for name in (*reference.fields, *(spec.name for spec in ROW_FIELDS)):
        for first in range(0, len(cache), BLOCK):
            rows = list(range(first, min(first + BLOCK, len(cache))))
            pairs = zip(rows, cache.read(name, rows), reference.read(name, rows), strict=True)
            found += [
                f"{cache.ids[row]}: {name} differs"
                for row, ours, theirs in pairs
                if ours.tobytes() != theirs.tobytes()
            ]
    if "video/maps" in reference.fields:
        found += [
            f"{clip_id}: the pictures differ"
            for clip_id in cache.ids
            if cache.jpegs(clip_id) != reference.jpegs(clip_id)
        ]
    return found


def check(run: Extraction, cache: Path, reference: Path) -> list[str]:
    """Complete a cache, verify it and compare it."""
    run.finish(cache)
    return verify(cache).problems + differences(open_cache(cache), open_cache(reference))


def attack(
    options: argparse.Namespace, run: Extraction, folder: Path
) -> tuple[list[dict[str, Any]], list[str], int]:
    """All kills; returns what each did, the differences found, and the clips compared."""
    reference = options.reference or folder / "reference"
    full_s = UNKNOWN_LENGTH_S if options.reference else run.finish(reference)
    longest_s = options.longest_s or full_s / 2
    chance = random.Random(options.seed)
    kills: list[dict[str, Any]] = []
    found: list[str] = []
    caches, cache = 1, folder / "killed-1"
    while len(kills) < options.kills:
        kill = kill_once(run, cache, chance.uniform(0.0, longest_s), len(kills) % 4 == 3)
        if kill is None:
            found += check(run, cache, reference)
            caches, cache = caches + 1, folder / f"killed-{caches + 1}"
            continue
        kills.append(kill)
        print(
            f"kill {len(kills):3} {kill['after_s']:6.2f} s after the {kill['counted_from']}: "
            f"{kill['shards_finished']} shards finished, {kill['shards_lost']} lost, "
            f"{kill['caught_writing']} caught half-written, "
            f"verify: {'; '.join(kill['problems']) or 'clean'}",
            file=sys.stderr,
        )
    found += check(run, cache, reference)
    return kills, found, len(open_cache(reference))


def main() -> int:
    """Kill, verify, complete, compare; exit code 1 when anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="clips; default: a demo set made for this")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--reference", type=Path, help="a cache of DATA that was not interrupted")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--longest-s", type=float, help="latest kill; default: half a full run")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    parser.add_argument("--max-failures", type=int, default=0)
    parser.add_argument("--demo-clips", type=int, default=96)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.data is None:
            from extract.demo import make_demo_set

            make_demo_set(folder / "demo", options.demo_clips, jobs=options.jobs)
            options.data, options.max_failures = folder / "demo", 1  # one clip has no sound
        options.data = options.data.absolute()
        kills, found, clips = attack(options, Extraction(options, folder / "log"), folder)
    lost = sum(kill["shards_lost"] for kill in kills)
    dirty = sum(bool(kill["problems"]) for kill in kills)
    for line in found[:20]:
        print(f"difference: {line}", file=sys.stderr)
    fine = not (found or lost or dirty)
    print(
        f"{len(kills)} kills, {lost} finished shards lost, {dirty} unclean verifications; "
        f"{clips} clips compared with an uninterrupted cache: "
        f"{'identical' if not found else f'{len(found)} differences'}",
        file=sys.stderr,
    )
    result = {
        "benchmark": "kill_test",
        "clips": clips,
        "jobs": options.jobs,
        "kills": kills,
        "shards_lost": lost,
        "unclean_verifications": dirty,
        "differences": len(found),
        "passed": fine,
    }
    print(json.dumps(result))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
