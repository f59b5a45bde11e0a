"""Validation: how good the weights are, how they are read off, what corrects their answers."""

from __future__ import annotations

from typing import Any

import numpy as np

from train.data.dataset import Dataset
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import FusionModel
from train.score.calibrate import (
    Calibration,
    class_temperature,
    gate_scale_and_shift,
    grid_of,
)
from train.score.decode import Evidence
from train.score.metrics import (
    Array,
    Events,
    Predictions,
    classification,
    localization,
    second_count,
    tiou,
)
from train.score.named import CRITERION
from train.score.predict import events, predict
from train.score.presence import best_threshold

ENOUGH = 50
"""Validation events shorter than the clip from which on they tell how such are placed."""


def validate(
    model: FusionModel, dataset: Dataset, grid_s: float, group: ProcessGroup = SINGLE_PROCESS
) -> tuple[dict[str, float], dict[str, Any]]:
    """top1, miou and the criterion on the validation events, and what was chosen on these.

    That is, by the names that About has for them, the calibration (see `calibrate`); the decoding,
    the one with the higher criterion (a gate that was not trained as one is left out); and from
    which confidence on a clip has an event (see `best_threshold`). grid_s: see `labels_grid`.
    Where no event says when, the scores that need it are left out, and the gate decodes.
    """
    val, clip_seconds = dataset.splits["val"], dataset.clips.shapes.clip_seconds
    rows = events(val, clip_seconds)
    said = predict(model, dataset.clips, val.clip, group)
    calibration, answers = calibrate(said, rows, grid_s, clip_seconds)
    truth = rows.of(rows.timed)
    found = {name: localization(truth, guess.of(rows.timed)) for name, guess in answers.items()}
    scores = {f"{name}_{CRITERION}": one[CRITERION] for name, one in found.items()}
    names = [*answers] if model.config.gate_weight else ["interval"]
    decoding = max(names, key=lambda name: scores[f"{name}_{CRITERION}"] or 0.0)
    named, guess = rows.of(rows.real), answers[decoding].of(rows.real)
    own = guess.probability[np.arange(len(named)), named.category]
    told = {**classification(named, guess), **found[decoding]}
    scores |= {name: told[name] for name in ("top1", "miou", CRITERION)}
    values = {f"val_{name}": float(value) for name, value in scores.items() if value is not None}
    values["val_class_loss"] = float(-np.log(np.maximum(own, 1e-12)).mean())
    threshold = best_threshold(rows, answers[decoding])
    chosen = {"calibration": calibration.model_dump(), "event_threshold": threshold}
    return values, {"decoding": decoding, **chosen}


def labels_grid(dataset: Dataset) -> float:
    """What the boundaries of the training events are multiples of, in seconds (see `grid_of`)."""
    rows = events(dataset.splits["train"], dataset.clips.shapes.clip_seconds)
    trained = rows.of(rows.real)
    return grid_of(trained.start_s, trained.end_s)


def calibrate(
    said: Evidence, rows: Events, grid_s: float, clip_seconds: float
) -> tuple[Calibration, dict[str, Predictions]]:
    """What corrects a model's answers, of what it said of the validation rows; and these answers,
    corrected and read off.

    The gate learns of clips without an event as well. Where the whole clip, said always, has a
    higher mIoU than what is read off the gate, it is said always. Where no event says when, classes
    alone are corrected.
    """
    real, timed, truth = rows.real, rows.timed, rows.of(rows.timed)
    scale, shift = 1.0, 0.0
    if len(truth):
        scale, shift = gate_scale_and_shift(said.on, shares_of_seconds(rows, clip_seconds))
    plain = Calibration(
        class_temperature=class_temperature(said.probability[real], rows.category[real]),
        gate_scale=scale,
        gate_shift=shift,
        grid_s=grid_s,
    )
    right = said.calibrated(plain)
    answers = right.read_off(plain, clip_seconds)
    if not len(truth):
        return plain, answers
    guess = answers["gate"].of(timed)
    overlap = tiou(truth.start_s, truth.end_s, guess.start_s, guess.end_s)
    whole = (truth.end_s - truth.start_s) / clip_seconds
    if not overlap.mean() < whole.mean():
        return plain, answers
    always = plain.revised(whole_clip=True)
    return always, right.read_off(always, clip_seconds)


def calibration_notes(calibration: Calibration, dataset: Dataset, folds: bool) -> list[str]:
    """What a person should know of it: how it reads off, and whether val has enough to tell.

    folds: whether the data is a fold's.
    """
    clip_seconds = dataset.clips.shapes.clip_seconds
    rows = events(dataset.splits["val"], clip_seconds)
    if not rows.timed.any():
        return [
            f"class temperature {calibration.class_temperature:.2f}, by the classes of {len(rows)} "
            f"rows of val; the gate as it was trained, boundaries on {calibration.grid_s:g} s"
        ]
    short = int(np.sum(rows.real & (rows.end_s - rows.start_s < clip_seconds)))
    notes = [
        f"calibrated on {len(rows)} rows of val: class temperature "
        f"{calibration.class_temperature:.2f}, gate {calibration.gate_scale:.2f} × logit "
        f"{calibration.gate_shift:+.2f}, boundaries on {calibration.grid_s:g} s"
    ]
    if calibration.whole_clip:
        notes.append("on val the whole clip scores higher than the gate's intervals: it is said")
    if short < ENOUGH:
        notes.append(
            f"val has {short} events that are shorter than the clip, fewer than {ENOUGH}: few to "
            f"calibrate by{'' if folds else '; --folds lets every clip count'}"
        )
    return notes


def shares_of_seconds(truth: Events, clip_seconds: float) -> Array:
    """How much of each second of its clip is in the event: (N, S) in [0, 1]."""
    edge = np.linspace(0, clip_seconds, second_count(clip_seconds) + 1)
    begin = np.maximum(truth.start_s[:, None], edge[:-1])
    inside = np.minimum(truth.end_s[:, None], edge[1:]) - begin
    shares: Array = np.clip(inside / (edge[1] - edge[0]), 0.0, 1.0)
    return shares
