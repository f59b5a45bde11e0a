"""Time `train annotate` on a made-up cache of windows of one recording. One JSON line.

    python benchmarks/bench_annotate.py --minutes 60 --models 1

The features are noise of the real shapes (AVE's settings, small backbone, a window every 5 s), and
few of them are distinct; the models are untrained, of the default size. Timed is the command as it
is called: model, merging windows, reading off, every format, the page.

realtime    seconds of the recording for each second of the whole command
cpu_s       seconds of all cores: what counts on a machine that is busy with other things
peak_GB     the process's largest memory, all libraries included
page_MB     the size of timeline.html
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from synthetic_cache import CONFIG, labels_for, make_cache  # noqa: E402

from cache import Labels, open_cache  # noqa: E402
from cache.format.windows import Window  # noqa: E402

HOP_S = 5.0
CLASSES = 15
_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def recording(folder: Path, minutes: float) -> Path:
    """A cache of an invented recording's windows."""
    offsets = np.arange(0, max(60 * minutes - 10, 0) + 0.1, HOP_S).tolist()
    ids = [Window("walk", offset).clip_id for offset in offsets]
    plain = labels_for(len(ids), CLASSES)
    labels = replace(plain, ids=ids)
    return make_cache(folder, labels=labels, distinct=64, hop_seconds=HOP_S)


def trained(folder: Path, models: int) -> Path:
    """A run of so many seeds that has seen one batch."""
    cache = make_cache(folder / "clips", labels=_few(), **CONFIG)
    words = ["fit", "--cache", str(cache), "--run", str(folder / "run"), "--epochs", "1"]
    words += ["--pictures", "0", "--device", "cpu"]
    subprocess.run(
        [sys.executable, "-m", "train", *words, *(["--seeds", str(models)] if models > 1 else [])],
        check=True, cwd=ROOT, capture_output=True,
    )  # fmt: skip
    return folder / "run"


def _few() -> Labels:
    return labels_for(5 * CLASSES, CLASSES)


def timed(words: list[str]) -> tuple[float, float, float]:
    """Seconds of a command, of all cores that it used, and its largest memory in bytes."""
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "train", *words], cwd=ROOT, **_QUIET) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"train {' '.join(words)} ended with {process.returncode}")
    took = time.perf_counter() - begin
    return took, used.ru_utime + used.ru_stime, 1024.0 * used.ru_maxrss


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--models", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run, cache = trained(folder, given.models), recording(folder / "cache", given.minutes)
        windows, out = len(open_cache(cache).ids), folder / "out"
        words = ["annotate", "--run", str(run), "--cache", str(cache), "--out", str(out)]
        took, cpu_s, peak = timed(words)
        csv_s, _, _ = timed([*words, "--formats", "csv"])
        (page,) = out.glob("*/timeline.html")
        print(
            json.dumps(
                {
                    "minutes": given.minutes,
                    "models": given.models,
                    "windows": windows,
                    "all_formats_s": round(took, 2),
                    "all_formats_cpu_s": round(cpu_s, 2),
                    "csv_s": round(csv_s, 2),
                    "realtime": round(60 * given.minutes / took, 1),
                    "peak_GB": round(peak / 1e9, 2),
                    "page_MB": round(page.stat().st_size / 1e6, 2),
                }
            )
        )


if __name__ == "__main__":
    main()
