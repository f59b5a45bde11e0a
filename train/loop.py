"""Training: loss, optimizer step, schedule, early stopping, checkpoints, resume.

The validation score that selects the best epoch, lowers the learning rate and stops early is
`localized_iou`: the mean over validation events of tIoU where the class is right, else 0. It is
the product's question ("which event, and when") in one number.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cache.errors import AvelError, ConfigError
from train.checkpoint import BEST, LAST, About, CheckpointError, load, save
from train.config import TrainConfig
from train.data import Clips, Dataset, Samples
from train.decode import best_run, gate_targets, second_probability
from train.metrics import Array, Events, Predictions, classification, localization, second_count
from train.model import Batch, FusionModel, Output

CRITERION = "localized_iou"
LOSSES = 4
History = list[dict[str, float]]
_EVALUATION_ROWS = 64


class TrainingError(AvelError):
    """Training can't go on, for example because the loss is not finite."""


def losses(output: Output, category: Tensor, interval: Tensor, config: TrainConfig) -> Tensor:
    """(4,) total, cross-entropy, L1 of start and end, binary cross-entropy of the gate.

    total = CE + interval_weight × L1 + gate_weight × BCE. category (N,) int64; interval (N, 2)
    fractions of the clip.
    """
    classes = F.cross_entropy(output.logits, category, label_smoothing=config.label_smoothing)
    spans = F.l1_loss(output.interval, interval)
    real = torch.isfinite(output.gate_logits)
    score = output.gate_logits.masked_fill(~real, 0.0)
    wrong = F.binary_cross_entropy_with_logits(
        score, gate_targets(output.steps, interval), reduction="none"
    )
    gate = (wrong * real).sum() / real.sum().clamp_min(1)
    total = classes + config.interval_weight * spans + config.gate_weight * gate
    return torch.stack([total, classes, spans, gate])


@dataclass
class Step:
    """One optimizer step on the device, without a wait for it."""

    model: FusionModel
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    device: torch.device

    def __call__(self, batch: Batch, category: Tensor, interval: Tensor) -> Tensor:
        """Forward, backward, clip, update; returns the (4,) losses, still on the device."""
        with autocast(self.device):
            output = self.model(batch)
        parts = losses(output, category, interval, self.config)
        parts[0].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return parts.detach()


class EpochStep:
    """`Step` on rows of a split: from row numbers on the device to losses on the device.

    On CUDA, a step of a full batch is captured once as a graph and replayed: its hundreds of
    small kernels cost more to launch one by one than to run. The last, smaller batch of an epoch
    and the first steps (which let libraries set themselves up) run as they are.
    """

    _WARM_UP = 3

    def __init__(self, step: Step, clips: Clips, rows: Samples) -> None:
        self.step, self.clips, self.rows = step, clips, rows
        self._size = step.config.batch_size
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_rate = 0.0
        self._chosen = torch.zeros(self._size, dtype=torch.int64, device=clips.device)
        self._losses = torch.zeros(LOSSES, device=clips.device)
        self._eager_steps = 0

    def __call__(self, chosen: Tensor) -> Tensor:
        """(4,) losses of the step on sample numbers `chosen` (N,)."""
        if self.clips.device.type != "cuda" or len(chosen) != self._size:
            return self._eager(chosen)
        if self._graph is None and self._eager_steps < self._WARM_UP:
            self._eager_steps += 1
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                found = self._eager(chosen)
            torch.cuda.current_stream().wait_stream(side)
            return found
        self._chosen.copy_(chosen)
        rate = self.step.optimizer.param_groups[0]["lr"]
        if self._graph is None or rate != self._captured_rate:  # a graph holds its rate for good
            self._graph, self._captured_rate = torch.cuda.CUDAGraph(), rate
            with torch.cuda.graph(self._graph):
                self._losses = self._eager(self._chosen)
        self._graph.replay()
        return self._losses

    def _eager(self, chosen: Tensor) -> Tensor:
        batch = self.clips.batch(self.rows.clip[chosen])
        return self.step(batch, self.rows.category[chosen], self.rows.interval[chosen])


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on CUDA, plain float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def make_optimizer(model: FusionModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused; only matrices decay, not biases and norms."""
    wide = [p for p in model.parameters() if p.ndim > 1]
    thin = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": wide, "weight_decay": config.weight_decay},
        {"params": thin, "weight_decay": 0.0},
    ]
    capturable = wide[0].device.type == "cuda"
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True, capturable=capturable)


def train_epoch(epoch_step: EpochStep, epoch: int) -> list[float]:
    """One pass over the training rows; mean total, class, interval and gate loss.

    The order of rows and the dropout depend on the seed and the epoch's number alone, which is
    what makes a resumed run equal an uninterrupted one.
    """
    config, device, count = epoch_step.step.config, epoch_step.clips.device, len(epoch_step.rows)
    torch.manual_seed(config.seed * 100_003 + epoch)
    order = torch.randperm(count).to(device)
    epoch_step.step.model.train()
    total = torch.zeros(LOSSES, device=device)
    for chosen in torch.split(order, config.batch_size):
        total += epoch_step(chosen) * len(chosen)
    means: list[float] = (total / count).tolist()
    if not np.isfinite(means).all():
        raise TrainingError(
            f"epoch {epoch}: the loss is not finite ({means[0]}); the last good weights are kept. "
            "Lower --learning-rate, or check the cache with `python -m cache verify`"
        )
    return means


@torch.inference_mode()
def predict(model: FusionModel, clips: Clips, rows: Tensor) -> dict[str, Predictions]:
    """Class probabilities and intervals (seconds) for clip rows (N,), on the host, decoded twice.

    "gate": the best-scoring run of whole seconds, and which seconds are on; "interval": the
    start and end head.
    """
    model.eval()
    clip_seconds, classes = clips.shapes.clip_seconds, clips.shapes.classes
    seconds = second_count(clip_seconds)
    parts = [torch.empty(0, classes + 2 + seconds, device=clips.device)]
    for some in torch.split(rows, _EVALUATION_ROWS):
        with autocast(clips.device):
            output = model(clips.batch(some))
        chance = second_probability(output.gate_logits, output.steps, seconds)
        parts.append(torch.cat([output.logits.softmax(dim=1), output.interval, chance], dim=1))
    values: Array = torch.cat(parts).double().cpu().numpy()
    probability, spans, on = np.split(values, [classes, classes + 2], axis=1)
    first, stop = best_run(on)
    width = np.float64(clip_seconds / seconds)
    return {
        "gate": Predictions(probability, first * width, stop * width, on),
        "interval": Predictions(
            probability, spans[:, 0] * clip_seconds, spans[:, 1] * clip_seconds
        ),
    }


def events(samples: Samples, clip_seconds: float) -> Events:
    """The truth of a split as arrays on the host, in seconds."""
    spans = samples.interval.double().cpu().numpy() * clip_seconds
    return Events(samples.category.cpu().numpy(), spans[:, 0], spans[:, 1])


def validate(model: FusionModel, dataset: Dataset) -> tuple[dict[str, float], str]:
    """top1, miou and the criterion on the validation rows, and the decoding they are of.

    That is the one with the higher criterion; a gate that was not trained as one is left out.
    """
    val = dataset.splits["val"]
    truth = events(val, dataset.clips.shapes.clip_seconds)
    guesses = predict(model, dataset.clips, val.clip)
    found = {name: localization(truth, guess) for name, guess in guesses.items()}
    values = {f"val_{name}_{CRITERION}": float(f[CRITERION] or 0.0) for name, f in found.items()}
    names = [*guesses] if model.config.gate_weight else ["interval"]
    decoding = max(names, key=lambda name: values[f"val_{name}_{CRITERION}"])
    guess = guesses[decoding]
    own = guess.probability[np.arange(len(truth)), truth.category]
    scores = {**classification(truth, guess), **found[decoding]}
    values |= {f"val_{name}": float(scores[name] or 0.0) for name in ("top1", "miou", CRITERION)}
    return {"val_class_loss": float(-np.log(np.maximum(own, 1e-12)).mean()), **values}, decoding


def fit(
    model: FusionModel, dataset: Dataset, about: About, run: Path, resume: bool = False
) -> History:
    """Train until the epochs or the patience end; leaves BEST and LAST in `run`.

    With `resume` it goes on after the last finished epoch, exactly as if never stopped.
    """
    config = about.config
    for name in ("train", "val"):
        if not len(dataset.splits[name]):
            raise ConfigError(f"the split {name!r} has no rows with features; can't train")
    optimizer = make_optimizer(model, config)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=config.scheduler_factor, patience=config.scheduler_patience
    )
    history = _restore(run / LAST, model, optimizer, scheduler, about) if resume else []
    step = Step(model, optimizer, config, dataset.clips.device)
    epoch_step = EpochStep(step, dataset.clips, dataset.splits["train"])
    bar = tqdm(total=config.epochs, initial=len(history), unit="epoch", disable=None)
    with bar:
        while len(history) < config.epochs and not stopped_early(history, config):
            entry, decoding = _epoch(epoch_step, dataset, len(history) + 1)
            best = max((past[f"val_{CRITERION}"] for past in history), default=-1.0)
            history.append(entry)
            scheduler.step(entry[f"val_{CRITERION}"])
            now = about.revised(
                epoch=len(history), score=entry[f"val_{CRITERION}"], decoding=decoding
            )
            if entry[f"val_{CRITERION}"] > best:
                save(run / BEST, model, now)
            save(
                run / LAST,
                model,
                now,
                optimizer=optimizer.state_dict(),
                scheduler=scheduler.state_dict(),
                history=json.dumps(history),
            )
            bar.update()
            tqdm.write(_line(entry, config, best), file=sys.stderr)
    return history


def _epoch(epoch_step: EpochStep, dataset: Dataset, number: int) -> tuple[dict[str, float], str]:
    started = time.perf_counter()
    rate = epoch_step.step.optimizer.param_groups[0]["lr"]
    total, classes, spans, gate = train_epoch(epoch_step, number)
    values, decoding = validate(epoch_step.step.model, dataset)
    entry = {
        "epoch": number,
        "train_loss": total,
        "train_class_loss": classes,
        "train_interval_loss": spans,
        "train_gate_loss": gate,
        **values,
        "learning_rate": float(rate),
        "seconds": time.perf_counter() - started,
    }
    return entry, decoding


def best_epoch(history: Sequence[dict[str, float]]) -> int:
    """Number (from 1) of the first epoch with the highest criterion."""
    return 1 + int(np.argmax([entry[f"val_{CRITERION}"] for entry in history]))


def stopped_early(history: History, config: TrainConfig) -> bool:
    """Whether `patience` epochs went by without a better criterion."""
    return bool(history) and len(history) - best_epoch(history) >= config.patience


def _line(entry: dict[str, float], config: TrainConfig, best: float) -> str:
    mark = " *" if entry[f"val_{CRITERION}"] > best else ""
    return (
        f"epoch {entry['epoch']:>3}/{config.epochs}  loss {entry['train_loss']:.4f}  "
        f"val top-1 {entry['val_top1']:.3f}  mIoU {entry['val_miou']:.3f}  "
        f"{CRITERION} {entry[f'val_{CRITERION}']:.3f}{mark}  "
        f"lr {entry['learning_rate']:.1e}  {entry['seconds']:.2f} s"
    )


def _restore(
    path: Path,
    model: FusionModel,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau,
    about: About,
) -> History:
    stored, found, payload = load(path)
    if found.fingerprint != about.fingerprint:
        raise CheckpointError(f"{path}: was trained on another cache ({found.fingerprint[:16]}…)")
    model.load_state_dict(stored.state_dict())
    try:
        state: dict[str, Any] = payload["optimizer"]
        optimizer.load_state_dict(state)
        for group in optimizer.param_groups:  # the run may have begun on another device
            group["capturable"] = group["params"][0].device.type == "cuda"
        scheduler.load_state_dict(payload["scheduler"])
        history: History = json.loads(payload["history"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: holds no training to go on with ({error!r})") from None
    return history
