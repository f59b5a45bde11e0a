"""Time an epoch of training: ours against a plain DataLoader over the same cache. One JSON line.

    python benchmarks/bench_train.py --clips 3339 --device cpu

Both train the same model on the same synthetic cache (AVE's training size, small backbone) in the
same process. "Plain" is what a trainer usually does: a Dataset that reads one clip with h5py per
item, a DataLoader, maps as stored, a loss fetched each step. Extraction within the epoch, the
plainest path of all, is timed by bench_extract.py.

What a clip costs at the defaults, forward (the backward pass costs the same again for the wide
projection, whose input needs no gradient, and twice that for everything else):

    part                                          multiply-adds      bytes read
    maps of 2 of 8 frames, 2 × 49 × 576 → 32      1.8 M              0.11 MB float16
    channel + spatial attention, mean             0.1 M              0.23 MB float32
    means of 8 frames, 8 × 576 → 64               0.3 M              0.02 MB
    audio CNN, 20 × 3 × (418 + 64) × 64           1.9 M              33 kB
    temporal blocks, 28 × 8 × 64²                 0.9 M
    cross-modal, both ways                        0.5 M
    fusion and heads                              0.2 M

so an epoch of 3,339 clips is about 2 × 3339 × (2 × 1.8 + 3 × 3.9) M ≈ 0.10 TFLOP and moves
at least 0.38 GB of float16 maps; on one core at 60 GFLOP/s the arithmetic alone takes 1.7 s. The
"floor" below is measured, not assumed: the wide projection's two products alone, on data that are
already selected and converted, plus the select-and-convert pass.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from synthetic_cache import labels_for, make_cache  # noqa: E402

from cache import Cache, open_cache  # noqa: E402
from cache.format.fields import Rate  # noqa: E402
from train.config import TrainConfig  # noqa: E402
from train.data.batch import Batch, Frames, Sound  # noqa: E402
from train.data.dataset import Dataset as Loaded  # noqa: E402
from train.data.dataset import load_dataset, resolve  # noqa: E402
from train.data.fields import inputs_of  # noqa: E402
from train.data.pooling import pool_steps  # noqa: E402
from train.model.fusion import FusionModel, autocast  # noqa: E402
from train.training.loop import Trainer, compute_losses  # noqa: E402
from train.training.normalize import normalize  # noqa: E402
from train.training.state import TrainState  # noqa: E402

CLASSES = 28


def build(folder: Path, clips: int) -> Cache:
    """A cache of `clips` clips, all in the training split (but one to validate on)."""
    labels = labels_for(clips + 1, CLASSES)
    labels.split[:] = 0
    labels.split[-1] = 1
    return open_cache(make_cache(folder, labels=labels, distinct=64))


def wait(device: torch.device) -> None:
    """Let the device finish, so that the clock shows its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(device: torch.device, work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of one call, device work included: by the clock, and of this process's processors.

    The latter are what other programs on the machine change least.
    """
    wait(device)
    started, used = time.perf_counter(), time.process_time()
    work()
    wait(device)
    return time.perf_counter() - started, time.process_time() - used


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds of one call by the clock."""
    return measured(device, work)[0]


def trainer_of(model: FusionModel, config: TrainConfig, data: Loaded) -> Trainer:
    """What trains a model on the training split, with an optimizer and an average of its own."""
    train = data.splits["train"]
    return Trainer(TrainState.begin(model, config, len(train)), config, data.clips, train)


def plain_step(
    trainer: Trainer, batch: Batch, category: torch.Tensor, interval: torch.Tensor
) -> float:
    """A step on a batch from elsewhere; its loss, waited for."""
    model, optimizer = trainer.state.model, trainer.state.optimizer
    with autocast(trainer.device):
        output = model(batch)
    steps = model.step_count(batch)
    parts = compute_losses(output, category, interval, trainer.config, len(category), steps)
    parts[0].backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.config.grad_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    trainer.state.ema.update(model)
    return parts[0].item()


def stages(trainer: Trainer, data: Loaded) -> dict[str, float]:
    """Seconds per epoch of each part, timed apart over the epoch's batches."""
    device, clips, train = trainer.device, data.clips, data.splits["train"]
    model, optimizer, config = trainer.state.model, trainer.state.optimizer, trainer.config
    seconds = dict.fromkeys(("select_convert", "forward", "backward", "clip_optimizer"), 0.0)
    held: dict[str, Any] = {}
    for rows in torch.split(torch.arange(len(train), device=device), config.batch_size):

        def select(rows: torch.Tensor = rows) -> None:
            held["batch"] = clips.batch(train.clip[rows])

        def forward(rows: torch.Tensor = rows) -> None:
            with autocast(device):
                output = model(held["batch"])
            category, interval = train.category[rows], train.interval[rows]
            steps = model.step_count(held["batch"])
            losses = compute_losses(output, category, interval, config, len(rows), steps)
            held["loss"] = losses[0]

        def update() -> None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
            optimizer.step()
            optimizer.zero_grad()

        seconds["select_convert"] += timed(device, select)
        seconds["forward"] += timed(device, forward)
        seconds["backward"] += timed(device, lambda: held["loss"].backward())
        seconds["clip_optimizer"] += timed(device, update)
    return seconds


def floor(trainer: Trainer, data: Loaded) -> dict[str, float]:
    """Seconds per epoch of fetching a quarter of the maps, and of their wide products."""
    clips, train, video = data.clips, data.splits["train"], trainer.state.model.video
    size = min(trainer.config.batch_size, len(train))
    batches = len(train) / size
    frames = clips.batch(train.clip[:size]).frames
    assert frames is not None
    assert video is not None
    some = torch.randperm(frames.rows.numel(), device=trainer.device)[: frames.rows.numel() // 4]
    dtype = torch.bfloat16 if trainer.device.type == "cuda" else torch.float32
    maps = frames.cells(some).to(dtype).flatten(0, 1)
    weight = video.project.weight.detach().to(dtype)
    out = maps @ weight.T

    def products() -> None:
        torch.mm(maps, weight.T, out=out)
        torch.mm(out.T, maps)

    def fetch() -> None:
        frames.cells(some)

    work = {"select_convert": fetch, "wide_products": products}
    return {
        name: batches * statistics.median(timed(trainer.device, one) for _ in range(5))
        for name, one in work.items()
    }


class PlainClips(Dataset[dict[str, Any]]):
    """One clip per item, read with h5py when asked for: the usual way."""

    def __init__(self, cache: Cache, data: Loaded) -> None:
        self.folder = cache.path / "shards"
        sound = inputs_of(cache, TrainConfig()).sound
        self.clock, self.audio = sound[0].clock, [field.name for field in sound]
        self.entries = [cache.index.clips[clip_id] for clip_id in data.clips.ids]
        self.step_s, self.steps = data.clips.step_s, len(data.clips.step_time_s)
        self.train = data.splits["train"]

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, place: int) -> dict[str, Any]:
        entry = self.entries[int(self.train.clip[place])]
        with h5py.File(self.folder / entry.shard, "r") as file:
            audio = [file[name][entry.row] for name in self.audio]
            maps = file["video/maps"][entry.row].astype(np.float32)
            time_s = file["video/frame_time_s"][entry.row].astype(np.float32)
            steps = file["rows/audio_steps"][entry.row]
        parts = [values[None] for values in audio]
        assert isinstance(self.clock, Rate)
        pooled, valid = pool_steps(parts, np.array([steps]), self.clock, self.step_s, self.steps)
        return {
            "audio": pooled[0],
            "valid": valid[0],
            "maps": maps,
            "time_s": time_s,
            "category": self.train.category[place].cpu(),
            "interval": self.train.interval[place].cpu(),
        }


def plain_epoch(
    trainer: Trainer, data: Loaded, items: PlainClips, clips: int
) -> tuple[float, float]:
    """Seconds of `clips` items through the plain path, eager, the loss fetched each step."""
    device = trainer.device
    loader = DataLoader(
        items,
        batch_size=trainer.config.batch_size,
        sampler=torch.utils.data.SubsetRandomSampler(range(clips)),
    )

    def work() -> None:
        for item in loader:
            on = {name: value.to(device) for name, value in item.items()}
            maps = on["maps"].flatten(3).transpose(2, 3)
            span_s = torch.full((len(maps),), 10.0 / maps.shape[1], device=device)
            sound = Sound(on["audio"], on["valid"], data.clips.step_time_s, data.clips.step_s)
            batch = Batch(sound, Frames.of(maps, on["time_s"], span_s))
            plain_step(trainer, batch, on["category"], on["interval"])

    return measured(device, work)


def main() -> None:
    """Build, warm up, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=3339)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs; the median counts")
    parser.add_argument("--batch-size", type=int, default=TrainConfig().batch_size)
    parser.add_argument("--plain-clips", type=int, default=256, help="clips through the plain path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = build(Path(folder) / "cache", options.clips)
        config = TrainConfig(device=options.device, batch_size=options.batch_size)
        config = resolve(config, cache, cache.labels.classes)
        started = time.perf_counter()
        data = load_dataset(cache, config, ("train", "val"))
        wait(data.clips.device)
        load_s = time.perf_counter() - started
        torch.manual_seed(0)
        model = FusionModel(data.clips.shapes, config).to(data.clips.device)
        normalize_s = timed(
            data.clips.device, lambda: normalize(model, data.clips, data.splits["train"])
        )
        trainer = trainer_of(model, config, data)
        trainer.train_epoch(0)
        epochs = [
            measured(trainer.device, functools.partial(trainer.train_epoch, number))
            for number in range(1, options.epochs + 1)
        ]
        plain_clips = min(options.plain_clips, options.clips)
        all_of = options.clips / plain_clips
        plain, plain_used = plain_epoch(trainer, data, PlainClips(cache, data), plain_clips)
        ours, ours_used = map(statistics.median, zip(*epochs, strict=True))
        result = {
            "benchmark": "train",
            "clips": options.clips,
            "batch_size": config.batch_size,
            "device": torch.cuda.get_device_name() if trainer.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "epoch_s": round(ours, 4),
            "epochs_s": [round(value, 4) for value, _ in epochs],
            "plain_epoch_s": round(plain * all_of, 4),
            "plain_measured_on_clips": plain_clips,
            "speedup": round(plain * all_of / ours, 2),
            "processor_s": {
                "epoch": round(ours_used, 4),
                "plain_epoch": round(plain_used * all_of, 4),
                "speedup": round(plain_used * all_of / ours_used, 2),
            },
            "load_s": round(load_s, 3),
            "load_GB_per_s": round(
                sum(f.stat().st_size for f in cache.path.rglob("*.h5")) / load_s / 1e9, 3
            ),
            "normalize_s": round(normalize_s, 3),
            "stages_s": {k: round(v, 4) for k, v in stages(trainer, data).items()},
            "floor_s": {k: round(v, 4) for k, v in floor(trainer, data).items()},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
