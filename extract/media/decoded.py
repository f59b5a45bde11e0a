"""What decoding gives, whichever layout it came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.features.audio import shortest_samples

Picture = npt.NDArray[np.uint8]


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

    waveform: npt.NDArray[np.float32] | None = None
    audio_start_s: float = 0.0
    frames: list[Picture] = field(default_factory=list)
    frame_time_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    valid_s: float = 0.0
    media_s: float = math.nan
    sha256: bytes = bytes(32)
    note: str = ""


def finish_waveform(
    path: Path, samples: npt.NDArray[np.float32], rate_hz: int, config: ExtractConfig
) -> npt.NDArray[np.float32]:
    """Resample, cut at the clip's end, check."""
    samples = resampled(samples, rate_hz, config.sample_rate_hz)
    samples = np.ascontiguousarray(samples[: config.clip_samples], np.float32)
    shortest = shortest_samples(config)
    if len(samples) < shortest:
        raise MediaError(
            path,
            "audio",
            f"expected at least {shortest / config.sample_rate_hz:.2f} s of sound, "
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


def resampled(
    samples: npt.NDArray[np.float32], rate_hz: int, wanted_hz: int
) -> npt.NDArray[np.float32]:
    """Samples at another rate (soxr, high quality, librosa's default)."""
    if not len(samples) or rate_hz == wanted_hz:
        return samples
    changed: npt.NDArray[np.float32] = soxr.resample(samples, rate_hz, wanted_hz, quality="HQ")
    return changed
