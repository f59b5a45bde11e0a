"""The cache against plain files, and its cost as it grows: one JSON line.

    python benchmarks/bench_cache.py                     # 384 full-size clips; 2 k, 20 k small ones
    python benchmarks/bench_cache.py --large 200000      # the growth up to 200,000 clips (minutes)

read    all features of a cache into memory against the same bytes of a plain file into memory,
        both from the page cache, in turns; "load" is train's own loading
write   shards as extraction writes them, against the same without row checksums and file hash,
        and against a plain file of the same bytes; all flushed to the disk
growth  a synthetic cache of many clips with small tensors: info, opening, a warm `make features`,
        opening for training, and a partial pull of 1,000 clips, each in a process of its own,
        with its peak memory
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from synthetic_cache import CONFIG, labels_for, make_cache, picture  # noqa: E402

import cache.format.shard as shard_module  # noqa: E402
from cache import Cache, open_cache  # noqa: E402
from cache.format.identity import Identity, claim, read_identity  # noqa: E402
from cache.format.index_file import load_index, save_index  # noqa: E402
from cache.format.rows import read_clips  # noqa: E402
from cache.format.shard import Clip, write_shard  # noqa: E402
from cache.labels.store import write_labels  # noqa: E402
from extract.config import FEATURE_VERSION, ExtractConfig  # noqa: E402
from extract.features.declare import declare  # noqa: E402

SHARD_CLIPS = 32
PARTIAL_CLIPS = 1000
# Rows of 1.5 kB: as many files, ids and index entries as in earnest, and little else.
SMALL = {
    "clip_seconds": 0.1,
    "n_mfcc": 1,
    "n_mels": 1,
    "num_frames": 1,
    "resize_px": 32,
    "frame_size_px": 32,
}


def seconds(action: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def read_all(cache: Cache) -> int:
    """Every feature of every clip into memory, in the order of ids; returns the bytes."""
    return sum(cache.read(name).nbytes for name in cache.fields)


def read_plain(path: Path) -> int:
    """A plain file into memory."""
    out = np.empty(path.stat().st_size, np.uint8)
    with path.open("rb", buffering=0) as file:
        view, done = out.data, 0
        while done < len(view):
            done += file.readinto(view[done:]) or 0
    return done


def bench_read(cache: Cache, folder: Path, repeats: int) -> dict[str, Any]:
    """Cache and plain file in turns, the same number of bytes."""
    size = read_all(cache)
    plain = folder / "plain.bin"
    plain.write_bytes(bytes(size))
    read_plain(plain)
    pairs = [
        (seconds(lambda: read_all(cache)), seconds(lambda: read_plain(plain)))
        for _ in range(repeats)
    ]
    plain.unlink()
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "bytes": size,
        "cache_GB_per_s": round(size / ours / 1e9, 3),
        "plain_GB_per_s": round(size / theirs / 1e9, 3),
        "ratio": round(statistics.median(b / a for a, b in pairs), 3),
    }


def bench_load(cache: Cache, repeats: int) -> dict[str, Any]:
    """What the trainer does before its first epoch."""
    from train.config import TrainConfig
    from train.data.dataset import load_dataset, resolve

    config = resolve(TrainConfig(device="cpu"), cache, cache.labels.classes)
    took = [seconds(lambda: load_dataset(cache, config)) for _ in range(repeats)]
    size = sum(facts.size for facts in cache.index.shards.values())
    return {"load_GB_per_s": round(size / statistics.median(took) / 1e9, 3)}


def bench_write(cache: Cache, folder: Path, repeats: int) -> dict[str, Any]:
    """Shards with and without checksums, and a plain file of the same bytes."""
    name = next(iter(cache.index.shards))
    with cache.open_rows(name) as file:
        clips = read_clips(file.fetch, file.layout, cache.index.members(name), name)
    size = cache.index.shards[name].size
    data = cache.shard_path(name).read_bytes()

    def shard() -> None:
        write_shard(folder / "written", cache.identity, clips)

    def unproved() -> None:
        nothing = mock.Mock(hexdigest=lambda: "0" * 64)
        with (
            mock.patch.object(shard_module, "row_digest", return_value=bytes(32)),
            mock.patch.object(hashlib, "sha256", return_value=nothing),
        ):
            shard()

    def plain() -> None:
        with (folder / "plain.bin").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    actions = {"checked": shard, "unchecked": unproved, "plain": plain}
    times: dict[str, list[float]] = {key: [] for key in actions}
    for _ in range(repeats * 3):
        for key, action in actions.items():
            times[key].append(seconds(action))
    return {
        f"{key}_GB_per_s": round(size / statistics.median(values) / 1e9, 3)
        for key, values in times.items()
    }


def make_large(folder: Path, clips: int) -> dict[str, Any]:
    """A cache of many clips with small tensors, whose labels are an annotation file as well."""
    config = ExtractConfig.parse(SMALL)
    declared, made_by = declare(config), {"weights": "random:0"}
    identity = Identity(FEATURE_VERSION, config.resolved("0" * 64), declared, made_by)
    labels = replace(labels_for(clips, 28), source="synthetic")
    rng = np.random.default_rng(0)
    features = {
        spec.name: 0.1 * rng.random(spec.shape, np.float32).astype(spec.dtype)
        for spec in declared.fields
    }
    shown = picture(False, 0, SMALL["frame_size_px"])
    row = Clip("", features, [shown], valid_s=0.1, media_s=0.1, audio_steps=5)
    cache = folder / "cache"
    claim(cache, identity)
    with mock.patch("cache.common.atomic.sync"):  # nothing here is worth a flush
        for begin in range(0, clips, SHARD_CLIPS):
            part = [replace(row, id=i) for i in labels.ids[begin : begin + SHARD_CLIPS]]
            write_shard(cache, identity, part)
        lines = ["id,category,start,end,split"]
        names = ("train", "val", "test")
        lines += [
            f"{i},{labels.classes[c]},0,0.1,{names[s]}"
            for i, c, s in zip(labels.ids, labels.category, labels.split, strict=True)
        ]
        (folder / "data").mkdir()
        (folder / "data" / "events.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_labels(cache, labels)
        save_index(cache, identity, load_index(cache, read_identity(cache)))
    flags = [text for n, v in SMALL.items() for text in (f"--{n.replace('_', '-')}", str(v))]
    ids = folder / "ids.txt"
    ids.write_text("\n".join(labels.ids[:: max(1, clips // PARTIAL_CLIPS)]), encoding="utf-8")
    return {"cache": str(cache), "data": str(folder / "data"), "flags": flags, "ids": str(ids)}


_OPEN = "from cache import open_cache; open_cache({cache!r})"
_TRAIN = (
    "from cache import open_cache; from train.config import TrainConfig; "
    "from train.data.dataset import load_dataset, resolve; c = open_cache({cache!r}); "
    "t = TrainConfig(device='cpu', audio_rate_hz=10); "
    "load_dataset(c, resolve(t, c, c.labels.classes))"
)


def growth(folder: Path, clips: int) -> dict[str, Any]:
    """Time and peak memory of each operation on a cache of this many clips."""
    folder.mkdir()
    made = make_large(folder, clips)
    python = [sys.executable]
    commands = {
        "start": [*python, "-c", "import cache.reader"],
        "open": [*python, "-c", _OPEN.format(**made)],
        "info": [*python, "-m", "cache", "info", made["cache"]],
        "warm_features": [
            *(*python, "-m", "extract", "--data", made["data"], "--cache", made["cache"]),
            *("--weights", "random:0", "--dry-run", *made["flags"]),
        ],
        "train_start": [*python, "-c", "import train.data.dataset"],
        "train_open": [*python, "-c", _TRAIN.format(**made)],
        "partial_pull": [
            *(*python, "-m", "cache", "pull", made["cache"], str(folder / "part")),
            *("--ids", made["ids"]),
        ],
    }
    found: dict[str, Any] = {"clips": clips}
    for name, command in commands.items():
        took, peak = _measured(command)
        found[name] = {"s": round(took, 2), "peak_MB": round(peak / 1e6)}
    assert len(open_cache(folder / "part")) >= min(clips, PARTIAL_CLIPS)
    return found


# A process's peak counts what its parent held when it was started, so a small one starts it.
_STARTER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
took = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
text = done.stdout.decode(errors="replace")
print(json.dumps([done.returncode, took, peak * 1024, text]))
"""


def _measured(command: list[str]) -> tuple[float, int]:
    """Seconds and peak memory of a command."""
    starter = [sys.executable, "-c", _STARTER, *command]
    said = subprocess.run(starter, cwd=ROOT, capture_output=True, check=True).stdout
    code, took, peak, text = json.loads(said)
    if code:
        raise SystemExit(f"{' '.join(command)} failed:\n{text}")
    return took, peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--large", type=int, default=20_000, help="clips of the largest cache")
    parser.add_argument("--skip-growth", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = open_cache(
            make_cache(folder / "real", options.clips, classes=8, distinct=16, **CONFIG)
        )
        result: dict[str, Any] = {
            "benchmark": "cache",
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "read": bench_read(cache, folder, options.repeats) | bench_load(cache, 3),
            "write": bench_write(cache, folder, options.repeats),
        }
        if not options.skip_growth:
            sizes = sorted({max(1000, options.large // 100), options.large // 10, options.large})
            result["growth"] = [growth(folder / str(size), size) for size in sizes]
    result["peak_MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
