"""What a row may hold: the one rule, for what is written and for what is verified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.format.finite import all_finite
from cache.format.pictures import picture_problem
from cache.format.schema import Field

Array = npt.NDArray[Any]
CLOCK_S = 1e-3
"""How far rounded time stamps may lie outside the clip."""


def shapes_problem(features: Mapping[str, Array], fields: Iterable[Field]) -> str:
    """Which of a row's arrays is not as the format says, or ""."""
    for spec in fields:
        array = features[spec.name]
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            return (
                f"{spec.name}: the format says {spec.dtype} {spec.shape}, found {array.dtype} "
                f"{array.shape}"
            )
    return ""


def features_problem(features: Mapping[str, Array], audio_steps: int) -> str:
    """What is wrong with a row's arrays, or "".

    Numbers are finite, but those of audio steps that the clip doesn't have, which are NaN; frame
    times ascend from the clip's start.
    """
    for name, array in features.items():
        if name.startswith("audio/"):
            if not 0 < audio_steps <= len(array):
                return f"audio_steps: expected 1 to {len(array)}, found {audio_steps}"
            if not np.isnan(array[audio_steps:]).all():
                return f"{name}: expected NaN in the steps after {audio_steps}, found numbers"
            array = array[:audio_steps]
        if not all_finite(array):
            return f"{name}: expected finite numbers, found NaN or infinity"
    times = features.get("video/frame_time_s", np.zeros(1))
    if times.min() < -CLOCK_S or (np.diff(times) < 0).any():
        return f"video/frame_time_s: expected times that ascend from 0, found {_some(times)}"
    return ""


def bounds_problem(features: Mapping[str, Array], valid_s: float, config: Mapping[str, Any]) -> str:
    """Which time of a row lies beyond the clip's end, or ""."""
    end_s = config["clip_seconds"] + CLOCK_S
    if valid_s > end_s:
        return f"valid_s: expected at most {config['clip_seconds']}, found {valid_s}"
    times = features.get("video/frame_time_s", np.zeros(1))
    if times[-1] > end_s:
        return f"video/frame_time_s: expected times in the clip, found {_some(times)}"
    return ""


def pictures_problem(pictures: Sequence[bytes], frames: int, config: Mapping[str, Any]) -> str:
    """What is wrong with a row's pictures, or ""."""
    if len(pictures) != frames:
        return f"video/jpeg: expected {frames} pictures, found {len(pictures)}"
    for number, data in enumerate(pictures):
        problem = picture_problem(data, config["frame_size_px"])
        if problem:
            return f"video/jpeg: picture {number}: {problem}"
    return ""


def _some(times: Array) -> str:
    return ", ".join(f"{time_s:g}" for time_s in times[:8].tolist())
