"""One clip: media → the row that the cache stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import cv2
import numpy as np
import threadpoolctl
import torch

from cache.common.errors import MediaError
from cache.format.fields import Field
from cache.format.shard import Array, Clip, clip_problem
from extract.config import ExtractConfig
from extract.features.audio import audio_features
from extract.features.declare import declare
from extract.features.video import encode_jpegs, load_backbone, preprocess
from extract.media.decode import Decoded, decode
from extract.sources import MediaSource


class Extractor:
    """Turns sources into rows, on one core (and one device).

    `notes` gathers sentences about clips whose rows are made, but not without a doubt.
    """

    def __init__(self, config: ExtractConfig, weights: str, device: str) -> None:
        self.config = config
        self.notes: list[str] = []
        wants_video = config.modalities != "audio"
        self._backbone = load_backbone(config.backbone, weights, device) if wants_video else None
        self._declared = declare(config)

    @property
    def weights_sha256(self) -> str:
        """Digest of the network's weights; "" where no video is extracted."""
        return self._backbone.weights_sha256 if self._backbone else ""

    def __call__(self, source: MediaSource) -> Clip:
        """Decode and compute; raises MediaError naming the file, also where numbers overflow."""
        decoded = decode(source, self.config)
        if decoded.note:
            self.notes.append(decoded.note)
        features: dict[str, Array] = {}
        jpegs: list[bytes] = []
        steps = 0
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            if decoded.waveform is not None:
                try:
                    audio = audio_features(decoded.waveform, self.config)
                except OverflowError as error:
                    raise _unstorable(source, decoded, f"audio: {error}") from None
                steps = len(audio["mel"])
                for name, values in audio.items():
                    spec = self._declared.row_layout[f"audio/{name}"]
                    features[spec.name] = pad_steps(values, spec)
            if self._backbone is not None:
                pixels = preprocess(decoded.frames, self.config)
                features["video/maps"] = self._backbone(pixels)
                features["video/frame_time_s"] = decoded.frame_time_s
                jpegs = encode_jpegs(pixels, self.config.jpeg_quality)
        clip = _row(source, decoded, features, jpegs, steps)
        if problem := clip_problem(clip, self._declared):
            raise _unstorable(source, decoded, problem)
        return clip


def _unstorable(source: MediaSource, decoded: Decoded, problem: str) -> MediaError:
    """What to do about numbers that a row can't hold."""
    if problem.startswith("video/maps"):
        advice = (
            "the network's activations exceed what float16 holds: use weights that were trained "
            "for this network, as --weights imagenet"
        )
        return MediaError(source.path, "video", f"{problem}; {advice}")
    if not problem.startswith(("audio:", "audio/")):
        return MediaError(source.path, "find", f"{problem}; encode the file anew")
    peak = 0.0 if decoded.waveform is None else float(np.abs(decoded.waveform).max(initial=0))
    advice = (
        f"the sound's peak is {peak:.3g} where full scale is 1: write it anew within full scale, "
        "as 16-bit PCM"
    )
    return MediaError(source.sound or source.path, "audio", f"{problem}; {advice}")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one core, so that workers don't compete and rows don't depend on their number."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def pad_steps(values: Array, spec: Field) -> Array:
    """(t, D) → (T, D): steps that the clip doesn't have are NaN, so that misuse is loud."""
    padded = np.full(spec.shape, np.nan, spec.dtype)
    padded[: len(values)] = values
    return padded


def _row(
    source: MediaSource,
    decoded: Decoded,
    features: dict[str, Array],
    jpegs: list[bytes],
    steps: int,
) -> Clip:
    return Clip(
        id=source.id,
        features=features,
        jpegs=jpegs,
        valid_s=decoded.valid_s,
        media_s=decoded.media_s,
        audio_steps=steps,
        audio_start_s=decoded.audio_start_s,
        media_size=source.size,
        media_mtime_ns=source.mtime_ns,
        media_sha256=decoded.sha256,
    )
