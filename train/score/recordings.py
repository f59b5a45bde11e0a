"""Scores of lists of events over whole recordings, and how sure they are.

A recording's number is its place in `lengths_s`. Every found event counts, so it matters which list
is scored: average precision ranks candidates of any confidence, all else takes the events that are
said. Shapes: E events, R recordings, K classes, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from train.score.detection import AP_LEVELS
from train.score.events import EventList, Whole
from train.score.intervals import Estimate, draws
from train.score.matching import matched, touched
from train.score.metrics import Array
from train.score.named import FEWEST_CLIPS, HEADLINES, LEVEL, Scores
from train.score.ranking import average_precision

TOLERANCES: dict[str, tuple[float, float]] = {
    "0.5s": (0.5, 0.0),
    "1s": (1.0, 0.0),
    "1s,20%": (1.0, 0.2),
    "0.2s,20%": (0.2, 0.2),
}
"""By name, the collar in seconds and the share of the true event's length; see `matched`."""
SEGMENT_S = 1.0
_ROUNDING = 1e-6
_LITTLE = 1e-9
_HOUR_S = 3600.0


def score_recordings(
    truth: EventList,
    found: EventList,
    lengths_s: Array,
    classes: int,
    candidates: EventList | None = None,
) -> Scores:
    """Every score of one predictor over R recordings of lengths_s (R,) seconds.

    candidates: what `average_precision` ranks, as its protocol is meant: events of any confidence;
    `found` where there are none apart. A score over nothing is None.
    """
    tables = ratios(truth, found, lengths_s, classes)
    seconds = segment_counts(truth, found, lengths_s, classes)
    ranked = found if candidates is None else candidates
    areas = average_precision(truth, ranked, np.ones((1, len(lengths_s))))[0]
    by_level = zip(AP_LEVELS, areas.tolist(), strict=True)
    return {
        "tiou_map": float(areas.mean()) if len(truth) else None,
        **{f"map@{level}": area if len(truth) else None for level, area in by_level},
        **{name: _ratio(above.sum(), below.sum()) for name, (above, below) in tables.items()},
        **_macro(*(counts.sum(axis=0) for counts in seconds[:3])),
    }


def estimates(
    truth: EventList,
    answers: Sequence[tuple[EventList, EventList]],
    lengths_s: Array,
    classes: int,
) -> dict[str, Estimate]:
    """The mean over several models of the HEADLINES, with 95 % intervals.

    answers: each model's found events and candidates. What is drawn anew is recordings, the same
    for all models; see `train.score.intervals`, whose clips are recordings here.
    """
    if not len(lengths_s):
        return {}
    often = np.concatenate([np.ones((1, len(lengths_s))), *draws(len(lengths_s))])
    values: dict[str, list[Array]] = {name: [] for name in HEADLINES}
    for found, candidates in answers:
        tables = ratios(truth, found, lengths_s, classes)
        for name in HEADLINES[1:]:
            above, below = (often @ part for part in tables[name])
            values[name].append(np.where(below > 0, above / np.maximum(below, _LITTLE), np.nan))
        values["tiou_map"].append(average_precision(truth, candidates, often).mean(axis=1))
    means = {name: np.mean(several, axis=0) for name, several in values.items()}
    return {
        name: _estimate(mean, len(lengths_s), len(truth))
        for name, mean in means.items()
        if np.isfinite(mean[0])
    }


def _estimate(mean: Array, recordings: int, events: int) -> Estimate:
    """From the score itself and that of each resample, (1 + B,)."""
    low, high = np.nanquantile(mean, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    told = recordings >= FEWEST_CLIPS and high - low > _LITTLE
    return Estimate(
        float(mean[0]), low if told else None, high if told else None, recordings, events
    )


def ratios(
    truth: EventList, found: EventList, lengths_s: Array, classes: int
) -> dict[str, tuple[Array, Array]]:
    """Scores that are a sum over recordings by a sum over recordings: both terms, (R,) each.

    event_f1@…: event-based F1, micro average, by the rule of `matched` at each of TOLERANCES.
    segment_f1, segment_error_rate: of seconds, see `segment_counts`; micro average. The error rate
    adds, second by second, what was said in another's place, left out and said besides, over what
    is true: 0 is best, and it may be above 1.
    false_alarms_per_hour: found events that overlap no true event of their class, an hour of
    recording; …_without_events: in the recordings alone in which nothing is true.
    miss_rate: share of the true events that no found one of their class overlaps.
    """

    def per_recording(events: EventList, weights: npt.ArrayLike | None = None) -> Array:
        counts = np.bincount(events.recording, weights=weights, minlength=len(lengths_s))
        return counts.astype(np.float64)

    events = per_recording(truth)
    both, hours = events + per_recording(found), lengths_s / _HOUR_S
    right = {
        name: per_recording(truth, matched(truth, found, *how) >= 0)
        for name, how in TOLERANCES.items()
    }
    hit, missed, besides, errors = (
        counts.reshape(len(lengths_s), -1).sum(axis=1).astype(np.float64)
        for counts in segment_counts(truth, found, lengths_s, classes)
    )
    alarms = per_recording(found, ~touched(found, truth))
    quiet = events == 0
    return {
        **{f"event_f1@{name}": (2 * counts, both) for name, counts in right.items()},
        "segment_f1": (2 * hit, 2 * hit + missed + besides),
        "segment_error_rate": (errors, hit + missed),
        "false_alarms_per_hour": (alarms, hours),
        "false_alarms_per_hour_without_events": (alarms * quiet, hours * quiet),
        "miss_rate": (per_recording(truth, ~touched(truth, found)), events),
    }


def event_f1(truth: EventList, found: EventList, collar_s: float, share: float) -> float | None:
    """Event-based F1, micro average, in [0, 1]; None where nothing is true and nothing found."""
    right = int(np.sum(matched(truth, found, collar_s, share) >= 0))
    return _ratio(2 * right, len(truth) + len(found))


def segment_counts(
    truth: EventList, found: EventList, lengths_s: Array, classes: int
) -> tuple[Whole, Whole, Whole, Whole]:
    """Seconds rightly said, missed, and said besides: (R, K) each; and errors: (R,), all int64.

    `sed_eval`'s segment-based metrics (Mesaros et al. 2016): a second has a class where any part of
    an event of it lies in that second. What is missed in a second and what is said besides in it
    are one error together, and each of what is over is one.
    """
    right, missed, besides = (np.zeros((len(lengths_s), classes), np.int64) for _ in range(3))
    errors = np.zeros(len(lengths_s), np.int64)
    for number, length_s in enumerate(lengths_s):
        segments = max(1, int(np.ceil(length_s / SEGMENT_S - _ROUNDING)))
        true, said = (_seconds(one, number, segments, classes) for one in (truth, found))
        right[number] = np.sum(true & said, axis=0)
        missed[number] = np.sum(true & ~said, axis=0)
        besides[number] = np.sum(said & ~true, axis=0)
        errors[number] = np.maximum((true & ~said).sum(axis=1), (said & ~true).sum(axis=1)).sum()
    return right, missed, besides, errors


def _seconds(
    events: EventList, recording: int, segments: int, classes: int
) -> npt.NDArray[np.bool_]:
    """(seconds, K) which classes each second of a recording has."""
    rows = events.of(events.recording == recording)
    first = np.floor(rows.start_s / SEGMENT_S + _ROUNDING).astype(np.int64)
    stop = np.ceil(rows.end_s / SEGMENT_S - _ROUNDING).astype(np.int64)
    change = np.zeros((segments + 1, classes), np.int64)
    np.add.at(change, (first.clip(max=segments), rows.category), 1)
    np.add.at(change, (np.maximum(first, stop).clip(max=segments), rows.category), -1)
    return np.asarray(change.cumsum(axis=0)[:-1] > 0)


def _macro(right: Whole, missed: Whole, besides: Whole) -> dict[str, float | None]:
    """Means over the classes that are true somewhere, from the seconds of each (K,)."""
    own = right + missed > 0
    right, wrong, there = right[own], (missed + besides)[own], (right + missed)[own]
    return {
        "segment_f1_macro": _ratio((2 * right / (2 * right + wrong)).sum(), own.sum()),
        "segment_error_rate_macro": _ratio((wrong / there).sum(), own.sum()),
    }


def _ratio(above: float, below: float) -> float | None:
    return float(above / below) if below else None


def counts(truth: EventList, found: EventList, lengths_s: Array) -> dict[str, float]:
    """How much the scores are of: recordings, those without an event, hours, events, found ones."""
    eventful = np.unique(truth.recording)
    return {
        "recordings": len(lengths_s),
        "recordings_without_events": len(lengths_s) - len(eventful),
        "hours": float(np.sum(lengths_s)) / _HOUR_S,
        "hours_without_events": float(np.delete(lengths_s, eventful).sum()) / _HOUR_S,
        "events": len(truth),
        "found_events": len(found),
    }


def trivial(
    train: EventList, train_lengths_s: Array, lengths_s: Array, classes: int
) -> dict[str, EventList]:
    """What lists score that are made without looking, from the training recordings' events.

    Every class all the time, as confident as it is often on; the commonest class's events, each of
    mean length and as many an hour as in training, evenly spread; nothing at all.
    """
    spent = np.bincount(train.category, weights=train.end_s - train.start_s, minlength=classes)
    share = (spent / max(float(np.sum(train_lengths_s)), _ROUNDING)).clip(0.0, 1.0)
    recording, category = np.divmod(np.arange(len(lengths_s) * classes), classes)
    return {
        "every class, all the time": EventList(
            recording, category, np.zeros(len(recording)), lengths_s[recording], share[category]
        ),
        "commonest class, mean events": _evenly(train, train_lengths_s, lengths_s),
        "nothing": EventList.empty(),
    }


def _evenly(train: EventList, train_lengths_s: Array, lengths_s: Array) -> EventList:
    """The commonest class's mean events, at the middles of equal parts of each recording."""
    if not len(train):
        return EventList.empty()
    commonest = int(np.bincount(train.category).argmax())
    own = train.of(train.category == commonest)
    length_s = float(np.mean(own.end_s - own.start_s))
    often = np.round(len(own) / float(np.sum(train_lengths_s)) * lengths_s).astype(np.int64)
    recording = np.repeat(np.arange(len(lengths_s)), often)
    place = np.concatenate([np.arange(n) + 0.5 for n in often]) if len(often) else np.zeros(0)
    middle = place * (lengths_s / often.clip(min=1))[recording]
    start_s = (middle - length_s / 2).clip(min=0)
    end_s = np.minimum(middle + length_s / 2, lengths_s[recording])
    category = np.full(len(recording), commonest, np.int64)
    return EventList.true(recording, category, start_s, end_s)
