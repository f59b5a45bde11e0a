"""Every score of one predictor; the trivial baselines go through the very same functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from train.score.detection import calibration, detection, seconds_of, segment_scores
from train.score.metrics import Events, Predictions, classification, localization
from train.score.named import Scores

ClassRow = dict[str, Any]


def score(truth: Events, guess: Predictions, clip_seconds: float) -> Scores:
    """Every score of one predictor; those of events shorter than the clip begin with `short_`.

    Events that don't say when count for their class alone.
    """
    timed, short = truth.timed, truth.end_s - truth.start_s < clip_seconds
    apart = placed(truth.of(short), guess.of(short), clip_seconds)
    return {
        **classification(truth, guess),
        **calibration(truth, guess, clip_seconds),
        **placed(truth.of(timed), guess.of(timed), clip_seconds),
        **{f"short_{name}": value for name, value in apart.items()},
    }


def placed(truth: Events, guess: Predictions, clip_seconds: float) -> Scores:
    """The scores that depend on when: of intervals, of found events, of seconds."""
    return {
        **localization(truth, guess),
        **detection(truth, guess),
        **segment_scores(truth, guess, clip_seconds),
    }


def per_class(
    truth: Events, guess: Predictions, classes: Sequence[str], clip_seconds: float
) -> list[ClassRow]:
    """One record for each class that the split has, hardest first (by recall, then mIoU).

    events; recall, precision and ap of the class; miou, localized_iou, recall@0.5 and
    segment_recall (share of its seconds that were given its class) of its events.
    """
    true, said = seconds_of(truth, guess, clip_seconds)
    rows = []
    for category in np.unique(truth.category):
        own, named = truth.category == category, guess.category == category
        seconds = said[true == category] == category
        timed = own & truth.timed
        places = localization(truth.of(timed), guess.of(timed))
        rows.append(
            {
                "class": classes[category],
                "events": int(own.sum()),
                "recall": float(named[own].mean()),
                "precision": float(own[named].mean()) if named.any() else 0.0,
                "ap": float(average_precision_score(own, guess.probability[:, category])),
                **{name: places[name] for name in ("miou", "localized_iou", "recall@0.5")},
                "segment_recall": float(seconds.mean()) if len(seconds) else None,
            }
        )
    return sorted(rows, key=lambda row: (row["recall"], row["miou"] or 0.0))


def baselines(
    train: Events, count: int, classes: int, clip_seconds: float
) -> dict[str, Predictions]:
    """Predictors that look at nothing but the training labels, for `count` events.

    Both answer with the training split's class frequencies (so top-1 is the majority class);
    one says "the whole clip", the other the mean interval of those training events that say when.
    Without training events there are none.
    """
    if not len(train):
        return {}
    frequency = np.bincount(train.category, minlength=classes) / len(train)
    probability = np.tile(frequency, (count, 1))
    timed = train.of(train.timed)
    spans = {"majority class, whole clip": (0.0, clip_seconds)}
    if len(timed):
        mean = float(timed.start_s.mean()), float(timed.end_s.mean())
        spans["majority class, mean interval"] = mean
    return {
        name: Predictions(probability, np.full(count, start), np.full(count, end))
        for name, (start, end) in spans.items()
    }
