"""Where the time of one clip goes on one core, and the least that each stage could cost.

Stages are timed inside the real path: the functions that make it up are wrapped by a clock that
charges each with its own time, less that of the wrapped functions it calls.

A floor is a lower bound from this machine's measured rates (one core): the bytes that a stage
cannot avoid reading and writing over the rate of a copy, or its multiply-adds over the rate of a
float32 matrix product, whichever is larger; for hashes, the rate of SHA-256; for writing, the rate
of writing and flushing a plain file. Decoders have no such bound short of their own arithmetic, so
theirs, the bytes of the pixels or samples they give, is far below what any decoder reaches.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.fft
import soxr
import torch
from torch.utils.flop_counter import FlopCounterMode

import cache.format.shard
import extract.features.audio
import extract.features.extractor
import extract.features.video
import extract.media.decode
import extract.media.files
import extract.media.frames
import extract.media.sound
from cache.format.identity import Identity
from cache.format.shard import Clip, write_shard
from extract.config import ExtractConfig
from extract.features.extractor import Extractor, one_thread
from extract.media.decode import decode
from extract.sources import MediaSource

WRAPPED: tuple[tuple[str, Any, str], ...] = (
    ("open and hash the container", extract.media.decode, "decode_container"),
    ("demux", extract.media.decode, "read_packets"),
    ("decode pictures for their order", extract.media.frames, "presented"),
    ("decode pictures", extract.media.frames, "_needed_frames"),
    ("decode pictures again", extract.media.frames, "_frames_in_passing"),
    ("pictures to RGB", extract.media.decode, "decode_frames"),
    ("decode sound", extract.media.decode, "sound_of_clip"),
    ("place sound", extract.media.sound, "placed"),
    ("read and hash WAV", extract.media.decode, "_read_sound"),
    ("list pictures", extract.media.files, "pictures"),
    ("read, hash, decode pictures", extract.media.decode, "read_pictures"),
    ("cut and check sound", extract.media.sound, "finish_waveform"),
    ("resample", soxr, "resample"),
    ("STFT", extract.features.audio, "_power"),
    ("audio features", extract.features.extractor, "audio_features"),
    ("resize and crop", extract.features.extractor, "preprocess"),
    ("network", extract.features.video.Backbone, "__call__"),
    ("JPEG encode", extract.features.extractor, "encode_jpegs"),
    ("row digest", cache.format.shard, "row_digest"),
    ("arrays to HDF5", cache.format.shard, "_write_clips"),
    ("file image", cache.format.shard, "hdf5_image"),
    ("write and flush to disk", cache.format.shard, "replace_file"),
)


@dataclass
class Clock:
    """Own time of each wrapped function, in s."""

    own_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _inner: list[float] = field(default_factory=list)

    def wrap(self, stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, charged to `stage`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                spent = time.perf_counter() - started
                self.own_s[stage] += spent - self._inner.pop()
                if self._inner:
                    self._inner[-1] += spent

        return timed

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Wrap everything in `WRAPPED` for a while."""
        with contextlib.ExitStack() as stack:
            for stage, place, name in WRAPPED:
                timed = self.wrap(stage, getattr(place, name))
                stack.enter_context(mock.patch.object(place, name, timed))
            yield


def stages_ms(
    sources: list[MediaSource], identity: Identity, weights: str, folder: Path, repeats: int
) -> dict[str, float]:
    """Median ms per clip of each stage on one core; "all" is the wall time, wrapped or not."""
    extractor = Extractor(ExtractConfig.of(identity), weights, "cpu")
    runs: list[dict[str, float]] = []
    with one_thread():
        extractor(sources[0])
        for _ in range(repeats):
            clock, started = Clock(), time.perf_counter()
            with clock.running():
                write_shard(folder, identity, [extractor(source) for source in sources])
            whole = time.perf_counter() - started
            runs.append({**clock.own_s, "all": whole, "rest": whole - sum(clock.own_s.values())})
    stages = [stage for stage, _, _ in WRAPPED if stage in runs[0]]
    stages += ["rest", "all"]
    return {
        stage: statistics.median(run[stage] for run in runs) / len(sources) * 1e3
        for stage in stages
    }


def audio_parts_ms(source: MediaSource, config: ExtractConfig, repeats: int) -> dict[str, float]:
    """ms of each audio feature of one clip, from its power spectrum; they add up to about
    "audio features" of `stages_ms`.
    """
    audio = extract.features.audio
    filters = audio._filters(config)
    waveform = decode(source, config).waveform
    assert waveform is not None
    power = audio._power(waveform, config, filters.window)
    mfcc_mels, mels = np.split(filters.mels, [audio.MFCC_MELS], axis=1)
    mfcc_mels, mels = np.ascontiguousarray(mfcc_mels), np.ascontiguousarray(mels)
    chroma = power @ filters.chroma

    def mfcc() -> Any:
        decibels = audio._decibels(power @ mfcc_mels)
        values = scipy.fft.dct(decibels, type=2, norm="ortho", axis=1)[:, : config.n_mfcc]
        return audio._with_differences(values, filters.deltas).astype(np.float16)

    parts: dict[str, Callable[[], Any]] = {
        "MFCC": mfcc,
        "Mel": lambda: audio._decibels(power @ mels).astype(np.float16),
        "chroma": lambda: audio._divided(power @ filters.chroma, np.max).astype(np.float16),
        "contrast": lambda: audio._contrast(power, filters.bands).astype(np.float16),
        "tonnetz": lambda: (audio._divided(chroma, np.sum) @ filters.tonnetz).astype(np.float16),
    }
    with one_thread():
        return {name: median_s(part, repeats) * 1e3 for name, part in parts.items()}


def median_s(work: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call, after one that warms up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def machine_rates(folder: Path) -> dict[str, float]:
    """Measured rates of one core and of the disk beneath `folder`."""
    block = np.ones(1 << 25, np.uint8)
    target, plain = np.empty_like(block), block.tobytes()
    left, right = torch.ones(1024, 1024), torch.ones(1024, 1024)
    path = folder / "plain"

    def write() -> None:
        with path.open("wb") as file:
            file.write(plain)
            file.flush()
            os.fsync(file.fileno())

    with one_thread():
        rates = {
            "copy_GB_per_s": 2 * block.nbytes / median_s(lambda: np.copyto(target, block), 9) / 1e9,
            "sgemm_GFLOP_per_s": 2 * 1024**3 / median_s(lambda: left @ right, 9) / 1e9,
            "sha256_GB_per_s": len(plain) / median_s(lambda: hashlib.sha256(plain), 5) / 1e9,
            "disk_write_GB_per_s": block.nbytes / median_s(write, 5) / 1e9,
        }
    path.unlink()
    return rates


def floors_ms(
    source: MediaSource, row: Clip, config: ExtractConfig, weights: str, rates: dict[str, float]
) -> dict[str, float]:
    """Least ms per clip of each stage, by the rates; sizes are those of the clip `source`."""
    decoded = decode(source, config)
    assert decoded.waveform is not None
    picture, sound = sum(frame.nbytes for frame in decoded.frames), decoded.waveform.nbytes
    media = source.size
    pixels = extract.features.video.preprocess(decoded.frames, config)
    steps, bins = config.audio_steps, 1 + config.n_fft_samples // 2
    power = 4 * steps * bins
    stored = sum(array.nbytes for array in row.features.values()) + sum(map(len, row.jpegs))
    backbone = extract.features.video.load_backbone(config.backbone, weights, "cpu")
    with FlopCounterMode(display=False) as counter:
        backbone(pixels)

    def copied(count: float) -> float:
        return count / rates["copy_GB_per_s"] / 1e6

    def computed(flops: float) -> float:
        return flops / rates["sgemm_GFLOP_per_s"] / 1e6

    def hashed(count: float) -> float:
        return count / rates["sha256_GB_per_s"] / 1e6

    def product(width: int) -> float:
        return max(computed(2 * steps * bins * width), copied(power))

    fft = 2.5 * config.n_fft_samples * np.log2(config.n_fft_samples)
    return {
        "open and hash the container": hashed(media),
        "decode pictures": copied(picture / 2),
        "pictures to RGB": copied(1.5 * picture),
        "decode sound": copied(sound),
        "read and hash WAV": hashed(media),
        "read, hash, decode pictures": copied(picture),
        "resample": copied(2 * sound),
        "STFT": max(copied(sound + power), computed(steps * fft)),
        "MFCC": product(extract.features.audio.MFCC_MELS),
        "Mel": product(config.n_mels),
        "chroma": product(12),
        "contrast": copied(power),
        "tonnetz": copied(4 * steps * (12 + 6)),
        "resize and crop": copied(picture + pixels.numel()),
        "network": computed(counter.get_total_flops()),
        "JPEG encode": copied(pixels.numel()),
        "row digest": hashed(stored),
        "arrays to HDF5": copied(2 * stored),
        "file image": copied(2 * stored),
        "write and flush to disk": stored / rates["disk_write_GB_per_s"] / 1e6,
    }
