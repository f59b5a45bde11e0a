"""What the features are. Every field changes the numbers, so every field is in the fingerprint."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cache.common.settings import Settings
from cache.format.identity import Identity
from extract.backbones import NETWORKS, Backbone

FEATURE_VERSION = 2
"""Raised whenever the code gives other numbers for the same settings; see CHANGELOG.md."""


LOWEST_BAND_HZ = 200
"""Width of spectral contrast's lowest bands, in librosa and here; its highest begins at
6,400, so the sample rate must be above 12,800."""
DELTA_WIDTH_STEPS = 9
"""librosa.feature.delta's default window; the shortest sound that has differences."""


class ExtractConfig(Settings):
    """Settings of the feature extraction.

    Defaults follow AVE's 10 s clips; times are in seconds from the clip's start.
    """

    clip_seconds: float = Field(10.0, gt=0, le=3600)
    """Length of a clip; longer media is cut here, shorter media keeps its true length."""
    hop_seconds: float | None = Field(None, gt=0, le=3600)
    """Recordings longer than a clip give a clip every so many seconds; none: their beginning
    alone."""
    modalities: Literal["both", "audio", "video"] = "both"
    """What a clip must have. A missing one is a failure, unless only the other is asked for."""
    sample_rate_hz: int = Field(22050, gt=12800, le=192000)
    """Rate that sound is resampled to (mono, mean of the channels)."""
    n_fft_samples: int = Field(2048, ge=256, le=16384)
    """Window of the short-time Fourier transform."""
    hop_samples: int = Field(512, ge=64, le=16384)
    """Step between windows; 512 at 22,050 Hz is 43 steps a second."""
    n_mfcc: int = Field(40, ge=1, le=128)
    """MFCCs; their first and second differences are stored too."""
    n_mels: int = Field(64, ge=1, le=256)
    """Bands of the log-Mel spectrogram."""
    audio_profile: Literal["fast", "librosa"] = "fast"
    """fast: one shared STFT, float16. librosa: five plain librosa calls, bit for bit, float32."""
    num_frames: int = Field(8, ge=1, le=256)
    """Frames a clip: the centres of this many equal parts of its video."""
    backbone: Backbone = "small"
    """The network that frames go through. small, large: MobileNetV3; others are heavier."""
    resize_px: int | None = Field(None, ge=32, le=2048)
    """Shorter side before the crop; none: torchvision's preset (large 232, others 256)."""
    frame_size_px: int = Field(224, ge=32, le=2048)
    """Side of the centre crop that the network sees."""
    jpeg_quality: int = Field(80, ge=1, le=100)
    """Quality of the stored pictures of the frames."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.frame_size_px > self.shorter_side_px:
            raise ValueError(
                f"frame_size_px {self.frame_size_px} is larger than "
                f"resize_px {self.shorter_side_px}"
            )
        hop_s = self.hop_seconds
        if hop_s is not None and (hop_s > self.clip_seconds or round(hop_s, 3) != hop_s):
            raise ValueError(
                f"hop_seconds {hop_s:g}: expected whole milliseconds, at most clip_seconds "
                f"({self.clip_seconds:g}): seconds between windows would be looked at by none"
            )
        if self.hop_samples > self.n_fft_samples:
            raise ValueError(
                f"hop_samples {self.hop_samples} is larger than n_fft_samples {self.n_fft_samples}"
            )
        if self.sample_rate_hz > LOWEST_BAND_HZ * self.n_fft_samples:
            raise ValueError(
                f"n_fft_samples {self.n_fft_samples} is too short at {self.sample_rate_hz} Hz: "
                f"spectral contrast has a band of {LOWEST_BAND_HZ} Hz, which would hold no bin"
            )
        return self

    @property
    def shorter_side_px(self) -> int:
        """What the shorter side is resized to before the crop."""
        return self.resize_px or NETWORKS[self.backbone].shorter_side_px

    @property
    def clip_samples(self) -> int:
        """Samples of a whole clip."""
        return round(self.clip_seconds * self.sample_rate_hz)

    @property
    def audio_steps(self) -> int:
        """STFT steps of a whole clip, T: step k is centred on sample k × hop_samples."""
        return 1 + self.clip_samples // self.hop_samples

    @property
    def shortest_samples(self) -> int:
        """Fewest samples that give every feature (the differences need 9 steps)."""
        return (DELTA_WIDTH_STEPS - 1) * self.hop_samples

    def resolved(self, weights_sha256: str) -> dict[str, Any]:
        """The settings as stored and fingerprinted; `weights_sha256` is "" without video."""
        values = self.model_dump(mode="json")
        if self.hop_seconds is None:
            del values["hop_seconds"]  # caches without windows are what they always were
        return {**values, "resize_px": self.shorter_side_px, "weights_sha256": weights_sha256}

    @classmethod
    def of(cls, identity: Identity) -> ExtractConfig:
        """The settings that a cache's identity records."""
        values = {name: v for name, v in identity.config.items() if name != "weights_sha256"}
        return cls.parse(values, "the cache's settings")
