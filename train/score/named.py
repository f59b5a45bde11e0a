"""What scores and predictors are called: for what computes them, and for what only shows them.

It imports no library of scores, so that lists of runs are there at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Scores = Mapping[str, float | None]
"""A predictor's scores by name; None where a score is over nothing."""
Result = dict[str, Any]
"""What `metrics_<split>.json` holds: a model on a split, beside its baselines."""
MODEL = "model"
"""The predictor that is no baseline."""
CRITERION = "localized_iou"
"""The score on validation that chooses the best epoch and the decoding, lowers the learning rate
and stops early: "which event, and when" in one number (see `train.score.metrics.localization`)."""
CRITERION_OF_SEVERAL = "segment_map"
"""The same where clips have several events: see `train.score.seconds.mean_average_precision`."""
CRITERIA = tuple(f"val_{name}" for name in (CRITERION_OF_SEVERAL, CRITERION, "top1"))
"""What chooses on validation, as an epoch's record calls it: the first that an epoch has."""
HEADLINES = (
    "tiou_map",
    "event_f1@1s",
    "event_f1@1s,20%",
    "segment_f1",
    "false_alarms_per_hour",
    "miss_rate",
)
"""The scores of recordings that stand first."""
RESAMPLES, LEVEL, FEWEST_CLIPS = 2000, 0.95, 10
"""Of intervals: draws, confidence, and the fewest clips that may carry one."""


def mean_and_deviation(runs: Sequence[Scores]) -> dict[str, tuple[float, float]]:
    """Mean and sample standard deviation (0 for one run) of each score that every run has."""
    shared = [name for name in runs[0] if all(run.get(name) is not None for run in runs)]
    table = {}
    for name in shared:
        values = np.array([run[name] for run in runs], np.float64)
        deviation = float(values.std(ddof=1)) if len(runs) > 1 else 0.0
        table[name] = (float(values.mean()), deviation)
    return table
