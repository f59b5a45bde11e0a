"""Score a model on a split, beside its baselines, with all that is needed to read it later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import Labels
from cache.common.cli import say
from cache.common.errors import CacheError, ConfigError
from cache.common.strict_json import read_json
from train.data.dataset import Dataset
from train.runs import folders as runs
from train.runs.checkpoint import About
from train.runs.code import digests, one_digest
from train.runs.looks import add_look, count_looks
from train.runs.record import Record, seen
from train.runs.trained import Answer
from train.score.intervals import EventScores
from train.score.metrics import Events, Predictions, confusion
from train.score.named import MODEL, Result, Scores
from train.score.predict import events
from train.score.presence import clip_counts, score_all
from train.score.summary import baselines, per_class

EventRow = dict[str, str | float | None]
Said = dict[str, tuple[Events, Predictions]]
"""By name, what a predictor says of some events."""


def evaluate(
    answer: Answer, about: About, dataset: Dataset, split: str, records: Sequence[Record]
) -> Result:
    """Scores of a split (finite numbers or None) with everything needed to read them later.

    answer: to the split's rows. records: of the run, or of each member of an ensemble; they say
    which clips were seen and what the baselines know.
    """
    samples, clip_seconds = dataset.splits[split], dataset.clips.shapes.clip_seconds
    rows = events(samples, clip_seconds)
    _check_events(rows, split)
    truth, guess = rows.of(rows.real), answer.predictions.of(rows.real)
    ids = [dataset.ids[row] for row in samples.rows]
    before = seen_before(records, ids, split)
    trained_ids, trained = training_events(records[0].rows)
    said = {
        **of_model(rows, answer, ids, before),
        **of_baselines(rows, trained, len(dataset.classes), clip_seconds),
    }
    return {
        **_what_is_scored(dataset, split, truth),
        **presence_of(rows, answer.event_threshold),
        "seen": before,
        "seen_known": all(record.knows_seen for record in records),
        "code": one_digest(digests()),
        "code_differs": sorted({name for record in records for name in record.other_code()}),
        "fingerprint": about.fingerprint,
        "scored_rows": rows_digest(ids, rows, dataset.classes),
        "training_rows": rows_digest(trained_ids, trained, dataset.classes),
        "epoch": about.epoch,
        "decoding": answer.decoding,
        "config": about.config.model_dump(mode="json"),
        "scores": scores_of(said, clip_seconds, answer.event_threshold),
        **how_sure(said, clip_seconds),
        "per_class": per_class(truth, guess, dataset.classes, clip_seconds),
        "confusion": confusion(truth, guess).tolist(),
    }


def _check_events(rows: Events, split: str) -> None:
    """Raise CacheError for a split without events."""
    if not len(rows):
        raise CacheError(f"the split {split!r} has no rows with features; nothing to evaluate")
    if not rows.real.any():
        raise CacheError(
            f"the split {split!r} has no event, only clips without one: `python -m train predict` "
            "answers these; scores need events as well"
        )


def _what_is_scored(dataset: Dataset, split: str, truth: Events) -> Result:
    """Which events a split has, and which are missing from it."""
    rows, clip_seconds = dataset.rows, dataset.clips.shapes.clip_seconds
    return {
        "split": split,
        "events": len(truth),
        "clip_seconds": clip_seconds,
        "events_shorter_than_clip": int(np.sum(truth.end_s - truth.start_s < clip_seconds)),
        "events_without_times": int(np.sum(~truth.timed)),
        "classes": dataset.classes,
        "classes_in_split": len(np.unique(truth.category)),
        "clips_without_features": rows.without_features,
        "unknown_classes": rows.unknown[split],
        "leaks": {"+".join(pair): ids for pair, ids in rows.leaks.items()},
    }


def presence_of(rows: Events, threshold: float | None) -> Result:
    """How many clips have an event or none, where there are such, and the answers' threshold."""
    if rows.real.all():
        return {}
    return {**clip_counts(rows), "event_threshold": threshold}


def seen_before(records: Sequence[Record], ids: Iterable[str], split: str) -> dict[str, list[str]]:
    """Which clips of a scored split were trained on ("train") or selected on ("val").

    That val is selected on is what it is for, so it counts where another split is scored.
    """
    found = seen(records, ids)
    return {name: found[name] for name in ("train", "val") if name == "train" or split != "val"}


def training_events(rows: Labels) -> tuple[list[str], Events]:
    """The ids and rows that a run was trained on."""
    train = rows.rows("train")
    truth = Events(rows.category[train], rows.start_s[train], rows.end_s[train])
    return [rows.ids[row] for row in train], truth


def of_model(
    truth: Events, answer: Answer, ids: Sequence[str], before: Mapping[str, Sequence[str]]
) -> Said:
    """What the model says, what by its other decoding, and `without_seen`."""
    found = {MODEL: (truth, answer.predictions)}
    for name, other in answer.by_decoding.items():
        if name != answer.decoding:
            found[f"{MODEL}, {name} decoding"] = truth, other
    return found | without_seen(truth, answer.predictions, ids, before)


def without_seen(
    truth: Events, guess: Predictions, ids: Sequence[str], before: Mapping[str, Sequence[str]]
) -> Said:
    """What it says of rows whose clips (ids) are not in `before`, where some are and not all."""
    known = {clip_id for some in before.values() for clip_id in some}
    fresh = np.array([clip_id not in known for clip_id in ids])
    if not known or not fresh.any():
        return {}
    return {f"{MODEL}, without {len(known)} seen": (truth.of(fresh), guess.of(fresh))}


def of_baselines(truth: Events, trained: Events, classes: int, clip_seconds: float) -> Said:
    """What predictors say that know nothing but the events that the model was trained on."""
    found = baselines(trained.of(trained.real), len(truth), classes, clip_seconds)
    return {name: (truth, guess) for name, guess in found.items()}


def scores_of(said: Said, clip_seconds: float, threshold: float | None) -> dict[str, Scores]:
    """Every score of each predictor; a trivial one always says that there is an event."""
    return {
        name: score_all(*pair, clip_seconds, threshold if name.startswith(MODEL) else None)
        for name, pair in said.items()
    }


def how_sure(said: Said, clip_seconds: float) -> Result:
    """The headline scores' 95 % intervals, and by how much the model beats each baseline."""
    found = {name: EventScores.of(*pair, clip_seconds) for name, pair in said.items()}
    return {
        "intervals": {name: one.stored() for name, one in found.items()},
        "differences": _ahead(found[MODEL], found),
    }


def of_seeds(answers: Sequence[Answer], dataset: Dataset, split: str, record: Record) -> Result:
    """The same of the mean over seeds, whose answers to the split these are.

    record: of one of them; it says what the baselines know.
    """
    clip_seconds = dataset.clips.shapes.clip_seconds
    truth = events(dataset.splits[split], clip_seconds)
    each = [EventScores.of(truth, one.predictions, clip_seconds) for one in answers]
    trained, classes = training_events(record.rows)[1], len(dataset.classes)
    trivial = of_baselines(truth, trained, classes, clip_seconds)
    found = {name: EventScores.of(*pair, clip_seconds) for name, pair in trivial.items()}
    mean = EventScores.mean(each)
    return {"intervals": {MODEL: mean.stored()}, "differences": _ahead(mean, found)}


def _ahead(model: EventScores, others: Mapping[str, EventScores]) -> Result:
    """The model minus each baseline among the others, paired: both on the same resamples."""
    trivial = {name: other for name, other in others.items() if not name.startswith(MODEL)}
    return {name: (model - other).stored() for name, other in trivial.items()}


def rows_digest(ids: Sequence[str], truth: Events, classes: Sequence[str]) -> str:
    """SHA-256 of label rows (id, class, start, end), whatever their order: equal for equal data.

    The class of a clip without an event is "", times that aren't known are -1.
    """
    rows = sorted(
        [
            clip_id,
            classes[category] if category >= 0 else "",
            -1.0 if np.isnan(start) else round(float(start), 4),
            -1.0 if np.isnan(end) else round(float(end), 4),
        ]
        for clip_id, category, start, end in zip(
            ids, truth.category, truth.start_s, truth.end_s, strict=True
        )
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def write_result(run: Path, place: Path, result: Result, rows: Sequence[EventRow]) -> Path:
    """`metrics_<split>.json` and `predictions_<split>.json` in `place`, the run or a folder in it.

    rows: see `answered_events`. Earlier scores by other code or of other rows are kept beside them.
    Each look at a test split is counted in the run once its scores are written; the result says
    how many there were, as `test_looks`.
    """
    split = result["split"]
    path = place / f"metrics_{split}.json"
    _keep_earlier(path, place / f"predictions_{split}.json", _tag(result))
    if split == "test":
        result["test_looks"] = 1 + count_looks(run)
    runs.write_json(place / f"predictions_{split}.json", rows)
    runs.write_json(path, result)
    if split == "test":
        add_look(run, result["epoch"], str(path.relative_to(run)), result["scores"][MODEL])
    return path


def _keep_earlier(metrics: Path, predictions: Path, tag: str) -> None:
    """Rename scores that were made by other code or of other rows than those that follow."""
    if not metrics.exists():
        return
    try:
        earlier = _tag(read_json(metrics))
    except (ConfigError, AttributeError):
        earlier = "damaged"
    if earlier == tag:
        return
    kept = []
    for path in (metrics, predictions):
        if path.exists():
            kept.append(path.with_name(f"{path.stem}.{earlier}{path.suffix}"))
            path.replace(kept[-1])
    told = f"{kept[0]}{' and its answers' if len(kept) > 1 else ''}"
    say(f"earlier scores, by other code or of other rows, are kept: {told}", error=True)


def _tag(result: Mapping[str, Any]) -> str:
    """8 hex digits of what decides a run's scores: the features, the scored rows, the code."""
    facts = [result.get(name) for name in ("fingerprint", "scored_rows", "code")]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def true_events(dataset: Dataset, split: str) -> list[EventRow]:
    """A readable record per row: what is true of it (s); None of a clip without an event.

    start_s and end_s are None of an event that doesn't say when, too.
    """
    samples = dataset.splits[split]
    truth = events(samples, dataset.clips.shapes.clip_seconds)
    return [
        {
            "id": dataset.ids[row],
            "category": dataset.classes[truth.category[n]] if real else None,
            "start_s": float(truth.start_s[n]) if timed else None,
            "end_s": float(truth.end_s[n]) if timed else None,
        }
        for n, (row, real, timed) in enumerate(
            zip(samples.rows, truth.real, truth.timed, strict=True)
        )
    ]


def answered_events(dataset: Dataset, split: str, answer: Answer) -> list[EventRow]:
    """The same with what was answered beside it, and the share of its seconds that was right.

    In a clip without an event what is predicted is None if the answer is that there is none. In
    one that has an event it is told, and scored, whatever that answer is.
    """
    clip_seconds = dataset.clips.shapes.clip_seconds
    rows = events(dataset.splits[split], clip_seconds)
    scores = EventScores.of(rows, answer.predictions, clip_seconds)
    right = iter(scores.by_name["segment_accuracy"].tolist())
    found = []
    for number, event in enumerate(true_events(dataset, split)):
        said = answer.entry(number)
        if event["category"] is not None:
            share = next(right)
            said["segment_accuracy"] = None if np.isnan(share) else share
        elif said["event"] is False:
            said["predicted"] = None
        found.append({**event, **said})
    return found
