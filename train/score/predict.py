"""What a model says of clips, and what is true of them: both as arrays on the host, in seconds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cache.common.errors import AvelError
from train.data.batch import Batch, check_shapes, reverse_time
from train.data.dataset import Samples
from train.data.features import FeatureStore
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import FusionModel, autocast
from train.score.decode import read_off_seconds, second_probability
from train.score.metrics import Array, Events, Predictions, second_count

_BATCH = 64


class TrainingError(AvelError):
    """A loss or an answer is not finite: training can't go on, or went wrong."""


@torch.inference_mode()
def predict(
    model: FusionModel, clips: FeatureStore, rows: Tensor, group: ProcessGroup = SINGLE_PROCESS
) -> dict[str, Predictions]:
    """Class probabilities and intervals (seconds) for clip rows (N,), on the host, decoded twice.

    "gate": the best-scoring run of whole seconds, and which seconds are on; "interval": the
    start and end head. A model that was trained on clips run backwards as well is asked both ways,
    and the mean of its two answers counts. Raises CacheError where the clips are not such as the
    model reads, and TrainingError where an answer is not finite.
    """
    check_shapes(model.shapes, clips.shapes, model.config.modality)
    model.eval()
    clip_seconds, classes = clips.shapes.clip_seconds, clips.shapes.classes
    seconds = second_count(clip_seconds)
    answers = torch.zeros(len(rows), classes + 2 + seconds, device=clips.device)
    mine = group.share(torch.arange(len(rows), device=clips.device))
    for places, batch in clips.batches(rows[mine], _BATCH):
        answer = _answer(model, batch, seconds)
        if model.config.reversed_share:
            which = torch.ones(len(places), dtype=torch.bool, device=clips.device)
            turned, _ = reverse_time(batch, answer[:, :2], which, clip_seconds)
            answer = (answer + _forwards(_answer(model, turned, seconds), classes)) / 2
        answers[mine[places]] = answer
    values: Array = group.all_reduce(answers).double().cpu().numpy()
    if not np.isfinite(values).all():
        raise TrainingError(
            "the model's answers are not finite, its training diverged: train anew with a lower "
            "--learning-rate"
        )
    probability, spans, on = np.split(values, [classes, classes + 2], axis=1)
    return {
        "gate": read_off_seconds(probability, on, clip_seconds),
        "interval": Predictions(
            probability, spans[:, 0] * clip_seconds, spans[:, 1] * clip_seconds
        ),
    }


def _answer(model: FusionModel, batch: Batch, seconds: int) -> Tensor:
    """(N, K + 2 + S): class probabilities, start and end, the probability of each second."""
    with autocast(next(model.parameters()).device):
        output = model(batch)
    chance = second_probability(output.gate_logits, output.steps, seconds)
    return torch.cat([output.logits.softmax(dim=1), output.interval, chance], dim=1)


def _forwards(backwards: Tensor, classes: int) -> Tensor:
    """The answer (N, K + 2 + S) for clips from the answer for the clips run backwards."""
    probability, interval, on = backwards.tensor_split([classes, classes + 2], dim=1)
    return torch.cat([probability, 1 - interval.flip(1), on.flip(1)], dim=1)


def events(samples: Samples, clip_seconds: float) -> Events:
    """The truth of a split as arrays on the host, in seconds."""
    spans = samples.interval.double().cpu().numpy() * clip_seconds
    clip = samples.clip.cpu().numpy()
    return Events(samples.category.cpu().numpy(), spans[:, 0], spans[:, 1], clip)
