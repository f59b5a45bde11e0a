"""What is learned of clips with any number of events: each class at each step, on or off.

Shapes: N clips, E events of a clip at most, T steps, S seconds, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cache.format.schema import BACKGROUND
from train.config import TrainConfig
from train.data.batch import Output
from train.data.dataset import Dataset, Samples
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import FusionModel
from train.score.metrics import Array, second_count
from train.score.named import CRITERION_OF_SEVERAL
from train.score.predict import predict_each
from train.score.seconds import cross_entropy, mean_average_precision


def several_losses(
    output: Output,
    category: Tensor,
    interval: Tensor,
    config: TrainConfig,
    events: int | Tensor,
    steps: Tensor,
) -> Tensor:
    """(4,) total, cross-entropy of the classes, 0, binary cross-entropy of the gate.

    total = CE + gate_weight × BCE. The gate is on where any class is. Which classes are on is
    learned where one is: a mean over those steps of a clip, then over the clips that have an event,
    of a sum over classes, so that the many steps and classes that are off don't drown the few that
    are on. category (N, E) and interval (N, E, 2) as in `Samples`; the batch has `events` clips
    with an event and `steps` (0-dim) steps that are no padding. Of several processes these are
    parts of means, as in `compute_losses`.
    """
    assert output.each is not None
    heard = torch.isfinite(output.gate_logits)
    wanted = class_targets(output.steps, category, interval, output.each.shape[-1])
    on = wanted.amax(dim=-1)
    smooth = config.label_smoothing
    own = (wanted / on.unsqueeze(-1).clamp_min(1e-6)) * (1 - smooth) + smooth / wanted.shape[-1]
    wrong = F.binary_cross_entropy_with_logits(output.each, own, reduction="none").sum(dim=-1)
    there = on * heard
    classes = ((wrong * there).sum(dim=1) / there.sum(dim=1).clamp_min(1e-6)).sum() / events
    score = output.gate_logits.masked_fill(~heard, 0.0)
    wrong = F.binary_cross_entropy_with_logits(score, on, reduction="none")
    gate = (wrong * heard).sum() / steps.clamp_min(1)
    return torch.stack([classes + config.gate_weight * gate, classes, torch.zeros_like(gate), gate])


def class_targets(steps: Tensor, category: Tensor, interval: Tensor, classes: int) -> Tensor:
    """How much of each step lies in an event of each class: (N, T, K) in [0, 1].

    steps (N, T, 2) and interval (N, E, 2) as fractions of the clip; category (N, E), the same for
    all of a clip where one of its events is BACKGROUND.
    """
    begin = torch.maximum(steps[:, :, None, 0], interval[:, None, :, 0])
    end = torch.minimum(steps[:, :, None, 1], interval[:, None, :, 1])
    width = (steps[..., 1] - steps[..., 0]).clamp_min(1e-9).unsqueeze(-1)
    share = ((end - begin).clamp_min(0.0) / width).clamp_max(1.0)
    share = share * (category != BACKGROUND).unsqueeze(1)
    found = share.new_zeros(*share.shape[:2], classes)
    place = category.clamp_min(0).unsqueeze(1).expand_as(share)
    return found.scatter_reduce(2, place, share, "amax")


def validate_several(
    model: FusionModel, dataset: Dataset, group: ProcessGroup = SINGLE_PROCESS
) -> tuple[dict[str, float], dict[str, Any]]:
    """Cross-entropy and mAP of each class in each second of the validation clips.

    And, as `validate` gives it, what was chosen on them: nothing before training ends.
    """
    samples, clip_seconds = dataset.splits["val"], dataset.clips.shapes.clip_seconds
    seconds = second_count(clip_seconds)
    said = predict_each(model, dataset.clips, samples.clip, seconds, group)
    true = shares_of_cells(samples, seconds, model.shapes.classes)
    return {
        "val_class_loss": cross_entropy(true, said),
        f"val_{CRITERION_OF_SEVERAL}": mean_average_precision(true, said) or 0.0,
    }, {}


def shares_of_cells(samples: Samples, cells: int, classes: int) -> Array:
    """How much of each of `cells` equal parts of its clip is in an event of a class: (N, G, K)."""
    edge = torch.linspace(0, 1, cells + 1)
    steps = torch.stack([edge[:-1], edge[1:]], dim=1).expand(len(samples), -1, -1)
    category = samples.category.cpu().view(len(samples), -1)
    interval = samples.interval.cpu().view(len(samples), -1, 2)
    shares: Array = class_targets(steps, category, interval, classes).double().numpy()
    return shares
