"""The features of many clips on one device, and how parts of a cache become such.

Shapes: M clips, n clips of a part, T pooled audio steps, F frames, S cells, C channels, D audio
features.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache.common.cores import cores
from cache.common.errors import CacheError
from cache.format.finite import all_finite
from cache.reader import Cache
from train.data.batch import Batch, Frames, Shapes, Sound
from train.data.fields import audio_of, maps_of, rate_of
from train.data.pooling import pool_steps
from train.distributed import ALONE, World

Numbers = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]
PART_CLIPS = 32
READERS = max(1, min(4, cores() // 2))
AHEAD = READERS + 1  # parts that are read or wait while one is used


@dataclass
class Clips:
    """The features of M clips on one device.

    Attributes
    ----------
    ids: clip of each row.
    audio: (M, T, D) float32 means, then deviations, of the cached steps in each window, 0 where
        none is valid; None for a video-only model.
    audio_valid: (M, T) bool.
    step_s: width of a window in seconds; step k covers [k, k + 1) × step_s.
    maps: (M, F, S, C) float16, channels last; None for an audio-only model.
    frame_time_s: (M, F) float32.
    frame_span_s: (M,) float32, the time a frame stands for: valid seconds / F.
    mode: where the features are, and why, for people.
    """

    ids: list[str]
    shapes: Shapes
    device: torch.device
    step_time_s: Tensor
    step_s: float
    audio: Tensor | None
    audio_valid: Tensor
    maps: Tensor | None
    frame_time_s: Tensor
    frame_span_s: Tensor
    mode: str = ""
    _buffers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def epoch(
        self, order: Tensor, clip: Tensor, size: int, world: World = ALONE
    ) -> Generator[tuple[Tensor, int], None, None]:
        """This process's share of each batch of an epoch, and how many rows the batch has in all.

        order: (R,) int64 the samples' numbers in random order, on the host; clip: (R,) int64 the
        clip row of each sample, on the device. Until the next is asked for, `batch` knows the
        clips of the samples that were yielded.
        """
        for chosen in torch.split(order.to(self.device), size):
            yield world.share(chosen), len(chosen)

    def batches(self, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Batch]]:
        """All clip rows (N,) in batches of at most `size`: their places in `rows`, and the input.

        The order is the most convenient one.
        """
        for places in torch.split(torch.arange(len(rows), device=self.device), size):
            yield places, self.batch(rows[places])

    def batch(self, rows: Tensor) -> Batch:
        """Model input for clip rows (N,) int64 on the device.

        On the CPU the maps of consecutive batches share one float32 buffer: use a batch up
        before asking for the next.
        """
        sound = frames = None
        if self.audio is not None:
            valid = self.audio_valid[rows]
            sound = Sound(self.audio[rows], valid, self.step_time_s, self.step_s)
        if self.maps is not None:
            maps = self._select(self.maps, rows)
            frames = Frames(maps, self.frame_time_s[rows], self.frame_span_s[rows])
        return Batch(sound, frames)

    def put(self, at: Tensor | slice, part: Part) -> None:
        """Store the clips of a part, or what this model reads of them, in rows `at`."""
        if self.audio is not None:
            assert part.audio is not None
            assert part.audio_valid is not None
            self.audio[at] = part.audio.to(self.device, non_blocking=True)
            self.audio_valid[at] = part.audio_valid.to(self.device, non_blocking=True)
        if self.maps is not None:
            assert part.maps is not None
            assert part.frame_time_s is not None
            assert part.frame_span_s is not None
            maps = part.maps.to(self.device, non_blocking=True)
            self.maps[at] = maps.flatten(3).transpose(2, 3)
            self.frame_time_s[at] = part.frame_time_s.to(self.device, non_blocking=True)
            self.frame_span_s[at] = part.frame_span_s.to(self.device, non_blocking=True)

    def _select(self, maps: Tensor, rows: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return maps[rows]  # autocast turns it into bfloat16 where it is used
        # Fresh buffers of tens of megabytes cost more in page faults than the conversion itself.
        shape = (len(rows), *maps.shape[1:])
        if len(rows) not in self._buffers:
            with torch.inference_mode(False):  # training must be able to use them as well
                self._buffers[len(rows)] = (
                    torch.empty(shape, dtype=maps.dtype, device=maps.device),
                    torch.empty(shape, dtype=torch.float32, device=maps.device),
                )
        half, single = self._buffers[len(rows)]
        torch.index_select(maps, 0, rows, out=half)
        return single.copy_(half)


@dataclass(frozen=True)
class Part:
    """Some clips of one shard, in host memory: a stream that was not asked for is None.

    audio (n, T, D) float32, audio_valid (n, T) bool, maps (n, F, C, √S, √S) float16 as cached,
    frame_time_s (n, F) float32, frame_span_s (n,) float32.
    """

    audio: Tensor | None = None
    audio_valid: Tensor | None = None
    maps: Tensor | None = None
    frame_time_s: Tensor | None = None
    frame_span_s: Tensor | None = None

    def pinned(self) -> Part:
        """The same in page-locked memory, from which a GPU copies while it computes."""
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        return Part(**{name: None if v is None else v.pin_memory() for name, v in values})


@dataclass(frozen=True)
class Source:
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

    @property
    def _video(self) -> list[str]:
        """The fields of the maps and their times."""
        maps, times = maps_of(self.cache)
        return [maps.name, times]

    def parts(self, clips: Numbers) -> list[Numbers]:
        """The clips, without repeats, in parts of at most PART_CLIPS of one shard each."""
        groups = self.cache.places_by_shard(self.rows[clips])
        return [
            clips[places[begin : begin + PART_CLIPS]]
            for places in groups
            for begin in range(0, len(places), PART_CLIPS)
        ]

    def read(self, clips: Numbers, streams: frozenset[str]) -> Part:
        """The features of a part that `parts` gave; CacheError where they can't be read."""
        return next(self.ahead([clips], streams))

    def ahead(self, parts: Sequence[Numbers], streams: frozenset[str]) -> Iterator[Part]:
        """The parts in their order; threads read the files a few parts ahead of their use.

        Pooling is left to the caller's thread: torch spreads it over the cores, which threads of
        our own would only take from training.
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

    def _fetch(self, clips: Numbers, streams: frozenset[str]) -> Arrays:
        if self.kept is not None:
            if clips.tobytes() in self.kept:
                return {}
            streams = self.streams
        audio = [field.name for field in audio_of(self.cache)] if "audio" in streams else []
        video = self._video if "video" in streams else []
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
        found: dict[str, Any] = {}
        audio = [array for name, array in arrays.items() if name.startswith("audio/")]
        if audio:
            found["audio"], found["audio_valid"] = pool_steps(
                audio, arrays["rows/audio_steps"], rate_of(self.cache), self.step_s, self.steps
            )
            finite = found["audio"].isfinite().all(dim=2).all(dim=1).numpy()
            self._check(clips, finite, "the mean of its sound's features (or they are too large)")
        maps, times = self._video if "video" in self.streams else ("", "")
        if maps in arrays:
            time_s = arrays[times].astype(np.float32)
            span_s = (arrays["rows/valid_s"] / time_s.shape[1]).astype(np.float32)
            found["maps"] = torch.from_numpy(arrays[maps])
            found["frame_time_s"] = torch.from_numpy(time_s)
            found["frame_span_s"] = torch.from_numpy(span_s)
        return Part(**found).pinned() if self.pin else Part(**found)
