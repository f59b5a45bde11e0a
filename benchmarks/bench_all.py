"""The user's numbers: every benchmark, one after the other, as one table. Under ten minutes.

    make bench                         # writes bench/bench.json and bench/bench.md
    python benchmarks/bench_all.py --data AVE_Dataset --weights small.pth

Each script runs in a process of its own, with sizes that fit the time; its JSON is kept whole in
bench.json. A script that fails is named, the others still count, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from extract.config import ExtractConfig  # noqa: E402
from extract.plan import bytes_per_clip  # noqa: E402

AVE_CLIPS, AVE_TRAINING = 4097, 3339
COMMANDS = {
    "extract": "bench_extract.py --clips 32 --repeats 3",
    "extract_large": "bench_extract.py --clips 16 --repeats 3 --backbone large "
    "--layouts wav_jpeg --skip-stages",
    "train": "bench_train.py --clips 1000 --device auto",
    "cache": "bench_cache.py --skip-growth --clips 256",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: what, our figure, the plain path's, and how to get it again."""

    what: str
    ours: str
    plain: str
    command: str


def rows(raw: dict[str, Any]) -> list[Row]:
    """The table's lines out of the scripts' results; those of a script that failed are absent."""
    found: list[Row] = []
    for script, layout, name in (
        ("extract", "wav_jpeg", "WAV + JPEG"),
        ("extract", "container", "mp4"),
        ("extract_large", "wav_jpeg", "WAV + JPEG, large backbone"),
    ):
        part: dict[str, Any] = (raw.get(script) or {}).get(layout) or {}
        for jobs, rate in part.get("clips_per_s", {}).items():
            plain = part["plain_clips_per_s"]
            found.append(
                Row(
                    f"extraction, {name}, {jobs} worker{'s' if int(jobs) > 1 else ''}",
                    f"{rate:.1f} clips/s; 4,097 clips in {spoken(AVE_CLIPS / rate)}",
                    f"{plain:.1f} clips/s ({spoken(AVE_CLIPS / plain)})",
                    COMMANDS[script],
                )
            )
    train = raw.get("train")
    if train:
        scale = AVE_TRAINING / train["clips"]
        ours = f"{train['epoch_s'] * scale:.1f} s"
        if scale != 1:
            ours += f" ({train['epoch_s']:.2f} s over {train['clips']:,}, scaled)"
        plain = f"{train['plain_epoch_s'] * scale:.1f} s"
        found.append(Row("epoch over 3,339 clips", ours, plain, COMMANDS["train"]))
    if raw.get("cache"):
        read, small = raw["cache"]["read"], raw["bytes"]["small"]
        seconds = AVE_TRAINING * small / read["load_GB_per_s"] / 1e9
        found += [
            Row(
                "reading a cache into memory, page cache warm",
                f"{read['cache_GB_per_s']:.1f} GB/s",
                f"{read['plain_GB_per_s']:.1f} GB/s (a plain file)",
                COMMANDS["cache"],
            ),
            Row(
                "the trainer's loading of 3,339 clips, pooling included",
                f"{seconds:.1f} s ({read['load_GB_per_s']:.1f} GB/s)",
                "",
                COMMANDS["cache"],
            ),
        ]
    for backbone, size in raw["bytes"].items():
        what = f"a clip in the cache, {backbone} backbone"
        found.append(Row(what, f"{size / 1000:,.0f} kB", "", "computed from the format"))
    return found


def spoken(seconds: float) -> str:
    """Seconds as minutes and seconds."""
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def table(lines: list[Row]) -> str:
    """The lines as Markdown."""
    head = ["| what | ours | plain | command |", "|---|---|---|---|"]
    return "\n".join(
        [*head, *(f"| {row.what} | {row.ours} | {row.plain} | `{row.command}` |" for row in lines)]
    )


def machine() -> dict[str, Any]:
    """What the figures are of."""
    import torch

    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": model,
        "cores": os.cpu_count(),
        "gpu": gpu,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def measured(command: str, more: list[str]) -> dict[str, Any] | None:
    """A script's JSON line, or None where it failed."""
    script, *flags = command.split()
    print(f"{command} …", file=sys.stderr, flush=True)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *flags, *more],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        print(f"{script} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Run, compose, write, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=[], help="clips to extract; default: a demo")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--out", type=Path, default=ROOT / "bench")
    options = parser.parse_args()
    data = ["--data", *options.data] if options.data else []
    more = {"extract": ["--weights", options.weights, *data], "extract_large": data}
    raw: dict[str, Any] = {"machine": machine()}
    for name, command in COMMANDS.items():
        raw[name] = measured(command, more.get(name, []))
    raw["bytes"] = {
        backbone: float(bytes_per_clip(ExtractConfig(backbone=backbone)))
        for backbone in ("small", "large")
    }
    made = raw["machine"]
    about = ", ".join(f"{name} {value}" for name, value in made.items())
    text = f"{table(rows(raw))}\n\n{about}\n"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bench.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    (options.out / "bench.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written: {options.out / 'bench.json'}, {options.out / 'bench.md'}")
    return 0 if all(raw[name] for name in COMMANDS) else 1


if __name__ == "__main__":
    sys.exit(main())
