"""Time all of it, from media to 30 epochs: ours against recomputing features. One JSON line.

    python benchmarks/bench_end_to_end.py
    python benchmarks/bench_end_to_end.py --clips 240 --jobs 2

Ours are the two commands that people type, in processes of their own, starting and all: `python -m
extract` into a new cache, then `python -m train fit --epochs 30`. The plain path computes each
clip's features whenever it trains on it (plain_path.py in a DataLoader), with the same model, loss
and optimizer; it is timed over one epoch, of `--plain-clips` training clips, and all its epochs
cost the same. It validates nothing and writes nothing; ours does.

Both are done for the set and for half of it. What grows with the clips and what doesn't follow
from the two; at AVE's size (4,097 clips, 3,339 of them trained on) it is extrapolated on that line.
Clips are the demo's mp4 of 320 × 240.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests")]

from bench_extract import decodes  # noqa: E402
from bench_train import PlainClips, plain_epoch, trainer_of  # noqa: E402
from plain_path import extract_container, load_network  # noqa: E402

from cache import Cache, Labels, open_cache  # noqa: E402
from cache.format.fields import Rate  # noqa: E402
from cache.labels.annotations import read_annotations  # noqa: E402
from extract.config import ExtractConfig  # noqa: E402
from extract.demo.__main__ import make_demo_set  # noqa: E402
from extract.finding import find_annotations, find_sources  # noqa: E402
from train.config import TrainConfig  # noqa: E402
from train.data.dataset import Dataset, load_dataset, resolve  # noqa: E402
from train.data.pooling import pool_steps  # noqa: E402
from train.model.fusion import FusionModel  # noqa: E402
from train.training.normalize import normalize  # noqa: E402

AVE_CLIPS, AVE_TRAINING = 4097, 3339
EPOCHS = 30


class PlainMedia(PlainClips):
    """One clip per item, its features computed from the file when it is asked for."""

    def __init__(self, cache: Cache, data: Dataset, files: dict[str, Path], network: nn.Module):
        super().__init__(cache, data)
        self.files, self.network, self.ids = files, network, data.clips.ids

    def __getitem__(self, place: int) -> dict[str, Any]:
        sound, maps = extract_container(
            self.files[self.ids[int(self.train.clip[place])]], self.network
        )
        assert isinstance(self.clock, Rate)
        steps = np.array([sound.shape[1]])
        pooled, valid = pool_steps([sound.T[None]], steps, self.clock, self.step_s, self.steps)
        return {
            "audio": pooled[0],
            "valid": valid[0],
            "maps": maps,
            "time_s": (np.arange(len(maps), dtype=np.float32) + 0.5) * 10 / len(maps),
            "category": self.train.category[place].cpu(),
            "interval": self.train.interval[place].cpu(),
        }


def media(folder: Path, clips: int) -> tuple[Labels, dict[str, Path]]:
    """A demo set with at least so many mp4 clips: its labels, and each clip's file."""
    make_demo_set(folder, 2 * clips + 2)
    labels = read_annotations(find_annotations(folder), ExtractConfig().clip_seconds)
    sources = find_sources(folder, dict.fromkeys(labels.ids))
    files = {one.id: one.container for one in sources.values() if one.container and decodes(one)}
    if len(files) < clips:
        raise SystemExit(f"the demo set has {len(files)} mp4 clips, expected {clips}")
    return labels, dict(list(files.items())[:clips])


def listed(path: Path, labels: Labels, ids: list[str]) -> Path:
    """A CSV of these clips: four of five to train on, the others to validate with."""
    rows = {labels.ids[row]: row for row in range(len(labels.ids))}
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "category", "start", "end", "split"])
        for number, clip_id in enumerate(ids):
            row = rows[clip_id]
            name, split = labels.classes[labels.category[row]], "train" if number % 5 else "val"
            table.writerow([clip_id, name, labels.start_s[row], labels.end_s[row], split])
    return path


def command(*words: str) -> float:
    """Seconds of `python -m …`."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def ours(data: Path, table: Path, cache: Path, run: Path, jobs: int) -> dict[str, float]:
    """Seconds of both commands."""
    extract = ["extract", f"--data={data}", f"--annotations={table}", f"--cache={cache}"]
    extract += ["--weights=random:0", "--device=cpu", f"--jobs={jobs}"]
    fit = ["train", "fit", f"--cache={cache}", f"--run={run}", f"--epochs={EPOCHS}"]
    return {
        "extract_s": command(*extract),
        "train_s": command(*fit, "--device=cpu", "--pictures=0"),
    }


def plain(cache: Cache, files: dict[str, Path], clips: int) -> dict[str, float]:
    """Seconds of one epoch of `clips` training clips that recomputes their features."""
    config = resolve(TrainConfig(device="cpu"), cache, cache.labels.classes)
    data = load_dataset(cache, config, ("train", "val"))
    torch.manual_seed(0)
    model = FusionModel(data.clips.shapes, config)
    normalize(model, data.clips, data.splits["train"])
    network, trainer = load_network(None), trainer_of(model, config, data)
    clips = min(clips, len(data.splits["train"]))
    items = PlainMedia(cache, data, files, network)
    items.__getitem__(0)  # imports and caches of the libraries
    seconds, _ = plain_epoch(trainer, data, items, clips)
    return {"clips": clips, "epoch_s": seconds, "clip_s": seconds / clips}


def main() -> None:
    """Make clips, run both, extrapolate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--plain-clips", type=int, default=48, help="the plain path's epoch")
    options = parser.parse_args()
    runs, sizes = {}, (options.clips // 2, options.clips)
    with tempfile.TemporaryDirectory() as folder:
        scratch, data = Path(folder), Path(folder) / "demo"
        labels, files = media(data, options.clips)
        for size in sizes:
            place = scratch / str(size)
            table = listed(scratch / f"{size}.csv", labels, list(files)[:size])
            runs[size] = ours(data, table, place, scratch / f"run-{size}", options.jobs)
        per_clip = plain(open_cache(scratch / str(options.clips)), files, options.plain_clips)
    total = {size: sum(run.values()) for size, run in runs.items()}
    slope = (total[sizes[1]] - total[sizes[0]]) / (sizes[1] - sizes[0])
    ave = total[sizes[1]] + slope * (AVE_CLIPS - sizes[1])
    trained = sum(number % 5 > 0 for number in range(options.clips))
    here, plain_ave = (
        EPOCHS * trained * per_clip["clip_s"],
        EPOCHS * AVE_TRAINING * per_clip["clip_s"],
    )
    result = {
        "benchmark": "end_to_end",
        "cores": os.cpu_count(),
        "jobs": options.jobs,
        "threads_plain": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "epochs": EPOCHS,
        "ours_s": runs,
        "plain": per_clip,
        "measured": {
            "clips": options.clips,
            "ours_s": total[options.clips],
            "plain_s": here,
            "ratio": here / total[options.clips],
        },
        "ave": {"clips": AVE_CLIPS, "ours_s": ave, "plain_s": plain_ave, "ratio": plain_ave / ave},
    }
    print(json.dumps(result, default=float))


if __name__ == "__main__":
    main()
