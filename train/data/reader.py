"""Parts of a cache as tensors in host memory: read ahead by threads, audio pooled to wider windows.

Shapes: M clips, n clips of a part, T pooled audio steps, F frames, C channels, √S cells a side, D
audio features.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache import Cache
from cache.common.cores import cores
from cache.common.errors import CacheError, ConfigError
from cache.format.fields import Rate
from cache.format.finite import all_finite
from train.config import TrainConfig
from train.data.batch import Shapes
from train.data.fields import audio_of, maps_of, rate_of

Numbers = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]
PART_CLIPS = 32
READERS = max(1, min(4, cores() // 2))
AHEAD = READERS + 1  # parts that are read or wait while one is used
_MAX_STEPS = 2048


@dataclass(frozen=True)
class Part:
    """Some clips of one shard, in host memory: a stream that was not asked for is None.

    Attributes
    ----------
    audio: pooled features (n, T, D) float32, and which windows are valid (n, T) bool.
    video: maps (n, F, C, √S, √S) float16 as cached, the frames' times (n, F) float32, and the time
        that each stands for (n,) float32.
    """

    audio: tuple[Tensor, Tensor] | None
    video: tuple[Tensor, Tensor, Tensor] | None


@dataclass(frozen=True)
class FeatureReader:
    """The cached features of M clips, read in parts.

    Attributes
    ----------
    rows: (M,) int64 row of each clip in the cache.
    streams: "audio", "video", or both.
    step_s, steps: width and number of the windows that audio is pooled to.
    pin: whether parts are made for a GPU.
    kept: parts that were read, by their clips, where they are to stay in host memory.
    """

    cache: Cache
    rows: Numbers
    streams: frozenset[str]
    step_s: float
    steps: int
    pin: bool = False
    kept: dict[bytes, Part] | None = None

    @classmethod
    def of(cls, cache: Cache, config: TrainConfig, ids: Sequence[str], pin: bool) -> FeatureReader:
        """Of the named clips, in the streams and at the audio rate that the config asks for."""
        clip_seconds = cache.clip_seconds
        steps = max(1, round(clip_seconds * config.audio_rate_hz))
        if steps > _MAX_STEPS:  # attention takes their square in memory
            raise ConfigError(
                f"audio_rate_hz: {config.audio_rate_hz:g} a second are {steps:,} steps in a clip "
                f"of {clip_seconds:g} s, expected at most {_MAX_STEPS:,}; choose a lower rate"
            )
        both = config.modality == "both"
        streams = frozenset(("audio", "video") if both else (config.modality,))
        rows = np.array([cache.row(clip_id) for clip_id in ids], np.int64)
        return cls(cache, rows, streams, clip_seconds / steps, steps, pin)

    @property
    def frames(self) -> int:
        """F, frames of a clip; 0 where no video is read."""
        return maps_of(self.cache)[0].shape[0] if "video" in self.streams else 0

    def shapes(self, classes: int) -> Shapes:
        """What a model must know of these features; 0 for a stream that is not read."""
        audio = audio_of(self.cache) if "audio" in self.streams else []
        video = maps_of(self.cache)[0].shape if "video" in self.streams else (0, 0, 0, 0)
        return Shapes(
            audio_features=2 * sum(field.shape[1] for field in audio),
            map_channels=video[1],
            cells=video[2],
            classes=classes,
            clip_seconds=self.cache.clip_seconds,
        )

    def parts(self, clips: Numbers) -> list[Numbers]:
        """The clips, without repeats, in parts of at most PART_CLIPS of one shard each."""
        groups = self.cache.places_by_shard(self.rows[clips])
        return [
            clips[places[begin : begin + PART_CLIPS]]
            for places in groups
            for begin in range(0, len(places), PART_CLIPS)
        ]

    def ahead(self, parts: Sequence[Numbers], streams: frozenset[str]) -> Iterator[Part]:
        """The parts in their order; threads read the files a few parts ahead of their use.

        Raises CacheError, naming the clip, where features can't be read or are not finite. Pooling
        is left to the caller's thread: torch spreads it over the cores, which threads of our own
        would only take from training.
        """
        waiting: deque[Future[Arrays]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="avel-reading") as pool:
            try:
                for number, clips in enumerate(parts):
                    while number + len(waiting) < len(parts) and len(waiting) < AHEAD:
                        later = parts[number + len(waiting)]
                        waiting.append(pool.submit(self._fetch, later, streams))
                    yield self._part(clips, waiting.popleft().result())
            finally:
                for one in waiting:
                    one.cancel()

    def _video(self) -> list[str]:
        """The fields of the maps and of their times."""
        maps, times = maps_of(self.cache)
        return [maps.name, times]

    def _fetch(self, clips: Numbers, streams: frozenset[str]) -> Arrays:
        if self.kept is not None:
            if clips.tobytes() in self.kept:
                return {}
            streams = self.streams
        audio = [field.name for field in audio_of(self.cache)] if "audio" in streams else []
        video = self._video() if "video" in streams else []
        names = [*audio, *video, "rows/valid_s", "rows/audio_steps"]
        ((_, arrays),) = self.cache.by_shard(names, self.rows[clips])
        for name in (*video, "rows/valid_s"):
            if not all_finite(arrays[name]):
                finite = np.array([np.isfinite(one).all() for one in arrays[name]])
                self._check(clips, finite, name)
        return arrays

    def _check(self, clips: Numbers, finite: npt.NDArray[np.bool_], what: str) -> None:
        """Raise CacheError that names the first clip of which something is not finite."""
        if not finite.all():
            named = self.cache.ids[self.rows[clips[int(finite.argmin())]]]
            raise CacheError(
                f"{self.cache.path}: the clip {named}: {what} is not finite; "
                f"`python -m cache verify {self.cache.path}` finds all such clips, then extract "
                "them again"
            )

    def _part(self, clips: Numbers, arrays: Arrays) -> Part:
        if self.kept is None:
            return self._decoded(clips, arrays)
        if arrays:
            self.kept[clips.tobytes()] = self._decoded(clips, arrays)
        return self.kept[clips.tobytes()]

    def _decoded(self, clips: Numbers, arrays: Arrays) -> Part:
        audio = video = None
        sound = [array for name, array in arrays.items() if name.startswith("audio/")]
        if sound:
            pooled, valid = pool_steps(
                sound, arrays["rows/audio_steps"], rate_of(self.cache), self.step_s, self.steps
            )
            finite = pooled.isfinite().all(dim=2).all(dim=1).numpy()
            self._check(clips, finite, "the mean of its sound's features (or they are too large)")
            audio = self._pinned(pooled), self._pinned(valid)
        maps_name, times_name = self._video() if "video" in self.streams else ("", "")
        if maps_name in arrays:
            time_s = arrays[times_name].astype(np.float32)
            span_s = (arrays["rows/valid_s"] / time_s.shape[1]).astype(np.float32)
            maps, times, spans = map(torch.from_numpy, (arrays[maps_name], time_s, span_s))
            video = self._pinned(maps), self._pinned(times), self._pinned(spans)
        return Part(audio, video)

    def _pinned(self, value: Tensor) -> Tensor:
        """In page-locked memory, from which a GPU copies while it computes."""
        return value.pin_memory() if self.pin else value


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
