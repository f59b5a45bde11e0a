"""Decode one clip: a mono waveform and the chosen frames, on one clock.

Time is in seconds from the clip's start, which is the container's own start time (0 for the
processed layout). A stream counts up to the first packet that can't be decoded or the point
where the file ends; what would come after is not made up. (Frames that are neither needed nor
referred to by others are not decoded, so damage to them alone goes unseen, and does no harm.)
Containers (mp4, webm, …) are decoded with PyAV, whose wheels carry FFmpeg.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.files import Picture, media_sha256, read_pictures
from extract.media.frames import decode_frames
from extract.media.streams import DECODER_OPTIONS, Streams, decoded, read_packets
from extract.sources import MediaSource

GAP_S = 0.05
"""A jump of the audio clock that is larger than this is a true gap, smaller ones are rounding."""
TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
"""Tags that are no UTF-8 are none of our business; PyAV 19 takes them without being asked."""
Samples = npt.NDArray[np.float32]


@dataclass
class Decoded:
    """What was decoded of one clip.

    Attributes
    ----------
    waveform: (samples,) float32 mono at the configured rate from clip start; None without sound.
    audio_start_s: when the sound begins; the samples before are silence.
    frames: F pictures (height, width, 3) uint8 RGB, upright; empty without video.
    frame_time_s: (F,) float64 presentation time of each frame.
    valid_s: how much of the clip exists, at most clip_seconds.
    media_s: length that the file declares; NaN where it declares none.
    sha256: digest of the media bytes that were read.
    note: a sentence on what its two streams disagree in; "" for nothing.
    """

    waveform: Samples | None = None
    audio_start_s: float = 0.0
    frames: list[Picture] = field(default_factory=list)
    frame_time_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    valid_s: float = 0.0
    media_s: float = math.nan
    sha256: bytes = bytes(32)
    note: str = ""


def decode(source: MediaSource, config: ExtractConfig) -> Decoded:
    """Decode a clip from either layout. Raises MediaError naming the file and what is wrong."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found, and said
        if source.container is not None:
            return decode_container(source.container, config)
        return _decode_processed(source, config)


def _decode_processed(source: MediaSource, config: ExtractConfig) -> Decoded:
    want_audio, want_video = config.modalities != "video", config.modalities != "audio"
    clip, digest = Decoded(), hashlib.sha256()
    length_s = config.clip_seconds
    if source.sound is not None:
        digest.update(_sha256(source.sound))
        samples, rate_hz, clip.media_s, clip.audio_start_s = _read_sound(source.sound, config)
        clip.valid_s = min(config.clip_seconds, len(samples) / rate_hz)
        cut = len(samples) >= math.ceil(config.clip_seconds * rate_hz) and clip.media_s > 0
        length_s = max(clip.media_s, clip.valid_s) if cut else clip.valid_s
        if want_audio:
            clip.waveform = finish_waveform(source.sound, samples, rate_hz, config)
    elif want_audio:
        raise MediaError(source.path, "audio", "expected audio_wav/<id>.wav beside it, found none")
    if want_video:
        if source.frames is None:
            raise MediaError(
                source.path, "video", "expected video_frames/<id>/ with pictures, found none"
            )
        clip.valid_s = clip.valid_s or config.clip_seconds
        length_s = length_s or config.clip_seconds
        clip.frames, clip.frame_time_s, clip.note = read_pictures(
            source.frames, clip.valid_s, length_s, config, digest
        )
    clip.sha256 = digest.digest()
    return clip


def _sha256(path: Path) -> bytes:
    try:
        return media_sha256(path)
    except OSError as error:
        raise MediaError(path, "audio", f"expected a readable WAV file, found: {error}") from None


def _read_sound(path: Path, config: ExtractConfig) -> tuple[Samples, int, float, float]:
    """Mono samples of the first clip_seconds, rate in Hz, declared length and beginning in s.

    What libsndfile can't read, or finds empty, FFmpeg may know: headers that a stream's writer
    never completed, or another kind of sound under the name of a WAV.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            rate_hz, media_s = sound.samplerate, sound.frames / sound.samplerate
            samples = sound.read(
                math.ceil(config.clip_seconds * rate_hz), dtype="float32", always_2d=True
            )
        if len(samples):
            mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
            return mono, rate_hz, media_s, 0.0
        problem = ""
    except (OSError, soundfile.LibsndfileError) as error:
        problem = f"expected a readable WAV file, found: {error}"
    try:
        other = decode_container(path, config.revised(modalities="audio"))
    except MediaError:
        if problem:
            raise MediaError(path, "audio", problem) from None
        return np.zeros(0, np.float32), rate_hz, media_s, 0.0
    assert other.waveform is not None
    return other.waveform, config.sample_rate_hz, other.media_s, other.audio_start_s


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
                clip.frames, clip.frame_time_s, clip.valid_s = decode_frames(path, streams, config)
            if config.modalities != "video":
                clip.waveform, clip.audio_start_s = _decode_sound(path, streams, config)
                clip.valid_s = max(clip.valid_s, len(clip.waveform) / config.sample_rate_hz)
            return clip
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            path, "find", f"expected audio and video that FFmpeg can open, found: {_reason(error)}"
        ) from None


def _reason(error: Exception) -> str:
    """What FFmpeg or the system says, without its number and the path, which is told already."""
    words = getattr(error, "strerror", None) or str(error)
    return f"{words[:1].lower()}{words[1:]}"


def _decode_sound(path: Path, streams: Streams, config: ExtractConfig) -> tuple[Samples, float]:
    """The clip's waveform, each decoded block placed where it plays; and when it begins, in s.

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
    samples, start_s = _placed(blocks, rate_hz)
    return finish_waveform(path, samples, rate_hz, config), start_s


def _blocks(streams: Streams, config: ExtractConfig) -> Iterator[tuple[int, float, Samples]]:
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
    blocks: list[tuple[float, Samples]], rate_hz: int, wanted_hz: int
) -> tuple[float, Samples]:
    """Blocks of one rate as one block of another."""
    start_s = blocks[0][0]
    samples, _ = _placed([(time_s - start_s, block) for time_s, block in blocks], rate_hz)
    return start_s, resampled(samples, rate_hz, wanted_hz)


def _placed(blocks: list[tuple[float, Samples]], rate_hz: int) -> tuple[Samples, float]:
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
