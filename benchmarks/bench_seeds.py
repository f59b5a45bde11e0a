"""Time five seeds at once against five single runs of the same settings. One JSON line.

    python benchmarks/bench_seeds.py --cache features --epochs 60

Whole commands, from start to scores and pictures, one after another: single runs as they are by
default (small sets: one thread), single runs with a thread for each core, and all seeds at once.
Seconds on the clock want an idle machine; `processor_s` is what other programs change least.
`floor` is what perfect sharing of the cores and of everything but training would give.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from cache.common.cores import cores  # noqa: E402


def timed(*words: str) -> tuple[float, float]:
    """Seconds on the clock, and of processors, of a `fit`."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "train", "fit", *words], cwd=ROOT, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--pictures", type=int, default=0)
    options = parser.parse_args()
    shared = ["--cache", str(options.cache.resolve()), "--device", "cpu"]
    shared += ["--epochs", str(options.epochs), "--pictures", str(options.pictures)]
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)
        together = timed(*shared, "--run", str(run / "all"), "--seeds", str(options.seeds))
        singles = [
            timed(*shared, "--run", str(run / str(seed)), "--seed", str(seed))
            for seed in range(options.seeds)
        ]
        all_cores = timed(*shared, "--run", str(run / "wide"), "--threads", str(cores()))
        begin = timed(*shared[:-4], "--run", str(run / "short"), "--epochs", "1", "--pictures", "0")
        same = all(
            filecmp.cmp(run / "all" / f"seed-{seed}" / name, run / str(seed) / name, shallow=False)
            for seed in range(options.seeds)
            for name in ("predictions_val.json", "metrics_val.json")
        )
    alone, used = (sum(column) for column in zip(*singles, strict=True))
    floor = begin[0] + (alone - options.seeds * begin[0]) / min(cores(), options.seeds)
    print(
        json.dumps(
            {
                "seeds": options.seeds,
                "epochs": options.epochs,
                "cores": cores(),
                "load": os.getloadavg()[0],
                "together_s": round(together[0], 2),
                "single_runs_s": round(alone, 2),
                "single_runs_all_cores_s": round(options.seeds * all_cores[0], 2),
                "ratio": round(together[0] / alone, 3),
                "ratio_all_cores": round(together[0] / (options.seeds * all_cores[0]), 3),
                "ratio_floor": round(floor / alone, 3),
                "processor_s": {"together": round(together[1], 2), "single_runs": round(used, 2)},
                "same_to_the_digit": same,
            }
        )
    )


if __name__ == "__main__":
    main()
