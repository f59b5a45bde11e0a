"""Cache → labelled data: label rows joined with the features of their clips.

A sample is a label row joined with its clip's features. Shapes: R label rows, M clips.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from cache.common.errors import CacheError, ConfigError
from cache.format.schema import SPLITS
from cache.reader import Cache
from train.config import TrainConfig
from train.data.batch import Shapes
from train.data.clips import AHEAD, PART_CLIPS, READERS, Clips, Source
from train.data.fields import audio_of, maps_of
from train.data.memory import room
from train.data.rows import Rows, choose_rows
from train.data.stream import Streamed, least_slots

_MAX_STEPS = 2048


@dataclass(frozen=True)
class Samples:
    """The label rows of one split, on the device.

    clip: (R,) int64 row in Clips; category: (R,) int64; interval: (R, 2) float32 start and end as
    fractions of the clip. `rows` are the numbers of the label rows they came from.
    """

    clip: Tensor
    category: Tensor
    interval: Tensor
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Dataset:
    """A labelled cache, ready to train on."""

    clips: Clips
    splits: dict[str, Samples]
    rows: Rows

    @property
    def classes(self) -> list[str]:
        """Class names; place in the list is the class number."""
        return self.rows.labels.classes

    @property
    def ids(self) -> list[str]:
        """Clip id of each label row."""
        return self.rows.labels.ids


def pick_device(name: str) -> torch.device:
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


def resolve(config: TrainConfig, cache: Cache, classes: Sequence[str] | None) -> TrainConfig:
    """Fill in what the cache decides, and refuse what contradicts it."""
    _check_modality(config, cache)
    facts: dict[str, int] = {}
    if classes is not None:
        facts["num_classes"] = len(classes)
    if config.modality != "audio":
        facts["num_frames"] = maps_of(cache)[0].shape[0]
    for name, found in facts.items():
        asked = getattr(config, name)
        if asked is not None and asked != found:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"{name}: the settings say {asked}, the cache {cache.path} has {found}; pass "
                f"--{flag} {found} (or --{flag} None to take the cache's)"
            )
    return config.revised(**facts)


def _check_modality(config: TrainConfig, cache: Cache) -> None:
    streams = {field.stream for field in cache.fields.values()}
    has = streams.pop() if len(streams) == 1 else "both"
    if has not in ("both", config.modality):
        raise ConfigError(
            f"modality: {config.modality!r} was asked for, but the cache {cache.path} holds only "
            f"{has}; pass --modality {has}, or extract again with --modalities both"
        )


def load_dataset(
    cache: Cache,
    config: TrainConfig,
    splits: Sequence[str] = SPLITS,
    rows: Rows | None = None,
) -> Dataset:
    """Label rows (see `choose_rows`) joined with features, on the config's device.

    `config` must be resolved.
    """
    rows = rows or choose_rows(cache, config)
    labels = rows.labels
    chosen = {name: rows.kept[name] for name in splits}
    if not any(map(len, chosen.values())):
        foreign = sorted({name for split in splits for name in rows.unknown[split]})
        raise CacheError(
            f"{cache.path}: no label row of {', '.join(splits)} has features"
            + (
                f" and a class that the run knows; it doesn't know {', '.join(foreign[:10])}"
                if foreign
                else ""
            )
            + "; see `python -m cache info`"
        )
    used = sorted({labels.ids[row] for some in chosen.values() for row in some})
    clips = load_clips(cache, config, used, len(labels.classes))
    place = {clip_id: row for row, clip_id in enumerate(used)}
    ends = np.stack([labels.start_s, labels.end_s], 1) / cache.clip_seconds

    def samples(some: npt.NDArray[np.int64]) -> Samples:
        return Samples(
            clip=torch.tensor([place[labels.ids[row]] for row in some], dtype=torch.int64).to(
                clips.device
            ),
            category=torch.from_numpy(labels.category[some]).to(clips.device),
            interval=torch.from_numpy(ends[some].astype(np.float32)).to(clips.device),
            rows=some,
        )

    return Dataset(clips, {name: samples(some) for name, some in chosen.items()}, rows)


def load_clips(cache: Cache, config: TrainConfig, ids: Sequence[str], classes: int) -> Clips:
    """Features of the named clips for the config's device.

    On the device where they fit. Else they are streamed to it: from host memory where that has
    room for them (and is not the device itself), from the disk where it has not.
    """
    _check_modality(config, cache)
    device = pick_device(config.device)
    clip_seconds = cache.clip_seconds
    steps = max(1, round(clip_seconds * config.audio_rate_hz))
    if steps > _MAX_STEPS:  # attention takes their square in memory
        raise ConfigError(
            f"audio_rate_hz: {config.audio_rate_hz:g} a second are {steps:,} steps in a clip of "
            f"{clip_seconds:g} s, expected at most {_MAX_STEPS:,}; choose a lower rate"
        )
    streams = frozenset(("audio", "video") if config.modality == "both" else (config.modality,))
    audio = audio_of(cache) if "audio" in streams else []
    features = 2 * sum(field.shape[1] for field in audio)
    video = "video" in streams
    frames, channels, side = (maps_of(cache)[0].shape if video else (0, 0, 0, 0))[:3]
    rows = np.array([cache.row(clip_id) for clip_id in ids], np.int64)
    source = Source(cache, rows, streams, clip_seconds / steps, steps, device.type == "cuda")
    one = steps * features * 4 + frames * channels * side * side * 2
    slots, mode, keep = _where(cache, config, device, len(ids), one)
    common: dict[str, Any] = {
        "ids": list(ids),
        "shapes": Shapes(features, channels, side, classes, clip_seconds),
        "device": device,
        "step_time_s": ((torch.arange(steps) + 0.5) * clip_seconds / steps).to(device),
        "step_s": clip_seconds / steps,
        "audio": torch.zeros(slots, steps, features, device=device) if audio else None,
        "audio_valid": torch.zeros(slots, steps, dtype=torch.bool, device=device),
        "maps": torch.empty(
            slots, frames, side * side, channels, dtype=torch.float16, device=device
        )
        if video
        else None,
        "frame_time_s": torch.zeros(slots, frames, device=device),
        "frame_span_s": torch.ones(slots, device=device),
        "mode": mode,
    }
    if slots < len(ids):
        source = replace(source, kept={} if keep else None)
        slot_of = torch.zeros(len(ids), dtype=torch.int64, device=device)
        return Streamed(**common, source=source, slot_of=slot_of)
    clips = Clips(**common)
    parts = source.parts(np.arange(len(ids)))
    bar = tqdm(
        total=len(ids), desc="reading", unit="clip", delay=1.0, file=sys.stderr, mininterval=0.5
    )
    with bar:
        for part, found in zip(parts, source.ahead(parts, streams), strict=True):
            clips.put(torch.from_numpy(part).to(device), found)
            bar.update(len(part))
    return clips


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
