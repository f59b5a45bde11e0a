"""Whole recordings of a split: what is true of them, what runs find in them, how good that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cache import Cache, Labels
from cache.common.errors import CacheError
from cache.format.schema import BACKGROUND
from train.data.dataset import Rows
from train.runs.checkpoint import About
from train.runs.code import digests, one_digest
from train.runs.evaluate import rows_digest, seen_before, training_events
from train.runs.record import Record
from train.score.events import EventList
from train.score.metrics import Array, Events
from train.score.named import MODEL, Result
from train.score.read_off import ReadOff
from train.score.recordings import counts, estimates, score_recordings, trivial
from train.score.timeline import Timeline

EventRow = dict[str, Any]


@dataclass(frozen=True)
class Recordings:
    """The labelled recordings of a split, in the order of their names.

    names, lengths_s: (R,) each, the seconds from its start to the end of its last clip; truth:
    their events, cut there, a recording's number being its place; clips: the ids of their clips.
    """

    names: list[str]
    lengths_s: Array
    truth: EventList
    clips: list[str]

    @classmethod
    def of(cls, cache: Cache, rows: Rows, split: str) -> Recordings:
        """Of the rows that are kept; a recording of which a row doesn't say when is left out."""
        labels = rows.labels
        names = sorted({labels.ids[row] for row in rows.kept[split]} - vague(labels))
        lengths_s = np.array([length_s(cache, name) for name in names])
        truth = _events(labels, rows.kept[split].tolist(), names, lengths_s)
        clips = [cache.ids[row] for name in names for row in cache.recordings[name]]
        return cls(names, lengths_s, truth, clips)


@dataclass(frozen=True)
class RecordingAnswer:
    """What a model, or several together, says of recordings, as `Answer` does of single clips.

    timelines: one for each recording; candidates: the events that there might be, of any
    confidence, read off them as read_off says; found: those that are said.
    """

    recordings: Recordings
    timelines: Sequence[Timeline]
    read_off: ReadOff
    candidates: EventList
    found: EventList

    @classmethod
    def of(
        cls, recordings: Recordings, timelines: Sequence[Timeline], read_off: ReadOff
    ) -> RecordingAnswer:
        """What is read off timelines."""
        candidates = read_off.candidates(timelines)
        return cls(recordings, timelines, read_off, candidates, read_off.said(candidates))

    @classmethod
    def mean(cls, answers: Sequence[RecordingAnswer]) -> RecordingAnswer:
        """The ensemble's answer: the mean probability (Lakshminarayanan et al. 2017)."""
        first, together = answers[0], zip(*(one.timelines for one in answers), strict=True)
        timelines = [
            replace(some[0], probability=np.mean([one.probability for one in some], axis=0))
            for some in together
        ]
        read_off = mean_read_off([one.read_off for one in answers])
        return cls.of(first.recordings, timelines, read_off)


def vague(labels: Labels) -> set[str]:
    """The recordings of which a row doesn't say when."""
    return {labels.ids[row] for row in np.flatnonzero(labels.weak)}


def on_recordings(cache: Cache, about: About) -> bool:
    """Whether a model answers a cache with lists of events, of which a recording has any number."""
    return cache.declaration.hop_s is not None or about.config.events == "several"


def mean_read_off(several: Sequence[ReadOff]) -> ReadOff:
    """How the mean of several models' timelines is read off: with the mean of their thresholds."""
    threshold = np.mean([one.threshold for one in several], axis=0)
    return several[0].revised(threshold=tuple(threshold.tolist()))


def covered_s(cache: Cache, rows: Sequence[int]) -> Array:
    """From when to when of its recording each clip is, at some rows (n,) of a cache: (n, 2), s."""
    offset_s = np.array([cache.windows[row].offset_s for row in rows])
    return np.stack([offset_s, offset_s + cache.lengths_s[0][list(rows)]], axis=1)


def length_s(cache: Cache, recording: str) -> float:
    """Seconds from a recording's start to the end of its last clip."""
    return float(covered_s(cache, cache.recordings[recording])[:, 1].max())


def evaluate_recordings(
    answer: RecordingAnswer,
    about: About,
    cache: Cache,
    rows: Rows,
    split: str,
    records: Sequence[Record],
) -> Result:
    """Scores of a split's recordings beside the baselines', with all that is needed to read them.

    records: of the run, or of each member of an ensemble, as in `evaluate`.
    """
    known, classes = answer.recordings, rows.labels.classes
    if not len(known.names):
        raise CacheError(
            f"the split {split!r} has no recording with features and times; nothing to evaluate"
        )
    if not len(known.truth):
        raise CacheError(
            f"the split {split!r} has no event, only recordings without one: `python -m train "
            "predict` answers these; scores need events as well"
        )
    trained_ids, trained = training_events(records[0].rows)
    return {
        "split": split,
        **scored(answer, baselines(cache, records[0].rows, known.lengths_s), classes),
        "classes": classes,
        "clips_without_features": rows.without_features,
        "unknown_classes": rows.unknown[split],
        "leaks": {"+".join(pair): ids for pair, ids in rows.leaks.items()},
        "seen": seen_before(records, known.names, split),
        "seen_known": all(record.knows_seen for record in records),
        "code": one_digest(digests()),
        "code_differs": sorted({name for record in records for name in record.other_code()}),
        "fingerprint": about.fingerprint,
        "training_rows": rows_digest(trained_ids, trained, classes),
        "epoch": about.epoch,
        "read_off": answer.read_off.record(),
        "config": about.config.model_dump(mode="json"),
    }


def scored(
    answer: RecordingAnswer, trivial: Mapping[str, EventList], classes: Sequence[str]
) -> Result:
    """How much there is, and the scores of an answer and of what looks at nothing."""
    known, number = answer.recordings, len(classes)
    truth, lengths_s, ranked = known.truth, known.lengths_s, answer.candidates
    scores = {MODEL: score_recordings(truth, answer.found, lengths_s, number, ranked)}
    for name, found in trivial.items():
        scores[name] = score_recordings(truth, found, lengths_s, number)
    return {
        **counts(truth, answer.found, lengths_s),
        "classes_in_split": len(np.unique(truth.category)),
        "scored_rows": rows_digest(*_as_events(known), classes),
        "scores": scores,
        "intervals": {MODEL: intervals([answer])},
        "per_class": per_class(answer, classes),
    }


def intervals(answers: Sequence[RecordingAnswer]) -> dict[str, dict[str, Any]]:
    """The mean of several models' headline scores, with intervals, as JSON holds them."""
    known = answers[0].recordings
    lists = [(one.found, one.candidates) for one in answers]
    classes = len(answers[0].read_off.threshold)
    found = estimates(known.truth, lists, known.lengths_s, classes)
    return {name: asdict(one) for name, one in found.items()}


def baselines(cache: Cache, trained: Labels, lengths_s: Array) -> Mapping[str, EventList]:
    """`trivial`, of the recordings that a run was trained on.

    Of one that this cache hasn't, the last event's end stands for the length.
    """
    rows = trained.rows("train").tolist()
    names = sorted({trained.ids[row] for row in rows})
    last = dict.fromkeys(names, 0.0)
    for row in rows:
        last[trained.ids[row]] = max(last[trained.ids[row]], float(trained.end_s[row]))
    long = [length_s(cache, n) if n in cache.recordings else last[n] for n in names]
    events = _events(trained, rows, names, np.array(long))
    return trivial(events, np.array(long), lengths_s, len(trained.classes))


def _events(
    labels: Labels, rows: Sequence[int], names: Sequence[str], lengths_s: Array
) -> EventList:
    """The events of named recordings, cut at their ends."""
    place = {name: number for number, name in enumerate(names)}
    own = np.array([row for row in rows if labels.ids[row] in place], np.int64)
    number = np.array([place[labels.ids[row]] for row in own], np.int64)
    there = (labels.category[own] != BACKGROUND) & (labels.start_s[own] < lengths_s[number])
    own, number = own[there], number[there]
    end_s = np.minimum(labels.end_s[own], lengths_s[number])
    return EventList.true(number, labels.category[own], labels.start_s[own], end_s)


def _as_events(known: Recordings) -> tuple[list[str], Events]:
    """The ids and events of recordings, those without an event among them."""
    truth = known.truth
    quiet = np.setdiff1d(np.arange(len(known.names)), truth.recording)
    none = np.zeros(len(quiet))
    ids = [known.names[number] for number in [*truth.recording, *quiet]]
    category = np.concatenate([truth.category, np.full(len(quiet), BACKGROUND)])
    start_s, end_s = np.concatenate([truth.start_s, none]), np.concatenate([truth.end_s, none])
    return ids, Events(category, start_s, end_s)


def per_class(answer: RecordingAnswer, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One record for each class that has events, hardest first: the scores of its events alone."""
    known = answer.recordings
    found = []
    for category in np.unique(known.truth.category):
        truth, said, ranked = (
            one.of(one.category == category)
            for one in (known.truth, answer.found, answer.candidates)
        )
        scores = score_recordings(truth, said, known.lengths_s, len(classes), ranked)
        shown = ("tiou_map", "event_f1@1s", "segment_f1", "miss_rate", "false_alarms_per_hour")
        counted = {"class": classes[category], "events": len(truth), "found": len(said)}
        found.append({**counted, **{name: scores[name] for name in shown}})
    return sorted(found, key=lambda row: (row["tiou_map"], row["event_f1@1s"]))


def answered_recordings(answer: RecordingAnswer, classes: Sequence[str]) -> list[EventRow]:
    """A readable record for each recording: what is true and what is said of it, by time."""
    known = answer.recordings
    truth, said = as_rows(classes, known.truth), as_rows(classes, answer.found)
    return [
        {
            "recording": name,
            "length_s": float(known.lengths_s[number]),
            "true": [row for place, row in truth if place == number],
            "found": [row for place, row in said if place == number],
        }
        for number, name in enumerate(known.names)
    ]


def as_rows(classes: Sequence[str], events: EventList) -> list[tuple[int, EventRow]]:
    """Each event's recording, and a readable record of it, by recording and time."""
    order = np.lexsort((events.end_s, events.start_s, events.recording))
    return [
        (
            int(events.recording[n]),
            {
                "category": classes[events.category[n]],
                "start_s": round(float(events.start_s[n]), 3),
                "end_s": round(float(events.end_s[n]), 3),
                "confidence": round(float(events.confidence[n]), 4),
            },
        )
        for n in order
    ]
