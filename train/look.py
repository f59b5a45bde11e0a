"""Which clips to draw, and one clip with its attention maps as the pictures need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from cache.reader import Cache
from train import plots
from train.data import Clips
from train.evaluate import prediction
from train.metrics import Predictions
from train.model import FusionModel
from train.step import autocast


def choose(rows: Sequence[dict[str, Any]], clip_seconds: float, count: int) -> list[int]:
    """Which events to draw: the first shorter than the clip of each class, then any others."""
    short = [n for n, row in enumerate(rows) if row["end_s"] - row["start_s"] < clip_seconds]
    first: dict[str, int] = {}
    for number in short:
        first.setdefault(rows[number]["category"], number)
    order = list(dict.fromkeys([*first.values(), *short, *range(len(rows))]))
    return order[:count]


@torch.inference_mode()
def look(
    model: FusionModel,
    cache: Cache,
    clips: Clips,
    clip: int,
    guess: Predictions,
    number: int,
    classes: Sequence[str],
    truth: dict[str, Any] | None = None,
) -> plots.View:
    """One clip with its attention maps; `number` is its place in `guess`."""
    with autocast(clips.device):
        output = model.eval()(
            clips.batch(torch.tensor([clip], device=clips.device)), return_attention=True
        )
    said = prediction(guess, number, classes)
    return plots.View(
        id=clips.ids[clip],
        attention={
            name: value[0].double().cpu().numpy() for name, value in output.attention.items()
        },
        clip_seconds=clips.shapes.clip_seconds,
        step_s=clips.step_s,
        frame_time_s=clips.frame_time_s[clip].double().cpu().numpy(),
        pictures=[] if clips.maps is None else cache.jpegs(clips.ids[clip]),
        predicted=str(said["predicted"]),
        confidence=float(said["confidence"]),
        predicted_s=(float(said["predicted_start_s"]), float(said["predicted_end_s"])),
        category=None if truth is None else truth["category"],
        true_s=None if truth is None else (truth["start_s"], truth["end_s"]),
    )
