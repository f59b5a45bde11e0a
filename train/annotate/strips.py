"""What is drawn along the time of a recording: its sound and some of its frames, from a cache.

Both are bounded, however long the recording is. Shapes: S sound steps, M bands, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cache import Cache
from cache.format.fields import Rate
from train.report.drawing import image_text, opened, palette
from train.score.metrics import Array

MOST_FRAMES = 200
MOST_COLUMNS = 16_000
_COLUMNS_A_S = 20.0
_TILE_COLUMNS = 2_000
_FRAME_PX = 104
_ROWS = 32  # read at once
Place = tuple[float, int, int]
"""Seconds of a frame, its row, and which of the row's it is."""
_MEL, _TIMES = "audio/mel", "video/frame_time_s"


@dataclass(frozen=True)
class Tile:
    """A part of the spectrogram: seconds of the recording, and a PNG, base64."""

    start_s: float
    end_s: float
    png: str


def frames(cache: Cache, rows: Sequence[int], most: int = MOST_FRAMES) -> list[tuple[float, str]]:
    """Seconds of the recording and a small JPEG, base64, of at most `most` frames, in order.

    rows: the recording's windows, by their offsets. None where the cache has no pictures.
    """
    if cache.declaration.pictures is None or _TIMES not in cache.fields:
        return []
    times = cache.read(_TIMES, rows)
    offsets = np.array([cache.windows[row].offset_s for row in rows])
    places = [
        (round(float(time), 3), row, number)
        for row, offset_s, own in zip(rows, offsets, times, strict=True)
        for number, time in enumerate(offset_s + own)
        if np.isfinite(time)
    ]
    found = []
    for time, row, number in _spread(places, most):
        name = cache.ids[row]
        picture = opened(cache.jpegs(name)[number], _FRAME_PX, name)
        small = picture.resize((_FRAME_PX, _FRAME_PX), Image.Resampling.BILINEAR)
        found.append((time, image_text(small, "JPEG", quality=62)))
    return found


def _spread(places: Sequence[Place], most: int) -> list[Place]:
    """At most `most` of the frames, in order and evenly spread; of equal times one."""
    one_each = sorted({place[0]: place for place in reversed(places)}.values())
    kept = np.linspace(0, len(one_each) - 1, min(most, len(one_each)))
    return [one_each[number] for number in kept.round().astype(int)]


def sound(cache: Cache, rows: Sequence[int], length_s: float) -> list[Tile]:
    """The log-Mel spectrogram of a recording in tiles; none where the cache has none of it."""
    field = cache.fields.get(_MEL)
    if field is None or not isinstance(field.clock, Rate):
        return []
    a_second = min(_COLUMNS_A_S, field.clock.rate_hz, MOST_COLUMNS / length_s)
    columns = max(1, int(np.ceil(length_s * a_second)))
    mel = _columns(cache, rows, field.clock, a_second, np.full((columns, field.shape[1]), np.nan))
    if not np.isfinite(mel).any():
        return []
    low, high = np.nanpercentile(mel, [1, 99.8])
    shown = np.nan_to_num(((mel - low) / max(high - low, 1e-6)).clip(0, 1)).T[::-1]
    return [
        Tile(
            round(first / a_second, 4),
            round(min(first + _TILE_COLUMNS, columns) / a_second, 4),
            palette(shown[:, first : first + _TILE_COLUMNS]),
        )
        for first in range(0, columns, _TILE_COLUMNS)
    ]


def _columns(cache: Cache, rows: Sequence[int], clock: Rate, a_second: float, mel: Array) -> Array:
    """Fill `mel` (C, M) with the mean of each column's steps, of the first window that has it."""
    begin = 0  # of the columns that no window has had
    for some in (list(rows[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)):
        steps = cache.read("rows/audio_steps", some).tolist()
        for row, own, valid in zip(some, cache.read(_MEL, some), steps, strict=True):
            time_s = cache.windows[row].offset_s + clock.first_s + np.arange(valid) / clock.rate_hz
            column = (time_s * a_second).astype(np.int64)
            fresh = (column >= begin) & (column < len(mel)) & np.isfinite(own[:valid]).all(axis=1)
            if not fresh.any():
                continue
            column, own = column[fresh], own[:valid][fresh].astype(np.float64)
            first = np.flatnonzero(np.diff(column, prepend=-1))
            many = np.diff(first, append=len(column))[:, None]
            mel[column[first]] = np.add.reduceat(own, first) / many
            begin = int(column[-1]) + 1
    return mel
