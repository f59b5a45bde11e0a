"""What training changes: the weights, their moving average, the optimizer, the learning rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from train.config import TrainConfig
from train.model.fusion import FusionModel

History = list[dict[str, float]]
FALLS = ((0.4, 1.0), (0.6, 0.5), (0.8, 0.25), (1.0, 0.1))
"""Until which share of the epochs the learning rate is which share of its first value. It falls in
a few steps, not in each epoch: a captured CUDA graph holds its rate."""


class ModelEma:
    """Exponential moving average of the weights over optimizer steps.

    Weights averaged over the path of training generalise better than its end (Polyak and Juditsky
    1992; as a moving average, Tarvainen and Valpola 2017). It is what is validated and kept.

    Attributes
    ----------
    model: holds the average; the very model in training where nothing is averaged.
    steps: 0-dim float32 tensor, optimizer steps averaged so far; on the device, so that a captured
        step counts on.
    """

    def __init__(self, model: FusionModel, epochs: float, steps_per_epoch: int) -> None:
        """Average over about the last `epochs` epochs; 0 averages nothing."""
        self.steps = torch.zeros((), device=next(model.parameters()).device)
        self.decay = math.exp(-1 / (epochs * steps_per_epoch)) if epochs else 0.0
        self.model = copy.deepcopy(model) if epochs else model

    @torch.no_grad()
    def update(self, model: FusionModel) -> None:
        """Move a little towards the model's weights; at first by more than later."""
        if self.model is model:
            return
        self.steps += 1
        move = 1 - ((self.steps + 1) / (self.steps + 10)).clamp_max(self.decay)
        for mean, now in zip(self.model.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, move)

    def weights(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return {name: value.detach() for name, value in self.model.named_parameters()}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], steps: float) -> None:
        """Go on from a stored average: its parameters by name."""
        self.model.load_state_dict({**self.model.state_dict(), **weights})
        self.steps.fill_(steps)


@dataclass
class TrainState:
    """A model in training, and all that goes with it from epoch to epoch.

    scheduler: None where the learning rate depends on the epoch's number alone.
    history: for each finished epoch its losses, scores and learning rate by name.
    """

    model: FusionModel
    ema: ModelEma
    optimizer: torch.optim.Optimizer
    scheduler: ReduceLROnPlateau | None
    history: History = field(default_factory=list)

    @classmethod
    def begin(cls, model: FusionModel, config: TrainConfig, rows: int) -> TrainState:
        """Before the first epoch over so many training rows."""
        optimizer = make_optimizer(model, config)
        scheduler = None
        if config.selection == "best":
            scheduler = ReduceLROnPlateau(
                optimizer, "max", factor=config.scheduler_factor, patience=config.scheduler_patience
            )
        steps = math.ceil(rows / config.batch_size)
        return cls(model, ModelEma(model, config.average_epochs, steps), optimizer, scheduler)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def rate_of(self, epoch: int, epochs: int) -> float:
        """Set the learning rate for an epoch (from 1) of so many, and say it."""
        if self.scheduler is None:
            part = epoch / epochs
            share = next((share for until, share in FALLS if part <= until), FALLS[-1][1])
            for group in self.optimizer.param_groups:
                group["lr"] = self.model.config.learning_rate * share
        return self.learning_rate

    def scored(self, score: float) -> None:
        """Tell the scheduler, if there is one, how good the epoch was."""
        if self.scheduler is not None:
            self.scheduler.step(score)


def make_optimizer(model: FusionModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused; only matrices decay, not biases and norms."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    no_decay = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    capturable = decay[0].device.type == "cuda"
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True, capturable=capturable)
