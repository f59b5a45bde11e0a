"""Times for events of which only the class is known: guessed, so that there are steps to learn.

Each step of a clip is given the clip's class, as the instances of a bag are its label in
single-instance learning (Ray and Craven 2005), and each stream has a learner that tells classes by
them. It is blind on purpose: a logistic regression on single steps, which knows nothing of the clip
around and answers for clips that it was not fitted on. (A learner that sees the whole clip, as the
model does, knows its class at every step: that tells nothing of when.) At a step of the event it is
surer of the clip's class than beside it, and the event is where all streams are.
Letters of shapes as in `train.data.batch`; R rows of samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache.common.cli import say
from cache.format.schema import BACKGROUND
from train.config import TrainConfig
from train.data.batch import Batch
from train.data.dataset import Dataset, Samples
from train.data.features import FeatureStore
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import at_steps
from train.score.decode import best_interval, second_probability
from train.score.metrics import second_count
from train.training.loop import gate_targets

_FOLDS = 4
_DECAY = 0.03
"""Of the squared weights beside the mean cross-entropy, of inputs with a deviation of 1."""
_ITERATIONS = 20
_SHARPNESS = 2.0
"""The logit of an event at a step is this times its class's evidence."""
_BATCH = 64


def with_times(
    dataset: Dataset, config: TrainConfig, group: ProcessGroup = SINGLE_PROCESS
) -> Dataset:
    """What is trained and chosen on: training events without times get guessed ones, and it says.

    With --weak all are without, and validation's stay so.
    """
    dataset = dataset.without_times() if config.weak else dataset
    count = int(dataset.splits["train"].weak.sum())
    if count and group.is_main_process:
        say(f"{count} training events have a class alone: guessing when they are")
    return guess_times(dataset, group)


def guess_times(dataset: Dataset, group: ProcessGroup = SINGLE_PROCESS) -> Dataset:
    """The data whose training events all have times: those that had keep them.

    Guesses are of whole seconds, and follow from training clips alone. Of several processes the
    first guesses for all. Validation stays as it is.
    """
    train = dataset.splits["train"]
    if not train.weak.any():
        return dataset
    interval = torch.zeros_like(train.interval)
    if group.is_main_process:
        guessed = _guessed(dataset.clips, train)
        interval = torch.where(train.interval.isnan(), guessed, train.interval)
    train = replace(train, interval=group.all_reduce(interval))
    return replace(dataset, splits={**dataset.splits, "train": train})


@dataclass(frozen=True)
class Steps:
    """What there is at each step of R clips.

    streams: (R, T, D) each, of any D, normalized over all steps; valid: (R, T) bool, False where a
    step is padding; spans: (R, T, 2) when each begins and ends, as fractions of the clip.
    """

    streams: list[Tensor]
    valid: Tensor
    spans: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, clips: FeatureStore, wanted: Tensor) -> Steps:
        """Of the clips numbered `wanted` (R,)."""
        found = [(places, _steps_of(batch)) for places, batch in clips.batches(wanted, _BATCH)]
        place = torch.cat([places for places, _ in found]).argsort()
        columns = zip(*(parts for _, parts in found), strict=True)
        *streams, valid, middle_s, span_s = (torch.cat(column)[place] for column in columns)
        spans_s = torch.stack([middle_s - span_s / 2, middle_s + span_s / 2], dim=2)
        normalized = [_normalized(stream, valid) for stream in streams]
        return cls(normalized, valid, spans_s / clips.shapes.clip_seconds)


def _steps_of(batch: Batch) -> list[Tensor]:
    """Of N clips each stream, which steps are valid, their middles and their widths in seconds."""
    sound, frames = batch.sound, batch.frames
    if sound is None:
        assert frames is not None
        time_s = frames.time_s
        span_s = frames.span_s.unsqueeze(1).expand_as(time_s)
        return [frames.means(), torch.ones_like(time_s, dtype=torch.bool), time_s, span_s]
    time_s = sound.time_s.expand(sound.valid.shape)
    seen = [] if frames is None else [at_steps(frames.means(), sound, frames)]
    return [sound.features, *seen, sound.valid, time_s, torch.full_like(time_s, sound.step_s)]


def _normalized(stream: Tensor, valid: Tensor) -> Tensor:
    mean, std = stream[valid].mean(dim=0), stream[valid].std(dim=0)
    return (stream - mean) / std.clamp_min(1e-5)


def _guessed(clips: FeatureStore, train: Samples) -> Tensor:
    """(R, 2) start and end of the rows of train, as fractions of the clip."""
    steps = Steps.of(clips, train.clip)
    true = gate_targets(steps.spans, train.interval.nan_to_num())
    weight = torch.where(train.weak[:, None], steps.valid.float(), true)
    part = _parts(train.clip, len(clips.ids))
    evidence = class_evidence(steps, train.category, weight, part)
    score = (_SHARPNESS * evidence).masked_fill(~steps.valid, -torch.inf)
    seconds = second_count(clips.shapes.clip_seconds)
    on = second_probability(score, steps.spans, seconds).double().cpu().numpy()
    ends = torch.from_numpy(np.stack(best_interval(on), axis=1))
    return (ends / seconds).to(train.interval)


def _parts(clip: Tensor, clips: int) -> Tensor:
    """(R,) in which of _FOLDS parts the clip of each row is: always the same, by its number."""
    lot = torch.randperm(clips, generator=torch.Generator().manual_seed(0)).to(clip.device)
    return (lot % _FOLDS)[clip]


def class_evidence(steps: Steps, category: Tensor, weight: Tensor, part: Tensor) -> Tensor:
    """(R, T) how sure it is of each step that it is of its clip's class, in the least sure stream.

    That is, the logarithm of the class's probability over its share, as a learner says that was not
    fitted on the clip, above the threshold that splits these over all steps (see `between`).
    category (R,): clips without an event fit nothing; weight (R, T), how much a step counts; part
    (R,) below _FOLDS: learners are fitted on the other parts. 0 where these don't know the class.
    """
    own, least = category.clamp_min(0), torch.full_like(weight, torch.inf)
    for stream in steps.streams:
        found = torch.full_like(weight, torch.nan)
        for fold in range(_FOLDS):
            use, asked = (part != fold) & (category != BACKGROUND), part == fold
            shares = weight.new_zeros(int(own.max()) + 1)
            shares = shares.index_add(0, own[use], weight[use].sum(dim=1))
            if not shares.any():
                continue
            told = _fitted(stream[use], own[use], weight[use], shares)(stream[asked])
            ratio = told.log_softmax(dim=2) - (shares / shares.sum()).log()
            ratio = ratio.gather(2, own[asked, None, None].expand(*ratio.shape[:2], 1)).squeeze(2)
            found[asked] = torch.where((shares > 0)[own[asked], None], ratio, torch.nan)
        there = steps.valid & (category != BACKGROUND)[:, None] & ~found.isnan()
        least = torch.minimum(least, (found - between(found[there])).nan_to_num(0.0))
    return least


def between(values: Tensor) -> Tensor:
    """What splits values (n,) into low and high ones that are as far apart as can be (Otsu 1979).

    0-dim: the middle between the highest low and the lowest high one; of equal splits the first.
    """
    values = values.double().sort().values
    if len(values) < 2:
        return values.new_zeros(())
    count = torch.arange(1, len(values), device=values.device)
    low, total = values.cumsum(0)[:-1], values.sum()
    apart = low / count - (total - low) / (len(values) - count)
    at = (count * (len(values) - count) * apart.square()).argmax()
    return values[at : at + 2].mean()


def _fitted(x: Tensor, own: Tensor, weight: Tensor, shares: Tensor) -> nn.Linear:
    """Logistic regression of the class (n,) on each step of x (n, T, D), by weight (n, T)."""
    learner = nn.Linear(x.shape[2], len(shares), device=x.device)
    nn.init.zeros_(learner.weight)
    nn.init.zeros_(learner.bias)
    flat, target = x.flatten(0, 1), own.repeat_interleave(x.shape[1])
    counts = weight.flatten() / weight.sum()
    fit = torch.optim.LBFGS(
        learner.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def cost() -> Tensor:
        fit.zero_grad()
        wrong = F.cross_entropy(learner(flat), target, reduction="none") @ counts
        total: Tensor = wrong + _DECAY * learner.weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    fit.step(cost)  # type: ignore[no-untyped-call]
    return learner.requires_grad_(False)
