"""Made-up clips of a run's features, for checks of a graph where no cache is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache import Cache, open_cache
from cache.format.fields import Field
from cache.format.schema import Declaration
from cache.writer import CacheWriter
from train.data.fields import Inputs, inputs_of, is_maps, times_of, width_of
from train.model.fusion import FusionModel

CLIPS = 12
Array = npt.NDArray[np.float64]


def made_up(folder: Path, declared: Declaration, model: FusionModel, seed: int = 0) -> Cache:
    """A cache of CLIPS clips like those that a model was trained on, some of them short.

    declared: what a row holds. Numbers are normal, with the mean and deviation that the model
    normalizes each feature by; times of frames are the middles of equal parts.
    """
    rng = np.random.default_rng(seed)
    fields, seconds = declared.fields, declared.clip_seconds
    with CacheWriter(folder, fields, clip_seconds=seconds):
        pass  # an empty cache: what of it the model reads is known then
    around = _statistics(model, inputs_of(open_cache(folder), model.config))
    times = {times_of(field) for field in fields}
    with CacheWriter(folder, fields, clip_seconds=seconds) as writer:
        for number in range(CLIPS):
            share = 1.0 if number % 3 else float(rng.uniform(0.3, 1.0))
            arrays = {field.name: _array(rng, field, around, share) for field in fields}
            for field in fields:
                if field.name in times:
                    middles = (np.arange(field.shape[0]) + 0.5) / field.shape[0]
                    arrays[field.name] = middles * seconds * share
            writer.add(f"clip{number}", arrays, valid_s=share * seconds)
    return open_cache(folder)


def _statistics(model: FusionModel, inputs: Inputs) -> dict[str, tuple[Array, Array]]:
    """Mean and deviation of each feature of the fields that a model reads, by name."""
    found: dict[str, tuple[Array, Array]] = {}
    maps = [inputs.frames] if inputs.frames is not None else []
    for stream, fields, at in (
        (model.audio, inputs.sound, 0),
        (model.audio, inputs.class_only, model.shapes.audio_features),
        (model.video, (*maps, *inputs.beside), 0),
    ):
        for field in fields if stream is not None else ():
            here = slice(at, at := at + width_of(field))
            assert stream is not None
            numbers = (stream.mean[here], stream.deviation[here])
            mean, deviation = (one.double().cpu().numpy() for one in numbers)
            found[field.name] = mean, deviation
    return found


def _array(
    rng: np.random.Generator,
    field: Field,
    around: dict[str, tuple[Array, Array]],
    share: float,
) -> npt.NDArray[Any]:
    steps = max(1, round(share * field.shape[0])) if field.has_steps else field.shape[0]
    noise = rng.standard_normal((steps, *field.shape[1:]))
    if field.name in around:
        width = (-1, 1, 1) if is_maps(field) else field.shape[1:] if field.clock else field.shape
        mean, deviation = (one.reshape(width) for one in around[field.name])
        noise = mean + deviation * noise
    kind = np.dtype(field.dtype)
    if kind.kind != "f":
        limits = np.iinfo(kind)
        return noise.round().clip(limits.min, limits.max).astype(kind)
    most = float(np.finfo(kind).max)
    return noise.clip(-most, most).astype(kind)
