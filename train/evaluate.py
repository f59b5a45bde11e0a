"""Score a model on a split, beside its baselines, for machines (JSON) and people (a table)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cache.errors import CacheError
from train.checkpoint import About
from train.data import Dataset
from train.loop import events, predict
from train.metrics import Predictions, Scores, baselines, confusion, mean_and_deviation, score
from train.model import FusionModel

TEST_RECORD = "test_evaluations.jsonl"
MODEL = "model"
_LABELS = {
    "top1": "top-1 accuracy",
    "top3": "top-3 accuracy",
    "top5": "top-5 accuracy",
    "precision": "precision (macro)",
    "recall": "recall (macro)",
    "f1": "F1 (macro)",
    "map": "mAP",
    "auc": "AUC",
    "segment_accuracy": "segment accuracy (AVE)",
}
_WHEN = {
    "miou": "mIoU",
    "localized_iou": "mIoU, wrong class = 0",
    "start_mae_s": "start MAE (s) ↓",
    "end_mae_s": "end MAE (s) ↓",
    "recall@0.3": "recall at tIoU 0.3",
    "recall@0.5": "recall at tIoU 0.5",
    "recall@0.7": "recall at tIoU 0.7",
    "recall@0.9": "recall at tIoU 0.9",
}


def evaluate(
    model: FusionModel, about: About, dataset: Dataset, split: str
) -> tuple[dict[str, Any], Predictions]:
    """Scores of a split (finite numbers or None) with everything needed to read them later."""
    samples = dataset.splits[split]
    if not len(samples):
        raise CacheError(f"the split {split!r} has no rows with features; nothing to evaluate")
    clip_seconds = dataset.clips.shapes.clip_seconds
    truth = events(samples, clip_seconds)
    guesses = predict(model, dataset.clips, samples.clip)
    guess = guesses.pop(about.decoding)
    trivial = baselines(dataset.train_truth, len(truth), len(dataset.classes), clip_seconds)
    result = {
        "split": split,
        "events": len(truth),
        "events_shorter_than_clip": int(np.sum(truth.end_s - truth.start_s < clip_seconds)),
        "classes": dataset.classes,
        "classes_in_split": len(np.unique(truth.category)),
        "clips_without_features": dataset.without_features,
        "leaks": {"+".join(pair): ids for pair, ids in dataset.leaks.items()},
        "fingerprint": about.fingerprint,
        "epoch": about.epoch,
        "decoding": about.decoding,
        "config": about.config.model_dump(mode="json"),
        "scores": {
            MODEL: score(truth, guess, clip_seconds),
            **{
                f"{MODEL}, {name} decoding": score(truth, other, clip_seconds)
                for name, other in guesses.items()
            },
            **{name: score(truth, other, clip_seconds) for name, other in trivial.items()},
        },
        "confusion": confusion(truth, guess).tolist(),
    }
    return result, guess


def write_result(run: Path, result: Mapping[str, Any]) -> Path:
    """`metrics_<split>.json` in the run; each look at the test split is recorded as well."""
    path = run / f"metrics_{result['split']}.json"
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if result["split"] == "test":
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        line = {"time": now, "epoch": result["epoch"], **result["scores"][MODEL]}
        with (run / TEST_RECORD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
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


def table(result: Mapping[str, Any]) -> str:
    """The scores of one evaluation, baselines beside each."""
    return _table(
        result,
        {
            name: {key: _figure(value) for key, value in scores.items()}
            for name, scores in result["scores"].items()
        },
    )


def seeds_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± sample standard deviation over runs, baselines beside each."""
    columns = {}
    for name in results[0]["scores"]:
        runs: list[Mapping[str, float | None]] = [result["scores"][name] for result in results]
        columns[name] = {
            key: f"{mean:.3f} ± {deviation:.3f}" if name.startswith(MODEL) else f"{mean:.3f}"
            for key, (mean, deviation) in mean_and_deviation(runs).items()
        }
    columns = {
        (f"{MODEL} ({len(results)} runs)" if name == MODEL else name): column
        for name, column in columns.items()
    }
    return _table(results[0], columns)


def comparison(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Several runs (each one or more seeds) side by side, with the baselines once."""
    columns = {}
    for name, seeds in results.items():
        runs: list[Scores] = [result["scores"][MODEL] for result in seeds]
        columns[name] = {
            key: f"{mean:.3f} ± {deviation:.3f}" if len(runs) > 1 else f"{mean:.3f}"
            for key, (mean, deviation) in mean_and_deviation(list(runs)).items()
        }
    first = next(iter(results.values()))[0]
    for name, scores in first["scores"].items():
        if name != MODEL:
            columns[name] = {key: _figure(value) for key, value in scores.items()}
    return _table(first, columns)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(result: Mapping[str, Any], columns: Mapping[str, Mapping[str, str]]) -> str:
    lines = {
        **_LABELS,
        **_WHEN,
        **{f"short_{name}": f"shorter events: {label}" for name, label in _WHEN.items()},
    }
    frame = pd.DataFrame(
        {name: [column.get(key, "–") for key in lines] for name, column in columns.items()},
        index=list(lines.values()),
    )
    left_out = len(result["clips_without_features"])
    title = (
        f"{result['split']}: {result['events']} events, {result['events_shorter_than_clip']} of "
        f"them shorter than the clip, {result['classes_in_split']} classes"
        + (f"; {left_out} labelled clip(s) without features left out" if left_out else "")
    )
    return f"{title}\n{frame.to_string()}"
