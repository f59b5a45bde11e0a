"""Scores over folds as text: all clips as one set, mean ± sd over folds, the baselines."""

from __future__ import annotations

from collections.abc import Mapping

from train.report.tables import (
    caveats,
    how_sure,
    in_order,
    render,
    scored,
    spread,
    title,
    with_intervals,
)
from train.score.named import MODEL, Result


def folds_table(runs: Mapping[str, Result], brief: bool = False, width: int | None = None) -> str:
    """Runs that were divided into folds side by side, the baselines once; by name (see MODEL).

    brief: the headline scores alone; width: see `train.report.tables.table`.
    """
    groups = in_order(next(iter(runs.values())), brief)
    columns: dict[str, Mapping[str, str]] = {}
    for name, result in runs.items():
        for predictor in result["scores"]:
            if predictor.startswith(MODEL):
                heading = f"{predictor.replace(MODEL, name, 1)}, over folds"
                columns[heading] = with_intervals(result, predictor)
        parts = [fold["scores"][MODEL] for fold in result["folds"]]
        columns[f"{name} ({len(parts)} folds)"] = spread(parts)
    first = next(iter(runs.values()))
    for predictor in first["scores"]:
        if not predictor.startswith(MODEL):
            columns[predictor] = with_intervals(first, predictor)
    if len(runs) == 1:
        return "\n".join([render(title(first), columns, groups, width), *how_sure(first, width)])
    told = [f"{name}: {text}" for name, result in runs.items() for text in caveats(result)]
    return "\n".join([render(scored(first), columns, groups, width), *told])
