"""Runs as a list for people, a line each, those together that can be compared; and as CSV."""

from __future__ import annotations

import datetime
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from train.config import TrainConfig
from train.report.differing import beside_default
from train.report.tables import CLASS, PRESENCE, RECORDINGS, WHEN, scored
from train.runs.listing import Listed, joined_of
from train.score.named import MODEL, mean_and_deviation

CLIPS = {
    "segment acc.": "segment_accuracy",
    "mIoU": "miou",
    "partial": "short_miou",
    "class": "top1",
}
LISTS = {"mAP": "tiou_map", "event F1": "event_f1@1s", "segment F1": "segment_f1"}
_LABELS = {
    **PRESENCE,
    **CLASS,
    **WHEN,
    **{f"short_{key}": label for key, label in WHEN.items()},
    **{key: label for labels in RECORDINGS.values() for key, label in labels.items()},
}
_SHORT = {name.lower(): key for name, key in {**CLIPS, **LISTS}.items() if key not in (name, "map")}
NEWEST = "when"
SORTS = {NEWEST: NEWEST, **{key: key for key in _LABELS}, **_SHORT}
"""What runs can be sorted by: the words for it, and the score."""


def ordered(runs: Sequence[Listed], sort: str) -> list[list[Listed]]:
    """Groups of runs that can be compared, the newest group first, those without scores last.

    sort: one of SORTS; in a group the best come first, or the newest.
    """
    groups: dict[str, list[Listed]] = {}
    for run in sorted(runs, key=lambda one: -one.when):
        groups.setdefault(run.data, []).append(run)
    bare = groups.pop("", [])
    key = SORTS[sort]
    if key != NEWEST:
        sign = 1 if "↓" in _LABELS[key] else -1

        def place(run: Listed) -> float:
            mean, _ = scores_of(run, [key]).get(key, (math.nan, 0.0))
            return math.inf if math.isnan(mean) else sign * mean

        groups = {data: sorted(some, key=place) for data, some in groups.items()}
    return [*groups.values(), *([bare] * bool(bare))]


def scores_of(run: Listed, keys: Iterable[str] = ()) -> dict[str, tuple[float, float]]:
    """Mean and sample deviation over a run's models of each score (of `keys`) that all have."""
    found = [result["scores"][MODEL] for result in run.results]
    if keys:
        found = [{key: scores.get(key) for key in keys} for scores in found]
    return mean_and_deviation(found) if found else {}


def text(groups: Sequence[Sequence[Listed]]) -> str:
    """The list."""
    return "\n\n".join(_group(some) for some in groups)


def _group(runs: Sequence[Listed]) -> str:
    first = next((result for run in runs for result in run.results), None)
    columns = {} if first is None else LISTS if "recordings" in first else CLIPS
    rows = [["run", "when", *columns, *(["seeds", "test looks"] if columns else []), "settings"]]
    for run in runs:
        scores = scores_of(run, columns.values())
        told = [_score(scores.get(key), len(run.results)) for key in columns.values()]
        folds = bool(run.results) and "folds" in run.results[0]
        parts = f"{run.models} of folds" if folds else str(run.models)
        counts = [parts, str(run.looks)] if columns else []
        settings = beside_default(run.configs[0], run.models, run.init) if run.configs else ""
        words = [settings or "the defaults" * bool(run.configs), run.told]
        rows.append([run.name, _when(run.when), *told, *counts, " | ".join(filter(None, words))])
    return f"{_data(runs, first)}\n{_aligned(rows)}"


def _data(runs: Sequence[Listed], first: Mapping[str, Any] | None) -> str:
    """What a group's scores are of."""
    if first is None:
        return "without scores"
    joined = joined_of(runs[0].place.models[0])
    parts = f" ({' + '.join(part[:8] for part in joined)}, joined)" if joined else ""
    trained = str(first["training_rows"])[:8]
    return (
        f"features {str(first['fingerprint'])[:8]}{parts}, training rows {trained}; {scored(first)}"
    )


def _score(score: tuple[float, float] | None, models: int) -> str:
    if score is None:
        return "–"
    return f"{score[0]:.3f} ±{score[1]:.3f}" if models > 1 else f"{score[0]:.3f}"


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as columns; the first and the last to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *middle, last in rows:
        cells = [cell.rjust(width) for cell, width in zip(middle, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, last]).rstrip())
    return "\n".join(lines)


def table(groups: Sequence[Sequence[Listed]]) -> str:
    """The same as CSV: a row for each run, with all its scores and settings."""
    rows = []
    for number, runs in enumerate(groups, 1):
        for run in runs:
            first = run.results[0] if run.results else {}
            row: dict[str, Any] = {
                "run": run.name,
                "when": datetime.datetime.fromtimestamp(run.when).isoformat(timespec="seconds"),
                "group": number if run.results else None,
                **{key: first.get(key) for key in ("fingerprint", "training_rows", "scored_rows")},
                "split": first.get("split"),
                "models": run.models,
                "test_looks": run.looks,
                "init": run.init,
                "note": run.told,
            }
            for key, (mean, deviation) in scores_of(run).items():
                row |= {key: mean, f"{key}_sd": deviation if len(run.results) > 1 else None}
            config = run.configs[0] if run.configs else {}
            row |= {f"config.{name}": config.get(name) for name in TrainConfig.model_fields}
            rows.append(row)
    out = io.StringIO()
    pd.DataFrame(rows).to_csv(out, index=False)
    return out.getvalue()
