"""How sure a score is: 95 % intervals by drawing the clips anew (the bootstrap).

What is drawn is clips, not events: the events of one clip are alike, so they stay together.
Percentile intervals of 2,000 resamples (Efron & Tibshirani 1993, chapter 13). They tell what other
clips of the same kind would have changed, not what another training would have.
Shapes: N events (label rows), C clips, B resamples, S scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from train.score.detection import seconds_of
from train.score.metrics import Array, Events, Predictions, tiou
from train.score.named import FEWEST_CLIPS, LEVEL, RESAMPLES

_SEED = 0
_ALIKE = 1e-9  # rounding alone
_AT_ONCE = 1 << 21  # numbers in memory: resamples times clips


@dataclass(frozen=True)
class Estimate:
    """A mean over events and its 95 % interval, for `clips` clips with `events` events.

    low and high are None where fewer than 10 clips carry the score, and where it is the same for
    all clips: then resampling has nothing to tell from.
    """

    mean: float
    low: float | None
    high: float | None
    clips: int
    events: int


@dataclass(frozen=True)
class EventScores:
    """The headline scores of each event: clip (N,) int64 its clip, and by name (N,) float64.

    NaN where an event doesn't carry a score. The mean over the others is the score of
    `train.score.summary.score` of that name; so of two predictors the difference is the mean of
    the differences, and of several models the mean is that of their means.
    """

    clip: npt.NDArray[np.int64]
    by_name: Mapping[str, Array]

    @classmethod
    def of(cls, truth: Events, guess: Predictions, clip_seconds: float) -> EventScores:
        """Those of one predictor, of the rows that are events (N of them)."""
        truth, guess = truth.of(truth.real), guess.of(truth.real)
        clip = np.arange(len(truth)) if truth.clip is None else truth.clip
        true, said = seconds_of(truth, guess, clip_seconds)
        return cls.made_of(
            clip,
            right=truth.category == guess.category,
            overlap=tiou(truth.start_s, truth.end_s, guess.start_s, guess.end_s),
            short=truth.end_s - truth.start_s < clip_seconds,
            seconds_right=np.where(truth.timed, np.mean(true == said, axis=1), np.nan),
        )

    @classmethod
    def made_of(
        cls,
        clip: npt.NDArray[np.int64],
        right: npt.NDArray[np.bool_],
        overlap: Array,
        short: npt.NDArray[np.bool_],
        seconds_right: Array,
    ) -> EventScores:
        """Of N events: whether the class is right, the tIoU, the share of the seconds right."""
        by_name = {
            "top1": right.astype(np.float64),
            "segment_accuracy": seconds_right,
            "miou": overlap,
            "localized_iou": overlap * right,
            "short_miou": np.where(short, overlap, np.nan),
        }
        return cls(clip, by_name)

    @classmethod
    def mean(cls, several: Sequence[EventScores]) -> EventScores:
        """The mean over models that answered the same events."""
        names = several[0].by_name
        means = {name: np.mean([one.by_name[name] for one in several], axis=0) for name in names}
        return cls(several[0].clip, means)

    def __sub__(self, other: EventScores) -> EventScores:
        """By how much this predictor is better, on the same events."""
        gains = {name: values - other.by_name[name] for name, values in self.by_name.items()}
        return EventScores(self.clip, gains)

    def estimates(self) -> dict[str, Estimate]:
        """Each score that an event carries, with its interval; equal for equal scores."""
        _, place = np.unique(self.clip, return_inverse=True)
        clips = int(place.max()) + 1 if len(place) else 0
        values = np.stack([*self.by_name.values()], axis=1)  # (N, S)
        known = np.isfinite(values)
        sums = _per_clip(np.where(known, values, 0.0), place, clips)
        counts = _per_clip(known.astype(np.float64), place, clips)
        low, high = _edges(sums, counts)
        return {
            name: _estimate(sums[:, s], counts[:, s], float(low[s]), float(high[s]))
            for s, name in enumerate(self.by_name)
            if known[:, s].any()
        }

    def stored(self) -> dict[str, dict[str, Any]]:
        """The estimates as JSON holds them."""
        return {name: asdict(one) for name, one in self.estimates().items()}


def _per_clip(values: Array, place: npt.NDArray[np.int64], clips: int) -> Array:
    """Sums (C, S) of values (N, S) over the events of each clip; place (N,) is each one's clip."""
    found = np.zeros((clips, values.shape[1]))
    np.add.at(found, place, values)
    return found


def _estimate(sums: Array, counts: Array, low: float, high: float) -> Estimate:
    """One score from its sum and count in each clip (C,)."""
    carry = counts > 0
    means = sums[carry] / counts[carry]
    clips, mean = int(carry.sum()), float(sums.sum() / counts.sum())
    told = clips >= FEWEST_CLIPS and float(np.ptp(means)) > _ALIKE
    return Estimate(mean, low if told else None, high if told else None, clips, int(counts.sum()))


def _edges(sums: Array, counts: Array) -> tuple[Array, Array]:
    """Lower and upper edge (S,) of each score from its sums and counts in the clips (C, S)."""
    if not len(sums):
        return np.full(sums.shape[1], np.nan), np.full(sums.shape[1], np.nan)
    drawn = [(often @ sums, often @ counts) for often in draws(len(sums))]
    above, below = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    # A resample that drew no clip that carries the score says nothing of it.
    means = np.where(below > 0, above / np.maximum(below, 1), np.nan)
    means[:, np.isnan(means).all(axis=0)] = 0.0
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def draws(clips: int) -> Iterator[Array]:
    """How often each clip is in each resample, (b, C) float64, B rows over all blocks."""
    random, rows = np.random.default_rng(_SEED), max(1, _AT_ONCE // clips)
    for begin in range(0, RESAMPLES, rows):
        some = min(rows, RESAMPLES - begin)
        drawn = random.integers(clips, size=(some, clips)) + clips * np.arange(some)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=some * clips)
        yield counts.reshape(some, clips).astype(np.float64)
