"""Decode one clip: a mono waveform and the chosen frames, on one clock.

Time is in seconds from the clip's start, which is the container's own start time (0 for the
processed layout). A stream counts up to the first packet that can't be decoded or the point
where the file ends; what would come after is not made up. (Frames that are neither needed nor
referred to by others are not decoded, so damage to them alone goes unseen, and does no harm.)
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import soundfile

from cache.errors import MediaError
from extract.clips import Source, centres_s, pictures
from extract.config import ExtractConfig
from extract.container import decode_container
from extract.decoded import Decoded, Picture, finish_waveform


def decode(source: Source, config: ExtractConfig) -> Decoded:
    """Decode a clip from either layout. Raises MediaError naming the file and what is wrong."""
    if source.container is not None:
        return decode_container(source.container, config)
    return _decode_processed(source, config)


def _decode_processed(source: Source, config: ExtractConfig) -> Decoded:
    want_audio, want_video = config.modalities != "video", config.modalities != "audio"
    clip = Decoded()
    digest = hashlib.sha256()
    if source.sound is not None:
        samples, rate_hz, clip.media_s = _read_wav(source.sound, config, digest)
        clip.valid_s = min(config.clip_seconds, len(samples) / rate_hz)
        if want_audio:
            clip.waveform = finish_waveform(source.sound, samples, rate_hz, config)
    elif want_audio:
        raise MediaError(source.path, "audio", "expected audio_wav/<id>.wav beside it, found none")
    if want_video:
        if source.frames is None:
            raise MediaError(
                source.path, "video", "expected video_frames/<id>/ with pictures, found none"
            )
        extent_s = clip.valid_s or config.clip_seconds
        clip.frames, clip.frame_time_s = _read_pictures(source.frames, extent_s, config, digest)
        clip.valid_s = extent_s
    clip.sha256 = digest.digest()
    return clip


def _read_wav(
    path: Path, config: ExtractConfig, digest: Any
) -> tuple[npt.NDArray[np.float32], int, float]:
    """The first clip_seconds as (mono samples, rate in Hz, declared length in s)."""
    try:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        with soundfile.SoundFile(path) as sound:
            rate_hz, media_s = sound.samplerate, sound.frames / sound.samplerate
            samples = sound.read(
                math.ceil(config.clip_seconds * rate_hz), dtype="float32", always_2d=True
            )
    except (OSError, soundfile.LibsndfileError) as error:
        raise MediaError(path, "audio", f"expected a readable WAV file, found: {error}") from None
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    return mono, rate_hz, media_s


def _read_picture(path: Path, digest: Any) -> cv2.typing.MatLike:
    try:
        data = path.read_bytes()
        digest.update(data)
        picture = (
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
        )
    except (OSError, cv2.error) as error:
        raise MediaError(path, "video", f"expected a picture, found: {error}") from None
    if picture is None:
        raise MediaError(path, "video", f"expected a picture, found {len(data)} unreadable bytes")
    return picture


def _read_pictures(
    folder: Path, extent_s: float, config: ExtractConfig, digest: Any
) -> tuple[list[Picture], npt.NDArray[np.float64]]:
    """The pictures on screen at the sampled moments; they divide the extent evenly."""
    try:
        paths = pictures(folder)
    except OSError as error:
        raise MediaError(folder, "video", f"expected pictures, found: {error}") from None
    if not paths:
        raise MediaError(folder, "video", "expected .jpg or .png pictures, found none")
    targets_s = centres_s(extent_s, config.num_frames)
    chosen = np.minimum((targets_s / extent_s * len(paths)).astype(int), len(paths) - 1)
    frames = []
    for path in (paths[place] for place in chosen):
        picture = _read_picture(path, digest)
        frames.append(picture)
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError(folder, "video", "expected pictures of one size, found several")
    return [np.asarray(frame, np.uint8) for frame in frames], chosen * (extent_s / len(paths))
