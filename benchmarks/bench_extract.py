"""Time the extraction: ours against the plain path (plain_path.py). One JSON line.

    python benchmarks/bench_extract.py
    python benchmarks/bench_extract.py --data AVE_Dataset AVE_Processed --weights small.pth

Same clips, same machine, same run, taking turns; medians. Both layouts are timed apart: WAV +
JPEG, and containers (mp4). Without --data a demo set is made in a temporary folder.

rate        clips a second once the workers run: what a long extraction keeps up
start-up    what the first use costs on top: starting workers, importing, loading weights
command     `python -m extract` from nothing to the finished cache, per clip of these few clips
efficiency  rate with 2 workers over twice the rate with 1

Times per stage are for one core; see extract_stages.py for how, and for the floors beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from extract_stages import audio_parts_ms, floors_ms, machine_rates, stages_ms  # noqa: E402
from joblib.externals.loky import get_reusable_executor  # noqa: E402
from plain_path import extract_container, extract_processed, load_network  # noqa: E402
from torch import nn  # noqa: E402

from cache.common.errors import MediaError  # noqa: E402
from cache.format.identity import Identity  # noqa: E402
from cache.format.index import Index  # noqa: E402
from cache.format.lock import claimed  # noqa: E402
from cache.labels.annotations import read_annotations  # noqa: E402
from extract.config import ExtractConfig  # noqa: E402
from extract.demo.__main__ import make_demo_set  # noqa: E402
from extract.features.extractor import Extractor  # noqa: E402
from extract.finding import find_annotations, find_sources  # noqa: E402
from extract.identity import new_identity  # noqa: E402
from extract.media.decode import decode  # noqa: E402
from extract.parallel.job import Workers  # noqa: E402
from extract.parallel.pipeline import run  # noqa: E402
from extract.sources import MediaSource  # noqa: E402

LAYOUTS = ("wav_jpeg", "container")
JOBS = (1, 2)


@dataclass(frozen=True)
class Bench:
    """What is timed: clips of one layout, with the folder they came from."""

    data: Path
    sources: list[MediaSource]
    weights: str
    scratch: Path
    config: ExtractConfig

    @property
    def identity(self) -> Identity:
        """A cache identity for these settings."""
        config = self.config
        digest = Extractor(config, self.weights, "cpu").weights_sha256
        return new_identity(config, self.weights, digest)

    def ours(self, identity: Identity, jobs: int) -> float:
        """Seconds of our path into an empty cache, in workers that may be running already."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            cache = Path(folder)
            started = time.perf_counter()
            with claimed(cache, identity), contextlib.redirect_stderr(io.StringIO()):
                workers, index = Workers(self.weights, "cpu", jobs), Index(identity.declaration)
                index, _ = run(self.sources, cache, identity, workers, index)
            seconds = time.perf_counter() - started
        if len(index.clips) != len(self.sources):
            raise SystemExit(f"failed: {[failure.message for failure in index.failures.values()]}")
        return seconds

    def plain(self, network: nn.Module) -> float:
        """Seconds of the plain path for the same clips."""
        started = time.perf_counter()
        for source in self.sources:
            if source.container is not None:
                extract_container(source.container, network)
            else:
                assert source.sound is not None
                assert source.frames is not None
                extract_processed(source.sound, source.frames, network)
        return time.perf_counter() - started

    def command(self, jobs: int) -> float:
        """Seconds of the whole command for the same clips, in processes of its own."""
        table = self.scratch / "clips.csv"
        rows = [f'"{source.id}",any,0,10' for source in self.sources]
        table.write_text("\n".join(["id,category,start,end", *rows]), encoding="utf-8")
        cache = self.scratch / "command"
        command = [sys.executable, "-m", "extract", "--data", str(self.data)]
        command += ["--annotations", str(table), "--cache", str(cache), "--device", "cpu"]
        command += ["--weights", self.weights, "--jobs", str(jobs)]
        command += ["--backbone", self.config.backbone]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        shutil.rmtree(cache)
        return seconds


def clips_of(folders: list[Path], count: int) -> dict[str, tuple[Path, list[MediaSource]]]:
    """The first `count` clips of each layout that decode, and the folder they are in."""
    found: dict[str, tuple[Path, list[MediaSource]]] = {}
    for folder in folders:
        labels = read_annotations(find_annotations(folder), ExtractConfig().clip_seconds)
        every = list(find_sources(folder, dict.fromkeys(labels.ids)).values())
        for layout in LAYOUTS:
            mine = (source for source in every if bool(source.container) == (layout != "wav_jpeg"))
            good = list(itertools.islice(filter(decodes, mine), count))
            if good and layout not in found:
                found[layout] = folder.absolute(), good
    return found


def decodes(source: MediaSource) -> bool:
    """Whether a clip has sound and pictures that decode; the others have nothing to time."""
    try:
        decode(source, ExtractConfig())
    except MediaError:
        return False
    return True


def throughput(bench: Bench, network: nn.Module, repeats: int) -> dict[str, Any]:
    """Clips a second of the plain path and of ours with 1 and 2 workers, taking turns."""
    clips, identity = len(bench.sources), bench.identity
    replace(bench, sources=bench.sources[:1]).plain(network)
    get_reusable_executor().shutdown(wait=True)  # so that the next run starts its own workers
    first = bench.ours(identity, JOBS[-1])
    plain: list[float] = []
    ours: dict[int, list[float]] = {jobs: [] for jobs in JOBS}
    for _ in range(repeats):
        plain.append(bench.plain(network))
        for jobs in JOBS:
            ours[jobs].append(bench.ours(identity, jobs))
    steady = {jobs: statistics.median(seconds) for jobs, seconds in ours.items()}
    command = {jobs: bench.command(jobs) for jobs in JOBS}
    plain_s = statistics.median(plain)
    return {
        "clips": clips,
        "plain_clips_per_s": clips / plain_s,
        "clips_per_s": {jobs: clips / seconds for jobs, seconds in steady.items()},
        "speedup": {jobs: plain_s / seconds for jobs, seconds in steady.items()},
        "efficiency": steady[1] / (2 * steady[2]),
        "worker_start_up_s": first - steady[2],
        "command_s": command,
        "command_start_up_s": {jobs: command[jobs] - steady[jobs] for jobs in JOBS},
        "runs_s": {"plain": plain, **{f"jobs_{jobs}": seconds for jobs, seconds in ours.items()}},
    }


def stages(bench: Bench, rates: dict[str, float], repeats: int) -> dict[str, Any]:
    """ms per clip on one core of each stage, beside its floor."""
    config, identity = bench.config, bench.identity
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        times = stages_ms(bench.sources, identity, bench.weights, Path(folder), repeats)
    source = bench.sources[0]
    times.update(audio_parts_ms(source, config, 5 * repeats))
    row = Extractor(config, bench.weights, "cpu")(source)
    floors = floors_ms(source, row, config, bench.weights, rates)
    return {stage: {"ms": spent, "floor_ms": floors.get(stage)} for stage, spent in times.items()}


def show(layout: str, result: dict[str, Any]) -> None:
    """The result as a table for people, on stderr."""
    lines = [
        f"\n{layout}: {result['clips']} clips",
        f"  plain path        {result['plain_clips_per_s']:7.2f} clips/s",
    ]
    for jobs in JOBS:
        lines.append(
            f"  ours, {jobs} worker{'s' if jobs > 1 else ' '}    "
            f"{result['clips_per_s'][jobs]:7.2f} clips/s   {result['speedup'][jobs]:5.2f} x plain;"
            f" whole command {result['command_s'][jobs]:.1f} s"
        )
    lines.append(
        f"  efficiency {result['efficiency']:.0%}; workers start in "
        f"{result['worker_start_up_s']:.1f} s"
    )
    if "stages" not in result:
        print("\n".join(lines), file=sys.stderr)
        return
    lines.append(f"  {'one core, ms per clip':30}{'ms':>9}{'floor':>9}{'times':>8}")
    for stage, cell in result["stages"].items():
        floor = cell["floor_ms"]
        beside = f"{floor:9.3f}{cell['ms'] / floor:8.1f}" if floor else ""
        lines.append(f"  {stage:30}{cell['ms']:9.3f}{beside}")
    print("\n".join(lines), file=sys.stderr)


def rounded(value: Any) -> Any:
    """Floats of nested results to four digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Make or find the clips, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", help="folders of clips; default: a demo")
    parser.add_argument("--weights", default="random:0", help="random:0 or a state dict's path")
    parser.add_argument("--clips", type=int, default=48, help="of each layout")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backbone", choices=["small", "large"], default="small")
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=LAYOUTS)
    parser.add_argument("--skip-stages", action="store_true", help="leave the stages out")
    options = parser.parse_args()
    weights = Path(options.weights) if Path(options.weights).exists() else None
    network = load_network(weights, options.backbone)
    config = ExtractConfig(backbone=options.backbone)
    result: dict[str, Any] = {
        "benchmark": "extract",
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads_plain": torch.get_num_threads(),
        "backbone": options.backbone,
        "data": "given" if options.data else "demo",
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if not options.data:
            make_demo_set(scratch / "demo", 2 * options.clips + 2)
        result["rates"] = rates = machine_rates(scratch)
        folders = options.data or [scratch / "demo"]
        for layout, (data, sources) in clips_of(folders, options.clips).items():
            if layout not in options.layouts:
                continue
            bench = Bench(data, sources, options.weights, scratch, config)
            result[layout] = throughput(bench, network, options.repeats)
            if not options.skip_stages:
                result[layout]["stages"] = stages(bench, rates, options.repeats)
            show(layout, result[layout])
    print(json.dumps(rounded(result)))


if __name__ == "__main__":
    main()
