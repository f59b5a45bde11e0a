"""Which of a cache's declared fields a model reads, and how each becomes steps or frames.

Sound (T, …) with a clock is pooled to the model's steps, or interpolated where it is as coarse; a
vector without a clock stands at every step. Maps (F, C, H, W) are the frames, or vectors (F, …) or
(…) where there are none; whatever else is seen is brought to their times, beside them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cache import Cache, CacheError
from cache.common.errors import ConfigError
from cache.format.fields import Field, Rate, Times
from train.config import TrainConfig

MAX_WIDTH = 4096
"""Features of one field, or channels of its maps."""


@dataclass(frozen=True)
class Inputs:
    """The fields that a model reads.

    sound: in the order they are declared. frames: whose times are the frames', None where no
    pictures are read; beside: the others that are seen. class_only: the sound that tells the class
    alone.
    """

    sound: tuple[Field, ...]
    frames: Field | None
    beside: tuple[Field, ...]
    class_only: tuple[Field, ...] = ()

    @property
    def names(self) -> list[str]:
        """All that is to be read, with the times of what has its own."""
        fields = (
            *self.sound,
            *self.class_only,
            *([self.frames] if self.frames else []),
            *self.beside,
        )
        found = [name for one in fields for name in (one.name, times_of(one)) if name]
        return list(dict.fromkeys(found))

    def only(self, streams: Collection[str]) -> Inputs:
        """Those of some streams."""
        sees, hears = "video" in streams, "audio" in streams
        return Inputs(
            self.sound if hears else (),
            self.frames if sees else None,
            self.beside if sees else (),
            self.class_only if hears else (),
        )


def inputs_of(cache: Cache, config: TrainConfig) -> Inputs:
    """The fields of the streams that the config asks for, or of those those that it names.

    Raises ConfigError for a name that the cache hasn't, with the nearest that it has, and where a
    stream has no field, or none that tells when; CacheError where a field can't be read.
    """
    chosen = _chosen(cache, "fields", config.fields, cache.fields.values())
    class_only = []
    if config.class_fields is not None:
        class_only = _chosen(cache, "class_fields", config.class_fields, chosen)
    for field in class_only:
        if field.stream != "audio":
            raise ConfigError(
                f"class_fields: {field.name} in {cache.path} is {field.stream}, expected sound"
            )
    sound = [field for field in chosen if field.stream == "audio"]
    seen = [field for field in chosen if field.stream == "video"]
    sound = sound if config.modality != "video" else []
    seen = seen if config.modality != "audio" else []
    class_only = [field for field in sound if field in class_only]
    for stream, some in (("audio", sound), ("video", seen)):
        if config.modality in (stream, "both") and not some:
            other = "video" if stream == "audio" else "audio"
            raise ConfigError(
                f"fields: none of {_names(chosen)} in {cache.path} is {stream}; choose one that "
                f"is, or pass --modality {other}"
            )
    for field in (*sound, *seen):
        _check(cache, field)
    placing = tuple(field for field in sound if field not in class_only)
    if sound and not placing:
        raise ConfigError(
            f"class_fields: all sound that is read ({_names(sound)}) tells the class alone, and "
            "none is left that tells when; leave one out"
        )
    main = min(seen, key=_rank, default=None)
    beside = tuple(field for field in seen if field is not main)
    return Inputs(placing, main, beside, tuple(class_only))


def _chosen(cache: Cache, setting: str, names: str | None, of: Collection[Field]) -> list[Field]:
    """Those fields that a setting names, or all; none that only holds times."""
    times = {f.clock.times for f in cache.fields.values() if isinstance(f.clock, Times)}
    fields = {field.name: field for field in of if field.name not in times}
    if names is None:
        return list(fields.values())
    wanted = names.replace(",", " ").split()
    for name in wanted:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else f"it has {_names(fields.values())}"
            raise ConfigError(f"{setting}: {cache.path} has no {name!r}; {hint}")
    return [field for name, field in fields.items() if name in wanted]


def _names(fields: Iterable[Field]) -> str:
    return ", ".join(field.name for field in fields) or "none"


def _check(cache: Cache, field: Field) -> None:
    if width_of(field) > MAX_WIDTH:
        raise CacheError(
            f"{cache.path}: {field.name} has {width_of(field):,} features at a time, expected at "
            f"most {MAX_WIDTH:,}"
        )
    if field.clock is None and len(field.shape) > 1:
        raise CacheError(
            f"{cache.path}: {field.name} is {field.shape} and has no clock: which axis is time? "
            "Declare a rate or times, or one vector a clip"
        )


def _rank(field: Field) -> int:
    """Maps come first, then what has times, then vectors of whole clips."""
    return 0 if is_maps(field) else 1 if field.clock is not None else 2


def is_maps(field: Field) -> bool:
    """Whether a field holds maps of cells: (F, C, H, W)."""
    return len(field.shape) == 4 and field.stream == "video"


def times_of(field: Field) -> str:
    """The field that holds its times; "" where a rate says when its steps are, or it has none."""
    return field.clock.times if isinstance(field.clock, Times) else ""


def width_of(field: Field) -> int:
    """Features of a step: channels of maps, else all that a step holds."""
    return field.shape[1] if is_maps(field) else math.prod(field.shape[field.clock is not None :])


def is_pooled(field: Field, step_s: float) -> bool:
    """Whether several of its steps fall into a window of `step_s`: mean and deviation are read."""
    return field.has_steps and isinstance(field.clock, Rate) and field.clock.step_s < step_s


def sound_width(fields: Sequence[Field], step_s: float) -> int:
    """D, audio features that the model sees: means, and deviations of what is pooled."""
    return sum(width_of(field) * (2 if is_pooled(field, step_s) else 1) for field in fields)


def frame_count(field: Field) -> int:
    """F, frames of a clip."""
    return 1 if field.clock is None else field.shape[0]


def grid_of(field: Field) -> tuple[int, int]:
    """Rows and columns of its maps' cells; 1 and 1 of vectors."""
    return (field.shape[2], field.shape[3]) if is_maps(field) else (1, 1)


def is_half(field: Field) -> bool:
    """Whether half precision holds all its numbers."""
    return field.dtype in ("float16", "uint8", "int8")


def clip_times_s(field: Field, clip_seconds: float) -> npt.NDArray[np.float64]:
    """When the steps of a field with a rate are, (F,); the middle for a vector of a whole clip."""
    if not isinstance(field.clock, Rate):
        return np.array([clip_seconds / 2])
    steps = np.arange(field.shape[0], dtype=np.float64)
    return np.asarray(field.clock.first_s + steps * field.clock.step_s, np.float64)
