"""Decode one clip: a mono waveform and the chosen frames, on one clock.

Time is in seconds from the clip's start, which is the container's own start time (0 for the
processed layout). A stream counts up to the first packet that can't be decoded or the point
where the file ends; what would come after is not made up. (Frames that are neither needed nor
referred to by others are not decoded, so damage to them alone goes unseen, and does no harm.)
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.container import decode_container
from extract.media.decoded import Decoded, finish_waveform
from extract.media.media_file import media_sha256, read_picture
from extract.sources import MediaSource, centres_s, pictures

_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?s?")


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
        samples, rate_hz = _read_sound(source.sound, config, clip)
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
        _read_pictures(source.frames, length_s, config, digest, clip)
    clip.sha256 = digest.digest()
    return clip


def _sha256(path: Path) -> bytes:
    try:
        return media_sha256(path)
    except OSError as error:
        raise MediaError(path, "audio", f"expected a readable WAV file, found: {error}") from None


def _read_sound(
    path: Path, config: ExtractConfig, clip: Decoded
) -> tuple[npt.NDArray[np.float32], int]:
    """(mono samples, rate in Hz) of the first clip_seconds; fills in the declared length.

    What libsndfile can't read, or finds empty, FFmpeg may know: headers that a stream's writer
    never completed, or another kind of sound under the name of a WAV.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            rate_hz, clip.media_s = sound.samplerate, sound.frames / sound.samplerate
            samples = sound.read(
                math.ceil(config.clip_seconds * rate_hz), dtype="float32", always_2d=True
            )
        if len(samples):
            return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1), rate_hz
        problem = ""
    except (OSError, soundfile.LibsndfileError) as error:
        problem = f"expected a readable WAV file, found: {error}"
    try:
        other = decode_container(path, config.revised(modalities="audio"))
    except MediaError:
        if problem:
            raise MediaError(path, "audio", problem) from None
        return np.zeros(0, np.float32), rate_hz
    clip.media_s, clip.audio_start_s = other.media_s, other.audio_start_s
    assert other.waveform is not None
    return other.waveform, config.sample_rate_hz


def _read_pictures(
    folder: Path, length_s: float, config: ExtractConfig, digest: Any, clip: Decoded
) -> None:
    """Fill in the pictures on screen at the sampled moments.

    They divide the recording's whole length evenly; those after the clip are not looked at.
    """
    try:
        paths = pictures(folder)
    except OSError as error:
        raise MediaError(folder, "video", f"expected pictures, found: {error}") from None
    if not paths:
        raise MediaError(folder, "video", "expected .jpg or .png pictures, found none")
    targets_s = centres_s(clip.valid_s, config.num_frames)
    chosen = np.minimum((targets_s / length_s * len(paths)).astype(int), len(paths) - 1)
    clip.frames = [np.asarray(read_picture(paths[place], digest), np.uint8) for place in chosen]
    clip.frame_time_s = chosen * (length_s / len(paths))
    clip.note = _disagreement(paths, length_s)


def _disagreement(paths: list[Path], length_s: float) -> str:
    """What the pictures' names say against the length they divide; "" where they say nothing.

    Names tell a time only where all of them are seconds, one at least with a decimal point.
    """
    if max(path.name.count(".") for path in paths) < 2:
        return ""
    if not all(_SECONDS.fullmatch(path.stem) for path in paths):
        return ""
    times_s = sorted(float(path.stem.rstrip("s")) for path in paths)
    step_s = (times_s[-1] - times_s[0]) / max(1, len(paths) - 1)
    end_s = times_s[-1] - times_s[0] + step_s
    if abs(end_s - length_s) <= step_s:
        return ""
    return (
        f"{paths[0].parent}: the names of its pictures span {end_s:.2f} s, the sound lasts "
        f"{length_s:.2f} s; the pictures were spread evenly over the sound"
    )
