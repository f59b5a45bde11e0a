"""Steps at a field's own times → steps (or frames) at the model's.

Shapes: n clips, S steps of a field, T of the model, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.format.fields import Field, Rate
from cache.joined import Gathered
from train.data.fields import (
    clip_times_s,
    is_half,
    is_maps,
    is_pooled,
    sound_width,
    times_of,
    width_of,
)

Array = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]


def sound_steps(
    fields: Sequence[Field], found: Gathered, step_s: float, steps: int
) -> tuple[Tensor, Tensor]:
    """The sound of n clips as the model's steps: (n, T, D) float32, and which are valid (n, T).

    Of fields with several steps in a step of the model, the mean and (after the means of all) the
    standard deviation; others are interpolated. A step counts where all fields have it.
    """
    clips = len(found.valid_s)
    out = torch.empty(clips, steps, sound_width(fields, step_s))
    valid = torch.ones(clips, steps, dtype=torch.bool)
    at, beside = 0, sum(map(width_of, fields))
    for field in fields:
        width, values = width_of(field), _flat(field, found)
        if is_pooled(field, step_s):
            both, here = pool_steps([values], found.steps[field.name], _rate(field), step_s, steps)
            out[:, :, at : at + width], out[:, :, beside : beside + width] = both.chunk(2, dim=2)
            beside += width
        else:
            out[:, :, at : at + width], here = _at_steps(field, found, values, step_s, steps)
        valid &= here
        at += width
    return out * valid.unsqueeze(2), valid


def _at_steps(
    field: Field, found: Gathered, values: Array, step_s: float, steps: int
) -> tuple[Tensor, Tensor]:
    """A field that is as coarse as the model's steps, or coarser, at these; and where it is."""
    clips = len(values)
    wanted_s = np.broadcast_to((np.arange(steps) + 0.5) * step_s, (clips, steps))
    time_s = _times(field, found, steps * step_s)
    count = found.steps.get(field.name, np.full(clips, values.shape[1]))
    out = interpolate(values, time_s, count, wanted_s)
    if not field.has_steps:
        return out, torch.ones(clips, steps, dtype=torch.bool)
    last_s = np.take_along_axis(time_s, np.asarray(count, np.int64)[:, None] - 1, axis=1)
    reach = max(_rate(field).step_s, step_s) / 2
    return out, torch.from_numpy((wanted_s <= last_s + reach + 1e-9) | (np.arange(steps) == 0))


def frame_maps(field: Field, found: Gathered, clip_seconds: float) -> tuple[Array, Array, Array]:
    """The frames of n clips: maps (n, F, C, H, W), times (n, F) and spans (n,) float32, s."""
    maps = found.arrays[field.name]
    if not is_maps(field):
        maps = _flat(field, found)[..., None, None]
    maps = maps.astype(np.float16 if is_half(field) else np.float32, copy=False)
    time_s = _times(field, found, clip_seconds).astype(np.float32)
    span_s = found.valid_s / time_s.shape[1]
    if isinstance(field.clock, Rate):
        span_s = np.full(len(maps), field.clock.step_s)
    return np.ascontiguousarray(maps), time_s, span_s.astype(np.float32)


def beside_frames(
    fields: Sequence[Field], found: Gathered, time_s: Array, clip_seconds: float
) -> Tensor:
    """What else is seen, at the frames' times (n, F): (n, F, E) float32; maps as their means."""
    parts = [torch.empty(*time_s.shape, 0)]
    for field in fields:
        values = found.arrays[field.name]
        maps = is_maps(field)
        values = values.mean(axis=(3, 4), dtype=np.float32) if maps else _flat(field, found)
        count = np.full(len(values), values.shape[1])
        parts.append(interpolate(values, _times(field, found, clip_seconds), count, time_s))
    return torch.cat(parts, dim=2)


def _flat(field: Field, found: Gathered) -> Array:
    """(n, S, D) of a field without maps: a vector of a whole clip is one step."""
    values = found.arrays[field.name]
    return values.reshape(len(values), values.shape[1] if field.clock else 1, -1)


def _times(field: Field, found: Gathered, clip_seconds: float) -> Array:
    """(n, S) float64: when the steps of a field are."""
    if name := times_of(field):
        return found.arrays[name]
    times_s = clip_times_s(field, clip_seconds)
    return np.broadcast_to(times_s, (len(found.valid_s), len(times_s)))


def _rate(field: Field) -> Rate:
    assert isinstance(field.clock, Rate)
    return field.clock


def interpolate(values: Array, time_s: Array, count: Array, wanted_s: Array) -> Tensor:
    """Values at other times, linear between steps, held before the first and after the last.

    values (n, S, D) at time_s (n, S), of which clip k has count[k] ≥ 1; wanted_s (n, T). Returns
    (n, T, D) float32; at a step's own time its very value.
    """
    last = np.asarray(count, np.int64)[:, None] - 1
    there = np.arange(time_s.shape[1]) <= last
    passed = (time_s[:, None, :] <= wanted_s[:, :, None]) & there[:, None, :]
    low = (passed.sum(axis=2) - 1).clip(0)
    high = np.minimum(low + 1, last)
    begin, end = (np.take_along_axis(time_s, place, axis=1) for place in (low, high))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(end > begin, (wanted_s - begin) / (end - begin), 0.0).clip(0.0, 1.0)
    parts = (
        np.take_along_axis(values, place[:, :, None], axis=1).astype(np.float32)
        for place in (low, high)
    )
    first, second = map(torch.from_numpy, parts)
    return torch.where(
        torch.from_numpy(share > 0)[:, :, None],
        torch.lerp(first, second, torch.from_numpy(share.astype(np.float32))[:, :, None]),
        first,
    )


def pool_steps(
    features: Sequence[npt.NDArray[Any]],
    steps: npt.NDArray[Any],
    clock: Rate,
    window_s: float,
    windows: int,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the valid steps in each window of `window_s` seconds.

    Each of `features` is (n, steps, D_i); `clock` says when its steps are, and step k is valid
    where k < steps[n]. Returns the means of all, then the deviations of all: (n, windows, 2 ΣD)
    float32, zero in windows without a valid step, not finite where one of its valid steps is not;
    and which windows have one, (n, windows) bool.
    """
    total = features[0].shape[1]
    begins, ends = _window_bounds(clock, total, window_s, windows)
    spans = list(zip(begins.tolist(), ends.tolist(), strict=True))
    lengths = np.asarray(steps, np.int64)[:, None]
    counts = torch.from_numpy(np.minimum(ends, lengths) - np.minimum(begins, lengths))
    share = (1 / counts.clamp_min(1).float())[:, :, None]
    tails = [(clip, n) for clip, n in enumerate(lengths[:, 0].tolist()) if n < total]
    width = sum(part.shape[2] for part in features)
    pooled = torch.empty(len(lengths), windows, 2 * width)
    at = 0
    for part in features:
        here = slice(at, at := at + part.shape[2])
        means, deviations = pooled[:, :, :width][:, :, here], pooled[:, :, width:][:, :, here]
        values = torch.from_numpy(part).to(torch.float32, copy=True)
        _silence(values, tails)
        for k, (begin, end) in enumerate(spans):
            inside = values[:, begin:end]
            means[:, k] = inside.sum(dim=1).mul_(share[:, k])
            inside -= means[:, k : k + 1]
        _silence(values, tails)
        values.square_()
        for k, (begin, end) in enumerate(spans):
            deviations[:, k] = values[:, begin:end].sum(dim=1).mul_(share[:, k]).sqrt_()
    return pooled, counts > 0


def _window_bounds(
    clock: Rate, total: int, window_s: float, windows: int
) -> tuple[Numbers, Numbers]:
    """First step of each window, and first step after it, of `total` steps: (windows,) each."""
    time_s = clock.first_s + np.arange(total) * clock.step_s
    window = np.clip((time_s / window_s).astype(np.int64), 0, windows - 1)
    ends = np.searchsorted(window, np.arange(windows), side="right")
    return np.concatenate([[0], ends[:-1]]), ends


def _silence(values: Tensor, tails: Sequence[tuple[int, int]]) -> None:
    """Zero the steps that (clip, length) doesn't have."""
    for clip, length in tails:
        values[clip, length:] = 0
