"""The page's scores: figures at its top, tables, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.report import run_plots
from train.report.drawing import base64_text, png
from train.report.estimates import DIFFERENCES, beside, difference, legend
from train.report.tables import HEADLINE, groups_of, plain, shown, title, with_intervals
from train.runs.folders import BEST
from train.runs.stored import read_scores
from train.score.named import MODEL, Result

OTHER_LABELS = "on-"
"""How the folders begin that hold a run's scores by other labels than its own."""


def headline(result: Result) -> dict[str, Any]:
    """The headline scores of the model and of what looks at nothing: (value, interval) each."""
    labels = groups_of(result, brief=True)[""]
    names = [name for name in result["scores"] if name == MODEL or not name.startswith(MODEL)]
    cells = {}
    for name in names:
        values = plain(result["scores"][name])
        sure = beside(values, result.get("intervals", {}).get(name, {}))
        cells[name] = {
            key: (values.get(key, "–"), sure.get(key, "")[len(values.get(key, "")) + 1 :])
            for key in labels
        }
    rows = [(label, [cells[name][key] for name in names]) for key, label in labels.items()]
    return {"columns": ["this run", *names[1:]], "rows": rows}


def home(place: Path) -> Path:
    """The run's folder, of one in it that has its scores by other labels as well."""
    apart = place.name.startswith(OTHER_LABELS) and not (place / BEST).exists()
    return place.parent if apart else place


def tables(place: Path, split: str) -> list[dict[str, Any]]:
    """The scores of every split that a run was scored on, by whatever labels; those at hand first.

    place: the folder of the scores at hand, the run's or one in it.
    """
    run = home(place)
    folders = sorted([run, *run.glob(f"{OTHER_LABELS}*/")], key=lambda one: (one != place, one))
    paths = [
        (folder, name, folder / f"metrics_{name}.json")
        for folder in folders
        for name in sorted(("test", "val"), key=lambda one: one != split)
    ]
    return [
        {**table(read_scores(path)), "tab": name if folder == run else f"{name}, {folder.name}"}
        for folder, name, path in paths
        if path.exists()
    ]


def table(result: Result) -> dict[str, Any]:
    """The scores of one split, and what its brackets mean."""
    columns = {name: with_intervals(result, name) for name in result["scores"]}
    return {
        "split": result["split"],
        "title": title(result),
        "legend": legend(result.get("intervals", {}).get(MODEL, {})),
        "note": _note(result),
        "columns": list(columns),
        "groups": [
            (
                name,
                [
                    (label, [column.get(key, "–") for column in columns.values()])
                    for key, label in labels.items()
                ],
            )
            for name, labels in shown(groups_of(result), columns).items()
        ],
    }


def _note(result: Result) -> str:
    """How what is scored was read off the answers."""
    if "recordings" in result:
        return (
            "mAP ranks all candidates, whatever their confidence; all else is of the events that "
            "are said, by the threshold that validation chose."
        )
    decoding = {"gate": "gate's best interval", "interval": "interval head"}[result["decoding"]]
    return (
        f"Start and end are read off the {decoding}, which validation chose. An event counts in "
        "“recall at tIoU”, “event F1” and “wrong class = 0” only where its class is right as well."
    )


def how_sure(result: Result) -> dict[str, Any] | None:
    """The intervals as a picture, and by how much the model beats each baseline; None without."""
    found, ahead = result.get("intervals", {}), result.get("differences", {})
    if not found.get(MODEL):
        return None
    labels = HEADLINE[""]
    names = [name for name in labels if name in found[MODEL]]
    return {
        "forest": base64_text(png(run_plots.forest_figure(found, labels), dpi=90)),
        "forest_alt": "the headline scores of the model and of the baselines, a dot each with its "
        "interval; the table of scores holds them as figures",
        "title": DIFFERENCES,
        "columns": [f"{MODEL} minus {name}" for name in ahead],
        "rows": [(labels[name], _differences(name, ahead)) for name in names],
    }


def _differences(name: str, ahead: Mapping[str, Any]) -> list[str]:
    return [difference(one[name]) if name in one else "–" for one in ahead.values()]


def class_row(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The name of a class and its figures as text."""
    values = [value for name, value in row.items() if name != "class"]
    texts = [f"{v:.3f}" if isinstance(v, float) else "–" if v is None else str(v) for v in values]
    return row["class"], texts
