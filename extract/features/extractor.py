"""One clip: media → the row that the cache stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
import threadpoolctl
import torch

from cache.common.errors import MediaError
from cache.format.fields import Field
from cache.format.shard import Array, Clip, clip_problem
from cache.format.windows import Window
from extract.config import ExtractConfig
from extract.features.audio import audio_features
from extract.features.declare import declare
from extract.features.video import encode_jpegs, load_backbone, preprocess
from extract.media.decode import Decoded, decode
from extract.media.windows import decode_windows
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
        seen = _Seen()
        if self._backbone is not None:
            pixels = preprocess(decoded.frames, self.config)
            maps = self._backbone(pixels)
            seen = _Seen(maps, encode_jpegs(pixels, self.config.jpeg_quality))
        return self._clip(source, source.id, decoded, seen)

    def windows(self, source: MediaSource) -> Iterator[tuple[str, Clip | MediaError]]:
        """(clip id, its row or why there is none) of each window of a stretch of a recording.

        Pictures that windows share go through the network once, `num_frames` at a time: how many
        there are in a call must not depend on anything but the stretch. Raises MediaError where
        the recording can't be opened. Ends after a failure of the stage "end".
        """
        found = list(decode_windows(source, source.offsets_s, self.config, self._prepared))
        good = [one for _, one in found if isinstance(one, Decoded)]
        pictures = list({id(p): p for one in good for p in one.frames}.values())
        place = {id(picture): number for number, picture in enumerate(pictures)}
        whole = self._seen(pictures)
        for offset_s, one in found:
            clip_id = Window(source.id, offset_s).clip_id
            try:
                if isinstance(one, MediaError):
                    raise one
                seen = whole.of([place[id(picture)] for picture in one.frames])
                yield clip_id, self._clip(source, clip_id, one, seen)
            except MediaError as error:
                yield clip_id, error
                if error.stage == "end":
                    return  # the windows after it are beyond the end as well

    def _prepared(self, picture: npt.NDArray[np.uint8]) -> torch.Tensor:
        """(1, 3, size, size): what the network sees, much less than a picture of a large video."""
        return preprocess([picture], self.config)

    def _seen(self, pictures: list[torch.Tensor]) -> _Seen:
        """The maps and JPEGs of prepared pictures."""
        if self._backbone is None or not pictures:
            return _Seen()
        maps, jpegs, count = [], [], self.config.num_frames
        for begin in range(0, len(pictures), count):
            pixels = torch.cat(pictures[begin : begin + count])
            jpegs += encode_jpegs(pixels, self.config.jpeg_quality)
            if len(pixels) < count:
                pixels = torch.cat([pixels, *[pixels[-1:]] * (count - len(pixels))])
            maps.append(self._backbone(pixels))
        return _Seen(np.concatenate(maps)[: len(pictures)], jpegs)

    def _clip(self, source: MediaSource, clip_id: str, decoded: Decoded, seen: _Seen) -> Clip:
        """The row of a decoded clip whose pictures have been seen."""
        if decoded.note and decoded.note not in self.notes:
            self.notes.append(decoded.note)
        features: dict[str, Array] = {}
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
            features["video/maps"] = seen.maps
            features["video/frame_time_s"] = decoded.frame_time_s
        clip = Clip(
            id=clip_id,
            features=features,
            jpegs=seen.jpegs,
            valid_s=decoded.valid_s,
            media_s=decoded.media_s,
            audio_steps=steps,
            audio_start_s=decoded.audio_start_s,
            media_size=source.size,
            media_mtime_ns=source.mtime_ns,
            media_sha256=decoded.sha256,
        )
        if problem := clip_problem(clip, self._declared):
            raise _unstorable(source, decoded, problem)
        return clip


@dataclass(frozen=True)
class _Seen:
    """Pictures as rows have them: maps (P, C, h, w) float16, and JPEGs."""

    maps: npt.NDArray[np.float16] = field(default_factory=lambda: np.empty(0, np.float16))
    jpegs: list[bytes] = field(default_factory=list)

    def of(self, places: list[int]) -> _Seen:
        """Some of them."""
        return _Seen(self.maps[places], [self.jpegs[n] for n in places]) if places else self


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
