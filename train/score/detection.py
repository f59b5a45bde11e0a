"""Scores of found events and of seconds, and calibration: pure functions of arrays.

A clip says one thing however many label rows it has (AVE has clips with two or three events of
different classes): what is counted per clip takes the prediction at the clip's first row.
Shapes: N events (label rows), K classes, S seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score

from train.score.metrics import ROUNDING, Array, Events, Predictions, segments, tiou
from train.score.named import Scores

COLLARS_S = (0.5, 1.0)
AP_LEVELS = tuple(round(0.1 * k, 1) for k in range(1, 10))
_BINS = 15


def event_f1(truth: Events, guess: Predictions, collar_s: float) -> float | None:
    """Event-based F1, micro average, in [0, 1]; None over no events.

    A found event is right where its class is, and start and end are each at most `collar_s` from
    the true ones (Mesaros et al. 2016, as `sed_eval` computes it with percentage_of_length=0).
    """
    if not len(truth):
        return None
    within_s = collar_s + ROUNDING
    near = (np.abs(truth.start_s - guess.start_s) <= within_s) & (
        np.abs(truth.end_s - guess.end_s) <= within_s
    )
    right = near & (truth.category == guess.category)
    first, clip = _clips(truth)
    hits = np.bincount(clip, weights=right, minlength=len(first)).clip(max=1).sum()
    return float(2 * hits / (len(truth) + len(first)))


def average_precision(truth: Events, guess: Predictions, level: float) -> float | None:
    """Mean over classes of the AP of finding events at one tIoU level; None over no events.

    As in ActivityNet's protocol (Caba Heilbron et al. 2015), without interpolation: every clip
    offers its interval once for each class, scored by that class's probability; it is right where
    the clip has an event of the class with tIoU ≥ level. Events that nothing finds lower recall.
    """
    return _average_precisions(truth, guess, [level])[level]


def _average_precisions(
    truth: Events, guess: Predictions, levels: Sequence[float]
) -> dict[float, float | None]:
    """The same by level; where the same clips are right at several, it is computed once."""
    if not len(truth):
        return dict.fromkeys(levels)
    first, clip = _clips(truth)
    overlap = tiou(truth.start_s, truth.end_s, guess.start_s, guess.end_s)
    found: dict[float, list[float]] = {level: [] for level in levels}
    for category in np.unique(truth.category):
        of_class, areas = truth.category == category, dict[bytes, float]()
        for level in levels:
            hit = of_class & (overlap >= level - ROUNDING)
            right = np.bincount(clip, weights=hit, minlength=len(first)) > 0
            area = areas.get(key := right.tobytes())
            if area is None:
                ranks = guess.probability[first, category]
                area = areas[key] = average_precision_score(right, ranks) if any(right) else 0.0
            found[level].append(area * right.sum() / of_class.sum())
    return {level: float(np.mean(some)) for level, some in found.items()}


def detection(truth: Events, guess: Predictions) -> Scores:
    """Event-based F1 at each collar, mAP at each tIoU level and their mean (`tiou_map`)."""
    levels = _average_precisions(truth, guess, AP_LEVELS)
    areas = {f"map@{level}": area for level, area in levels.items()}
    known = [area for area in areas.values() if area is not None]
    return {
        **{f"event_f1@{collar:g}s": event_f1(truth, guess, collar) for collar in COLLARS_S},
        "tiou_map": float(np.mean(known)) if known else None,
        **areas,
    }


def seconds_of(
    truth: Events, guess: Predictions, clip_seconds: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """True and predicted class of each second, (N, S) each, K for background."""
    classes = guess.probability.shape[1]
    true = segments(truth.category, truth.start_s, truth.end_s, clip_seconds, classes)
    if guess.on is not None:
        return true, np.where(guess.on > 0.5, guess.category[:, None], classes)
    return true, segments(guess.category, guess.start_s, guess.end_s, clip_seconds, classes)


def segment_scores(truth: Events, guess: Predictions, clip_seconds: float) -> Scores:
    """AVE's segment accuracy (Tian et al. 2018) and the segment-based F1, micro average.

    F1 counts seconds with an event: right where the class is, background being nothing found
    (Mesaros et al. 2016).
    """
    if not len(truth):
        return {"segment_accuracy": None, "segment_f1": None}
    true, said = seconds_of(truth, guess, clip_seconds)
    classes = guess.probability.shape[1]
    hits = np.sum((true == said) & (true < classes))
    counted = np.sum(true < classes) + np.sum(said < classes)
    return {
        "segment_accuracy": float(np.mean(true == said)),
        "segment_f1": float(2 * hits / counted) if counted else None,
    }


def calibration(truth: Events, guess: Predictions, clip_seconds: float) -> Scores:
    """Expected calibration error (Guo et al. 2017) of the class, and of the seconds where known.

    `ece`: of the most probable class's probability; `second_ece`: of the probability that the
    event is on in a second. 15 bins of equal width; 0 is best.
    """
    if not len(truth):
        return {"ece": None, "second_ece": None}
    found: dict[str, float | None] = {
        "ece": expected_error(guess.probability.max(axis=1), truth.category == guess.category),
        "second_ece": None,
    }
    timed = truth.timed
    if guess.on is not None and timed.any():
        classes, rows = guess.probability.shape[1], truth.of(timed)
        on = segments(rows.category, rows.start_s, rows.end_s, clip_seconds, classes) < classes
        found["second_ece"] = expected_error(guess.on[timed].ravel(), on.ravel())
    return found


def expected_error(probability: Array, right: npt.NDArray[np.bool_]) -> float:
    """Mean distance, over bins of probability, between what was said and how often it was so.

    probability (M,) in [0, 1] and right (M,) bool. Bins are (k/15, (k+1)/15], 0 in the first.
    """
    place = np.clip(np.ceil(probability * _BINS).astype(int) - 1, 0, _BINS - 1)
    said = np.bincount(place, weights=probability, minlength=_BINS)
    was = np.bincount(place, weights=right, minlength=_BINS)
    return float(np.abs(said - was).sum() / len(probability))


def _clips(truth: Events) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First row of each clip, and the place in that list of each row's clip."""
    clip = np.arange(len(truth)) if truth.clip is None else truth.clip
    _, first, place = np.unique(clip, return_index=True, return_inverse=True)
    return first, place.reshape(-1)
