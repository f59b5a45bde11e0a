"""Mean average precision of candidates over recordings, and what drawing them anew makes of it.

Shapes: E candidates, R recordings, B draws, L levels.
"""

from __future__ import annotations

import numpy as np

from train.score.detection import AP_LEVELS
from train.score.events import EventList, Whole
from train.score.matching import Mask, ranked_hits
from train.score.metrics import Array


def average_precision(
    truth: EventList, candidates: EventList, often: Array, levels: tuple[float, ...] = AP_LEVELS
) -> Array:
    """(B, L) mean over the classes that have events of the AP of finding them at tIoU levels.

    ActivityNet's protocol (Caba Heilbron et al. 2015), which UnAV-100 takes with levels 0.1 to 0.9
    (Geng et al. 2023): which candidates are right says `ranked_hits`; precision is interpolated.
    Candidates that are equally confident come in at once, so that their order says nothing.

    often: (B, R), how often each recording counts: once in the score itself, and as often as it was
    drawn in a resample. NaN where no event counts.
    """
    mean = np.full((len(often), len(levels)), np.nan)
    for place, level in enumerate(levels):
        hit = ranked_hits(truth, candidates, level)
        areas = []
        for category in np.unique(truth.category):
            own = candidates.category == category
            events = truth.recording[truth.category == category]
            area = _area(candidates.of(own), hit[own], events, often)
            areas.append(area)
        if areas:
            known = np.isfinite(areas)
            number = known.sum(axis=0)
            total = np.where(known, areas, 0.0).sum(axis=0)
            mean[:, place] = np.where(number > 0, total / number.clip(min=1), np.nan)
    return mean


def mean_average_precision(truth: EventList, candidates: EventList) -> float | None:
    """`average_precision` over all levels; None over no events."""
    recordings = 1 + max(
        (int(one.recording.max()) for one in (truth, candidates) if len(one)), default=0
    )
    value = float(average_precision(truth, candidates, np.ones((1, recordings))).mean())
    return value if len(truth) else None


def _area(candidates: EventList, hit: Mask, events: Whole, often: Array) -> Array:
    """(B,) area of one class's candidates (E,): interpolated precision over recall.

    events: the recording of each true event. Precision and recall need to be known only where
    something right comes in: what is interpolated is never larger elsewhere.
    """
    recordings = often.shape[1]
    _, rank = np.unique(-candidates.confidence, return_inverse=True)
    steps = np.unique(rank[hit])
    step = np.searchsorted(steps, rank)
    counts = np.zeros((2, recordings, len(steps)))
    for table, some in zip(counts, (step < len(steps), hit), strict=True):
        np.add.at(table, (candidates.recording[some], step[some]), 1)
    said, right = often @ counts.cumsum(axis=2)
    precision = right / said.clip(min=1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    area = np.sum(np.diff(right, prepend=0.0, axis=1) * precision, axis=1)
    total = often @ np.bincount(events, minlength=recordings)
    return np.where(total > 0, area / total.clip(min=1), np.nan)
