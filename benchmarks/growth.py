"""How cost grows with the number of clips: measured points, a picture, and one JSON line.

    python benchmarks/growth.py --sizes 1000 4000 16000 64000 --out docs/figures

Extraction is real, of tiny media: every clip is a link to one of 16 one-second mp4 files, with
tiny settings, so that tens of thousands fit into minutes. A clip costs less than in earnest, what
is done per clip beside it (plan, shards, index, failures, progress) costs the same. An epoch is
trained on the caches so made, `info` and a warm `make features` run on them, each as a command in
a process of its own, Python's start and imports included. Slopes are of the straight line through
the points in logarithms: 1 is linear, 0 constant.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import matplotlib  # noqa: E402

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from small_media import SMALL_FLAGS, write_set  # noqa: E402

KINDS = 16
CURVES = {
    "extraction": "extraction, 1 s mp4 clips",
    "epoch": "an epoch of training",
    "info": "`info`, whole command",
    "warm": "warm `make features`, whole command",
}


def make_set(folder: Path, clips: int) -> None:
    """A set of `clips` clips that are links to a few files."""
    write_set(folder / "kinds", KINDS, mp4=KINDS)
    kinds = sorted((folder / "kinds").glob("*.mp4"))
    data = folder / "data"
    data.mkdir()
    lines = ["id,category,start,end,split"]
    for number in range(clips):
        os.link(kinds[number % KINDS], data / f"clip{number:06d}.mp4")
        split = "val" if number % 10 == 0 else "train"
        lines.append(f"clip{number:06d},kind {number % 2},0,1,{split}")
    (data / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(*words: str) -> tuple[float, int, str]:
    """Seconds, peak memory in MB of the process itself (not of its workers), and its output."""
    started = time.perf_counter()
    peak = 0
    with tempfile.TemporaryFile("w+") as said:
        command = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        )
        while command.poll() is None:
            peak = max(peak, peak_kb(command.pid))
            time.sleep(0.02)
        took = time.perf_counter() - started
        said.seek(0)
        text = said.read()
    if command.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{text[-3000:]}")
    return took, round(peak / 1000), text


def peak_kb(pid: int) -> int:
    """Largest memory of a process so far, or 0 where it can't be known."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def point(clips: int, jobs: int) -> dict[str, Any]:
    """Every figure at one size."""
    found: dict[str, Any] = {"clips": clips}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_set(folder, clips)
        cache = str(folder / "cache")
        extract = ["-m", "extract", "--data", str(folder / "data"), "--cache", cache]
        extract += ["--weights", "random:0", "--jobs", str(jobs), *SMALL_FLAGS]
        train = ["benchmarks/bench_stream.py", "--train", cache, "--epochs", "1"]
        commands = {
            "extraction": extract,
            "warm": extract,
            "info": ["-m", "cache", "info", cache],
            "epoch": train,
        }
        for what, words in commands.items():
            took, peak, text = run(*words)
            if what == "epoch":
                took = json.loads(text.splitlines()[-1])["epochs_s"][0]
            found[what] = {"s": round(took, 2), "peak_MB": peak}
    return found


def slope(points: list[dict[str, Any]], what: str, key: str) -> float:
    """Exponent of growth: of the straight line through the logarithms."""
    clips = np.log([one["clips"] for one in points])
    return float(np.polyfit(clips, np.log([one[what][key] for one in points]), 1)[0])


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory over clips, both axes logarithmic."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.2), layout="constrained")
    clips = [one["clips"] for one in points]
    for axis, key, unit in zip(axes, ("s", "peak_MB"), ("seconds", "peak memory, MB"), strict=True):
        for what, label in CURVES.items():
            values = [one[what][key] for one in points]
            note = f"{label} (slope {slope(points, what, key):.2f})"
            axis.loglog(clips, values, marker="o", label=note)
        axis.set_xticks(clips, [f"{count:,}" for count in clips])
        axis.minorticks_off()
        axis.set_xlabel("clips")
        axis.set_ylabel(unit)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    axes[1].set_ylim(50, 5000)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=ROOT / "bench", help="folder of the picture")
    options = parser.parse_args()
    points = []
    for clips in options.sizes:
        points.append(point(clips, options.jobs))
        print(json.dumps(points[-1]), file=sys.stderr, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(points, options.out / "growth.png")
    slopes = {
        what: {key: round(slope(points, what, key), 3) for key in ("s", "peak_MB")}
        for what in CURVES
    }
    print(
        json.dumps(
            {
                "benchmark": "growth",
                "jobs": options.jobs,
                "python": platform.python_version(),
                "points": points,
                "slopes": slopes,
            }
        )
    )


if __name__ == "__main__":
    main()
