"""Parts of a cache as tensors in host memory: read ahead by threads, audio pooled to wider windows.

Shapes: M clips, n clips of a part, T pooled audio steps, F frames, C channels, H × W cells, D audio
features, E features beside the frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache import Cache
from cache.common.cores import cores
from cache.common.errors import CacheError, ConfigError
from cache.format.finite import all_finite
from cache.joined import Gathered, gather
from train.config import TrainConfig
from train.data.batch import Shapes
from train.data.fields import (
    Inputs,
    frame_count,
    grid_of,
    inputs_of,
    is_half,
    sound_width,
    width_of,
)
from train.data.pooling import beside_frames, frame_maps, sound_steps

Numbers = npt.NDArray[np.int64]
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
    video: maps (n, F, C, H, W), float16 or float32, the frames' times (n, F) float32, the time
        that each stands for (n,) float32, and what else is seen then (n, F, E) float32.
    """

    audio: tuple[Tensor, Tensor] | None
    video: tuple[Tensor, ...] | None


@dataclass(frozen=True)
class FeatureReader:
    """The cached features of M clips, read in parts.

    Attributes
    ----------
    rows: (M,) int64 row of each clip in the cache.
    inputs: which fields are read.
    step_s, steps: width and number of the windows that audio is pooled to.
    pin: whether parts are made for a GPU.
    kept: parts that were read, by their clips, where they are to stay in host memory.
    """

    cache: Cache
    rows: Numbers
    inputs: Inputs
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
        inputs = inputs_of(cache, config)
        rows = np.array([cache.row(clip_id) for clip_id in ids], np.int64)
        return cls(cache, rows, inputs, clip_seconds / steps, steps, pin)

    @property
    def streams(self) -> frozenset[str]:
        """ "audio", "video", or both."""
        held = {"audio": self.inputs.sound, "video": self.inputs.frames}
        return frozenset(name for name, fields in held.items() if fields)

    @property
    def frames(self) -> int:
        """F, frames of a clip; 0 where no video is read."""
        return 0 if self.inputs.frames is None else frame_count(self.inputs.frames)

    @property
    def map_dtype(self) -> torch.dtype:
        """Of the frames' maps."""
        frames = self.inputs.frames
        return torch.float16 if frames is None or is_half(frames) else torch.float32

    def shapes(self, classes: int) -> Shapes:
        """What a model must know of these features; 0 for a stream that is not read."""
        frames = self.inputs.frames
        rows, columns = (0, 0) if frames is None else grid_of(frames)
        return Shapes(
            audio_features=sound_width(self.inputs.sound, self.step_s),
            class_only=sound_width(self.inputs.class_only, self.step_s),
            map_channels=0 if frames is None else width_of(frames),
            cells=rows,
            columns=columns,
            beside=sum(map(width_of, self.inputs.beside)),
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
        waiting: deque[Future[Gathered | None]] = deque()
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

    def _fetch(self, clips: Numbers, streams: frozenset[str]) -> Gathered | None:
        if self.kept is not None:
            if clips.tobytes() in self.kept:
                return None
            streams = self.streams
        inputs = self.inputs.only(streams)
        found = gather(self.cache, inputs.names, self.rows[clips])
        seen = {name: array for name, array in found.arrays.items() if name.startswith("video/")}
        for name, array in {**seen, "rows/valid_s": found.valid_s}.items():
            if array.dtype.kind == "f" and not all_finite(array):
                finite = np.array([np.isfinite(one).all() for one in array])
                self._check(clips, finite, name)
        return found

    def _check(self, clips: Numbers, finite: npt.NDArray[np.bool_], what: str) -> None:
        """Raise CacheError that names the first clip of which something is not finite."""
        if not finite.all():
            named = self.cache.ids[self.rows[clips[int(finite.argmin())]]]
            raise CacheError(
                f"{self.cache.path}: the clip {named}: {what} is not finite; "
                f"`python -m cache verify {self.cache.path}` finds all such clips, then extract "
                "them again"
            )

    def _part(self, clips: Numbers, found: Gathered | None) -> Part:
        if self.kept is None:
            assert found is not None
            return self._decoded(clips, found)
        if found is not None:
            self.kept[clips.tobytes()] = self._decoded(clips, found)
        return self.kept[clips.tobytes()]

    def _decoded(self, clips: Numbers, found: Gathered) -> Part:
        audio = video = None
        clip_seconds = self.cache.clip_seconds
        if any(field.name in found.arrays for field in self.inputs.sound):
            features, valid = self._sound(found)
            finite = features.isfinite().all(dim=2).all(dim=1).numpy()
            self._check(clips, finite, "the mean of its sound's features (or they are too large)")
            audio = self._pinned(features), self._pinned(valid)
        frames = self.inputs.frames
        if frames is not None and frames.name in found.arrays:
            maps, time_s, span_s = frame_maps(frames, found, clip_seconds)
            beside = beside_frames(self.inputs.beside, found, time_s, clip_seconds)
            tensors = torch.from_numpy(maps), *map(torch.from_numpy, (time_s, span_s)), beside
            video = tuple(map(self._pinned, tensors))
        return Part(audio, video)

    def _sound(self, found: Gathered) -> tuple[Tensor, Tensor]:
        """As `sound_steps`; what tells the class alone comes last, where all is valid."""
        inputs, step_s = self.inputs, self.step_s
        features, valid = sound_steps(inputs.sound, found, step_s, self.steps)
        if inputs.class_only:
            more, there = sound_steps(inputs.class_only, found, step_s, self.steps)
            valid = valid & there
            features = torch.cat([features, more], dim=2) * valid.unsqueeze(2)
        return features, valid

    def _pinned(self, value: Tensor) -> Tensor:
        """In page-locked memory, from which a GPU copies while it computes."""
        return value.pin_memory() if self.pin else value
