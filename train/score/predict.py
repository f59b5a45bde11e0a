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
from train.score.decode import (
    Evidence,
    cell_count,
    cell_probability,
    class_probability,
    second_probability,
)
from train.score.metrics import Array, Events, second_count

_BATCH = 64
_MAPS_BYTES = 1 << 28
AttentionWatch = Callable[[Tensor, Evidence, Batch, Mapping[str, Tensor]], None]


class TrainingError(AvelError):
    """A loss or an answer is not finite: training can't go on, or went wrong."""


@torch.inference_mode()
def predict(
    model: FusionModel,
    clips: FeatureStore,
    rows: Tensor,
    group: ProcessGroup = SINGLE_PROCESS,
    watch: AttentionWatch | None = None,
) -> Evidence:
    """What a model says of clip rows (N,), on the host, as it says it: nothing is calibrated.

    A model that was trained on clips run backwards as well is asked both ways, and the mean of its
    two answers counts. Raises CacheError where the clips are not such as the model reads, and
    TrainingError where an answer is not finite.

    watch: is given each batch as it is answered: the places (n,) of its clips in `rows`, what was
    said of them, the input, and the attention maps of the pass forwards. It changes no answer.
    """
    check_shapes(model.shapes, clips.shapes, model.config.modality)
    model.eval()
    shapes, size = clips.shapes, _BATCH
    if watch is not None:
        size = max(1, min(_BATCH, _MAPS_BYTES // attention_bytes(model, clips)))
    answers = torch.zeros(len(rows), sum(answer_widths(shapes)), device=clips.device)
    mine = group.share(torch.arange(len(rows), device=clips.device))
    for places, batch in clips.batches(rows[mine], size):
        answer, attention = both_ways(model, batch, shapes, watch is not None)
        answers[mine[places]] = answer
        if watch is not None:
            watch(mine[places], _evidence(answer, shapes), batch, attention)
    return _evidence(_finite(group.all_reduce(answers)), shapes)


@torch.inference_mode()
def predict_each(
    model: FusionModel,
    clips: FeatureStore,
    rows: Tensor,
    cells: int,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Array:
    """Probability of each class in each of `cells` equal parts of clip rows (N,): (N, G, K).

    Of a model of several events, as it says it: nothing is calibrated; and both ways, as in
    `predict`.
    """
    check_shapes(model.shapes, clips.shapes, model.config.modality)
    model.eval()
    answers = torch.zeros(len(rows), cells, model.shapes.classes, device=clips.device)
    mine = group.share(torch.arange(len(rows), device=clips.device))
    for places, batch in clips.batches(rows[mine], _BATCH):
        answers[mine[places]] = each_both_ways(model, batch, cells)
    found: Array = _finite(group.all_reduce(answers)).double().cpu().numpy()
    return found


def each_both_ways(model: FusionModel, batch: Batch, cells: int) -> Tensor:
    """(N, G, K) of both passes, see `predict_each`."""
    answer = _each(model, batch, cells)
    if model.config.reversed_share:
        which = torch.ones_like(answer[:, 0, 0], dtype=torch.bool)
        nothing = torch.zeros_like(answer[:, 0, :2])
        turned, _ = reverse_time(batch, nothing, which, model.shapes.clip_seconds)
        answer = (answer + _each(model, turned, cells).flip(1)) / 2
    return answer


def _each(model: FusionModel, batch: Batch, cells: int) -> Tensor:
    """(N, G, K) of one pass."""
    with autocast(next(model.parameters()).device):
        output = model(batch)
    assert output.each is not None
    return class_probability(output.gate_logits, output.each, output.steps, cells)


def _finite(answers: Tensor) -> Tensor:
    if not bool(answers.isfinite().all()):
        raise TrainingError(
            "the model's answers are not finite, its training diverged: train anew with a lower "
            "--learning-rate"
        )
    return answers


def attention_bytes(model: FusionModel, clips: FeatureStore) -> int:
    """Bytes of the attention maps of one clip, in float32: those of heads, which are the most."""
    length = len(clips.step_time_s) + clips.frame_time_s.shape[1]
    return 4 * model.config.num_heads * length**2


def answer_widths(shapes: Shapes) -> list[int]:
    """Numbers of an answer: class probabilities, start and end, seconds, cells."""
    return [shapes.classes, 2, second_count(shapes.clip_seconds), cell_count(shapes.clip_seconds)]


def both_ways(
    model: FusionModel, batch: Batch, shapes: Shapes, attention: bool
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The answer (N, K + 2 + S + G), and the attention maps of the pass forwards, if asked for."""
    device = next(model.parameters()).device
    with autocast(device):
        output = model(batch, return_attention=attention)
    answer = _answer(output, shapes)
    if model.config.reversed_share:
        which = torch.ones_like(answer[:, 0], dtype=torch.bool)
        turned, _ = reverse_time(batch, answer[:, :2], which, shapes.clip_seconds)
        with autocast(device):
            backwards = model(turned)
        answer = (answer + _forwards(_answer(backwards, shapes), shapes)) / 2
    return answer, output.attention


def _answer(output: Output, shapes: Shapes) -> Tensor:
    """(N, K + 2 + S + G), in the order of `answer_widths`."""
    _, _, seconds, cells = answer_widths(shapes)
    gate, steps = output.gate_logits, output.steps
    parts = [second_probability(gate, steps, seconds), cell_probability(gate, steps, cells)]
    return torch.cat([output.logits.softmax(dim=1), output.interval, *parts], dim=1)


def _forwards(backwards: Tensor, shapes: Shapes) -> Tensor:
    """The answer (N, K + 2 + S + G) for clips from the answer for the clips run backwards."""
    probability, interval, on, cells = torch.split(backwards, answer_widths(shapes), dim=1)
    return torch.cat([probability, 1 - interval.flip(1), on.flip(1), cells.flip(1)], dim=1)


def _evidence(answers: Tensor, shapes: Shapes) -> Evidence:
    """Answers (N, K + 2 + S + G) on the host, times in seconds."""
    values: Array = answers.double().cpu().numpy()
    places = np.cumsum(answer_widths(shapes))[:-1]
    probability, interval, on, cells = np.split(values, places, axis=1)
    start_s, end_s = interval.T * shapes.clip_seconds
    return Evidence(probability, start_s, end_s, on, cells)


def events(samples: Samples, clip_seconds: float) -> Events:
    """The truth of a split's rows as arrays on the host, in seconds; see `Events.real`."""
    spans = samples.interval.double().cpu().numpy() * clip_seconds
    clip = samples.clip.cpu().numpy()
    return Events(samples.category.cpu().numpy(), spans[:, 0], spans[:, 1], clip)
