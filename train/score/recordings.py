"""Scores of lists of events over whole recordings: pure functions of two lists.

A recording's number is its place in `lengths_s`. Every found event counts, so it matters which list
is scored: average precision ranks candidates of any confidence, all else takes the events that are
said. Shapes: E events, R recordings, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from train.score.detection import AP_LEVELS
from train.score.events import EventList, Whole, pairs
from train.score.metrics import Array, Scores, tiou

TOLERANCES: dict[str, tuple[float, float]] = {
    "0.5s": (0.5, 0.0),
    "1s": (1.0, 0.0),
    "1s,20%": (1.0, 0.2),
    "0.2s,20%": (0.2, 0.2),
}
"""By name, the collar in seconds and the share of the true event's length; see `matched`."""
SEGMENT_S = 1.0
_ROUNDING = 1e-6
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
    ranked = found if candidates is None else candidates
    return {
        "tiou_map": mean_average_precision(truth, ranked),
        **{f"map@{level}": average_precision(truth, ranked, level) for level in AP_LEVELS},
        **{f"event_f1@{name}": event_f1(truth, found, *how) for name, how in TOLERANCES.items()},
        **segment_scores(truth, found, lengths_s, classes),
        **false_alarms(truth, found, lengths_s),
        "miss_rate": float(1 - touched(truth, found).mean()) if len(truth) else None,
    }


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


def mean_average_precision(truth: EventList, found: EventList) -> float | None:
    """The mean of `average_precision` over the tIoU levels 0.1 to 0.9; None over no events."""
    areas = [average_precision(truth, found, level) for level in AP_LEVELS]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def average_precision(truth: EventList, found: EventList, level: float) -> float | None:
    """Mean over the classes that have events of the AP of finding them at one tIoU level.

    ActivityNet's protocol (Caba Heilbron et al. 2015), which UnAV-100 takes with levels 0.1 to 0.9
    (Geng et al. 2023): the most confident first, each found event takes that event of its recording
    and class with the largest tIoU ≥ level which none took before it; precision is interpolated.
    Found events that are equally confident come in at once, so that their order says nothing.
    """
    if not len(truth):
        return None
    hit = _taken(truth, found, level)
    areas = []
    for category in np.unique(truth.category):
        own = found.category == category
        events = int(np.sum(truth.category == category))
        areas.append(_area(found.confidence[own], hit[own], events))
    return float(np.mean(areas))


def _taken(truth: EventList, found: EventList, level: float) -> npt.NDArray[np.bool_]:
    """(E,) which found events are right, at most one for each true one."""
    true, said = pairs(truth, found)
    overlap = tiou(truth.start_s[true], truth.end_s[true], found.start_s[said], found.end_s[said])
    rows = np.flatnonzero(overlap >= level - _ROUNDING)
    true, said, overlap = true[rows], said[rows], overlap[rows]
    start_s, end_s, confidence = (
        getattr(found, name)[said] for name in ("start_s", "end_s", "confidence")
    )
    order = np.lexsort((truth.start_s[true], -overlap, said, end_s, start_s, -confidence))
    free = np.ones(len(truth), bool)
    hit = np.zeros(len(found), bool)
    for t, f in zip(true[order].tolist(), said[order].tolist(), strict=True):
        if free[t] and not hit[f]:
            free[t], hit[f] = False, True
    return hit


def _area(confidence: Array, hit: npt.NDArray[np.bool_], events: int) -> float:
    """Area under the interpolated precision of found events (E,) over recall."""
    order = np.argsort(-confidence, kind="stable")
    last = np.flatnonzero(np.diff(confidence[order], append=-1.0))
    right = np.cumsum(hit[order])[last]
    precision = np.maximum.accumulate((right / (last + 1))[::-1])[::-1]
    return float(np.sum(np.diff(right, prepend=0) * precision) / events)


def matched(truth: EventList, found: EventList, collar_s: float, share: float) -> Whole:
    """(E,) int64, for each true event the place of the found one that is right, or -1.

    `sed_eval`'s rule (Mesaros et al. 2016): of one recording and class, the starts at most
    `collar_s` apart, the ends at most the larger of `collar_s` and `share` × the true event's
    length. Each event is in one pair at most, and there are as many pairs as there can be.
    """
    true, said = pairs(truth, found)
    late_s = np.maximum(collar_s, share * (truth.end_s - truth.start_s))[true]
    near = np.abs(truth.start_s[true] - found.start_s[said]) <= collar_s + _ROUNDING
    near &= np.abs(truth.end_s[true] - found.end_s[said]) <= late_s + _ROUNDING
    edges = (np.ones(int(near.sum()), bool), (true[near], said[near]))
    graph = csr_array(edges, shape=(len(truth), len(found)))
    partner: Whole = maximum_bipartite_matching(graph, perm_type="column").astype(np.int64)
    return partner


def event_f1(truth: EventList, found: EventList, collar_s: float, share: float) -> float | None:
    """Event-based F1, micro average, in [0, 1]; None where nothing is true and nothing found."""
    if not len(truth) + len(found):
        return None
    right = np.sum(matched(truth, found, collar_s, share) >= 0)
    return float(2 * right / (len(truth) + len(found)))


def segment_scores(
    truth: EventList, found: EventList, lengths_s: Array, classes: int
) -> dict[str, float | None]:
    """F1 and error rate of seconds, over all (micro) and as means of classes (macro).

    `sed_eval`'s segment-based metrics (Mesaros et al. 2016): a second has a class where any part of
    an event of it lies in that second. The error rate adds, second by second, what was said in
    another's place, left out and said besides, over what is true: 0 is best, and it may be above 1.
    Macro is over the classes that are true somewhere.
    """
    right, missed, besides = (np.zeros(classes, np.int64) for _ in range(3))
    errors = 0
    for number, length_s in enumerate(lengths_s):
        segments = max(1, int(np.ceil(length_s / SEGMENT_S - _ROUNDING)))
        true, said = (_seconds(one, number, segments, classes) for one in (truth, found))
        right += np.sum(true & said, axis=0)
        missed += np.sum(true & ~said, axis=0)
        besides += np.sum(said & ~true, axis=0)
        errors += int(np.maximum((true & ~said).sum(axis=1), (said & ~true).sum(axis=1)).sum())
    there = right + missed
    own = there > 0
    wrong = missed + besides
    known = bool(own.any())
    f1 = 2 * right / (2 * right + wrong).clip(min=1)
    total = 2 * right.sum() + wrong.sum()
    return {
        "segment_f1": float(2 * right.sum() / total) if total else None,
        "segment_f1_macro": float(np.mean(f1[own])) if known else None,
        "segment_error_rate": float(errors / there.sum()) if known else None,
        "segment_error_rate_macro": float(np.mean(wrong[own] / there[own])) if known else None,
    }


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


def touched(truth: EventList, found: EventList) -> npt.NDArray[np.bool_]:
    """(E,) which events of the first list overlap one of the second, of the same class."""
    true, said = pairs(truth, found)
    shared = np.minimum(truth.end_s[true], found.end_s[said]) - np.maximum(
        truth.start_s[true], found.start_s[said]
    )
    hits = np.bincount(true, weights=shared > 0, minlength=len(truth))
    return np.asarray(hits > 0)


def false_alarms(truth: EventList, found: EventList, lengths_s: Array) -> dict[str, float | None]:
    """Found events that overlap no true event of their class, an hour of recording.

    Over all recordings, and over those alone in which nothing is true.
    """
    wrong = np.bincount(
        found.recording, weights=~touched(found, truth), minlength=len(lengths_s)
    ).astype(np.float64)
    quiet = np.ones(len(lengths_s), bool)
    quiet[truth.recording] = False
    every = np.ones(len(lengths_s), bool)
    of = {"false_alarms_per_hour": every, "false_alarms_per_hour_without_events": quiet}
    hours = {name: float(np.sum(lengths_s[rows])) / _HOUR_S for name, rows in of.items()}
    return {
        name: float(wrong[rows].sum() / hours[name]) if hours[name] else None
        for name, rows in of.items()
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
