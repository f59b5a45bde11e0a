"""A trained run as one function of plain tensors, for ONNX: cached arrays in, answers out.

All that stands between a cache and an answer is in it: pooling of the sound, both directions of
time, the mean of several models, calibration, and what is read off. Shapes: N clips, T steps,
S seconds, G cells, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from train.data.batch import Batch
from train.data.fields import Inputs
from train.export.inputs import CachedInput
from train.runs.trained import TrainedModel, TrainedRun, common_decoding
from train.score.calibrate import Calibration
from train.score.decode import cells_in_part
from train.score.predict import answer_widths, both_ways, each_both_ways

_SURE, _LITTLE = 1e-6, 1e-9


class Answering(nn.Module):
    """A run's answer to cached arrays, float32: of one event a clip, or of several.

    Of one event `probability` (N, K), `start_s`, `end_s` and `event_confidence` (N,), and `cells`
    (N, G), the probability that the event is heard and seen in each of G equal parts of the clip.
    Of several `probability` (N, T, K), of each class at each step, 0 where a clip has no sound.
    """

    def __init__(self, run: TrainedRun, inputs: Inputs, steps: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(one.model for one in run.models)
        self.run, self.steps = run, steps
        self.clip_seconds = run.about.model_shapes().clip_seconds
        self.input = CachedInput(inputs, self.clip_seconds, steps)
        self.several = run.about.config.events == "several"
        one_event = ["probability", "start_s", "end_s", "event_confidence", "cells"]
        self.outputs = ["probability"] if self.several else one_event

    def forward(self, *arrays: Tensor) -> tuple[Tensor, ...]:
        """Arrays in the order of `input.names`; answers in that of `outputs`."""
        batch = self.input(dict(zip(self.input.names, arrays, strict=True)))
        if self.several:
            found = [self._each(one, batch) for one in self.run.models]
            return (_mean(found).float(),)
        answers = [self._one(one, batch) for one in self.run.models]
        probability, interval, on, cells = map(_mean, zip(*answers, strict=True))
        first, stop, width = self._gates(on, cells)
        start_s, end_s = first * width, stop * width
        event = _event_confidence(on, start_s, end_s, self.clip_seconds)
        if common_decoding([one.about.decoding for one in self.run.models]) == "interval":
            start_s, end_s = (interval * self.clip_seconds).unbind(dim=1)
        return tuple(one.float() for one in (probability, start_s, end_s, event, cells))

    def _each(self, one: TrainedModel, batch: Batch) -> Tensor:
        said = each_both_ways(one.model, batch, self.steps).double()
        return _gate(one.about.calibration, said)

    def _one(self, one: TrainedModel, batch: Batch) -> list[Tensor]:
        """Class probabilities, start and end as fractions, seconds, cells: calibrated."""
        shapes, calibration = one.model.shapes, one.about.calibration
        answer, _ = both_ways(one.model, batch, shapes, attention=False)
        parts = torch.split(answer.double(), answer_widths(shapes), dim=1)
        probability, interval, on, cells = parts
        if calibration.class_temperature != 1:
            scaled = probability.clamp_min(_SURE) ** (1 / calibration.class_temperature)
            probability = scaled / scaled.sum(dim=1, keepdim=True)
        return [probability, interval, _gate(calibration, on), _gate(calibration, cells)]

    def _gates(self, on: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, float]:
        """First and last-plus-one part of the gate's interval (N,), and a part's seconds.

        See `Evidence.read_off`.
        """
        known = [one.about.calibration for one in self.run.models]
        together = known[0] if len(known) == 1 else Calibration.mean(known)
        part = cells_in_part(cells.shape[1], on.shape[1], together.grid_s)
        whole = part * on.shape[1] == cells.shape[1]
        chance = on if whole else cells.view(-1, cells.shape[1] // part, part).mean(dim=2)
        parts = chance.shape[1]
        if together.whole_clip:
            nothing = chance[:, 0] * 0
            return nothing, nothing + parts, self.clip_seconds / parts
        first, stop = _best_interval(chance)
        return first.double(), stop.double(), self.clip_seconds / parts


def _mean(several: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(several)).mean(dim=0)


def _gate(calibration: Calibration, probability: Tensor) -> Tensor:
    """As `Calibration.gate`."""
    if calibration.gate_scale == 1 and calibration.gate_shift == 0:
        return probability
    inner = probability.clamp(_SURE, 1 - _SURE)
    logit = inner.log() - (1 - inner).log()
    corrected = 1 / (1 + (-(calibration.gate_scale * logit + calibration.gate_shift)).exp())
    return corrected * (probability > 0).double()


def _best_interval(probability: Tensor) -> tuple[Tensor, Tensor]:
    """As `train.score.decode.best_interval`: (N, G) → first and last-plus-one cell (N,)."""
    cells = probability.shape[1]
    length = np.arange(cells, 0, -1)
    ends = np.concatenate([np.arange(n, cells + 1) for n in length])
    stop, first = torch.tensor(ends), torch.tensor(ends - np.repeat(length, cells + 1 - length))
    nothing = probability[:, :1] * 0
    mass = torch.cat([nothing, (probability + _LITTLE).cumsum(dim=1)], dim=1)
    inside = mass[:, stop] - mass[:, first]
    best = (inside / ((stop - first) + mass[:, -1:] - inside)).argmax(dim=1)
    return first[best], stop[best]


def _event_confidence(on: Tensor, start_s: Tensor, end_s: Tensor, clip_seconds: float) -> Tensor:
    """As `train.score.decode.event_confidence`."""
    edge = torch.linspace(0.0, clip_seconds, on.shape[1] + 1, dtype=torch.float64)
    inside = torch.minimum(end_s[:, None], edge[1:]) - torch.maximum(start_s[:, None], edge[:-1])
    inside = inside.clamp_min(0.0)
    return ((on * inside).sum(dim=1) / inside.sum(dim=1).clamp_min(_LITTLE)).clamp(0.0, 1.0)
