"""Is there an event in a clip at all? Clips without one, the threshold, and scores of the answer.

A clip counts once, however many label rows it has. Whether a clip is said to have an event leaves
the scores of events (which, and when) as they are: those are of the clips that have one.
Shapes: N label rows, M clips, S seconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from train.score.detection import seconds_of
from train.score.metrics import Array, Events, Predictions
from train.score.named import Scores
from train.score.summary import score

Mask = npt.NDArray[np.bool_]


def best_threshold(truth: Events, guess: Predictions) -> float | None:
    """The event confidence from which on a clip is said to have an event.

    It has the highest balanced accuracy (Youden's J) on these rows: of the middles between
    neighbouring confidences, and 0, which says "event" of all. Of equals it is the lowest, which
    misses least. None where there are no clips with an event, or none without.
    """
    has, confidence = _per_clip(truth, guess)
    if confidence is None or has.all() or not has.any():
        return None
    levels = np.unique(confidence)
    thresholds = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2])
    found, alarmed = (
        1 - np.searchsorted(np.sort(confidence[rows]), thresholds) / rows.sum()
        for rows in (has, ~has)
    )
    return float(thresholds[np.argmax(np.round(found - alarmed, 12))])


def score_all(
    truth: Events, guess: Predictions, clip_seconds: float, threshold: float | None
) -> Scores:
    """Every score of one predictor: of events as `score` has them, and of their presence.

    Where no row is of a clip without an event, `score` says all.
    """
    real = truth.real
    found = score(truth.of(real), guess.of(real), clip_seconds)
    return found if real.all() else {**found, **presence(truth, guess, clip_seconds, threshold)}


def presence(
    truth: Events, guess: Predictions, clip_seconds: float, threshold: float | None
) -> Scores:
    """How well clips with an event are told from those without.

    event_auc: area under the ROC curve of the confidence. false_alarm_rate: share of the clips
    without an event that are answered with one; miss_rate: of those with one that are answered
    "no event". segment_accuracy_all: AVE's segment accuracy (Tian et al. 2018) over all label
    rows; the seconds of a clip without an event are background, and so are those said of a clip
    that is answered "no event". Without a confidence or a threshold the answer is always "event".
    """
    has, confidence = _per_clip(truth, guess)
    if confidence is None:
        confidence = np.ones(len(has))
    said = np.ones_like(has) if threshold is None else confidence >= threshold
    both = has.any() and not has.all()
    return {
        "event_auc": float(roc_auc_score(has, confidence)) if both else None,
        "false_alarm_rate": float(said[~has].mean()) if not has.all() else None,
        "miss_rate": float(1 - said[has].mean()) if has.any() else None,
        "segment_accuracy_all": _segment_accuracy(truth, guess, clip_seconds, threshold),
    }


def clip_counts(truth: Events) -> dict[str, int]:
    """How many clips have an event, and how many have none."""
    has = truth.real[_first(truth)]
    return {"clips_with_event": int(has.sum()), "clips_without_event": int((~has).sum())}


def _segment_accuracy(
    truth: Events, guess: Predictions, clip_seconds: float, threshold: float | None
) -> float | None:
    known = ~truth.real | truth.timed
    if not known.any():
        return None
    truth, guess = truth.of(known), guess.of(known)
    true, said = seconds_of(truth, guess, clip_seconds)
    if threshold is not None and guess.event is not None:
        none = guess.probability.shape[1]
        said = np.where((guess.event >= threshold)[:, None], said, none)
    return float(np.mean(true == said))


def _per_clip(truth: Events, guess: Predictions) -> tuple[Mask, Array | None]:
    """Which clips have an event (M,), and with how much confidence they are said to have one."""
    first = _first(truth)
    return truth.real[first], None if guess.event is None else guess.event[first]


def _first(truth: Events) -> npt.NDArray[np.int64]:
    """The first row of each clip (M,)."""
    if truth.clip is None:
        return np.arange(len(truth))
    return np.unique(truth.clip, return_index=True)[1].astype(np.int64)
