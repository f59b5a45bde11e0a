"""Training: data, forward, losses, backward, step, schedule, validation, checkpoint.

The weights that are kept are the average over the last epochs, while the learning rate falls. Or,
with `selection` "best", those of the epoch with the highest `localized_iou` on validation, which
then also lowers the learning rate and stops early: the mean over validation events of tIoU where
the class is right, else 0 ("which event, and when" in one number). With classes alone: top-1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.format.schema import BACKGROUND
from train.config import TrainConfig
from train.data.batch import Batch, Output, reverse_time
from train.data.dataset import Dataset, Samples
from train.data.features import FeatureStore
from train.data.splice import splice
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import FusionModel, autocast
from train.runs.checkpoint import About, save
from train.runs.folders import BEST, LAST
from train.score.predict import TrainingError
from train.training.also_test import Look
from train.training.choice import scored_by, stopped_early
from train.training.cuda_graph import Step, StepGraph
from train.training.resume import restore, stored
from train.training.several import several_losses, validate_several
from train.training.state import History, TrainState
from train.training.tell import Callback, told
from train.training.validate import labels_grid, validate

LOSSES = ("train_loss", "train_class_loss", "train_interval_loss", "train_gate_loss")


def train_model(
    model: FusionModel,
    dataset: Dataset,
    about: About,
    run: Path,
    resume: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
    callbacks: Sequence[Callback] = (),
    look: Look | None = None,
) -> History:
    """Train until the epochs or the patience end; leaves BEST and LAST in `run`.

    With `resume` it goes on after the last finished epoch, exactly as if never stopped (of so many
    epochs: the learning rate may depend on that). Of several processes the first writes, and tells
    `callbacks`. What `look` says of an epoch's weights is recorded, and decides nothing.
    """
    config, train = about.config, dataset.splits["train"]
    size = train.epoch_size(config.background_share)
    state, epochs = TrainState.begin(model, config, size), config.epochs_over(size)
    if resume:
        restore(run / LAST, state, about)
    trainer, history = Trainer(state, config, dataset.clips, train, group), state.history
    grid_s = 0.0 if config.events == "several" else labels_grid(dataset)
    with told(callbacks if group.is_main_process else (), history, epochs) as tell:
        while len(history) < epochs and not stopped_early(history, config):
            number, best = len(history) + 1, max(map(scored_by, history), default=-1.0)
            started, rate = time.perf_counter(), state.rate_of(number, epochs)
            try:
                values, chosen = _epoch(trainer, dataset, number, grid_s)
                if look is not None:
                    values |= look(state.ema.model, about.revised(epoch=number, **chosen))
            except TrainingError as error:
                raise TrainingError(_diverged(run, number, error)) from None
            score, seconds = scored_by(values), time.perf_counter() - started
            history.append({"epoch": number, **values, "learning_rate": rate, "seconds": seconds})
            state.scored(score)
            if group.is_main_process:
                _save(run, state, about.revised(epoch=number, score=score, **chosen), score > best)
            tell(score > best)
    return history


def _save(run: Path, state: TrainState, about: About, best: bool) -> None:
    if best or about.config.selection == "last":
        save(run / BEST, state.ema.model, about)
    save(run / LAST, state.model, about, **stored(state))


def _epoch(
    trainer: Trainer, dataset: Dataset, number: int, grid_s: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """Train one epoch and validate: its losses and scores, and what validation chose."""
    losses = dict(zip(LOSSES, trainer.train_epoch(number), strict=True))
    values, chosen = validated(trainer.state.ema.model, dataset, grid_s, trainer.group)
    return losses | values, chosen


def validated(
    model: FusionModel, dataset: Dataset, grid_s: float, group: ProcessGroup = SINGLE_PROCESS
) -> tuple[dict[str, float], dict[str, Any]]:
    """Scores on val, and what it chose, of a model of one event a clip or of several."""
    if model.config.events == "several":
        return validate_several(model, dataset, group)
    return validate(model, dataset, grid_s, group)


class Trainer:
    """Trains a model on the rows of a split; what an epoch changes is in `state`.

    Attributes
    ----------
    backwards: (R,) bool on the device, which rows run backwards in time in this epoch.
    """

    def __init__(
        self,
        state: TrainState,
        config: TrainConfig,
        clips: FeatureStore,
        samples: Samples,
        group: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        """Of several processes each has a trainer, and all take their steps together."""
        self.state, self.config, self.group = state, config, group
        self.clips, self.samples, self.device = clips, samples, clips.device
        self.backwards = torch.zeros(len(samples), dtype=torch.bool, device=self.device)
        self._has_background = samples.background_count() > 0
        self._spliced_share = config.spliced_share_of(self._has_background)
        self._step: Step = self.train_step
        if self.device.type == "cuda" and group.size == 1:
            size = config.batch_size
            self._step = StepGraph(self.train_step, state.optimizer, size, self.device)

    def train_epoch(self, epoch: int) -> list[float]:
        """One pass over the training rows; the means of LOSSES.

        The order of rows, the rows that run backwards and the dropout depend on the seed and the
        epoch's number alone, which is what makes a resumed run equal an uninterrupted one. Of
        several processes each draws its own dropout, and the same of the rest.
        """
        config, clip = self.config, self.samples.clip
        seed = config.seed * 100_003 + epoch
        torch.manual_seed(seed)
        order = torch.randperm(len(clip))
        self.backwards.copy_(torch.rand(len(clip)) < config.reversed_share)
        if not self.group.is_main_process:
            torch.manual_seed(seed ^ self.group.rank << 40)
        self.state.model.train()
        total = torch.zeros(len(LOSSES), device=self.device)
        order = self.samples.drawn(order, config.background_share)
        numbers = torch.sort(order).values
        on_device = numbers.to(self.device)
        place, size = torch.searchsorted(numbers, order), config.batch_size
        with closing(self.clips.epoch(place, clip[on_device], size, self.group)) as batches:
            for chosen, count in batches:
                total += self._step(on_device[chosen], count) * count
        means: list[float] = (total / len(order)).tolist()
        if not np.isfinite(means).all():
            raise TrainingError(
                f"the loss is not finite ({means[0]}): train anew with a lower --learning-rate, or "
                "check the cache with `python -m cache verify`"
            )
        return means

    def train_step(self, chosen: Tensor, count: int) -> Tensor:
        """One optimizer step on the samples numbered `chosen` (N,): (4,) LOSSES of the batch.

        Nothing here waits for the device. Of several processes each passes its share of a batch
        of `count` samples; a share may be empty, and its process takes part in both sums.
        """
        state, config = self.state, self.config
        batch = self.clips.batch(self.samples.clip[chosen])
        category, interval = self.samples.category[chosen], self.samples.interval[chosen]
        clip_seconds = self.clips.shapes.clip_seconds
        if self._spliced_share:
            batch = splice(batch, category, interval, self._spliced_share, clip_seconds)
        if config.reversed_share:
            batch, interval = reverse_time(batch, interval, self.backwards[chosen], clip_seconds)
        steps, events = self._sizes(batch, category, count)
        found = torch.zeros(len(LOSSES), device=self.device)
        if len(chosen):
            with autocast(self.device):
                output = state.model(batch)
            losses = several_losses if output.each is not None else compute_losses
            parts = losses(output, category, interval, config, events, steps)
            parts[0].backward()  # type: ignore[no-untyped-call]
            found = parts.detach()
        found = self.group.all_reduce_gradients(state.model.parameters(), found)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.grad_clip)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.update(state.model)
        return found

    def _sizes(self, batch: Batch, category: Tensor, count: int) -> tuple[Tensor, int | Tensor]:
        """Over all processes, how many steps of a batch are no padding, and how many events it has.

        Each process knows whether there are clips without an event at all, so all sum the same.
        """
        steps = self.state.model.step_count(batch)
        if not self._has_background:
            return self.group.all_reduce(steps), count
        first = category if category.ndim == 1 else category[:, 0]
        events = (first != BACKGROUND).sum()
        both = self.group.all_reduce(torch.stack([steps, events]))
        return both[0], both[1].clamp_min(1)


def compute_losses(
    output: Output,
    category: Tensor,
    interval: Tensor,
    config: TrainConfig,
    events: int | Tensor,
    steps: Tensor,
) -> Tensor:
    """(4,) total, cross-entropy, L1 of start and end, binary cross-entropy of the gate.

    total = CE + interval_weight × L1 + gate_weight × BCE. category (N,) int64; interval (N, 2)
    fractions of the clip. Samples without an event (BACKGROUND, 0 to 0) count for the gate alone.
    The batch has `events` samples with one and `steps` (0-dim) steps that are no padding. Where
    these are N samples of a batch that is spread over several processes, these are this process's
    parts of its means: their sums over the processes are the means.
    """
    real = category != BACKGROUND
    classes = F.cross_entropy(
        output.logits,
        category,
        ignore_index=BACKGROUND,
        label_smoothing=config.label_smoothing,
        reduction="sum",
    )
    spans = (F.l1_loss(output.interval, interval, reduction="none") * real[:, None]).sum()
    heard = torch.isfinite(output.gate_logits)
    score = output.gate_logits.masked_fill(~heard, 0.0)
    wrong = F.binary_cross_entropy_with_logits(
        score, gate_targets(output.steps, interval), reduction="none"
    )
    classes, spans = classes / events, spans / (2 * events)
    gate = (wrong * heard).sum() / steps.clamp_min(1)
    total = classes + config.interval_weight * spans + config.gate_weight * gate
    return torch.stack([total, classes, spans, gate])


def gate_targets(steps: Tensor, interval: Tensor) -> Tensor:
    """How much of each step lies in the event: (N, T) in [0, 1].

    steps (N, T, 2) and interval (N, 2) as fractions of the clip.
    """
    begin = torch.maximum(steps[..., 0], interval[:, :1])
    end = torch.minimum(steps[..., 1], interval[:, 1:])
    width = (steps[..., 1] - steps[..., 0]).clamp_min(1e-9)
    return ((end - begin).clamp_min(0.0) / width).clamp_max(1.0)


def _diverged(run: Path, number: int, error: TrainingError) -> str:
    kept = (
        "the weights of the epochs before are kept: `python -m train evaluate` scores them"
        if number > 1
        else "no epoch before it was good, so there are no weights"
    )
    return f"{run}: epoch {number}: {error}; {kept}"
