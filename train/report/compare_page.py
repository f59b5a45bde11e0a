"""A page of several runs: scores and curves over each other, and the clips where they differ."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from cache.common.atomic import replace_file
from cache.common.cli import say
from cache.common.errors import AvelError
from cache.common.plain import read_plain
from train.report import compare_plots
from train.report.compared import Compared, Row
from train.report.drawing import FOLDER, base64_text, file_name, image_text, png
from train.report.estimates import DIFFERENCES, difference
from train.report.papers import notes
from train.report.tables import of_ensemble, of_seeds
from train.report.views import span
from train.report.web import policy, source, template
from train.runs import folders
from train.runs.paired import in_order
from train.runs.progress import history_of
from train.runs.stored import StoredAnswer

_SHOWN = 40
_PICTURES = ("card", "spatial")
_PICTURE_BYTES, _PICTURE_PIXELS, _PICTURE_PX = 1 << 24, 1 << 25, 900


def write(path: Path, compared: Compared) -> None:
    """Write the page; one file that needs nothing beside it."""
    style, rows = source("style.css"), compared.rows()
    (what, *below), minus = notes(compared, rows), compared.minus_first()
    curves = _histories(compared)
    page = template("compare.html").render(
        title=f"{' · '.join(compared.stored)}: compared",
        policy=f"{policy(None)}; img-src data:",
        style=style,
        scored=what,
        notes=below,
        labels=list(compared.labels.values()),
        rows=[_cells(row, compared.labels) for row in rows],
        settings=[(name, words) for name, words in compared.settings.items() if words],
        curves=base64_text(png(compare_plots.curves_figure(curves), dpi=90)) if curves else None,
        differences=_differences(minus, compared.labels) if minus else None,
        **_clips(compared),
    )
    replace_file(path, page.encode("utf-8", "replace"))


def _cells(row: Row, labels: Mapping[str, str]) -> tuple[str, list[tuple[str, str, bool]]]:
    """A row's name, and of each score the text, the interval, whether it is best of all."""
    return row.name, [(*row.shown(key), key in row.best) for key in labels]


def _histories(compared: Compared) -> dict[str, list[list[dict[str, float]]]]:
    """Each run's histories, of those that have one."""
    found = {}
    for name, place in compared.places.items():
        try:
            models = [history for one in folders.members(place) if (history := history_of(one))]
        except AvelError as error:
            say(f"warning: no curves of {name}: {error}", error=True)
            continue
        if models:
            found[name] = models
    return found


def _differences(
    minus: Mapping[str, Mapping[str, Mapping[str, Any]]], labels: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "title": DIFFERENCES,
        "picture": base64_text(png(compare_plots.differences_figure(minus, labels), dpi=90)),
        "columns": list(minus),
        "rows": [
            (text, [difference(one[key]) if key in one else "–" for one in minus.values()])
            for key, text in labels.items()
        ],
    }


def _clips(compared: Compared) -> dict[str, Any]:
    """The events on which the runs differ most, each with what every run says of it."""
    if len(compared.paired) < 2:
        return {"clips": [], "note": "", "seconds": 1.0}
    names = _answering(compared)
    answers = {
        name: in_order(place / f"predictions_{compared.split}.json")
        for name, place in names.items()
    }
    values = [compared.paired[name].by_name["localized_iou"] for name in names]
    events = range(len(values[0]))
    apart = [max(one[n] for one in values) - min(one[n] for one in values) for n in events]
    timed = sum(not math.isnan(one) for one in apart)
    order = sorted((n for n in events if apart[n] > 0), key=lambda n: -apart[n])
    seconds = float(compared.first["clip_seconds"])
    note = (
        f"{len(order)} of {timed} events with times are answered differently; here are the "
        f"{min(len(order), _SHOWN)} that differ most, by tIoU, which counts 0 where the class is "
        "wrong."
    )
    clips = [
        _clip({name: some[n] for name, some in answers.items()}, compared, seconds)
        for n in order[:_SHOWN]
    ]
    return {"clips": clips, "note": note, "seconds": seconds}


def _answering(compared: Compared) -> dict[str, Path]:
    """Where each run's one answer is: of seeds their ensemble's, or else the first one's."""
    found = {}
    for name, (seeds, together) in compared.stored.items():
        place = compared.places[name]
        if together is not None:
            found[of_ensemble(name, len(seeds))] = place
        else:
            whole = (place / f"predictions_{compared.split}.json").exists()
            found[of_seeds(name, len(seeds))] = place if whole else folders.members(place)[0]
    return found


def _clip(said: Mapping[str, StoredAnswer], compared: Compared, seconds: float) -> dict[str, Any]:
    """An event: what is true, then what each run says."""
    true = next(iter(said.values()))
    assert true.start_s is not None  # runs differ here by how they place it
    assert true.end_s is not None
    edges = true.start_s, true.end_s
    scores = {name: _overlap(one, edges) for name, one in said.items()}
    best = max(scores.values())
    return {
        "id": true.id,
        "category": true.category,
        "true_text": span(edges),
        "true": _bar(*edges, seconds),
        "picture": _picture(true.id, compared),
        "answers": [
            {
                "name": name,
                "right": one.predicted == one.category,
                "best": scores[name] == best > 0,
                "said": one.predicted,
                "span": span((one.predicted_start_s, one.predicted_end_s)),
                "tiou": f"{scores[name]:.2f}",
                "bar": _bar(one.predicted_start_s, one.predicted_end_s, seconds),
            }
            for name, one in said.items()
        ],
    }


def _overlap(one: StoredAnswer, true: tuple[float, float]) -> float:
    """tIoU of an answer with the true start and end, 0 where its class is wrong."""
    start_s, end_s = true
    shared = min(end_s, one.predicted_end_s) - max(start_s, one.predicted_start_s)
    whole = max(end_s, one.predicted_end_s) - min(start_s, one.predicted_start_s)
    return max(0.0, shared) / whole if whole > 0 and one.predicted == one.category else 0.0


def _bar(start_s: float, end_s: float, seconds: float) -> tuple[str, str]:
    """Left edge and width in per cent of the clip."""
    left, right = (min(100.0, max(0.0, 100 * edge / seconds)) for edge in (start_s, end_s))
    return f"{left:.3f}", f"{max(0.0, right - left):.3f}"


def _picture(clip_id: str, compared: Compared) -> str | None:
    """A picture of the clip that one of the runs has drawn, as a small JPEG."""
    for place in compared.places.values():
        for kind in _PICTURES:
            path = place / FOLDER / compared.split / f"{file_name(clip_id)}_{kind}.png"
            try:
                return _small(read_plain(path, _PICTURE_BYTES))
            except FileNotFoundError:
                continue
            except (AvelError, OSError, SyntaxError, ValueError) as error:
                say(f"warning: {path}: not shown: {error}", error=True)
    return None


def _small(data: bytes) -> str:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        if picture.width * picture.height > _PICTURE_PIXELS:
            raise ValueError("larger than any that a run draws")
        small = picture.convert("RGB")
        small.thumbnail((_PICTURE_PX, _PICTURE_PX))
        return image_text(small, "JPEG", quality=70)
