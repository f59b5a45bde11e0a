"""Which fields a cache of these settings holds: the one list of them, for the cache to declare.

Light: it needs none of the libraries that compute them.
"""

from __future__ import annotations

from cache.common.errors import ConfigError
from cache.format.fields import Field, Rate, Times
from cache.format.schema import Declaration, Pictures
from extract.backbones import NETWORKS
from extract.config import ExtractConfig

PX_PER_CELL = 32
"""Pixels of a picture to a cell of its map."""


def declare(config: ExtractConfig) -> Declaration:
    """What a clip's row holds; ConfigError where it would be larger than any cache allows."""
    audio = audio_fields(config) if config.modalities != "video" else []
    video = video_fields(config) if config.modalities != "audio" else []
    pictures = Pictures(config.num_frames, config.frame_size_px) if video else None
    try:
        return Declaration(config.clip_seconds, (*audio, *video), pictures, config.hop_seconds)
    except ValueError as error:
        raise ConfigError(
            f"these settings can't be stored: {error}; choose shorter clips, or fewer or smaller "
            "frames"
        ) from None


def audio_fields(config: ExtractConfig) -> list[Field]:
    """(T, D) each, as `extract.features.audio.audio_features` computes them."""
    dtype = "float16" if config.audio_profile == "fast" else "float32"
    clock = Rate(config.sample_rate_hz / config.hop_samples)
    features = {
        "mfcc": (3 * config.n_mfcc, "MFCC, then delta, then delta-delta"),
        "mel": (config.n_mels, "dB"),
        "chroma": (12, "1 (each step's maximum is 1)"),
        "contrast": (7, "dB"),
        "tonnetz": (6, "1"),
    }
    return [
        Field(f"audio/{name}", (config.audio_steps, width), dtype, unit, clock)
        for name, (width, unit) in features.items()
    ]


def video_fields(config: ExtractConfig) -> list[Field]:
    """Maps (F, C, H / 32, W / 32) and the time of each frame (F,)."""
    cells = -(-config.frame_size_px // PX_PER_CELL)
    shape = (config.num_frames, NETWORKS[config.backbone].channels, cells, cells)
    maps = Field("video/maps", shape, "float16", "activation", Times("video/frame_time_s"))
    return [maps, Field("video/frame_time_s", shape[:1], "float64", "s from clip start")]
