"""What each stream of a model holds, second by second, before it has asked the other one.

Shapes: N clips, S seconds, L steps or frames, d the width of a stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from train.data.batch import check_shapes
from train.data.features import FeatureStore
from train.model.fusion import FusionModel, autocast
from train.score.metrics import Array, second_count

_BATCH = 64


@dataclass(frozen=True)
class Streams:
    """audio (N, S, d_audio), video (N, S, d_video) float64; heard (N, S) bool, where sound is."""

    audio: Array
    video: Array
    heard: npt.NDArray[np.bool_]


@torch.inference_mode()
def streams(model: FusionModel, clips: FeatureStore, rows: Tensor) -> Streams:
    """Both streams of clip rows (N,), at the middle of each second.

    Neither knows of the other: frames are looked at without what is heard around them, and it is
    what goes into the cross-modal attention. And neither is told the time (all steps are said to be
    at one), by which alone equal seconds would be found. Each second has looked around in its own
    stream, though. Raises CacheError for clips that the model can't read.
    """
    check_shapes(model.shapes, clips.shapes, model.config.modality)
    assert model.audio is not None
    assert model.video is not None
    model.eval()
    seconds = second_count(clips.shapes.clip_seconds)
    width_s = clips.shapes.clip_seconds / seconds
    middle_s = (torch.arange(seconds, device=clips.device) + 0.5) * width_s
    found: list[tuple[Tensor, ...]] = []
    for places, batch in clips.batches(rows, _BATCH):
        sound, frames = batch.sound, batch.frames
        assert sound is not None
        assert frames is not None
        with autocast(clips.device):
            heard, _ = model.audio(replace(sound, time_s=torch.zeros_like(sound.time_s)))
            seen, _ = model.video(replace(frames, time_s=torch.zeros_like(frames.time_s)), None)
        near = _nearness(
            middle_s, sound.time_s.expand(sound.valid.shape), max(sound.step_s, width_s)
        )
        near = near * sound.valid.unsqueeze(1)
        shown = _nearness(middle_s, frames.time_s, frames.span_s.clamp_min(width_s)[:, None, None])
        found.append((places, _mean(near, heard), _mean(shown, seen), near.sum(dim=2) > 1e-6))
    order = torch.cat([places for places, *_ in found]).argsort()
    columns = zip(*(parts[1:] for parts in found), strict=True)
    audio, video, valid = (torch.cat(column)[order].cpu() for column in columns)
    return Streams(audio.double().numpy(), video.double().numpy(), valid.numpy())


def _nearness(middle_s: Tensor, time_s: Tensor, width_s: float | Tensor) -> Tensor:
    """(N, S, L) from 1 where a step is at a second's middle to 0 where it is `width_s` from it."""
    apart = (middle_s[None, :, None] - time_s[:, None, :]).abs()
    return (1 - apart / width_s).clamp_min(0.0) + 1e-9


def _mean(weight: Tensor, stream: Tensor) -> Tensor:
    weight = weight / weight.sum(dim=2, keepdim=True).clamp_min(1e-9)
    return weight @ stream.float()
