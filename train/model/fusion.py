"""The attention-fusion model: the layers of both streams put together, fusion and heads.

The letters of the shapes are those of `train.data.batch`.

    audio (N, T, D)    → 1-D CNN → + time → temporal self-attention ──┐ cross-modal attention,
    maps (N, F, S, C)  → P → channel, spatial attention → mean where  ├ both ways, fused on the
                         looked at → + time → temporal self-attention ┘ audio's time steps
    fused (N, T, d)    → per-step gate → class logits, start ≤ end
                       → of several events, which classes are on around each step
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from train.config import TrainConfig
from train.data.batch import Batch, Frames, Output, Shapes, Sound
from train.model.layers import AudioStream, CrossModal, Dropout, VideoStream

_REACH_S = 4.0
"""From how far, in seconds, a step still tells which classes are on at another."""


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on CUDA, plain float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class FusionModel(nn.Module):
    """Audio and video streams → class logits, start and end, and every attention map.

    With modality "audio" or "video" the other stream has no parameters and its input is not read.
    """

    def __init__(self, shapes: Shapes, config: TrainConfig) -> None:
        super().__init__()
        self.shapes, self.config = shapes, config
        audio, video = config.audio_feat_dim, config.video_feat_dim
        has_audio, has_video = config.modality != "video", config.modality != "audio"
        hint = shapes.class_only if has_audio else 0
        self.audio = AudioStream(shapes.audio_features, config, hint) if has_audio else None
        self.hint = nn.Linear(hint, shapes.classes, bias=False) if hint else None
        self.video = VideoStream(shapes, config) if has_video else None
        self.cross = CrossModal(config) if has_audio and has_video else None
        width = audio if has_audio else video
        self.fuse = nn.Sequential(
            nn.Linear(audio * has_audio + video * has_video, width), nn.GELU(), nn.LayerNorm(width)
        )
        self.dropout = Dropout(config.dropout)
        self.gate = nn.Linear(width, 1)
        self.classify = nn.Linear(width, shapes.classes)
        if config.events == "several":  # at first each class is as rare as it is among all
            nn.init.constant_(self.classify.bias, -math.log(max(shapes.classes - 1, 1)))

    def forward(self, batch: Batch, return_attention: bool = False) -> Output:
        """See Batch and Output for shapes."""
        maps: dict[str, Tensor | None] = {}
        if self.audio is None:
            assert self.video is not None
            assert batch.frames is not None
            fused, maps = self.video(batch.frames, None, return_attention)
            time_s, valid = batch.frames.time_s, None
            span_s = batch.frames.span_s.unsqueeze(1)
        else:
            assert batch.sound is not None
            fused, maps["audio"] = self.audio(batch.sound, return_attention)
            time_s, valid = batch.sound.time_s, batch.sound.valid
            span_s = torch.full_like(time_s, batch.sound.step_s)
            if self.video is not None and self.cross is not None:
                assert batch.frames is not None
                heard = at_frames(fused, batch.sound, batch.frames)
                video, seen = self.video(batch.frames, heard, return_attention)
                audio, video, across = self.cross(fused, video, valid, return_attention)
                fused = torch.cat([audio, at_steps(video, batch.sound, batch.frames)], dim=-1)
                maps = {**maps, **seen, **across}
        hint = None
        if self.hint is not None and self.audio is not None and batch.sound is not None:
            hint = self.audio.hint(batch.sound)
        return self._decide(fused, time_s, span_s, valid, maps, hint)

    def step_count(self, batch: Batch) -> Tensor:
        """How many steps of the batch's timelines are no padding: 0-dim int64, on the device."""
        if self.audio is None:
            assert batch.frames is not None
            return torch.ones_like(batch.frames.time_s, dtype=torch.int64).sum()
        assert batch.sound is not None
        return batch.sound.valid.sum()

    def _decide(
        self,
        fused: Tensor,
        time_s: Tensor,
        span_s: Tensor,
        valid: Tensor | None,
        maps: dict[str, Tensor | None],
        hint: Tensor | None,
    ) -> Output:
        """Heads on the fused timeline (N, T, ·); steps at time_s, span_s wide, both (N or 1, T).

        hint (N, T, ·): what tells the class alone. It is read where the gate is on, and by one
        linear layer, so that nothing of it moves the gate but the class's loss.
        """
        x = self.fuse(fused)
        score = self.gate(x).squeeze(-1).float()
        if valid is not None:
            score = score.masked_fill(~valid, -torch.inf)
        gate = score.sigmoid()
        share = (gate / gate.sum(dim=1, keepdim=True).clamp_min(1e-6)).to(x.dtype)
        logits = self._classes(share.unsqueeze(1), x, hint).squeeze(1)
        each = None
        if self.config.events == "several":
            each = self._classes(nearby(time_s, gate).to(x.dtype), x, hint).float()
        clip_seconds = self.shapes.clip_seconds
        interval = gated_interval(gate, time_s, span_s) / clip_seconds
        steps = torch.stack([time_s - span_s / 2, time_s + span_s / 2], dim=-1) / clip_seconds
        attention = {name: value.float() for name, value in maps.items() if value is not None}
        if attention:
            attention["gate"] = gate
        steps = steps.expand(*score.shape, 2)
        return Output(logits.float(), interval.clamp(0.0, 1.0), score, steps, attention, each)

    def _classes(self, weight: Tensor, x: Tensor, hint: Tensor | None) -> Tensor:
        """Class logits (N, Q, K) of weighted means (N, Q, T) of steps (N, T, d)."""
        logits: Tensor = self.classify(self.dropout(weight @ x))
        if self.hint is not None and hint is not None:
            logits = logits + self.hint(self.dropout(weight @ hint.to(x.dtype)))
        return logits


def nearby(time_s: Tensor, gate: Tensor) -> Tensor:
    """How much each step counts for which classes are on at another: (N, T, T), rows sum to one.

    time_s (N or 1, T) seconds, gate (N, T). Steps of an event tell more of its class together than
    one alone; those count that are near and in which something is on.
    """
    apart = (time_s.unsqueeze(-1) - time_s.unsqueeze(-2)).abs()
    weight = (1 - apart / _REACH_S).clamp_min(0.0) * gate.unsqueeze(-2)
    return weight / weight.sum(dim=-1, keepdim=True).clamp_min(1e-6)


def gated_interval(gate: Tensor, time_s: Tensor, span_s: Tensor) -> Tensor:
    """Start and end (N, 2), seconds, of the interval with the gate's mass and centre of mass.

    gate, time_s, span_s: (N, T) or what broadcasts to it. Length = Σ gate·span, centre =
    Σ gate·span·time / length. A gate of ones over a run of steps gives that run exactly; since no
    gate exceeds one, the interval never leaves the timeline, and start ≤ end because the length
    is no less than zero.
    """
    mass = gate * span_s
    length = mass.sum(dim=1)
    centre = (mass * time_s).sum(dim=1) / length.clamp_min(1e-6)
    return torch.stack([centre - length / 2, centre + length / 2], dim=1)


def at_frames(stream: Tensor, sound: Sound, frames: Frames) -> Tensor:
    """The audio stream (N, T, d) at each frame's time, (N, F, d); zero where none is valid."""
    distance = (frames.time_s[:, :, None] - sound.time_s).abs() / sound.step_s
    weight = (1 - distance).clamp_min(0.0) * sound.valid[:, None, :]
    weight = weight / weight.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    return weight.to(stream.dtype) @ stream


def at_steps(stream: Tensor, sound: Sound, frames: Frames) -> Tensor:
    """The video stream (N, F, d) at each audio step: linear between frames, (N, T, d)."""
    distance = (sound.time_s[None, :, None] - frames.time_s[:, None, :]).abs()
    weight = (1 - distance / frames.span_s[:, None, None]).clamp_min(0.0) + 1e-6
    weight = weight / weight.sum(dim=-1, keepdim=True)
    return weight.to(stream.dtype) @ stream
