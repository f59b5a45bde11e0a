"""All folds' answers as one: every clip answered by the model that has not seen it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from train.config import SCORED
from train.data.dataset import Dataset
from train.runs.evaluate import (
    EventRow,
    Said,
    answered_events,
    how_sure,
    presence_of,
    rows_digest,
    scores_of,
    training_events,
    without_seen,
)
from train.runs.record import Record
from train.runs.trained import Answer, mean_threshold
from train.score.metrics import Events, Predictions, confusion
from train.score.named import MODEL, Result, Scores, mean_and_deviation
from train.score.predict import events
from train.score.summary import baselines, per_class

T = TypeVar("T", Events, Predictions)


@dataclass(frozen=True)
class Fold:
    """A fold that was scored: its rows, what its models' records say, their (mean) answer.

    result: the scores of its own part, see `evaluate`.
    """

    name: str
    dataset: Dataset
    record: Record
    answer: Answer
    result: Result

    @property
    def truth(self) -> Events:
        """What is true of the part that is scored."""
        return events(self.dataset.splits[SCORED], self.dataset.clips.shapes.clip_seconds)


_OF_EACH = ("events", "scores")


def over_folds(folds: Sequence[Fold]) -> tuple[Result, list[EventRow]]:
    """The scores of all folds' parts as one set, and each event with what was answered.

    Each fold has its own training rows' baselines. The result has, beside what `evaluate` gives,
    each fold's own scores (`folds`), and their `mean_and_deviation` (of a sample).
    """
    first = folds[0]
    clip_seconds, classes = first.dataset.clips.shapes.clip_seconds, first.dataset.classes
    labelled = joined([fold.truth for fold in folds])
    answered = joined([fold.answer.predictions for fold in folds])
    truth, guess = labelled.of(labelled.real), answered.of(labelled.real)
    rows: list[EventRow] = [
        {**row, "fold": fold.name}
        for fold in folds
        for row in answered_events(fold.dataset, SCORED, fold.answer)
    ]
    ids = [str(row["id"]) for row in rows]
    known = known_of(results := [fold.result for fold in folds])
    said = {MODEL: (labelled, answered)} | without_seen(labelled, answered, ids, known["seen"])
    said |= _of_baselines(folds, labelled)
    threshold = mean_threshold(answers := [fold.answer for fold in folds])
    own: list[Scores] = [result["scores"][MODEL] for result in results]
    return {
        **first.result,
        **known,
        "events": len(truth),
        "events_shorter_than_clip": int(np.sum(truth.end_s - truth.start_s < clip_seconds)),
        "events_without_times": int(np.sum(~truth.timed)),
        "classes_in_split": len(np.unique(truth.category)),
        "scored_rows": rows_digest(ids, labelled, classes),
        **presence_of(labelled, threshold),
        "decoding": Counter(one.decoding for one in answers).most_common(1)[0][0],
        "scores": scores_of(said, clip_seconds, threshold),
        **how_sure(said, clip_seconds),
        "per_class": per_class(truth, guess, classes, clip_seconds),
        "confusion": confusion(truth, guess).tolist(),
        "folds": [{"fold": f.name, **{k: f.result[k] for k in _OF_EACH}} for f in folds],
        "mean_and_deviation": {name: [*pair] for name, pair in mean_and_deviation(own).items()},
    }, rows


def known_of(results: Sequence[Result]) -> Result:
    """What is known of the folds' models, of all together."""
    trained = [result["training_rows"] for result in results]
    return {
        "seen": {
            name: sorted({clip_id for result in results for clip_id in result["seen"][name]})
            for name in results[0]["seen"]
        },
        "seen_known": all(result["seen_known"] for result in results),
        "code_differs": sorted({name for result in results for name in result["code_differs"]}),
        "training_rows": hashlib.sha256(json.dumps(trained).encode()).hexdigest(),
        "epoch": [result["epoch"] for result in results],
    }


def joined(parts: Sequence[T]) -> T:
    """Events or predictions of several sets one after another."""
    values: dict[str, Any] = {}
    for field in fields(parts[0]):
        columns = [getattr(part, field.name) for part in parts]
        missing = any(column is None for column in columns)
        values[field.name] = None if missing else np.concatenate(columns)
    return type(parts[0])(**values)


def _of_baselines(folds: Sequence[Fold], truth: Events) -> Said:
    """Those of `baselines`, each fold's from the rows that its model was trained on."""
    guesses = []
    for fold in folds:
        _, trained = training_events(fold.record.rows)
        shapes = fold.dataset.clips.shapes
        guesses.append(
            baselines(
                trained.of(trained.real),
                len(fold.truth),
                len(fold.dataset.classes),
                shapes.clip_seconds,
            )
        )
    shared = [name for name in guesses[0] if all(name in guess for guess in guesses)]
    return {name: (truth, joined([guess[name] for guess in guesses])) for name in shared}
