"""Ways to run the CPU's training step, side by side: seconds of an epoch each. One JSON line.

    python benchmarks/compare_steps.py --clips 600

Every way trains the same model on the same synthetic cache in this process, in turn within each
round; the median of the rounds counts. Some ways give other numbers than float32 (bfloat16), some
need what a user's machine may lack (a C++ compiler); these are here to see what they would give.

float32     the trainer's own step
bfloat16    the same under autocast
compiled    the model through torch.compile (default mode; its first epoch is not counted)
unfused     AdamW one operation at a time
batch × 5   batches five times as large, a bound for what training five seeds in one batched
            pass could give, whose clips also differ between the seeds
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from bench_train import build, epoch_of  # noqa: E402

from cache.reader import Cache  # noqa: E402
from train.config import TrainConfig  # noqa: E402
from train.data.dataset import load_dataset, resolve  # noqa: E402
from train.fit.loop import train_epoch  # noqa: E402
from train.fit.normalize import normalize  # noqa: E402
from train.fit.step import EpochStep  # noqa: E402
from train.model.fusion import FusionModel  # noqa: E402


def ways(cache: Cache, compiles: bool) -> dict[str, EpochStep]:
    """What is compared, each with a model and an optimizer of its own."""
    config = resolve(TrainConfig(device="cpu"), cache, cache.labels.classes)
    data = load_dataset(cache, config, ("train", "val"))
    torch.manual_seed(0)
    model = FusionModel(data.clips.shapes, config)
    normalize(model, data.clips, data.splits["train"])
    large = config.model_copy(update={"batch_size": 5 * config.batch_size})
    found = {
        "float32": epoch_of(copy.deepcopy(model), config, data),
        "bfloat16": epoch_of(copy.deepcopy(model), config, data),
        "unfused": epoch_of(copy.deepcopy(model), config, data),
        "batch x 5": epoch_of(copy.deepcopy(model), large, data),
    }
    for group in found["unfused"].step.optimizer.param_groups:
        group["fused"] = False
    if compiles:
        compiled = copy.deepcopy(model)
        compiled.compile()
        found["compiled"] = epoch_of(compiled, config, data)
    return found


def epoch_s(name: str, steps: EpochStep, number: int) -> float:
    """Seconds of one epoch."""
    half = torch.autocast("cpu", torch.bfloat16)
    context = mock.patch("train.fit.step.autocast", return_value=half)
    started = time.perf_counter()
    with context if name == "bfloat16" else nullcontext():
        train_epoch(steps, number)
    return time.perf_counter() - started


def main() -> None:
    """Build, warm up, measure in turn, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes minutes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = ways(build(Path(folder) / "cache", options.clips), options.compile)
        times: dict[str, list[float]] = {name: [] for name in found}
        for number in range(options.rounds + 1):
            for name, steps in found.items():
                times[name].append(epoch_s(name, steps, number))
    medians = {name: round(statistics.median(each[1:]), 3) for name, each in times.items()}
    first = {name: round(each[0], 1) for name, each in times.items()}
    print(json.dumps({"benchmark": "steps", "clips": options.clips, "s": medians, "first": first}))


if __name__ == "__main__":
    main()
