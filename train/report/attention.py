"""Which clips to draw, and one clip with its attention maps as the pictures need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cache import Cache
from train.data.dataset import Dataset
from train.data.features import FeatureStore
from train.model.fusion import FusionModel, autocast
from train.report import plots
from train.runs.evaluate import prediction
from train.score.metrics import Array, Predictions, tiou


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
    clips: FeatureStore,
    clip: int,
    guesses: Mapping[str, Predictions],
    decoding: str,
    number: int,
    classes: Sequence[str],
    truth: dict[str, Any] | None = None,
    models: int = 1,
) -> plots.View:
    """One clip as it was answered; `number` is its place in `guesses`, by decoding.

    Class, interval and the probability of each second are the answer's own. The attention maps
    are of a pass of `model` over the clip as it is, and the view says so where the answer is
    the mean of more: of both directions, or of several `models`.
    """
    ((_, batch),) = clips.batches(torch.tensor([clip], device=clips.device), 1)
    with autocast(clips.device):
        output = model.eval()(batch, return_attention=True)
    frames = batch.frames
    said = prediction(guesses[decoding], number, classes)
    on = guesses["gate"].on
    assert on is not None
    return plots.View(
        id=clips.ids[clip],
        attention={
            name: value[0].double().cpu().numpy()
            for name, value in output.attention.items()
            if name != "gate"  # `on` has its probability, as the answer has it
        },
        attention_of=_attention_of(models, bool(model.config.reversed_share)),
        on=on[number],
        by_gate=decoding == "gate",
        clip_seconds=clips.shapes.clip_seconds,
        step_s=clips.step_s,
        frame_time_s=np.empty(0) if frames is None else frames.time_s[0].double().cpu().numpy(),
        pictures=[] if frames is None else cache.jpegs(clips.ids[clip]),
        predicted=str(said["predicted"]),
        confidence=float(said["confidence"]),
        predicted_s=(float(said["predicted_start_s"]), float(said["predicted_end_s"])),
        category=None if truth is None else truth["category"],
        true_s=None if truth is None else (truth["start_s"], truth["end_s"]),
    )


def _attention_of(models: int, both_ways: bool) -> str:
    parts = [f"of the first of {models} models"] if models > 1 else []
    if both_ways:
        parts.append("of the pass forwards alone")
    return ", ".join(parts)


def hardest(rows: Sequence[Mapping[str, Any]], count: int) -> list[int]:
    """Numbers of the events that were answered worst: wrong class first, then by tIoU.

    Of events that were placed alike the longer come first: they are easier, so the last are the
    best of all.
    """

    def ease(number: int) -> tuple[bool, float, float, str]:
        row = rows[number]
        return _right(row), _tiou(row), row["start_s"] - row["end_s"], row["id"]

    return sorted(range(len(rows)), key=ease)[:count]


def gallery(
    model: FusionModel,
    cache: Cache,
    dataset: Dataset,
    split: str,
    guesses: Mapping[str, Predictions],
    decoding: str,
    rows: Sequence[dict[str, Any]],
    chosen: Sequence[int],
) -> tuple[list[plots.View], list[Array | None]]:
    """The chosen events of a split as views, and each one's log-Mel spectrogram.

    Spectrograms are (T, n_mels) float64 in dB, NaN beyond a clip's sound; None where the cache has
    no sound.
    """
    clip = dataset.splits[split].clip
    views = [
        look(
            model,
            cache,
            dataset.clips,
            int(clip[n]),
            guesses,
            decoding,
            n,
            dataset.classes,
            rows[n],
        )
        for n in chosen
    ]
    if "audio/mel" not in cache.fields:
        return views, [None] * len(views)
    places = np.array([cache.row(rows[n]["id"]) for n in chosen], np.int64)
    sounds = cache.read("audio/mel", places).astype(np.float64)
    for sound, steps in zip(sounds, cache.read("rows/audio_steps", places), strict=True):
        sound[steps:] = np.nan
    return views, list(sounds)


def _right(row: Mapping[str, Any]) -> bool:
    return bool(row["category"] == row["predicted"])


def _tiou(row: Mapping[str, Any]) -> float:
    names = ("start_s", "end_s", "predicted_start_s", "predicted_end_s")
    return float(tiou(*(np.array([row[name]], np.float64) for name in names))[0])
