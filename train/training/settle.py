"""After training: what corrects a model's answers, and how recordings are read off, by validation.

Shapes: W clips, T steps, K classes.
"""

from __future__ import annotations

from cache import Cache
from train.data.dataset import Dataset
from train.runs import checkpoint
from train.runs.checkpoint import About
from train.runs.folders import BEST
from train.runs.recordings import Recordings
from train.runs.timelines import timelines
from train.runs.trained import TrainedModel, TrainedRun
from train.score.calibrate import Calibration, gate_scale_and_shift
from train.score.metrics import second_count
from train.score.predict import predict_each
from train.score.read_off import choose_read_off
from train.training.several import shares_of_cells


def settle(one: TrainedModel, cache: Cache, dataset: Dataset) -> TrainedModel:
    """Choose on validation how a trained model answers, and store that with its weights.

    Where clips have several events: the scale and shift of their probabilities (of one event they
    were chosen with the decoding). And how timelines become lists of events.
    """
    model, about = one.model.to(dataset.clips.device), one.about
    if about.config.events == "several":
        about = about.revised(calibration=_calibrated(one, dataset).model_dump())
    known = Recordings.of(cache, dataset.rows, "val")
    run = TrainedRun(one.folder, [TrainedModel(one.folder, model, about, one.record)])
    if known.names:
        found = timelines(run, cache, known.clips)
        read_off = choose_read_off([found[name] for name in known.names], known.truth)
        about = about.revised(read_off=read_off.record())
    checkpoint.save(one.folder / BEST, model, about)
    return TrainedModel(one.folder, model, about, one.record)


def described_read_off(about: About) -> str:
    """How recordings are read off, for people."""
    if about.read_off is None:
        return "no recording of val says when its events are: a plain rule reads events off"
    low, high = min(about.read_off.threshold), max(about.read_off.threshold)
    threshold = f"{low:g}" if low == high else f"{low:g} to {high:g}, by class"
    scale, shift = about.calibration.gate_scale, about.calibration.gate_shift
    calibrated = f"; probabilities calibrated: {scale:.2f} × logit {shift:+.2f}"
    rest = about.read_off.model_dump(exclude={"threshold"})
    return (
        f"events are read off, as validation chose, from a probability of {threshold} on ("
        + ", ".join(f"{name} {value:g}" for name, value in rest.items())
        + f"){calibrated if about.config.events == 'several' else ''}"
    )


def _calibrated(one: TrainedModel, dataset: Dataset) -> Calibration:
    """Scale and shift of the classes' log-odds with the least cross-entropy in whole seconds."""
    samples, shapes = dataset.splits["val"], dataset.clips.shapes
    seconds = second_count(shapes.clip_seconds)
    said = predict_each(one.model, dataset.clips, samples.clip, seconds)
    true = shares_of_cells(samples, seconds, shapes.classes)
    scale, shift = gate_scale_and_shift(said.reshape(len(said), -1), true.reshape(len(true), -1))
    return Calibration(gate_scale=scale, gate_shift=shift)
