"""The page's cards: a clip each, its frames, sound, gate and intervals on one axis of seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from train.report.drawing import against_even, heat, image_text, opened, palette
from train.report.media import Playable
from train.report.outcomes import VERDICTS
from train.report.views import View, heard, loudness, span

_FRAME_PX, _HEAT_PX = 112, 14


def card(view: View, media: Playable | None) -> dict[str, Any]:
    """What the template needs of one clip; media: its file."""
    seconds, path, on = view.clip_seconds, *gate(view)
    place = {
        f"{name}_{what}": f"{100 * value / seconds:.3f}"
        for name, (start, end) in (("true", view.true_s or (0.0, 0.0)), ("said", view.predicted_s))
        for what, value in (("left", start), ("width", end - start))
    }
    empty, named = view.empty, view.predicted
    return {
        "id": view.id,
        "category": "no event" if empty else view.category,
        "true_text": "" if empty or view.true_s is None else span(view.true_s),
        "tiou": "" if empty else f"{view.overlap:.2f}",
        "short": view.true_s is not None and view.true_s[1] - view.true_s[0] < seconds,
        "outcome": view.outcome,
        "verdict": VERDICTS[view.outcome],
        "predicted": named if view.event is not False else f"no event; else {named}",
        "confidence": f"{view.confidence:.4f}",
        "percent": f"{view.confidence:.0%}",
        "said_text": span(view.predicted_s),
        "sure": view.sure,
        **place,
        "gate": path,
        "said_s": () if view.event is False else view.predicted_s,
        "true_s": view.true_s or (),
        "by_gate": view.by_gate,
        "gate_alt": f"probability that the event is heard and seen: above one half {on}",
        "media": media,
        **frames(view),
        **sound(view),
        **_cross(view),
    }


def gate(view: View) -> tuple[str, str]:
    """The gate as the outline of a stair (SVG path, y down) and, in words, when it is on."""
    edges = view.part_edges()
    steps = " ".join(
        f"V{1 - value:.3f} H{end:.3f}" for value, end in zip(view.on, edges[1:], strict=True)
    )
    on, ends = edges[:-1][view.on > 0.5], edges[1:][view.on > 0.5]
    words = f"between {on[0]:.1f} and {ends[-1]:.1f} s" if len(on) else "nowhere"
    return f"M{edges[0]:.3f} 1 {steps} V1 Z", words


def frames(view: View) -> dict[str, Any]:
    """Each frame as a small JPEG over the time that it stands for, with its heatmap."""
    if not view.pictures:
        return {"frames": [], "ratio": "1"}
    edges = 100 * view.edges("video", len(view.pictures)) / view.clip_seconds
    look = view.attention.get("spatial")
    colours = None if look is None else heat(look)
    found = []
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
        found.append(frame)
    return {"frames": found, "ratio": f"{len(found) * 100 / (edges[-1] - edges[0]):.3f}"}


def _thumbnail(jpeg: bytes, name: str) -> str:
    """A frame of the clip `name` as a small JPEG: decoded and encoded anew."""
    picture = opened(jpeg, _FRAME_PX, name)
    small = picture.resize((_FRAME_PX, _FRAME_PX), Image.Resampling.BILINEAR)
    return image_text(small, "JPEG", quality=70)


def _smooth(colours: npt.NDArray[np.uint8]) -> str:
    """A frame's heat (√S, √S, 4) as a small PNG, the cells' edges softened."""
    size = (_HEAT_PX, _HEAT_PX)
    return image_text(Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC))


def sound(view: View) -> dict[str, Any]:
    """The spectrogram as a picture, as wide as the sound is long."""
    steps, mel = (0, None) if view.mel is None else (len(view.mel), heard(view.mel))
    if mel is None or not len(mel):
        return {"mel": None}
    loudest = mel.mean(axis=1).argmax() / steps * view.clip_seconds
    return {
        "mel": palette(loudness(mel).T[::-1]),
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
        "cross": palette(against_even(mean.T).T),
        "cross_alt": f"cross-modal attention, mean over heads: sound's seconds across, frames' "
        f"seconds down from 0; the frame at {frame:.2f} s is asked most",
    }
