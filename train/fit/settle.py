"""After training: what corrects a model's answers, and how recordings are read off, by validation.

Shapes: W clips, T steps, K classes.
"""

from __future__ import annotations

from pathlib import Path

from cache import Cache
from train.data.dataset import Dataset
from train.fit.several import shares_of_cells
from train.runs import checkpoint
from train.runs.checkpoint import BEST
from train.runs.recordings import Recordings
from train.runs.timelines import timelines
from train.runs.trained import TrainedModel, TrainedRun
from train.score.calibrate import Calibration, gate_scale_and_shift
from train.score.metrics import second_count
from train.score.predict import predict_each
from train.score.read_off import choose_read_off


def settle(run: Path, cache: Cache, dataset: Dataset) -> TrainedModel:
    """Choose on validation how a trained run answers, and store that with its weights.

    Where clips have several events: the scale and shift of their probabilities (of one event they
    were chosen with the decoding). And how timelines become lists of events.
    """
    one = TrainedModel.load(run)
    model, about = one.model.to(dataset.clips.device), one.about
    if about.config.events == "several":
        about = about.revised(calibration=_calibrated(one, dataset).model_dump())
    known = Recordings.of(cache, dataset.rows, "val")
    answer = TrainedRun(run, [TrainedModel(run, model, about, one.record)])
    found = timelines(answer, cache, known.clips)
    read_off = choose_read_off([found[name] for name in known.names], known.truth)
    about = about.revised(read_off=read_off.record())
    checkpoint.save(run / BEST, model, about)
    return TrainedModel(run, model, about, one.record)


def _calibrated(one: TrainedModel, dataset: Dataset) -> Calibration:
    """Scale and shift of the classes' log-odds with the least cross-entropy in whole seconds."""
    samples, shapes = dataset.splits["val"], dataset.clips.shapes
    seconds = second_count(shapes.clip_seconds)
    said = predict_each(one.model, dataset.clips, samples.clip, seconds)
    true = shares_of_cells(samples, seconds, shapes.classes)
    scale, shift = gate_scale_and_shift(
        said.reshape(len(said), -1), true.reshape(len(true), -1)
    )
    return Calibration(gate_scale=scale, gate_shift=shift)
