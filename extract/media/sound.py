"""Decoded sound → a clip's waveform: placed on its clock, resampled, cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import soxr

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.streams import Streams, decoded

GAP_S = 0.05
"""A jump of the audio clock that is larger than this is a true gap, smaller ones are rounding."""
NOISY = frozenset({"aac", "aac_latm", "ac3", "eac3", "mp1", "mp2", "mp3", "opus"})
"""Decoders whose samples depend on where they began, if by noise or the last bit alone."""
Samples = npt.NDArray[np.float32]


class Block(NamedTuple):
    """Decoded mono sound: its rate in Hz, when it plays, s."""

    rate_hz: int
    time_s: float
    samples: Samples

    @property
    def end_s(self) -> float:
        """When it ends, s."""
        return self.time_s + len(self.samples) / self.rate_hz


def sound_of_clip(path: Path, streams: Streams, config: ExtractConfig) -> tuple[Samples, float]:
    """The waveform of a clip by its packets, and when it begins, in s."""
    context = _decoder(streams, streams.offset_s)
    end_s = streams.start_s + config.clip_seconds
    return _placed_blocks(path, blocks_of(streams, end_s, context), streams, config)


class Sound:
    """The sound of a stretch for its windows: decoded once, where that makes no difference."""

    def __init__(self, path: Path, streams: Streams, end_s: float, config: ExtractConfig) -> None:
        self._path, self._config = path, config
        self._blocks: list[Block | None] | None = None
        if _decoder(streams, math.inf) is None:
            self._blocks = list(blocks_of(streams, streams.start_s + end_s))

    def window(self, view: Streams) -> tuple[Samples, float]:
        """What `sound_of_clip` gives of a window, as if it were decoded alone."""
        if self._blocks is None:
            return sound_of_clip(self._path, view, self._config)
        return _placed_blocks(self._path, self._blocks, view, self._config)


def _decoder(streams: Streams, offset_s: float) -> Any:
    """A decoder that has decoded nothing yet, where that matters; else None.

    At the beginning packets say what is to be skipped, which the stream's own decoder knows.
    """
    codec = streams.audio[0].stream.codec_context if streams.audio else None
    if codec is None or codec.name not in NOISY or offset_s == 0:
        return None
    fresh = av.CodecContext.create(codec.codec, "r")
    fresh.extradata, fresh.thread_count = codec.extradata, 1
    return fresh


def _placed_blocks(
    path: Path, blocks: Iterable[Block | None], streams: Streams, config: ExtractConfig
) -> tuple[Samples, float]:
    """The clip's waveform of blocks that may begin before it and end after it."""

    def inside() -> Iterator[Block]:
        begun = streams.offset_s == 0
        for block in blocks:
            begun = begun or (block is not None and block.end_s > streams.start_s)
            if begun:
                # Seconds from the clip's start, as everywhere: their rounding decides.
                if block is None or block.time_s - streams.start_s >= config.clip_seconds:
                    return
                yield block

    return waveform_of(path, inside(), streams.start_s, config)


def blocks_of(streams: Streams, end_s: float, context: Any = None) -> Iterator[Block | None]:
    """The sound up to a time, s on the container's clock; None where a packet is damaged.

    The mean over channels, like librosa.to_mono. `context` is the decoder, by default the
    stream's own.
    """
    resamplers: dict[tuple[Any, ...], av.AudioResampler] = {}
    rest: Sequence[Any] = streams.audio
    while rest:
        damaged = len(rest)
        for number, time_s, frame in decoded(rest, context=context):
            if frame is None:
                damaged = number
                break
            if time_s >= end_s:
                return
            for part in _planar(frame, resamplers):
                channels = part.to_ndarray()
                mono = channels[0] if len(channels) == 1 else channels.mean(axis=0)
                yield Block(frame.sample_rate, time_s, mono)
        else:
            return
        yield None
        rest = rest[damaged + 1 :]


def _planar(frame: Any, resamplers: dict[tuple[Any, ...], av.AudioResampler]) -> list[Any]:
    """A frame as planes of floats."""
    if frame.format.name == "fltp":
        return [frame]
    kind = frame.format.name, frame.layout.name, frame.sample_rate
    if kind not in resamplers:
        resamplers[kind] = av.AudioResampler(format="fltp")
    return resamplers[kind].resample(frame)


def waveform_of(
    path: Path, blocks: Iterable[Block], begin_s: float, config: ExtractConfig
) -> tuple[Samples, float]:
    """The clip's waveform, each block placed where it plays; and when it begins, in s.

    Where the rate changes in mid-stream, each stretch of one rate is resampled by itself.
    """
    stretches = [
        (rate_hz, [(block.time_s - begin_s, block.samples) for block in one])
        for rate_hz, one in itertools.groupby(blocks, lambda block: block.rate_hz)
    ]
    if not stretches:
        raise MediaError(path, "audio", "expected sound, found no block that decodes")
    rate_hz, placeable = stretches[0]
    if len(stretches) > 1:
        rate_hz, placeable = (
            config.sample_rate_hz,
            [_joined(one, rate_hz, config.sample_rate_hz) for rate_hz, one in stretches],
        )
    samples, start_s = placed(placeable, rate_hz)
    return finish_waveform(path, samples, rate_hz, config), start_s


def _joined(
    blocks: list[tuple[float, Samples]], rate_hz: int, wanted_hz: int
) -> tuple[float, Samples]:
    """Blocks of one rate as one block of another."""
    start_s = blocks[0][0]
    samples, _ = placed([(time_s - start_s, block) for time_s, block in blocks], rate_hz)
    return start_s, resampled(samples, rate_hz, wanted_hz)


def placed(blocks: list[tuple[float, Samples]], rate_hz: int) -> tuple[Samples, float]:
    """Join blocks on the clip's clock: silence before the first and in true gaps."""
    parts: list[Samples] = []
    position = 0
    for time_s, block in blocks:
        gap = round(time_s * rate_hz) - position
        if position == 0 and gap < 0:
            block = block[-gap:]  # sound before the clip's start
        elif gap > (GAP_S * rate_hz if position else 0):
            parts.append(np.zeros(gap, np.float32))
            position += gap
        parts.append(block)
        position += len(block)
    return np.concatenate(parts), max(0.0, blocks[0][0])


def finish_waveform(path: Path, samples: Samples, rate_hz: int, config: ExtractConfig) -> Samples:
    """Resample, cut at the clip's end, check."""
    samples = resampled(samples, rate_hz, config.sample_rate_hz)
    samples = np.ascontiguousarray(samples[: config.clip_samples], np.float32)
    if len(samples) < config.shortest_samples:
        raise MediaError(
            path,
            "audio",
            f"expected at least {config.shortest_samples / config.sample_rate_hz:.2f} s of sound, "
            f"found {len(samples) / config.sample_rate_hz:.3f} s",
        )
    if not np.isfinite(samples).all():
        raise MediaError(
            path,
            "audio",
            "expected finite samples, found NaN or infinity, or a level beyond float32; "
            "write the sound anew, with full scale at 1",
        )
    return samples


def resampled(samples: Samples, rate_hz: int, wanted_hz: int) -> Samples:
    """Samples at another rate (soxr, high quality, librosa's default)."""
    if not len(samples) or rate_hz == wanted_hz:
        return samples
    changed: Samples = soxr.resample(samples, rate_hz, wanted_hz, quality="HQ")
    return changed
