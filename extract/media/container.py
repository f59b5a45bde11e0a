"""Decode a container (mp4, webm, …) with PyAV, whose wheels carry FFmpeg."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.container_video import decode_video
from extract.media.decoded import Decoded, finish_waveform, resampled
from extract.media.media_file import media_sha256
from extract.media.streams import DECODER_OPTIONS, Streams, decoded, read_packets

GAP_S = 0.05
"""A jump of the audio clock that is larger than this is a true gap, smaller ones are rounding."""
TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
"""Tags that are no UTF-8 are none of our business; PyAV 19 takes them without being asked."""


def decode_container(path: Path, config: ExtractConfig) -> Decoded:
    """Decode the first clip_seconds of a container's sound and pictures."""
    try:
        sha256 = media_sha256(path)
        if sha256 == hashlib.sha256().digest():
            raise MediaError(path, "find", "expected audio and video, found an empty file")
        # Only this file: a playlist inside must not lead to other files or the network.
        options = {"protocol_whitelist": "file", **DECODER_OPTIONS}
        with av.open(str(path.absolute()), options=options, **TAGS) as container:
            streams = read_packets(path, container, config)
            clip = Decoded(media_s=streams.media_s, sha256=sha256)
            if config.modalities != "audio":
                decode_video(path, streams, config, clip)
            if config.modalities != "video":
                _decode_audio(path, streams, config, clip)
            return clip
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            path, "find", f"expected audio and video that FFmpeg can open, found: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    """What FFmpeg or the system says, without its number and the path, which is told already."""
    words = getattr(error, "strerror", None) or str(error)
    return f"{words[:1].lower()}{words[1:]}"


def _decode_audio(path: Path, streams: Streams, config: ExtractConfig, clip: Decoded) -> None:
    """Place each decoded block where it plays.

    Where the rate changes in mid-stream, each stretch of one rate is resampled by itself.
    """
    stretches = [
        (rate_hz, [(time_s, block) for _, time_s, block in blocks])
        for rate_hz, blocks in itertools.groupby(_blocks(streams, config), lambda block: block[0])
    ]
    if not stretches:
        raise MediaError(path, "audio", "expected sound, found no block that decodes")
    rate_hz, blocks = stretches[0]
    if len(stretches) > 1:
        rate_hz, blocks = (
            config.sample_rate_hz,
            [_joined(blocks, rate_hz, config.sample_rate_hz) for rate_hz, blocks in stretches],
        )
    samples, clip.audio_start_s = _placed(blocks, rate_hz)
    clip.waveform = finish_waveform(path, samples, rate_hz, config)
    clip.valid_s = max(clip.valid_s, len(clip.waveform) / config.sample_rate_hz)


def _blocks(
    streams: Streams, config: ExtractConfig
) -> Iterator[tuple[int, float, npt.NDArray[np.float32]]]:
    """(rate in Hz, time in s, samples): the mean over channels, like librosa.to_mono."""
    resamplers: dict[tuple[Any, ...], av.AudioResampler] = {}
    for _, time_s, frame in decoded(streams.audio):
        if frame is None or time_s - streams.start_s >= config.clip_seconds:
            return
        parts = [frame]
        if frame.format.name != "fltp":
            kind = frame.format.name, frame.layout.name, frame.sample_rate
            if kind not in resamplers:
                resamplers[kind] = av.AudioResampler(format="fltp")
            parts = resamplers[kind].resample(frame)
        for part in parts:
            channels = part.to_ndarray()
            mono = channels[0] if len(channels) == 1 else channels.mean(axis=0)
            yield frame.sample_rate, time_s - streams.start_s, mono


def _joined(
    blocks: list[tuple[float, npt.NDArray[np.float32]]], rate_hz: int, wanted_hz: int
) -> tuple[float, npt.NDArray[np.float32]]:
    """Blocks of one rate as one block of another."""
    start_s = blocks[0][0]
    samples, _ = _placed([(time_s - start_s, block) for time_s, block in blocks], rate_hz)
    return start_s, resampled(samples, rate_hz, wanted_hz)


def _placed(
    blocks: list[tuple[float, npt.NDArray[np.float32]]], rate_hz: int
) -> tuple[npt.NDArray[np.float32], float]:
    """Join blocks on the clip's clock: silence before the first and in true gaps."""
    parts: list[npt.NDArray[np.float32]] = []
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
