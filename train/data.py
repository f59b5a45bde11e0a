"""Cache → tensors on the device, read once, shard by shard; batches are selections of rows.

A sample is a label row joined with its clip's features. Shapes: R label rows, M clips, T pooled
audio steps, F frames, S cells, C channels, D audio features.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from cache.errors import CacheError, ConfigError
from cache.reader import Cache
from cache.schema import AUDIO_FEATURES, SPLITS
from train.config import TrainConfig
from train.metrics import Events
from train.model import Batch, Frames, FusionModel, Shapes, Sound

_MEMORY_SHARE = 0.9


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
    _buffers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

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

    def _select(self, maps: Tensor, rows: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return maps[rows]  # autocast turns it into bfloat16 where it is used
        # Fresh buffers of tens of megabytes cost more in page faults than the conversion itself.
        shape = (len(rows), *maps.shape[1:])
        if len(rows) not in self._buffers:
            self._buffers[len(rows)] = (
                torch.empty(shape, dtype=maps.dtype, device=maps.device),
                torch.empty(shape, dtype=torch.float32, device=maps.device),
            )
        half, single = self._buffers[len(rows)]
        torch.index_select(maps, 0, rows, out=half)
        return single.copy_(half)


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
    classes: list[str]
    without_features: list[str]
    ids: list[str]
    """Clip id of each label row."""
    leaks: dict[tuple[str, str], list[str]]
    notes: list[str]
    train_truth: Events
    """The training events, for baselines: known also when their features were not loaded."""
    train_ids: list[str]
    """Clip id of each training event."""


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
    facts: dict[str, int] = {}
    if classes is not None:
        facts["num_classes"] = len(classes)
    if config.modality != "audio":
        facts["num_frames"] = int(cache.config["num_frames"])
    for name, found in facts.items():
        asked = getattr(config, name)
        if asked is not None and asked != found:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"{name}: the settings say {asked}, the cache {cache.path} has {found}; pass "
                f"--{flag} {found} (or --{flag} None to take the cache's)"
            )
    has = cache.config["modalities"]
    if has not in ("both", config.modality):
        raise ConfigError(
            f"modality: {config.modality!r} was asked for, but the cache {cache.path} holds only "
            f"{has}; pass --modality {has}, or extract again with --modalities both"
        )
    return config.revised(**facts)


def load_dataset(cache: Cache, config: TrainConfig, splits: Sequence[str] = SPLITS) -> Dataset:
    """Labels joined with features, on the config's device. `config` must be resolved.

    Label rows whose clip has no features are left out and named; where `drop_leaks` is set, so
    are rows whose id stands in a later split as well (train < val < test).
    """
    labels = cache.labels
    leaks = labels.leaks()
    notes = list(labels.notes)
    without = sorted({clip_id for clip_id in labels.ids if clip_id not in cache})
    kept: dict[str, npt.NDArray[np.int64]] = {}
    for name in SPLITS:
        leaked = {i for (early, _), ids in leaks.items() if early == name for i in ids}
        dropped = leaked if config.drop_leaks else set()
        rows = [r for r in labels.rows(name) if labels.ids[r] in cache]
        kept[name] = np.array([r for r in rows if labels.ids[r] not in dropped], np.int64)
        if len(kept[name]) < len(rows):
            count = len(rows) - len(kept[name])
            notes.append(f"{count} row(s) of {name} dropped: their ids stand in a later split")
    chosen = {name: kept[name] for name in splits}
    if not any(map(len, chosen.values())):
        raise CacheError(
            f"{cache.path}: no label row of {', '.join(splits)} has features; see "
            "`python -m cache info`"
        )
    used = sorted({labels.ids[row] for rows in chosen.values() for row in rows})
    clips = load_clips(cache, config, used, len(labels.classes))
    place = {clip_id: row for row, clip_id in enumerate(used)}
    ends = np.stack([labels.start_s, labels.end_s], 1) / cache.config["clip_seconds"]

    def samples(rows: npt.NDArray[np.int64]) -> Samples:
        return Samples(
            clip=torch.tensor([place[labels.ids[row]] for row in rows], dtype=torch.int64).to(
                clips.device
            ),
            category=torch.from_numpy(labels.category[rows]).to(clips.device),
            interval=torch.from_numpy(ends[rows].astype(np.float32)).to(clips.device),
            rows=rows,
        )

    named = {name: samples(rows) for name, rows in chosen.items()}
    train = kept["train"]
    truth = Events(labels.category[train], labels.start_s[train], labels.end_s[train])
    ids = [labels.ids[row] for row in train]
    return Dataset(clips, named, labels.classes, without, labels.ids, leaks, notes, truth, ids)


def load_clips(cache: Cache, config: TrainConfig, ids: Sequence[str], classes: int) -> Clips:
    """Features of the named clips on the config's device."""
    device = pick_device(config.device)
    audio = [f"audio/{name}" for name in AUDIO_FEATURES] if config.modality != "video" else []
    video = ["video/maps", "video/frame_time_s"] if config.modality != "audio" else []
    clip_seconds = float(cache.config["clip_seconds"])
    steps = max(1, round(clip_seconds * config.audio_rate_hz))
    features = 2 * sum(cache.fields[name].shape[1] for name in audio)
    frames, channels, side = (cache.fields["video/maps"].shape if video else (0, 0, 0, 0))[:3]
    count = len(ids)
    _check_memory(
        count * (steps * features * 4 + frames * channels * side * side * 2), device, cache.path
    )
    clips = Clips(
        ids=list(ids),
        shapes=Shapes(features, channels, side, classes, clip_seconds),
        device=device,
        step_time_s=((torch.arange(steps) + 0.5) * clip_seconds / steps).to(device),
        step_s=clip_seconds / steps,
        audio=torch.zeros(count, steps, features, device=device) if audio else None,
        audio_valid=torch.zeros(count, steps, dtype=torch.bool, device=device),
        maps=torch.empty(count, frames, side * side, channels, dtype=torch.float16, device=device)
        if video
        else None,
        frame_time_s=torch.zeros(count, frames, device=device),
        frame_span_s=torch.ones(count, device=device),
    )
    _fill(clips, cache, audio, video)
    return clips


def _fill(clips: Clips, cache: Cache, audio: list[str], video: list[str]) -> None:
    names = [*audio, *video, "rows/valid_s", "rows/audio_steps"]
    rows = np.array([cache.row(clip_id) for clip_id in clips.ids], np.int64)
    bar = tqdm(
        total=len(rows), desc="reading", unit="clip", delay=1.0, file=sys.stderr, mininterval=0.5
    )
    with bar:
        for places, arrays in cache.by_shard(names, rows):
            at = torch.from_numpy(places).to(clips.device)
            if clips.audio is not None:
                pooled, valid = pool_steps(
                    [arrays[name] for name in audio],
                    arrays["rows/audio_steps"],
                    cache.config["hop_samples"] / cache.config["sample_rate_hz"],
                    clips.step_s,
                    clips.audio.shape[1],
                )
                clips.audio[at] = pooled.to(clips.device)
                clips.audio_valid[at] = valid.to(clips.device)
            if clips.maps is not None:
                maps = torch.from_numpy(arrays["video/maps"]).to(clips.device)
                clips.maps[at] = maps.flatten(3).transpose(2, 3)
                time_s = arrays["video/frame_time_s"].astype(np.float32)
                span_s = (arrays["rows/valid_s"] / time_s.shape[1]).astype(np.float32)
                clips.frame_time_s[at] = torch.from_numpy(time_s).to(clips.device)
                clips.frame_span_s[at] = torch.from_numpy(span_s).to(clips.device)
            bar.update(len(places))


def pool_steps(
    features: Sequence[npt.NDArray[Any]],
    steps: npt.NDArray[Any],
    hop_s: float,
    window_s: float,
    windows: int,
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the valid steps in each window of `window_s` seconds.

    Each of `features` is (n, steps, D_i), of which step k is at k × hop_s and is valid where
    k < steps[n]. Returns the means of all, then the deviations of all: (n, windows, 2 ΣD) float32,
    zero in windows without a valid step; and which windows have one, (n, windows) bool.
    """
    total = features[0].shape[1]
    window = np.minimum((np.arange(total) * hop_s / window_s).astype(np.int64), windows - 1)
    ends = np.searchsorted(window, np.arange(windows), side="right")
    begins = np.concatenate([[0], ends[:-1]])
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
    if not torch.isfinite(pooled).all():
        raise CacheError("a valid audio step is not finite; run `python -m cache verify`")
    return pooled, counts > 0


def _silence(values: Tensor, tails: Sequence[tuple[int, int]]) -> None:
    """Zero the steps that (clip, length) doesn't have."""
    for clip, length in tails:
        values[clip, length:] = 0


def standardise(model: FusionModel, clips: Clips, train: Samples) -> None:
    """Store the mean and deviation of each feature over the training rows in the model."""
    rows = torch.unique(train.clip)
    if model.audio is not None:
        assert clips.audio is not None
        steps = clips.audio[rows][clips.audio_valid[rows]]
        _store(model.audio, steps.mean(dim=0), steps.std(dim=0, correction=0))
    if model.video is not None:
        assert clips.maps is not None
        # Sums over parts in float64: float32 sums of millions of cells lose digits.
        total = torch.zeros(clips.shapes.map_channels, dtype=torch.float64)
        square, cells = torch.zeros_like(total), 0
        for part in torch.split(rows, 64):
            flat = clips.maps[part].float().flatten(0, 2)
            total += flat.sum(dim=0).cpu()
            square += flat.square().sum(dim=0).cpu()
            cells += len(flat)
        mean = total / cells
        deviation = (square / cells - mean.square()).clamp_min(0).sqrt()
        # A channel that hardly ever fires is not blown up into noise.
        _store(model.video, mean, deviation.clamp_min(0.1 * float(deviation.median())))


def _store(encoder: torch.nn.Module, mean: Tensor, deviation: Tensor) -> None:
    encoder.get_buffer("mean").copy_(mean)
    encoder.get_buffer("deviation").copy_(deviation.clamp_min(1e-5))


def _check_memory(need: int, device: torch.device, path: Path) -> None:
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if need > _MEMORY_SHARE * free:
        raise ConfigError(
            f"{path}: its features need {need / 2**30:.1f} GiB on {device.type}, which has "
            f"{free / 2**30:.1f} GiB; use a device with more memory, or train on one modality "
            "(--modality audio needs little)"
        )
