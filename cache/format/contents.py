"""What a row may hold: the one rule, for what is written and for what is verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.format.finite import all_finite
from cache.format.pictures import picture_problem
from cache.format.schema import Declaration, Pictures

Array = npt.NDArray[Any]
CLOCK_S = 1e-3
"""How far rounded time stamps may lie outside the clip."""


def shapes_problem(features: Mapping[str, Array], declared: Declaration) -> str:
    """Which of a row's arrays is not as declared, or ""."""
    for spec in declared.fields:
        array = features[spec.name]
        if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
            return (
                f"{spec.name}: the format says {spec.dtype} {spec.shape}, found {array.dtype} "
                f"{array.shape}"
            )
    return ""


def features_problem(features: Mapping[str, Array], audio_steps: int, declared: Declaration) -> str:
    """What is wrong with a row's arrays, or "".

    Numbers are finite, but those of audio steps that the clip doesn't have, which are NaN; times
    ascend from the clip's start.
    """
    for spec in declared.fields:
        name, array = spec.name, features[spec.name]
        if spec.has_steps:
            if not 0 < audio_steps <= len(array):
                return f"audio_steps: expected 1 to {len(array)}, found {audio_steps}"
            if not np.isnan(array[audio_steps:]).all():
                return f"{name}: expected NaN in the steps after {audio_steps}, found numbers"
            array = array[:audio_steps]
        if array.dtype.kind == "f" and not all_finite(array):
            return f"{name}: expected finite numbers, found NaN or infinity"
        if name in declared.times and (array.min() < -CLOCK_S or (np.diff(array) < 0).any()):
            return f"{name}: expected times that ascend from 0, found {_some(array)}"
    return ""


def bounds_problem(features: Mapping[str, Array], valid_s: float, declared: Declaration) -> str:
    """Which time of a row lies beyond the clip's end, or ""."""
    end_s = declared.clip_seconds + CLOCK_S
    if valid_s > end_s:
        return f"valid_s: expected at most {declared.clip_seconds}, found {valid_s}"
    for name in sorted(declared.times):
        if features[name][-1] > end_s:
            return f"{name}: expected times in the clip, found {_some(features[name])}"
    return ""


def pictures_problem(pictures: Sequence[bytes], declared: Pictures | None) -> str:
    """What is wrong with a row's pictures, or ""."""
    count, side_px = (declared.count, declared.side_px) if declared else (0, 0)
    if len(pictures) != count:
        return f"video/jpeg: expected {count} pictures, found {len(pictures)}"
    for number, data in enumerate(pictures):
        problem = picture_problem(data, side_px)
        if problem:
            return f"video/jpeg: picture {number}: {problem}"
    return ""


def _some(times: Array) -> str:
    return ", ".join(f"{time_s:g}" for time_s in times[:8].tolist())
