"""Training: loss, optimizer step, schedule, early stopping, checkpoints, resume.

The validation score that selects the best epoch, lowers the learning rate and stops early is
`localized_iou`: the mean over validation events of tIoU where the class is right, else 0. It is
the product's question ("which event, and when") in one number.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cache.common.errors import ConfigError
from train.config import TrainConfig
from train.data.dataset import Dataset
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.fit.resume import History, restore, state_of
from train.fit.step import (
    LOSSES,
    EpochStep,
    ModelEma,
    Step,
    make_optimizer,
)
from train.model.fusion import FusionModel
from train.runs.checkpoint import BEST, LAST, About, CheckpointError, load, save
from train.score.metrics import CRITERION, classification, localization
from train.score.predict import TrainingError, events, predict


def train_epoch(epoch_step: EpochStep, epoch: int) -> list[float]:
    """One pass over the training rows; mean total, class, interval and gate loss.

    The order of rows, the rows that run backwards and the dropout depend on the seed and the
    epoch's number alone, which is what makes a resumed run equal an uninterrupted one. Of several
    processes each draws its own dropout, and the same of the rest.
    """
    config, step, count = epoch_step.step.config, epoch_step.step, len(epoch_step.rows)
    seed = config.seed * 100_003 + epoch
    torch.manual_seed(seed)
    order = torch.randperm(count)
    epoch_step.backwards.copy_(torch.rand(count) < config.reversed_share)
    if not step.group.is_main_process:
        torch.manual_seed(seed ^ step.group.rank << 40)
    step.model.train()
    total = torch.zeros(LOSSES, device=step.device)
    clip, size = epoch_step.rows.clip, config.batch_size
    with closing(epoch_step.clips.epoch(order, clip, size, step.group)) as batches:
        for chosen, rows in batches:
            total += epoch_step(chosen, rows) * rows
    means: list[float] = (total / count).tolist()
    if not np.isfinite(means).all():
        raise TrainingError(
            f"the loss is not finite ({means[0]}): train anew with a lower --learning-rate, or "
            "check the cache with `python -m cache verify`"
        )
    return means


def validate(
    model: FusionModel, dataset: Dataset, group: ProcessGroup = SINGLE_PROCESS
) -> tuple[dict[str, float], str]:
    """top1, miou and the criterion on the validation rows, and the decoding they are of.

    That is the one with the higher criterion; a gate that was not trained as one is left out.
    """
    val = dataset.splits["val"]
    truth = events(val, dataset.clips.shapes.clip_seconds)
    guesses = predict(model, dataset.clips, val.clip, group)
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
    model: FusionModel,
    dataset: Dataset,
    about: About,
    run: Path,
    resume: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> History:
    """Train until the epochs or the patience end; leaves BEST and LAST in `run`.

    With `resume` it goes on after the last finished epoch, exactly as if never stopped. Of several
    processes the first writes and speaks.
    """
    config = about.config
    for name in ("train", "val"):
        if not len(dataset.splits[name]):
            raise ConfigError(f"the split {name!r} has no rows with features; can't train")
    optimizer = make_optimizer(model, config)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max", factor=config.scheduler_factor, patience=config.scheduler_patience
    )
    steps = math.ceil(len(dataset.splits["train"]) / config.batch_size)
    average = ModelEma(model, config.average_epochs, steps)
    history = _restore(run / LAST, model, average, optimizer, scheduler, about) if resume else []
    step = Step(model, optimizer, config, dataset.clips.device, average, group)
    epoch_step = EpochStep(step, dataset.clips, dataset.splits["train"])
    silent = None if group.is_main_process else True
    with tqdm(total=config.epochs, initial=len(history), unit="epoch", disable=silent) as bar:
        while len(history) < config.epochs and not stopped_early(history, config):
            number = len(history) + 1
            try:
                entry, decoding = _epoch(epoch_step, dataset, number)
            except TrainingError as error:
                raise TrainingError(_diverged(run, number, error)) from None
            best = max((past[f"val_{CRITERION}"] for past in history), default=-1.0)
            history.append(entry)
            scheduler.step(entry[f"val_{CRITERION}"])
            if not group.is_main_process:
                continue
            now = about.revised(
                epoch=len(history), score=entry[f"val_{CRITERION}"], decoding=decoding
            )
            if entry[f"val_{CRITERION}"] > best:
                save(run / BEST, average.model, now)
            save(run / LAST, model, now, **state_of(average, optimizer, scheduler, history))
            bar.update()
            tqdm.write(_line(entry, config, best), file=sys.stderr)
    return history


def _epoch(epoch_step: EpochStep, dataset: Dataset, number: int) -> tuple[dict[str, float], str]:
    started = time.perf_counter()
    rate = epoch_step.step.optimizer.param_groups[0]["lr"]
    total, classes, spans, gate = train_epoch(epoch_step, number)
    step = epoch_step.step
    values, decoding = validate(step.average.model, dataset, step.group)
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


def _diverged(run: Path, number: int, error: TrainingError) -> str:
    kept = (
        "the weights of the epochs before are kept: `python -m train evaluate` scores them"
        if number > 1
        else "no epoch before it was good, so there are no weights"
    )
    return f"{run}: epoch {number}: {error}; {kept}"


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
    average: ModelEma,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau,
    about: About,
) -> History:
    _, found, payload = load(path)
    if found.fingerprint != about.fingerprint:
        raise CheckpointError(f"{path}: was trained on another cache ({found.fingerprint[:16]}…)")
    return restore(path, found, payload, model, average, optimizer, scheduler)
