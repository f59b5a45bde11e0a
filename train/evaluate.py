"""Score a model on a split, beside its baselines, with all that is needed to read it later."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.atomic import append_line
from cache.errors import CacheError
from train.checkpoint import About
from train.data import Dataset
from train.loop import events
from train.metrics import Events, Predictions, Scores, confusion
from train.runs import write_json
from train.scores import baselines, per_class, score

TEST_RECORD = "test_evaluations.jsonl"
MODEL = "model"
Result = dict[str, Any]


def evaluate(
    guesses: Mapping[str, Predictions], decoding: str, about: About, dataset: Dataset, split: str
) -> Result:
    """Scores of a split (finite numbers or None) with everything needed to read them later.

    guesses: what `predict` says of the split's rows, by decoding; `decoding` is the one that
    validation chose.
    """
    samples = dataset.splits[split]
    if not len(samples):
        raise CacheError(f"the split {split!r} has no rows with features; nothing to evaluate")
    clip_seconds = dataset.clips.shapes.clip_seconds
    truth, guess = events(samples, clip_seconds), guesses[decoding]
    return {
        "split": split,
        "events": len(truth),
        "events_shorter_than_clip": int(np.sum(truth.end_s - truth.start_s < clip_seconds)),
        "classes": dataset.classes,
        "classes_in_split": len(np.unique(truth.category)),
        "clips_without_features": dataset.without_features,
        "leaks": {"+".join(pair): ids for pair, ids in dataset.leaks.items()},
        "fingerprint": about.fingerprint,
        "scored_rows": rows_digest([dataset.ids[row] for row in samples.rows], truth, dataset),
        "training_rows": rows_digest(dataset.train_ids, dataset.train_truth, dataset),
        "epoch": about.epoch,
        "decoding": decoding,
        "config": about.config.model_dump(mode="json"),
        "scores": {
            **model_scores(truth, guesses, decoding, dataset, split),
            **{
                name: score(truth, other, clip_seconds)
                for name, other in baselines(
                    dataset.train_truth, len(truth), len(dataset.classes), clip_seconds
                ).items()
            },
        },
        "per_class": per_class(truth, guess, dataset.classes, clip_seconds),
        "confusion": confusion(truth, guess).tolist(),
    }


def model_scores(
    truth: Events,
    guesses: Mapping[str, Predictions],
    decoding: str,
    dataset: Dataset,
    split: str,
) -> dict[str, Scores]:
    """The model's scores, those of its other decoding, and those without leaked ids, if any."""
    clip_seconds = dataset.clips.shapes.clip_seconds
    found = {MODEL: score(truth, guesses[decoding], clip_seconds)}
    for name, other in guesses.items():
        if name != decoding:
            found[f"{MODEL}, {name} decoding"] = score(truth, other, clip_seconds)
    trained_on = set(dataset.train_ids)
    own = np.array([dataset.ids[row] not in trained_on for row in dataset.splits[split].rows])
    if split != "train" and not own.all() and own.any():
        name = f"{MODEL}, without {int(np.sum(~own))} leaked"
        found[name] = score(truth.of(own), guesses[decoding].of(own), clip_seconds)
    return found


def rows_digest(ids: Sequence[str], truth: Events, dataset: Dataset) -> str:
    """SHA-256 of label rows (id, class, start, end), whatever their order: equal for equal data."""
    rows = sorted(
        [clip_id, dataset.classes[category], round(float(start), 4), round(float(end), 4)]
        for clip_id, category, start, end in zip(
            ids, truth.category, truth.start_s, truth.end_s, strict=True
        )
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def common_decoding(abouts: Sequence[About]) -> str:
    """The decoding that most members of an ensemble use; of equals, the first member's."""
    return Counter(about.decoding for about in abouts).most_common(1)[0][0]


def write_result(run: Path, result: Result) -> Path:
    """`metrics_<split>.json` in the run; each look at the test split is recorded and counted.

    A result of the test split says how often this run has been scored on it, as `test_looks`.
    """
    if result["split"] == "test":
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = {"time": now, "epoch": result["epoch"], **result["scores"][MODEL]}
        text = json.dumps(line, allow_nan=False)
        result["test_looks"] = append_line(run / TEST_RECORD, text)
    path = run / f"metrics_{result['split']}.json"
    write_json(path, result)
    return path


def prediction_rows(
    dataset: Dataset, split: str, guess: Predictions
) -> list[dict[str, str | float]]:
    """One readable record per event of the split: truth, prediction and times in seconds."""
    samples = dataset.splits[split]
    truth = events(samples, dataset.clips.shapes.clip_seconds)
    return [
        {
            "id": dataset.ids[row],
            "category": dataset.classes[truth.category[n]],
            "start_s": float(truth.start_s[n]),
            "end_s": float(truth.end_s[n]),
            **prediction(guess, n, dataset.classes),
        }
        for n, row in enumerate(samples.rows)
    ]


def prediction(guess: Predictions, row: int, classes: Sequence[str]) -> dict[str, str | float]:
    """What the model says of one clip."""
    category = int(guess.category[row])
    return {
        "predicted": classes[category],
        "confidence": float(guess.probability[row, category]),
        "predicted_start_s": float(guess.start_s[row]),
        "predicted_end_s": float(guess.end_s[row]),
    }
