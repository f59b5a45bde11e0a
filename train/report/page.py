"""report.html: scores, curves and a gallery of clips in one file that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from cache.common.atomic import replace_file
from cache.labels.annotations import without_an_event
from train.report import page_scores, run_plots
from train.report.drawing import base64_text, heat, image_text, opened, palette, png
from train.report.views import View, span, truth_of
from train.runs import folders as runs
from train.runs.evaluate import Result
from train.runs.stored import read_history
from train.score.metrics import Array

FILE = "report.html"
_FRAME_PX, _HEAT_PX = 112, 14


def write(
    run: Path,
    result: Result,
    views: Sequence[View],
    mels: Sequence[Array | None],
) -> Path:
    """Write `report.html` into the run: scores of every split that it was scored on, and clips.

    views: events of the result's split to show, worst first; mels: each one's log-Mel spectrogram,
    (T, n_mels) in dB, NaN beyond its sound, or None.
    """
    history_path = run / runs.HISTORY_FILE
    history = read_history(history_path) if history_path.exists() else []
    confusion = run_plots.confusion_figure(
        np.array(result["confusion"], np.float64), result["classes"]
    )
    seconds = views[0].clip_seconds if views else 1.0
    page = template("page.html").render(
        title=f"Run {run.name}",
        subtitle=subtitle(result),
        headline=page_scores.headline(result),
        tables=page_scores.tables(run, result["split"]),
        sure=page_scores.how_sure(result),
        curves=curves(history, result["epoch"]),
        curves_alt=curves_alt(history, result["epoch"]),
        confusion=base64_text(png(confusion, dpi=90)),
        confusion_alt="confusion matrix, true class down, predicted class across; "
        "the table above holds its diagonal as recall",
        class_columns=[name for name in result["per_class"][0] if name != "class"],
        class_rows=[page_scores.class_row(row) for row in result["per_class"]],
        split=result["split"],
        gallery_note=_gallery_note(len(views), result),
        gate_note=_gate_note(views),
        clips=[_clip(view, mel) for view, mel in zip(views, mels, strict=True)],
        seconds=seconds,
        ticks=ticks(seconds),
        facts=facts(result),
    )
    replace_file(run / FILE, page.encode("utf-8", "replace"))
    return run / FILE


def template(name: str) -> jinja2.Template:
    """A page of this folder, whose values are escaped."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    engine = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined)
    return engine.get_template(name)


def subtitle(result: Result) -> str:
    """Which model this is."""
    config = result["config"]
    return f"{config['modality']} · seed {config['seed']} · epoch {result['epoch']} kept"


def _gallery_note(drawn: int, result: Result) -> str:
    events, empty = result["events"], result.get("clips_without_event", 0)
    what = f"{events} events" + (f" and {without_an_event(empty)}" if empty else "")
    if drawn == events + empty:
        return f"All {what}, the worst placed first."
    return f"The {drawn} worst placed of {what}; the other {events + empty - drawn} are left out."


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


def facts(result: Result) -> list[tuple[str, str]]:
    """What made a result, name by name."""
    leaks = {name: len(ids) for name, ids in result["leaks"].items()}
    return [
        ("features", f"fingerprint {result['fingerprint']}"),
        ("training rows", f"SHA-256 {result['training_rows']}"),
        (f"{result['split']} rows", f"SHA-256 {result['scored_rows']}"),
        ("without features", ", ".join(result["clips_without_features"][:20]) or "none"),
        ("ids in two splits", json.dumps(leaks) if leaks else "none"),
        ("settings", json.dumps(result["config"], ensure_ascii=False)),
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
    """Where the seconds stand below an axis."""
    step = max(1, round(seconds / 10))
    return [
        {"text": f"{at}", "left": f"{100 * at / seconds:.3f}", "odd": bool(at // step % 2)}
        for at in range(0, int(seconds) + 1, step)
    ]


def _clip(view: View, mel: Array | None) -> dict[str, Any]:
    """What the template needs of one clip."""
    seconds, path, on = view.clip_seconds, *_gate(view)
    place = {
        f"{name}_{what}": f"{100 * value / seconds:.3f}"
        for name, (start, end) in (("true", view.true_s or (0.0, 0.0)), ("said", view.predicted_s))
        for what, value in (("left", start), ("width", end - start))
    }
    return {
        "id": view.id,
        **truth_of(view),
        "predicted": view.predicted
        if view.event is not False
        else f"no event; else {view.predicted}",
        "confidence": f"{view.confidence:.4f}",
        "percent": f"{view.confidence:.0%}",
        "said_text": span(view.predicted_s),
        **place,
        "gate": path,
        "by_gate": view.by_gate,
        "gate_alt": f"probability that the event is heard and seen: above one half {on}",
        **_frames(view),
        **_sound(view, mel),
        **_cross(view),
    }


def _gate(view: View) -> tuple[str, str]:
    """The gate as the outline of a stair (SVG path, y down) and, in words, when it is on."""
    edges = view.part_edges()
    steps = " ".join(
        f"V{1 - value:.3f} H{end:.3f}" for value, end in zip(view.on, edges[1:], strict=True)
    )
    on, ends = edges[:-1][view.on > 0.5], edges[1:][view.on > 0.5]
    words = f"between {on[0]:.1f} and {ends[-1]:.1f} s" if len(on) else "nowhere"
    return f"M{edges[0]:.3f} 1 {steps} V1 Z", words


def _frames(view: View) -> dict[str, Any]:
    """Each frame as a small JPEG over the time that it stands for, with its heatmap."""
    if not view.pictures:
        return {"frames": [], "ratio": "1"}
    edges = 100 * view.edges("video", len(view.pictures)) / view.clip_seconds
    look = view.attention.get("spatial")
    colours = None if look is None else heat(look)
    frames = []
    for number, data in enumerate(view.pictures):
        frame = {
            "left": f"{edges[number]:.3f}",
            "width": f"{edges[number + 1] - edges[number]:.3f}",
            "jpeg": _thumbnail(data, view.id),
            "alt": f"frame at {view.frame_time_s[number]:.2f} s",
            "heat": None,
        }
        if look is not None and colours is not None:
            row, column = np.unravel_index(look[number].argmax(), look[number].shape)
            frame["heat"] = _smooth(colours[number])
            frame["heat_alt"] = (
                f"attention strongest in row {row + 1} of {look.shape[1]} from the top, column "
                f"{column + 1} of {look.shape[2]}"
            )
        frames.append(frame)
    return {"frames": frames, "ratio": f"{len(frames) * 100 / (edges[-1] - edges[0]):.3f}"}


def _thumbnail(jpeg: bytes, name: str) -> str:
    """A frame of the clip `name` as a small JPEG: decoded and encoded anew."""
    picture = opened(jpeg, _FRAME_PX, name)
    small = picture.resize((_FRAME_PX, _FRAME_PX), Image.Resampling.BILINEAR)
    return image_text(small, "JPEG", quality=70)


def _smooth(colours: npt.NDArray[np.uint8]) -> str:
    """A frame's heat (√S, √S, 4) as a small PNG, the cells' edges softened."""
    size = (_HEAT_PX, _HEAT_PX)
    return image_text(Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC))


def _sound(view: View, mel: Array | None) -> dict[str, Any]:
    steps, mel = (0, None) if mel is None else (len(mel), mel[np.isfinite(mel).all(axis=1)])
    if mel is None or not len(mel):
        return {"mel": None}
    low, high = np.percentile(mel, [1, 99.8])
    shown = np.clip((mel.T[::-1] - low) / max(high - low, 1e-6), 0, 1)
    loudest = mel.mean(axis=1).argmax() / steps * view.clip_seconds
    return {
        "mel": palette(shown),
        "mel_width": f"{100 * len(mel) / steps:.3f}",
        "mel_alt": f"log-Mel spectrogram over time, loudest at about {loudest:.1f} s",
    }


def _cross(view: View) -> dict[str, Any]:
    """How much each moment of sound asks each frame: time across, the frames' time down."""
    weights = view.attention.get("audio_to_video")
    if weights is None:
        return {"cross": None}
    mean = weights.mean(axis=0).T
    frame = view.frame_time_s[mean.mean(axis=1).argmax()]
    return {
        "cross": palette(mean / mean.max()),
        "cross_alt": f"cross-modal attention, mean over heads: sound's seconds across, frames' "
        f"seconds down from 0; the frame at {frame:.2f} s is asked most",
    }
