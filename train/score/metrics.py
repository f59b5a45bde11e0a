"""Class and interval scores as pure functions of arrays.

Shapes: N events (label rows), K classes. Times in seconds. Rules for the corner cases:

- A class that no event of the split has is left out of every average over classes (its precision,
  recall, AP and AUC are undefined); a class that is never predicted has precision 0.
- tIoU is the intersection over the union of two intervals. Two empty intervals at one instant
  have tIoU 1, an empty and another one 0: AVE has an event with start = end = 0.
- A score over no events is None (null in JSON), never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    average_precision_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from cache.format.schema import BACKGROUND
from train.score.named import Scores

Array = npt.NDArray[np.float64]
TIOU_LEVELS = (0.3, 0.5, 0.7, 0.9)
ROUNDING = 1e-5
"""What reaches a bound but for this much reaches it: times in seconds went through float32."""


@dataclass(frozen=True)
class Events:
    """What is true: category (N,) int64, start_s and end_s (N,) float64.

    A row of a clip without an event has the category BACKGROUND; the scores take none such.
    clip: (N,) int64 number of the clip that each event is of; None where each has its own.
    """

    category: npt.NDArray[np.int64]
    start_s: Array
    end_s: Array
    clip: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.category)

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """(N,) which rows are events; the others say that their clip has none."""
        return np.not_equal(self.category, BACKGROUND)

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """(N,) which rows are events and say when; of the others start and end are NaN."""
        timed: npt.NDArray[np.bool_] = self.real & ~np.isnan(self.start_s)
        return timed

    def of(self, rows: npt.NDArray[Any]) -> Events:
        """Some of the events: numbers or a mask (N,)."""
        clip = None if self.clip is None else self.clip[rows]
        return Events(self.category[rows], self.start_s[rows], self.end_s[rows], clip)


@dataclass(frozen=True)
class Predictions:
    """What was predicted: probability (N, K) float64, start_s and end_s (N,) float64.

    on: (N, S) float64 probability of each whole second that the event is heard and seen in it; None
    where start and end say all. event: (N,) float64 in [0, 1], how sure it is that the clip has an
    event; None where it is always said to have one.
    """

    probability: Array
    start_s: Array
    end_s: Array
    on: Array | None = None
    event: Array | None = None

    @property
    def category(self) -> npt.NDArray[np.int64]:
        """(N,) the most probable class; the first of equals."""
        best: npt.NDArray[np.int64] = self.probability.argmax(axis=1).astype(np.int64)
        return best

    def of(self, rows: npt.NDArray[Any]) -> Predictions:
        """The predictions for some of the events: numbers or a mask (N,)."""
        on, event = (None if some is None else some[rows] for some in (self.on, self.event))
        return Predictions(self.probability[rows], self.start_s[rows], self.end_s[rows], on, event)


def tiou(start_a: Array, end_a: Array, start_b: Array, end_b: Array) -> Array:
    """Temporal intersection over union of N pairs of intervals, (N,) in [0, 1]."""
    overlap = np.maximum(np.minimum(end_a, end_b) - np.maximum(start_a, start_b), 0)
    union = (end_a - start_a) + (end_b - start_b) - overlap
    same_instant = (union <= 0) & (start_a == start_b)
    return np.where(same_instant, 1.0, overlap / np.where(union > 0, union, 1.0))


def second_count(clip_seconds: float) -> int:
    """Segments of a clip: its whole seconds, at least one."""
    return max(1, round(clip_seconds))


def segments(
    category: npt.NDArray[np.int64], start_s: Array, end_s: Array, clip_seconds: float, classes: int
) -> npt.NDArray[np.int64]:
    """AVE's segment labels (Tian et al. 2018): (N, S) class of each second, or K for background.

    A second belongs to the event when its middle lies in [start, end). A clip that is not of whole
    seconds is cut into as many equal parts.
    """
    seconds = second_count(clip_seconds)
    middle = (np.arange(seconds) + 0.5) * clip_seconds / seconds
    inside = (start_s[:, None] <= middle) & (middle < end_s[:, None])
    return np.where(inside, category[:, None], classes)


def classification(truth: Events, guess: Predictions) -> Scores:
    """top1, top3, top5, macro precision, recall, F1, mAP and AUC (one class against the rest)."""
    if not len(truth):
        names = ("top1", "top3", "top5", "precision", "recall", "f1", "map", "auc")
        return dict.fromkeys(names)
    own = np.take_along_axis(guess.probability, truth.category[:, None], 1)
    # Equals count as ahead by class number, so that a constant score has one definite rank.
    ahead = (guess.probability > own) | (
        (guess.probability == own)
        & (np.arange(guess.probability.shape[1]) < truth.category[:, None])
    )
    rank = ahead.sum(axis=1)
    present = np.unique(truth.category)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth.category, guess.category, labels=present, average="macro", zero_division=0
    )
    apart = present if len(present) > 1 else present[:0]
    areas = [
        (
            average_precision_score(truth.category == k, guess.probability[:, k]),
            roc_auc_score(truth.category == k, guess.probability[:, k]),
        )
        for k in apart
    ]
    average = np.mean(areas, axis=0) if areas else None
    return {
        **{f"top{k}": float(np.mean(rank < k)) for k in (1, 3, 5)},
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "map": None if average is None else float(average[0]),
        "auc": None if average is None else float(average[1]),
    }


def localization(truth: Events, guess: Predictions) -> Scores:
    """MAE of start and end (s), mIoU, mIoU with the class right, recall at each tIoU level.

    `localized_iou` and `recall@…` count an event whose class is wrong as 0: they answer "which
    event and when" in one figure.
    """
    levels = [f"recall@{level}" for level in TIOU_LEVELS]
    if not len(truth):
        return dict.fromkeys(["start_mae_s", "end_mae_s", "miou", "localized_iou", *levels])
    overlap = tiou(truth.start_s, truth.end_s, guess.start_s, guess.end_s)
    right = truth.category == guess.category
    return {
        "start_mae_s": float(np.abs(truth.start_s - guess.start_s).mean()),
        "end_mae_s": float(np.abs(truth.end_s - guess.end_s).mean()),
        "miou": float(overlap.mean()),
        "localized_iou": float((overlap * right).mean()),
        **{
            name: float(np.mean(right & (overlap >= level - ROUNDING)))
            for name, level in zip(levels, TIOU_LEVELS, strict=True)
        },
    }


def confusion(truth: Events, guess: Predictions) -> npt.NDArray[np.int64]:
    """(K, K) counts: true class down, predicted class across."""
    classes = guess.probability.shape[1]
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth.category, guess.category), 1)
    return counts
