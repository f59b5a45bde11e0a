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
_WHEN, _LEAST = 1, 24
"""The column of the time, which is left out where settings have fewer letters than that."""
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


def text(groups: Sequence[Sequence[Listed]], sort: str = NEWEST, width: int | None = None) -> str:
    """The list; by time, what a sweep trained again stands together, in the order of its training.

    width: letters in a line; too few, and settings are cut and the time is left out. None: no end.
    """
    return "\n\n".join(_group(some, sort == NEWEST, width) for some in groups)


def _group(runs: Sequence[Listed], by_sweep: bool, width: int | None) -> str:
    first = next((result for run in runs for result in run.results), None)
    columns = {} if first is None else LISTS if "recordings" in first else CLIPS
    looked = bool(columns) and any(run.looks for run in runs)
    counts = [*["seeds"] * bool(columns), *["test looks"] * looked]
    rows = [["run", "when", *columns, *counts, "settings", ""]]
    for sweep, some in _together(runs) if by_sweep else [("", runs)]:
        rows += [[f"{sweep}, trained again with fresh seeds:"]] * bool(sweep)
        for run in some:
            name = f"  {run.place.folder.name}" if sweep else run.name
            scores = scores_of(run, columns.values())
            told = [_score(scores.get(key), len(run.results)) for key in columns.values()]
            parts = [_models(run)] * bool(columns) + [str(run.looks)] * looked
            rows.append([name, _when(run.when), *told, *parts, _settings(run), run.told])
    return f"{_data(runs, first)}\n{_aligned(rows, width)}"


def _together(runs: Sequence[Listed]) -> list[tuple[str, list[Listed]]]:
    """Runs in their order, by sweep ("" of none); one's own at its newest, the oldest first."""
    parts: list[tuple[str, list[Listed]]] = []
    for run in runs:
        sweep = run.sweep
        some = next((some for name, some in parts if name == sweep != ""), None)
        if some is not None:
            some.insert(0, run)
        elif parts and parts[-1][0] == sweep:
            parts[-1][1].append(run)
        else:
            parts.append((sweep, [run]))
    return parts


def _models(run: Listed) -> str:
    folds = bool(run.results) and "folds" in run.results[0]
    return f"{run.models} of folds" if folds else str(run.models)


def _settings(run: Listed) -> str:
    if not run.configs:
        return ""
    return beside_default(run.configs[0], run.models, run.init) or "the defaults"


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


def _aligned(rows: Sequence[Sequence[str]], width: int | None) -> str:
    """Rows of cells as columns, the first to the left, then others to the right; as wide as fits.

    The two last cells are settings, which are cut, and a note, which isn't. A row of one cell is a
    heading.
    """
    table = [row[:-2] for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    wide = sum(widths) + 2 * len(widths)
    shown = [n for n in range(len(widths)) if n != _WHEN or width is None or width - wide >= _LEAST]
    wide = sum(widths[n] + 2 for n in shown)
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(row[0])
            continue
        cells = [row[n].rjust(widths[n]) if n else row[n].ljust(widths[n]) for n in shown]
        note = f" | {row[-1]}" if row[-1] and row[-2] else row[-1]
        settings = row[-2] if width is None else _cut(row[-2], width - wide - len(note))
        lines.append("  ".join([*cells, f"{settings}{note}"]).rstrip())
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)].rstrip(', ')}…"


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
