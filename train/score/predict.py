"""What a model says of clips, and what is true of them: both as arrays on the host, in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from cache.common.errors import AvelError
from train.data.batch import Batch, Output, Shapes, check_shapes, reverse_time
from train.data.dataset import Samples
from train.data.features import FeatureStore
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import FusionModel, autocast
from train.score.decode import read_off_seconds, second_probability
from train.score.metrics import Array, Events, Predictions, second_count

_BATCH = 64
_MAPS_BYTES = 1 << 28
AttentionWatch = Callable[[Tensor, Mapping[str, Predictions], Batch, Mapping[str, Tensor]], None]


class TrainingError(AvelError):
    """A loss or an answer is not finite: training can't go on, or went wrong."""


@torch.inference_mode()
def predict(
    model: FusionModel,
    clips: FeatureStore,
    rows: Tensor,
    group: ProcessGroup = SINGLE_PROCESS,
    watch: AttentionWatch | None = None,
) -> dict[str, Predictions]:
    """Class probabilities and intervals (seconds) for clip rows (N,), on the host, decoded twice.

    "gate": the best-scoring run of whole seconds, and which seconds are on; "interval": the
    start and end head. A model that was trained on clips run backwards as well is asked both ways,
    and the mean of its two answers counts. Raises CacheError where the clips are not such as the
    model reads, and TrainingError where an answer is not finite.

    watch: is given each batch as it is answered: the places (n,) of its clips in `rows`, their
    answers, the input, and the attention maps of the pass forwards. It changes no answer.
    """
    check_shapes(model.shapes, clips.shapes, model.config.modality)
    model.eval()
    shapes, size = clips.shapes, _BATCH
    if watch is not None:
        size = max(1, min(_BATCH, _MAPS_BYTES // attention_bytes(model, clips)))
    width = shapes.classes + 2 + second_count(shapes.clip_seconds)
    answers = torch.zeros(len(rows), width, device=clips.device)
    mine = group.share(torch.arange(len(rows), device=clips.device))
    for places, batch in clips.batches(rows[mine], size):
        answer, attention = _both_ways(model, batch, shapes, watch is not None)
        answers[mine[places]] = answer
        if watch is not None:
            watch(mine[places], _read_off(answer, shapes), batch, attention)
    answers = group.all_reduce(answers)
    if not bool(answers.isfinite().all()):
        raise TrainingError(
            "the model's answers are not finite, its training diverged: train anew with a lower "
            "--learning-rate"
        )
    return _read_off(answers, shapes)


def attention_bytes(model: FusionModel, clips: FeatureStore) -> int:
    """Bytes of the attention maps of one clip, in float32: those of heads, which are the most."""
    length = len(clips.step_time_s) + clips.frame_time_s.shape[1]
    return 4 * model.config.num_heads * length**2


def _both_ways(
    model: FusionModel, batch: Batch, shapes: Shapes, attention: bool
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The answer (N, K + 2 + S), and the attention maps of the pass forwards, if asked for."""
    device, seconds = next(model.parameters()).device, second_count(shapes.clip_seconds)
    with autocast(device):
        output = model(batch, return_attention=attention)
    answer = _answer(output, seconds)
    if model.config.reversed_share:
        which = torch.ones(len(answer), dtype=torch.bool, device=device)
        turned, _ = reverse_time(batch, answer[:, :2], which, shapes.clip_seconds)
        with autocast(device):
            backwards = model(turned)
        answer = (answer + _forwards(_answer(backwards, seconds), shapes.classes)) / 2
    return answer, output.attention


def _answer(output: Output, seconds: int) -> Tensor:
    """(N, K + 2 + S): class probabilities, start and end, the probability of each second."""
    chance = second_probability(output.gate_logits, output.steps, seconds)
    return torch.cat([output.logits.softmax(dim=1), output.interval, chance], dim=1)


def _read_off(answers: Tensor, shapes: Shapes) -> dict[str, Predictions]:
    """Answers (N, K + 2 + S) as predictions on the host, decoded twice."""
    values: Array = answers.double().cpu().numpy()
    probability, spans, on = np.split(values, [shapes.classes, shapes.classes + 2], axis=1)
    spans = spans * shapes.clip_seconds
    gate = read_off_seconds(probability, on, shapes.clip_seconds)
    interval = Predictions(probability, spans[:, 0], spans[:, 1], event=gate.event)
    return {"gate": gate, "interval": interval}


def _forwards(backwards: Tensor, classes: int) -> Tensor:
    """The answer (N, K + 2 + S) for clips from the answer for the clips run backwards."""
    probability, interval, on = backwards.tensor_split([classes, classes + 2], dim=1)
    return torch.cat([probability, 1 - interval.flip(1), on.flip(1)], dim=1)


def events(samples: Samples, clip_seconds: float) -> Events:
    """The truth of a split's rows as arrays on the host, in seconds; see `Events.real`."""
    spans = samples.interval.double().cpu().numpy() * clip_seconds
    clip = samples.clip.cpu().numpy()
    return Events(samples.category.cpu().numpy(), spans[:, 0], spans[:, 1], clip)
