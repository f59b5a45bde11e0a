"""Decode one clip: a mono waveform and the chosen frames, on one clock.

Time is in seconds from the clip's start, which is the container's own start time (0 for the
processed layout). A stream counts up to the first packet that can't be decoded or the point
where the file ends; what would come after is not made up. (Frames that are neither needed nor
referred to by others are not decoded, so damage to them alone goes unseen, and does no harm.)
Containers (mp4, webm, …) are decoded with PyAV, whose wheels carry FFmpeg.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av.error
import numpy as np
import numpy.typing as npt
import soundfile

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.files import Album, media_sha256, read_pictures
from extract.media.frames import decode_frames
from extract.media.reading import read_packets
from extract.media.sound import Samples, finish_waveform, sound_of_clip
from extract.sources import MediaSource
from extract.stretches import shortest_s


@dataclass
class Decoded:
    """What was decoded of one clip.

    Attributes
    ----------
    waveform: (samples,) float32 mono at the configured rate from clip start; None without sound.
    audio_start_s: when the sound begins; the samples before are silence.
    frames: F pictures (height, width, 3) uint8 RGB, upright, or what was made of each; empty
        without video.
    frame_time_s: (F,) float64 presentation time of each frame.
    valid_s: how much of the clip exists, at most clip_seconds.
    media_s: length that the file declares; NaN where it declares none.
    sha256: digest of the media bytes that were read.
    note: a sentence on what its two streams disagree in; "" for nothing.
    """

    waveform: Samples | None = None
    audio_start_s: float = 0.0
    frames: list[Any] = field(default_factory=list)
    frame_time_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    valid_s: float = 0.0
    media_s: float = math.nan
    sha256: bytes = bytes(32)
    note: str = ""


def decode(source: MediaSource, config: ExtractConfig, offset_s: float = 0.0) -> Decoded:
    """Decode a clip from either layout. Raises MediaError naming the file and what is wrong.

    With an offset, the clip that begins so many seconds into the recording.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found, and said
        if source.container is not None:
            return decode_container(source.container, config, offset_s)
        album = None if source.frames is None else Album(source.frames)
        return decode_processed(source, album, config, offset_s)


def decode_processed(
    source: MediaSource, album: Album | None, config: ExtractConfig, offset_s: float
) -> Decoded:
    """Decode a clip of a WAV and pictures, which `album` holds."""
    want_audio, want_video = config.modalities != "video", config.modalities != "audio"
    clip, digest = Decoded(), hashlib.sha256()
    length_s = config.clip_seconds
    if source.sound is not None:
        digest.update(_sha256(source.sound))
        samples, rate_hz, clip.media_s, clip.audio_start_s = _read_sound(
            source.sound, config, offset_s
        )
        clip.valid_s = min(config.clip_seconds, len(samples) / rate_hz)
        if offset_s and clip.valid_s < shortest_s(config):
            raise MediaError(source.sound, "end", f"expected more than {offset_s:g} s of sound")
        cut = len(samples) >= math.ceil(config.clip_seconds * rate_hz) and clip.media_s > 0
        end_s = offset_s + clip.valid_s
        length_s = max(clip.media_s, end_s) if cut else end_s
        if want_audio:
            clip.waveform = finish_waveform(source.sound, samples, rate_hz, config)
    elif want_audio:
        raise MediaError(source.path, "audio", "expected audio_wav/<id>.wav beside it, found none")
    if want_video:
        if album is None:
            raise MediaError(
                source.path, "video", "expected video_frames/<id>/ with pictures, found none"
            )
        clip.valid_s = clip.valid_s or config.clip_seconds
        length_s = length_s or config.clip_seconds
        span_s = offset_s, offset_s + clip.valid_s
        clip.frames, clip.frame_time_s, clip.note = read_pictures(
            album, span_s, length_s, config, digest
        )
    clip.sha256 = digest.digest()
    return clip


def _sha256(path: Path) -> bytes:
    try:
        return media_sha256(path)
    except OSError as error:
        raise MediaError(path, "audio", f"expected a readable WAV file, found: {error}") from None


def _read_sound(
    path: Path, config: ExtractConfig, offset_s: float
) -> tuple[Samples, int, float, float]:
    """Mono samples of clip_seconds from an offset on; rate in Hz, declared length, beginning in s.

    What libsndfile can't read, or finds empty, FFmpeg may know: headers that a stream's writer
    never completed, or another kind of sound under the name of a WAV.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            rate_hz, media_s = sound.samplerate, sound.frames / sound.samplerate
            if offset_s:
                sound.seek(min(round(offset_s * rate_hz), sound.frames))
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
        other = decode_container(path, config.revised(modalities="audio"), offset_s)
    except MediaError:
        if problem:
            raise MediaError(path, "audio", problem) from None
        return np.zeros(0, np.float32), rate_hz, media_s, 0.0
    assert other.waveform is not None
    return other.waveform, config.sample_rate_hz, other.media_s, other.audio_start_s


def container_sha256(path: Path) -> bytes:
    """Digest of a container's bytes; MediaError where there are none."""
    sha256 = media_sha256(path)
    if sha256 == hashlib.sha256().digest():
        raise MediaError(path, "find", "expected audio and video, found an empty file")
    return sha256


def decode_container(path: Path, config: ExtractConfig, offset_s: float = 0.0) -> Decoded:
    """Decode clip_seconds of a container's sound and pictures, from an offset on."""
    try:
        sha256 = container_sha256(path)
        part = offset_s, offset_s + config.clip_seconds
        with read_packets(path, config, part) as whole:
            clip, streams = Decoded(media_s=whole.media_s, sha256=sha256), whole.window(*part)
            if config.modalities != "audio":
                clip.frames, clip.frame_time_s, clip.valid_s = decode_frames(path, streams, config)
            if config.modalities != "video":
                clip.waveform, clip.audio_start_s = sound_of_clip(path, streams, config)
                clip.valid_s = max(clip.valid_s, len(clip.waveform) / config.sample_rate_hz)
            return clip
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> MediaError:
    """What FFmpeg or the system says of a container that can't be opened, as a MediaError."""
    expected = "expected audio and video that FFmpeg can open"
    return MediaError(path, "find", f"{expected}, found: {_reason(error)}")


def _reason(error: Exception) -> str:
    """What FFmpeg or the system says, without its number and the path, which is told already."""
    words = getattr(error, "strerror", None) or str(error)
    return f"{words[:1].lower()}{words[1:]}"
