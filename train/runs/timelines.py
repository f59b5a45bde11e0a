"""A trained run's answers for recordings of any length: windows, merged into timelines.

Shapes: W windows of a recording, T steps of a window, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache import Cache
from train.data.features import FeatureStore, load_features
from train.runs.recordings import length_s, mean_read_off
from train.runs.trained import TrainedModel, TrainedRun
from train.score.metrics import Array
from train.score.predict import predict, predict_each
from train.score.read_off import ReadOff
from train.score.timeline import Timeline, merge_windows

_AT_ONCE = 128
_PLAIN: dict[str, Any] = {"side_s": 1.0, "join": 0.5, "shortest_s": 0.5}
_PLAIN_THRESHOLD = 0.4


def timelines(
    run: TrainedRun, cache: Cache, clips: Sequence[str] | None = None, device: str | None = None
) -> dict[str, Timeline]:
    """The probability of each class along each recording, by its name; labels are not needed.

    clips: ids, by default all of the cache. Few of them are in memory at a time, however long a
    recording is. Several models' probabilities are averaged (Lakshminarayanan et al. 2017). In a
    cache without windows each clip is a recording. Raises CacheError where the cache holds other
    features than the run was trained on.
    """
    run.check_features(cache)
    chosen = sorted(
        map(cache.row, cache.ids if clips is None else clips), key=cache.windows.__getitem__
    )
    found: dict[str, list[tuple[float, Array]]] = {}
    merged: dict[str, Timeline] = {}
    for begin in range(0, len(chosen), _AT_ONCE):
        rows = chosen[begin : begin + _AT_ONCE]
        for row, answer in zip(rows, _answers(run, cache, rows, device), strict=True):
            window = cache.windows[row]
            found.setdefault(window.recording, []).append((window.offset_s, answer))
        last = cache.windows[rows[-1]].recording
        ended = [name for name in found if name != last or begin + _AT_ONCE >= len(chosen)]
        merged |= {name: _merged(cache, name, found.pop(name)) for name in ended}
    return merged


def _merged(cache: Cache, recording: str, answers: Sequence[tuple[float, Array]]) -> Timeline:
    offsets_s, probability = zip(*answers, strict=True)
    end_s, clip_seconds = length_s(cache, recording), cache.clip_seconds
    return merge_windows(np.array(offsets_s), np.stack(probability), clip_seconds, end_s)


def _answers(run: TrainedRun, cache: Cache, rows: Sequence[int], device: str | None) -> Array:
    """The models' mean answer (W, T, K) to some windows, NaN where they have no step."""
    ids = [cache.ids[row] for row in rows]
    clips = load_features(cache, run.config(device), ids, len(run.about.classes))
    wanted = torch.arange(len(ids), device=clips.device)
    found = [each_class(one, clips, wanted) for one in run.models]
    mean: Array = np.mean(found, axis=0)
    # 0 is said of no step that exists: there the clip has no sound, and says nothing.
    return np.where(mean.any(axis=2, keepdims=True), mean, np.nan)


def each_class(one: TrainedModel, clips: FeatureStore, rows: Tensor) -> Array:
    """A model's probability of each class at each step of clip rows (W,), calibrated: (W, T, K).

    One of a single event says how probable its class is, and where the event is: their product.
    """
    model, calibration = one.model.to(clips.device), one.about.calibration
    if one.about.config.events == "several":
        return calibration.gate(predict_each(model, clips, rows, len(clips.step_time_s)))
    said = predict(model, clips, rows).calibrated(calibration)
    return said.probability[:, None, :] * said.cells[:, :, None]


def read_off_of(run: TrainedRun) -> ReadOff:
    """How a run's timelines become events: as chosen on validation, of several models the mean.

    A run in which nothing was chosen (of an older version) is read off by a plain rule.
    """
    known = [one.about.read_off for one in run.models if one.about.read_off is not None]
    if len(known) < len(run.models):
        return ReadOff(threshold=(_PLAIN_THRESHOLD,) * len(run.about.classes), **_PLAIN)
    return mean_read_off(known)
