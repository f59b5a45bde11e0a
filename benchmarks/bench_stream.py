"""Training beyond memory: an epoch streamed from the disk against one in memory. One JSON line.

    python benchmarks/bench_stream.py                        # 1,000 clips of full size, 0.4 GB
    python benchmarks/bench_stream.py --clips 200000 --small # small maps; minutes

Each mode trains in a process of its own, so that its peak memory is its own; "reading" is one pass
over all features through the stream, without training, beside a plain sequential read of the same
files. `--cold` drops the files from the page cache before each, where the system lets it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from bench_train import trainer_of  # noqa: E402
from synthetic_cache import labels_for, make_cache  # noqa: E402

from cache import open_cache  # noqa: E402
from cache.format.identity import read_identity  # noqa: E402
from cache.format.index_file import load_index, save_index  # noqa: E402
from train.config import TrainConfig  # noqa: E402
from train.data.dataset import load_dataset, resolve  # noqa: E402
from train.model.fusion import FusionModel  # noqa: E402
from train.training.normalize import normalize  # noqa: E402

# 12 kB a clip instead of 0.6 MB: as many rows, shards and steps as in earnest.
SMALL: dict[str, Any] = {
    "clip_seconds": 2.0,
    "n_mfcc": 2,
    "n_mels": 4,
    "num_frames": 2,
    "frame_size_px": 64,
}


def peak_mb() -> int:
    """Largest memory of this process so far, in 10⁶ bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def drop(folder: Path) -> None:
    """Ask the system to forget the files' pages."""
    for path in folder.rglob("*.h5"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train_once(path: Path, memory_gb: float | None, epochs: int, cold: bool) -> dict[str, Any]:
    """Figures of training in this process."""
    started, before = time.perf_counter(), peak_mb()
    cache = open_cache(path)
    config = TrainConfig(device="cpu", memory_gb=memory_gb)
    config = resolve(config, cache, cache.labels.classes)
    data = load_dataset(cache, config, ("train",))
    model = FusionModel(data.clips.shapes, config)
    normalize(model, data.clips, data.splits["train"])
    start_s = time.perf_counter() - started
    trainer = trainer_of(model, config, data)
    took = []
    for number in range(epochs):
        if cold:
            drop(path)
        begun = time.perf_counter()
        trainer.train_epoch(number)
        took.append(time.perf_counter() - begun)
    rows = len(data.splits["train"])
    found: dict[str, Any] = {
        "mode": data.clips.mode,
        "start_s": round(start_s, 2),
        "epochs_s": [round(value, 3) for value in took],
        "clips_per_s": round(rows / sorted(took)[len(took) // 2], 1),
        "peak_MB": peak_mb(),
        "peak_MB_before": before,
    }
    if memory_gb is not None:
        found["reading"] = read_once(path, data.clips, rows, cold)
    return found


def read_once(path: Path, clips: Any, rows: int, cold: bool) -> dict[str, float]:
    """GB/s of the stream alone, and of a plain read of the same files."""
    size = sum(file.stat().st_size for file in path.rglob("*.h5"))
    if cold:
        drop(path)
    begun = time.perf_counter()
    for _ in clips.epoch(torch.randperm(rows), torch.arange(rows), 32):
        pass
    streamed = time.perf_counter() - begun
    if cold:
        drop(path)
    begun = time.perf_counter()
    for file in sorted(path.rglob("*.h5")):
        with file.open("rb", buffering=0) as source:
            while source.read(1 << 22):
                pass
    plain = time.perf_counter() - begun
    return {
        "stream_GB_per_s": round(size / streamed / 1e9, 3),
        "plain_GB_per_s": round(size / plain / 1e9, 3),
    }


def main() -> None:
    """Build, measure each mode in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--small", action="store_true", help="clips of 12 kB")
    parser.add_argument("--memory-gb", type=float, help="default: about half of the features")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="nothing in the page cache")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--skip-memory", action="store_true", help="leave the other mode out")
    options = parser.parse_args()
    if options.train:
        found = train_once(options.train, options.memory_gb, options.epochs, options.cold)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        labels = labels_for(options.clips, 28)
        labels.split[:] = 0
        if options.small:
            labels.end_s[:] = 2.0
            labels.start_s[:] = 0.0
        path = Path(folder) / "cache"
        make_cache(path, labels=labels, distinct=64, **(SMALL if options.small else {}))
        identity = read_identity(path)
        save_index(path, identity, load_index(path, identity))
        budget = options.memory_gb or 0.5 * options.clips * 0.49e6 / 1e9 + 0.16
        base = ["--train", str(path), "--epochs", str(options.epochs)]
        base += ["--cold"] * options.cold
        runs = {"streamed": [*base, "--memory-gb", str(budget)]}
        if not options.skip_memory:
            runs["in_memory"] = base
        result: dict[str, Any] = {
            "benchmark": "stream",
            "clips": options.clips,
            "cache_GB": round(sum(f.stat().st_size for f in path.rglob("*.h5")) / 1e9, 3),
            "memory_GB": budget,
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        for name, more in runs.items():
            command = [sys.executable, __file__, *more]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            result[name] = json.loads(said)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
