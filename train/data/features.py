"""The features of many clips on one device: all of them, or those that are at hand.

Shapes: M clips, N of a batch, T pooled audio steps, F frames, S cells, C channels, D audio
features.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from cache import Cache
from cache.common.errors import ConfigError
from train.config import TrainConfig
from train.data.batch import Batch, Frames, Shapes, Sound
from train.data.maps import FrameMaps
from train.data.memory import room
from train.data.reader import AHEAD, PART_CLIPS, READERS, FeatureReader, Part
from train.data.stream import Stream, least_slots
from train.distributed import SINGLE_PROCESS, ProcessGroup


@dataclass
class FeatureStore:
    """The features of M clips, which are asked for by number; a slot of the tensors holds a clip.

    Attributes
    ----------
    ids: the clips' ids, by number.
    mode: where the features are, and why, for people.
    step_s: width of a window in seconds; step k covers [k, k + 1) × step_s.
    step_time_s: (T,) float32, the centre of each.
    audio: (slots, T, D) float32 means, then deviations, of the cached steps in each window, 0
        where none is valid; None for a video-only model.
    audio_valid: (slots, T) bool.
    maps: of each slot (see FrameMaps); None for an audio-only model.
    frame_time_s: (slots, F) float32.
    frame_span_s: (slots,) float32, the time a frame stands for: valid seconds / F.
    stream: what brings the clips to their slots; None where clip n is in slot n for good.
    """

    ids: list[str]
    shapes: Shapes
    device: torch.device
    mode: str
    step_s: float
    step_time_s: Tensor
    audio: Tensor | None
    audio_valid: Tensor
    maps: FrameMaps | None
    frame_time_s: Tensor
    frame_span_s: Tensor
    stream: Stream | None = None

    @classmethod
    def allocate(
        cls,
        ids: Sequence[str],
        reader: FeatureReader,
        classes: int,
        device: torch.device,
        slots: int,
        mode: str,
    ) -> FeatureStore:
        """Empty slots for what a reader gives."""
        shapes, steps, frames = reader.shapes(classes), reader.steps, reader.frames
        audio = maps = None
        if "audio" in reader.streams:
            audio = torch.zeros(slots, steps, shapes.sound_features, device=device)
        if "video" in reader.streams:
            like = torch.empty(0, dtype=reader.map_dtype, device=device)
            maps = FrameMaps.allocate(slots, frames, shapes, like)
        return cls(
            ids=list(ids),
            shapes=shapes,
            device=device,
            mode=mode,
            step_s=reader.step_s,
            step_time_s=((torch.arange(steps) + 0.5) * shapes.clip_seconds / steps).to(device),
            audio=audio,
            audio_valid=torch.zeros(slots, steps, dtype=torch.bool, device=device),
            maps=maps,
            frame_time_s=torch.zeros(slots, frames, device=device),
            frame_span_s=torch.ones(slots, device=device),
        )

    @property
    def streams(self) -> frozenset[str]:
        """Which are held: "audio", "video", or both."""
        held = {"audio": self.audio, "video": self.maps}
        return frozenset(name for name, tensor in held.items() if tensor is not None)

    def epoch(
        self, order: Tensor, clip: Tensor, size: int, group: ProcessGroup = SINGLE_PROCESS
    ) -> Generator[tuple[Tensor, int], None, None]:
        """This process's share of each batch of an epoch, and how many samples the batch has.

        order: (R,) int64 the samples' numbers in random order, on the host; clip: (R,) int64 the
        clip of each sample, on the device. Until the next is asked for, `batch` knows the clips of
        the samples that were yielded.
        """
        if self.stream is not None:
            return self.stream.epoch(self.put, self.streams, order, clip, size, group)
        batches = torch.split(order.to(self.device), size)
        return ((group.share(chosen), len(chosen)) for chosen in batches)

    def batches(self, clips: Tensor, size: int) -> Iterator[tuple[Tensor, Batch]]:
        """All clips (N,) in batches of at most `size`: their places in `clips`, and the input.

        The order is the most convenient one.
        """
        if self.stream is not None:
            batches = self.stream.visit(self.put, self.streams, clips, size)
        else:
            batches = iter(torch.split(torch.arange(len(clips), device=self.device), size))
        return ((places, self.batch(clips[places])) for places in batches)

    def batch(self, clips: Tensor) -> Batch:
        """Model input for clips (N,) int64 on the device; use it up before asking for the next."""
        slots = clips if self.stream is None else self.stream.slot_of[clips]
        sound = frames = None
        if self.audio is not None:
            valid = self.audio_valid[slots]
            sound = Sound(self.audio[slots], valid, self.step_time_s, self.step_s)
        if self.maps is not None:
            rows, time_s = self.maps.rows(slots), self.frame_time_s[slots]
            frames = Frames(self.maps, rows, time_s, self.frame_span_s[slots])
        return Batch(sound, frames)

    def put(self, at: Tensor | slice, part: Part) -> None:
        """Store the clips of a part, or what this model reads of them, in slots `at`."""
        if self.audio is not None:
            assert part.audio is not None
            audio, valid = (value.to(self.device, non_blocking=True) for value in part.audio)
            self.audio[at], self.audio_valid[at] = audio, valid
        if self.maps is not None:
            assert part.video is not None
            parts = (v.to(self.device, non_blocking=True) for v in part.video)
            maps, time_s, span_s, beside = parts
            self.maps.put(at, maps, beside)
            self.frame_time_s[at], self.frame_span_s[at] = time_s, span_s


def torch_device(name: str) -> torch.device:
    """The device that a config names; "auto" takes CUDA, then MPS, then the CPU."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise ConfigError(f"device: {name} was asked for, but torch finds none on this machine")
    return torch.device(name)


def check_modality(config: TrainConfig, cache: Cache) -> None:
    """Raise ConfigError unless the cache has the streams that the config asks for."""
    streams = {field.stream for field in cache.fields.values()}
    has = streams.pop() if len(streams) == 1 else "both"
    if has not in ("both", config.modality):
        raise ConfigError(
            f"modality: {config.modality!r} was asked for, but the cache {cache.path} holds only "
            f"{has}; pass --modality {has}, or extract again with --modalities both"
        )


def load_features(
    cache: Cache, config: TrainConfig, ids: Sequence[str], classes: int
) -> FeatureStore:
    """Features of the named clips for the config's device.

    On the device where they fit. Else they are streamed to it: from host memory where that has
    room for them (and is not the device itself), from the disk where it has not.
    """
    check_modality(config, cache)
    device = torch_device(config.device)
    reader = FeatureReader.of(cache, config, ids, pin=device.type == "cuda")
    shapes = reader.shapes(classes)
    one = reader.steps * shapes.sound_features * 4
    rows, columns = shapes.grid
    one += reader.frames * shapes.map_channels * rows * columns * reader.map_dtype.itemsize
    one += reader.frames * (shapes.map_channels + shapes.beside) * 4
    slots, mode, keep = _where(cache, config, device, len(ids), one)
    store = FeatureStore.allocate(ids, reader, classes, device, slots, mode)
    if slots < len(ids):
        slot_of = torch.zeros(len(ids), dtype=torch.int64, device=device)
        store.stream = Stream(replace(reader, kept={} if keep else None), slots, slot_of)
        return store
    parts = reader.parts(np.arange(len(ids)))
    bar = tqdm(
        total=len(ids), desc="reading", unit="clip", delay=1.0, file=sys.stderr, mininterval=0.5
    )
    with bar:
        for clips, part in zip(parts, reader.ahead(parts, reader.streams), strict=True):
            store.put(torch.from_numpy(clips).to(device), part)
            bar.update(len(clips))
    return store


def _where(
    cache: Cache, config: TrainConfig, device: torch.device, count: int, one: int
) -> tuple[int, str, bool]:
    """Slots on the device, the sentence that says why, and whether parts stay in host memory.

    one: bytes of a clip on the device.
    """
    have = room(device, config.memory_gb)
    limit = f"{have / 1e9:.3g} GB of {'GPU ' if device.type == 'cuda' else ''}memory"
    if config.memory_gb is not None:
        limit += f" (--memory-gb {config.memory_gb:g})"
    need = f"the features of {count:,} clips take {count * one / 1e9:.3g} GB"
    if count * one <= have:
        return count, f"{need}, which fit {limit}: all are in memory", False
    # What is read ahead is in memory as well: as cached, in float32 for a moment, and pooled.
    cached = sum(spec.bytes_per_clip for spec in cache.fields.values())
    reading = (AHEAD + READERS + 1) * PART_CLIPS * (2 * cached + one)
    slots = (have - reading) // one
    least = least_slots(config.batch_size)
    if slots < least:
        raise ConfigError(
            f"memory_gb: {need}; to stream them takes {(reading + least * one) / 1e9:.3g} GB at "
            f"least, and there are {limit}; raise --memory-gb, use a device with more memory, or "
            "train on one modality (--modality audio needs little)"
        )
    keep = device.type == "cuda" and count * one <= room(torch.device("cpu"), config.memory_gb)
    where = "host memory" if keep else "the disk"
    mode = f"{need}, more than {limit}: streamed from {where}, {slots:,} clips at a time"
    return slots, mode, keep
