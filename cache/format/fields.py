"""One field of a row: its name, shape, dtype, unit, and when its steps are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np

MAX_ROW_BYTES = 1 << 28
MAX_CLIP_S = 3600
MAX_RATE_HZ = 1_000_000
_MAX_HOP = 1 << 16
_NAME = re.compile(r"(audio|video)/[A-Za-z0-9_]{1,64}")
_FLOATS = ("float16", "float32", "float64")
_DTYPES = (*_FLOATS, "uint8", "int8", "int16", "int32", "int64")
_MAX_AXES = 8
_MAX_UNIT = 100


@dataclass(frozen=True)
class Rate:
    """The clock of a field with so many steps a second: step k is at first_s + k / rate_hz."""

    rate_hz: float
    first_s: float = 0.0

    @property
    def step_s(self) -> float:
        """Seconds from step to step: exactly hop / samples a second, where the rate is of those."""
        ratio = Fraction(self.rate_hz).limit_denominator(_MAX_HOP)
        return float(1 / ratio) if float(ratio) == self.rate_hz else 1 / self.rate_hz


@dataclass(frozen=True)
class Times:
    """The clock of a field whose steps are at the times (s) that the field `times` holds."""

    times: str


@dataclass(frozen=True)
class Field:
    """One stacked dataset of a shard: `shape` is per clip, without the leading N.

    `clock` says when the steps along the first axis are; None where that is no axis of time.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    clock: Rate | Times | None = None

    @property
    def stream(self) -> str:
        """Which part of a clip a feature describes: `audio` or `video`."""
        return self.name.partition("/")[0]

    @property
    def has_steps(self) -> bool:
        """Whether `rows/audio_steps` says how many steps of its first axis a clip has."""
        return self.stream == "audio" and isinstance(self.clock, Rate)

    @property
    def bytes_per_clip(self) -> int:
        """Bytes of one clip's row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def record(self) -> dict[str, Any]:
        """What `cache.json` says of it."""
        return {
            "name": self.name,
            "stream": self.stream,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "unit": self.unit,
            "clock": None if self.clock is None else dict(vars(self.clock)),
        }

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> Self:
        """The field of a record; ValueError, TypeError or KeyError where it is none."""
        clock = record["clock"]
        if clock is not None:
            clock = Times(**clock) if "times" in clock else Rate(**clock)
        shape = tuple(record["shape"])
        field = cls(record["name"], shape, record["dtype"], record["unit"], clock)
        field.check()
        if field.record() != record:
            raise ValueError(f"{field.name}: expected {field.record()}")
        return field

    def check(self) -> None:
        """Refuse a name that could leave its place, and a shape, dtype or clock that is none."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"{str(self.name)[:80]!r}: expected audio/NAME or video/NAME")
        if self.dtype not in _DTYPES:
            raise ValueError(f"{self.name}: expected a dtype of {', '.join(_DTYPES)}")
        if not 0 < len(self.shape) <= _MAX_AXES:
            raise ValueError(f"{self.name}: expected 1 to {_MAX_AXES} axes")
        for length in self.shape:
            check_whole(f"{self.name}: shape", length, MAX_ROW_BYTES)
        unit = self.unit
        if not isinstance(unit, str) or len(unit) > _MAX_UNIT or not unit.isprintable():
            raise ValueError(f"{self.name}: expected a unit, at most {_MAX_UNIT} characters")
        if isinstance(self.clock, Rate):
            check_number(f"{self.name}: rate_hz", self.clock.rate_hz, 0, MAX_RATE_HZ)
            check_number(f"{self.name}: first_s", self.clock.first_s, -MAX_CLIP_S, MAX_CLIP_S)
        if self.has_steps and self.dtype not in _FLOATS:
            raise ValueError(f"{self.name}: expected floats: steps that a clip hasn't are NaN")


def row_bytes(fields: Iterable[Field]) -> int:
    """Bytes that one clip takes in the given datasets."""
    return sum(field.bytes_per_clip for field in fields)


def check_number(name: str, value: object, above: float, most: float) -> None:
    """Refuse anything but a number in (above, most]."""
    # A text times a number is a longer text: gigabytes of it, if a stranger likes.
    if not isinstance(value, int | float) or isinstance(value, bool) or not above < value <= most:
        raise ValueError(
            f"{name}: expected a number above {above}, at most {most}, found {str(value)[:40]}"
        )


def check_whole(name: str, value: object, most: int) -> None:
    """Refuse anything but a whole number from 1 to `most`."""
    if type(value) is not int or not 0 < value <= most:
        raise ValueError(f"{name}: expected 1 to {most}, found {str(value)[:40]}")
