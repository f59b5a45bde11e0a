"""What goes into the model and what comes out of it.

Shapes: N clips, T audio steps, F frames, C channels of the frame maps, S = 49 cells of a map,
P projected channels, D audio features, H heads. Times are seconds from the clip's start, the same
clock for both streams; intervals are fractions of the clip.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cache import CacheError
from train.data.maps import FrameMaps


@dataclass(frozen=True)
class Sound:
    """The audio input: features (N, T, D) float32, behind which come those that tell the class
    alone; valid (N, T) bool, False beyond a clip's sound;
    time_s (T,) float32, the centre of each step; steps are `step_s` wide.
    """

    features: Tensor
    valid: Tensor
    time_s: Tensor
    step_s: float


@dataclass(frozen=True)
class Frames:
    """The video input: the frames of the N clips are those of `maps` that are numbered `rows`
    (N, F) int64; time_s (N, F) float32; span_s (N,) float32, the time that one frame stands for.
    """

    maps: FrameMaps
    rows: Tensor
    time_s: Tensor
    span_s: Tensor

    @classmethod
    def of(cls, cells: Tensor, time_s: Tensor, span_s: Tensor) -> Frames:
        """Of the maps themselves, (N, F, S, C)."""
        maps = FrameMaps(cells)
        return cls(maps, maps.rows(torch.arange(len(cells), device=cells.device)), time_s, span_s)

    def means(self) -> Tensor:
        """The mean over the cells of each frame, and what is beside it: (N, F, C + E) float32."""
        return self.maps.means.flatten(0, 1)[self.rows]

    def cells(self, which: Tensor | None = None) -> Tensor:
        """The maps of all N × F frames, or of those numbered `which`: as FrameMaps.of."""
        rows = self.rows.flatten()
        return self.maps.of(rows if which is None else rows[which])


@dataclass(frozen=True)
class Batch:
    """Model input; a stream that the model doesn't use may be None."""

    sound: Sound | None
    frames: Frames | None


@dataclass(frozen=True)
class Output:
    """Model output, float32.

    Attributes
    ----------
    logits: (N, K) class scores before softmax.
    interval: (N, 2) start and end as fractions of the clip, 0 ≤ start ≤ end ≤ 1.
    gate_logits: (N, T) per-step "the event is heard and seen" before the sigmoid; -inf on padded
        steps.
    steps: (N, T, 2) when each step begins and ends, as fractions of the clip.
    each: (N, T, K) per step and class "if anything is heard and seen here, this is" before the
        sigmoid, of a model of several events; None where a clip has one event.
    attention: with `return_attention`, every map by name, else empty:
        spatial (N, F, √S, √S), channel (N, F, P), audio (N, H, T, T), video (N, H, F, F),
        audio_to_video (N, H, T, F), video_to_audio (N, H, F, T), gate (N, T).
        Softmax maps sum to one over the last axis (spatial: over a frame's cells).
    """

    logits: Tensor
    interval: Tensor
    gate_logits: Tensor
    steps: Tensor
    attention: dict[str, Tensor]
    each: Tensor | None = None


@dataclass(frozen=True)
class Shapes:
    """What the model must know of the cache: D, C, rows and columns of a map's cells, E features
    beside the frames, the number of classes K, and how many features of the sound, beyond D, tell
    the class alone.
    """

    audio_features: int
    map_channels: int
    cells: int
    classes: int
    clip_seconds: float
    columns: int | None = None
    beside: int = 0
    class_only: int = 0

    @property
    def sound_features(self) -> int:
        """Features of a step of the sound, those that tell the class alone included."""
        return self.audio_features + self.class_only

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a map's cells; as many columns as rows where none are named."""
        return self.cells, self.cells if self.columns is None else self.columns


def check_shapes(model: Shapes, clips: Shapes, modality: str) -> None:
    """Raise CacheError unless a model reads what the clips have, of the streams that it reads."""
    names = ["classes", "clip_seconds"]
    names += ["audio_features", "class_only"] if modality != "video" else []
    names += ["map_channels", "grid", "beside"] if modality != "audio" else []
    for name in names:
        expected, found = getattr(model, name), getattr(clips, name)
        if expected != found:
            raise CacheError(
                f"{name}: the model expects {expected}, the cache gives {found}; use a run "
                "that was trained on such features"
            )


def reverse_time(
    batch: Batch, interval: Tensor, which: Tensor, clip_seconds: float
) -> tuple[Batch, Tensor]:
    """The clips that `which` (N,) bool names run backwards: sound, frame times and intervals.

    interval: (N, 2), or (N, E, 2) of several events.

    An event that is heard and seen stays one, so every clip gives two to learn from. The model
    sees frames as a set with times, so the maps stay where they are.
    """
    sound, frames = batch.sound, batch.frames
    if sound is not None:
        features = torch.where(which[:, None, None], sound.features.flip(1), sound.features)
        valid = torch.where(which[:, None], sound.valid.flip(1), sound.valid)
        sound = replace(sound, features=features, valid=valid)
    if frames is not None:
        time_s = torch.where(which[:, None], clip_seconds - frames.time_s, frames.time_s)
        frames = replace(frames, time_s=time_s)
    turned = which.view(len(which), *[1] * (interval.ndim - 1))
    return Batch(sound, frames), torch.where(turned, 1 - interval.flip(-1), interval)
