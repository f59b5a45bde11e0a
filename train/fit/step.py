"""One optimizer step: time reversal, losses, update, and the average of the weights over steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train.config import TrainConfig
from train.data.batch import Batch, Output, reverse_time
from train.data.clips import Clips
from train.data.dataset import Samples
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import FusionModel, autocast
from train.score.decode import gate_targets

LOSSES = 4


def losses(
    output: Output,
    category: Tensor,
    interval: Tensor,
    config: TrainConfig,
    rows: int | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Tensor:
    """(4,) total, cross-entropy, L1 of start and end, binary cross-entropy of the gate.

    total = CE + interval_weight × L1 + gate_weight × BCE. category (N,) int64; interval (N, 2)
    fractions of the clip. Where the batch is spread over several processes and has `rows` in all,
    these are this process's parts of its means: their sums over the processes are the means.
    """
    rows = rows or len(category)
    classes = F.cross_entropy(
        output.logits, category, label_smoothing=config.label_smoothing, reduction="sum"
    )
    spans = F.l1_loss(output.interval, interval, reduction="sum")
    real = torch.isfinite(output.gate_logits)
    score = output.gate_logits.masked_fill(~real, 0.0)
    wrong = F.binary_cross_entropy_with_logits(
        score, gate_targets(output.steps, interval), reduction="none"
    )
    classes, spans = classes / rows, spans / (2 * rows)
    gate = (wrong * real).sum() / group.all_reduce(real.sum()).clamp_min(1)
    total = classes + config.interval_weight * spans + config.gate_weight * gate
    return torch.stack([total, classes, spans, gate])


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
        """ModelEma over about the last `epochs` epochs; 0 averages nothing."""
        self.steps = torch.zeros((), device=next(model.parameters()).device)
        self.keep = math.exp(-1 / (epochs * steps_per_epoch)) if epochs else 0.0
        self.model = copy.deepcopy(model) if epochs else model

    @torch.no_grad()
    def update(self, model: FusionModel) -> None:
        """Move the average towards the model's weights; at first by more than later."""
        if self.model is model:
            return
        self.steps += 1
        move = 1 - ((self.steps + 1) / (self.steps + 10)).clamp_max(self.keep)
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
class Step:
    """One optimizer step on the device, without a wait for it."""

    model: FusionModel
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    device: torch.device
    average: ModelEma
    group: ProcessGroup = SINGLE_PROCESS

    def __call__(
        self, batch: Batch, category: Tensor, interval: Tensor, rows: int | None = None
    ) -> Tensor:
        """Forward, backward, clip, update; returns the (4,) losses, still on the device.

        Of several processes each passes its share of a batch that has `rows` in all; a share may
        be empty.
        """
        if len(category):
            with autocast(self.device):
                output = self.model(batch)
            parts = losses(output, category, interval, self.config, rows, self.group)
            parts[0].backward()  # type: ignore[no-untyped-call]
            found = parts.detach()
        else:  # the others wait for this process's part of the sums
            self.group.all_reduce(torch.zeros((), dtype=torch.int64, device=self.device))
            found = torch.zeros(LOSSES, device=self.device)
        found = self.group.all_reduce_gradients(self.model.parameters(), found)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model)
        return found


class EpochStep:
    """`Step` on rows of a split: from row numbers on the device to losses on the device.

    On CUDA, a step of a full batch is captured once as a graph and replayed: its hundreds of
    small kernels cost more to launch one by one than to run. The last, smaller batch of an epoch
    and the first steps (which let libraries set themselves up) run as they are; so do all steps
    of several processes, which wait for each other.

    Attributes
    ----------
    backwards: (R,) bool on the device, which rows run backwards in time in this epoch.
    """

    _WARM_UP = 3

    def __init__(self, step: Step, clips: Clips, rows: Samples) -> None:
        self.step, self.clips, self.rows = step, clips, rows
        self.backwards = torch.zeros(len(rows), dtype=torch.bool, device=clips.device)
        self._size = step.config.batch_size
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_rate = 0.0
        self._chosen = torch.zeros(self._size, dtype=torch.int64, device=clips.device)
        self._losses = torch.zeros(LOSSES, device=clips.device)
        self._eager_steps = 0

    def __call__(self, chosen: Tensor, rows: int | None = None) -> Tensor:
        """(4,) losses of the step on sample numbers `chosen` (N,), a share of `rows` in all."""
        captures = self.clips.device.type == "cuda" and self.step.group.size == 1
        if not captures or len(chosen) != self._size:
            return self._eager(chosen, rows)
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

    def _eager(self, chosen: Tensor, rows: int | None = None) -> Tensor:
        batch = self.clips.batch(self.rows.clip[chosen])
        interval = self.rows.interval[chosen]
        if self.step.config.reversed_share:
            clip_seconds = self.clips.shapes.clip_seconds
            batch, interval = reverse_time(batch, interval, self.backwards[chosen], clip_seconds)
        return self.step(batch, self.rows.category[chosen], interval, rows)


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
