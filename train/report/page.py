"""report.html: what went wrong, clip by clip, then scores, in one file; it needs no network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.common.atomic import replace_file
from cache.labels.annotations import without_an_event
from train.report import page_scores, run_plots, web
from train.report.drawing import base64_text, png
from train.report.media import Playable
from train.report.outcomes import OUTCOMES, VERDICTS, outcome_of, overlap_of
from train.report.page_cards import card
from train.report.page_settings import settings
from train.report.tables import title
from train.report.views import View, span
from train.runs import folders as runs
from train.runs.answers import STREAMS
from train.runs.stored import read_history
from train.score.named import Result

FILE = "report.html"
_MOST_LINES = 5000
_STEPS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)


def write(
    place: Path,
    result: Result,
    answered: Sequence[Mapping[str, Any]],
    views: Sequence[View],
    media: Mapping[str, Playable] | None = None,
) -> Path:
    """Write `report.html` beside scores: what went wrong, what was right, then all scores.

    answered: all events of the result's split, worst first; views: the first of them, to show;
    media: the clips' files by id, None where nobody said where to look for them.
    """
    confusion = run_plots.confusion_figure(
        np.array(result["confusion"], np.float64), result["classes"]
    )
    seconds = views[0].clip_seconds if views else 1.0
    files, others = media or {}, answered[len(views) :]
    return write_page(
        "page.html",
        place,
        result,
        sure=page_scores.how_sure(result),
        confusion=base64_text(png(confusion, dpi=90)),
        confusion_alt="confusion matrix, true class down, predicted class across; the table by "
        "class holds its diagonal as recall",
        outcomes=outcomes(answered),
        gallery_note=_gallery_note(len(views), result),
        gate_note=_gate_note(views),
        media_note=media_note([view.id for view in views], media),
        clips=[card(view, files.get(view.id)) for view in views],
        others=[_line(row) for row in others[:_MOST_LINES]],
        others_left=max(0, len(others) - _MOST_LINES),
        seconds=seconds,
        ticks=ticks(seconds),
    )


def write_page(name: str, place: Path, result: Result, **values: Any) -> Path:
    """Write `report.html` by a template: what those of clips and of recordings have in common.

    place: the folder of the scores, a run's or one in it.
    """
    home = page_scores.home(place)
    history_path = home / runs.HISTORY_FILE
    history = read_history(history_path) if history_path.exists() else []
    page = web.template(name).render(
        title=f"Run {home.name}",
        policy=web.policy(None, script := web.source("page.js")),
        style=web.source("style.css"),
        script=script,
        subtitle=subtitle(result),
        about=title(result),
        split=result["split"],
        headline=page_scores.headline(result),
        tables=page_scores.tables(place, result["split"]),
        curves=curves(history, result["epoch"]),
        curves_alt=curves_alt(history, result["epoch"]),
        class_columns=[name for name in result["per_class"][0] if name != "class"],
        class_rows=[page_scores.class_row(row) for row in result["per_class"]],
        settings=settings(result["config"]),
        facts=facts(result),
        **values,
    )
    replace_file(place / FILE, page.encode("utf-8", "replace"))
    return place / FILE


def subtitle(result: Result) -> str:
    """Which model this is."""
    config = result["config"]
    streams = STREAMS[config["modality"]]
    return f"{streams} · seed {config['seed']} · epoch {result['epoch']} kept"


def outcomes(answered: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, str]]:
    """How many events were answered how: which of OUTCOMES, the number, in words."""
    counts = Counter(map(outcome_of, answered))
    return [(name, counts[name], words) for name, words in OUTCOMES.items() if counts[name]]


def _line(row: Mapping[str, Any]) -> tuple[str, list[str]]:
    """An answered event of which there is no card: its clip, and what is told of it."""
    said = row["predicted"] or "no event"
    said_s = span((row["predicted_start_s"], row["predicted_end_s"]))
    if row["category"] is None:
        return row["id"], [VERDICTS[outcome_of(row)], "no event", said, ""]
    true = f"{row['category']}, {span((row['start_s'], row['end_s']))}"
    verdict = VERDICTS[outcome_of(row)]
    return row["id"], [verdict, true, f"{said}, {said_s}", f"{overlap_of(row):.2f}"]


def _gallery_note(drawn: int, result: Result) -> str:
    events, empty = result["events"], result.get("clips_without_event", 0)
    what = f"{events} events" + (f" and {without_an_event(empty)}" if empty else "")
    if drawn == events + empty:
        return f"All {what}, the worst answered first."
    return (
        f"The {drawn} worst answered of {what}; the other {events + empty - drawn} are in the "
        "table below them."
    )


def _gate_note(views: Sequence[View]) -> str:
    """What the gate's row shows, and what the attention maps are of."""
    if not views:
        return ""
    view = views[0]
    decided = (
        "start and end are those of the interval that overlaps it best, as is to be expected"
        if view.by_gate
        else "start and end were not read off it, they are " + view.decided_by
    )
    maps = f" Attention is {view.attention_of}." if view.attention_of else ""
    return (
        f"“Heard and seen” is the answer's probability of each part of the clip: {decided}.{maps}"
    )


def media_note(ids: Sequence[str], media: Mapping[str, Playable] | None) -> str:
    """What of these clips can be played; media: None where nobody said where their files are."""
    if media is None:
        return "To play them here, say where their files are: make evaluate MEDIA=FOLDER."
    found = [media[clip_id] for clip_id in ids if clip_id in media]
    if not found:
        return "None can be played: no file of theirs was found of a kind that browsers play."
    changed = sum(one.by_name for one in found)
    note = f"{len(found)} of {len(ids)} can be played: click into a row to hear that moment."
    told = (
        f" {changed} of the files are told by name alone: parts of what was extracted, or changed"
    )
    return f"{note}{told} since." if changed else note


def facts(result: Result) -> list[tuple[str, str]]:
    """What made a result, name by name."""
    leaks = {name: len(ids) for name, ids in result["leaks"].items()}
    return [
        ("features", f"fingerprint {result['fingerprint']}"),
        ("training rows", f"SHA-256 {result['training_rows']}"),
        (f"{result['split']} rows", f"SHA-256 {result['scored_rows']}"),
        ("without features", ", ".join(result["clips_without_features"][:20]) or "none"),
        ("ids in two splits", json.dumps(leaks) if leaks else "none"),
    ]


def curves(history: Sequence[dict[str, float]], kept: int) -> str | None:
    """How it was trained, as a PNG in base64; None without a history."""
    if not history:
        return None
    return base64_text(png(run_plots.curves_figure(history, kept), dpi=90))


def curves_alt(history: Sequence[dict[str, float]], kept: int) -> str:
    """The same in words."""
    if not 1 <= kept <= len(history):
        return ""
    one = history[kept - 1]
    names = {"val_top1": "top-1", "val_miou": "mIoU", "val_segment_map": "mAP of seconds"}
    scores = ", ".join(f"{label} {one[name]:.3f}" for name, label in names.items() if name in one)
    return (
        f"curves over {len(history)} epochs: losses, validation scores, learning rate; kept are "
        f"the weights of epoch {kept}: {scores}"
    )


def ticks(seconds: float) -> list[dict[str, Any]]:
    """Where the seconds stand below an axis: round ones, a dozen at most."""
    step = next((one for one in _STEPS_S if 12 * one >= seconds), round(seconds / 10))
    return [
        {"text": f"{at}", "left": f"{100 * at / seconds:.3f}", "odd": bool(at // step % 2)}
        for at in range(0, int(seconds) + 1, step)
    ]
