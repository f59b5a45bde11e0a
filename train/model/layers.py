"""The parts of the model: encoders of the two streams, and attention within and across them.

The letters of the shapes are those of `train.data.batch`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import TrainConfig
from train.data.batch import Frames, Shapes, Sound

_LOOKED = 4
"""In training one frame in so many is looked around in."""


def time_encoding(time_s: Tensor, width: int) -> Tensor:
    """Sinusoids of time in seconds (Vaswani et al. 2017, with seconds for positions).

    time_s (...) → (..., width); periods run geometrically from 1 s to 100 s.
    """
    periods = torch.logspace(0, 2, width // 2, device=time_s.device)
    angle = time_s.unsqueeze(-1) * (2 * math.pi / periods)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Attention(nn.Module):
    """Multi-head attention, queries (N, Q, width) over a context (N, L, context_width).

    Values are scaled_dot_product_attention's; with `weights` the map (N, H, Q, L) is computed
    beside them, heads apart, so that being looked at changes no answer. Positions that `valid`
    (N, L) marks False get exactly zero weight.
    """

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, context: Tensor, valid: Tensor | None, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Attended values (N, Q, width) and, if asked for, the weights (N, H, Q, L)."""
        query = self._split(self.query(x))
        key, value = (self._split(half) for half in self.key_value(context).chunk(2, dim=-1))
        mask = None if valid is None else valid[:, None, None, :]
        shown = None
        if weights:
            score = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            if mask is not None:
                score = score.masked_fill(~mask, -torch.inf)
            shown = score.softmax(dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out, shown

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Dropout(nn.Module):
    """Dropout of a share of the values, as nn.Dropout.

    Drawn from a uniform, which takes the CPU less than half the time of torch's Bernoulli draw.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """x with a share of its values 0 and the others scaled up; unchanged in evaluation."""
        if not self.training or not self.share:
            return x
        return x * (torch.rand_like(x) >= self.share) / (1 - self.share)


class TemporalBlock(nn.Module):
    """Self-attention over time, then a feed-forward: pre-norm, residual. (N, L, width) → same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, width, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, valid: Tensor | None, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The stream (N, L, width) and, if asked for, its attention (N, H, L, L)."""
        normed = self.norm(x)
        mixed, shown = self.attention(normed, normed, valid, weights)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.feed_forward(x)), shown


class AudioStream(nn.Module):
    """All audio features → two 1-D convolutions over time → + time → temporal self-attention.

    Features are normalized with the training split's statistics, which live in the model.
    Padded steps are zero before each convolution, so what they hold never reaches valid ones.
    Features that tell the class alone, the last of a step's, take no part in this (see `hint`).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, config: TrainConfig, class_only: int = 0) -> None:
        super().__init__()
        width, self.features = config.audio_feat_dim, features
        self.register_buffer("mean", torch.zeros(features + class_only))
        self.register_buffer("deviation", torch.ones(features + class_only))
        self.first = nn.Conv1d(features, width, kernel_size=3, padding=1)
        self.second = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(width)
        self.input_dropout = Dropout(config.input_dropout)
        self.dropout = Dropout(config.dropout)
        self.time = TemporalBlock(width, config.num_heads, config.dropout)

    def forward(self, sound: Sound, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """The stream (N, T, d) and, if asked for, its attention (N, H, T, T)."""
        here = sound.valid.unsqueeze(1)
        x = self._normalized(sound, slice(self.features)).transpose(1, 2)
        x = F.gelu(self.first(x.masked_fill(~here, 0.0))).masked_fill(~here, 0.0)
        x = self.norm(self.dropout(self.second(x)).transpose(1, 2))
        x = x + time_encoding(sound.time_s, x.shape[-1]).to(x.dtype)
        stream, shown = self.time(x, sound.valid, weights)
        return stream, shown

    def hint(self, sound: Sound) -> Tensor:
        """What tells the class alone, normalized, (N, T, ·)."""
        return self._normalized(sound, slice(self.features, None))

    def _normalized(self, sound: Sound, some: slice) -> Tensor:
        x = (sound.features[..., some] - self.mean[some]) / self.deviation[some]
        out: Tensor = self.input_dropout(x)
        return out


class VideoStream(nn.Module):
    """Frame maps → channel, then spatial attention → + time → temporal self-attention.

    Vectors in the place of maps have no spatial attention; features beside the frames join behind
    it.

    The attentions follow CBAM (Woo et al. 2018). The wide maps are projected once, C → P, and
    both work on the P channels: that product is most of the model's arithmetic. Where to look
    decided, the C channels of the cells are averaged with those weights; even weights give the
    average pooling that the backbone was trained for. What is heard around a frame guides where
    to look (Tian et al. 2018).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, shapes: Shapes, config: TrainConfig) -> None:
        super().__init__()
        inner, width = config.map_channels, config.video_feat_dim
        self.grid, self.channels = shapes.grid, shapes.map_channels
        wide = shapes.map_channels + shapes.beside
        self.register_buffer("mean", torch.zeros(wide))
        self.register_buffer("deviation", torch.ones(wide))
        if self.grid != (1, 1):  # in vectors there is nowhere to look around
            self.project = nn.Linear(shapes.map_channels, inner)
            self.channel = nn.Sequential(
                nn.Linear(inner, inner // 4), nn.ReLU(), nn.Linear(inner // 4, inner)
            )
            self.spatial = nn.Conv2d(2, 1, kernel_size=3, padding=1, bias=False)
            self.seek = nn.Parameter(torch.zeros(inner))
            self.listen = nn.Linear(config.audio_feat_dim, inner, bias=False)
            if config.modality != "both":
                del self.listen
        self.widen = nn.Linear(wide, width)
        self.norm = nn.LayerNorm(width)
        self.input_dropout = Dropout(config.input_dropout)
        self.dropout = Dropout(config.dropout)
        self.time = TemporalBlock(width, config.num_heads, config.dropout)

    def forward(
        self, frames: Frames, heard: Tensor | None, weights: bool = False
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The stream (N, F, d) and, if asked for, its maps; heard (N, F, d_audio) or None."""
        wide, maps = frames.means(), dict[str, Tensor | None]()
        if self.grid != (1, 1):
            mean, beside = wide[..., : self.channels], wide[..., self.channels :]
            seen, maps = self._looked_around(frames, mean, heard, weights)
            wide = torch.cat([seen, beside], dim=-1) if beside.shape[-1] else seen
        wide = (wide - self.mean) / self.deviation
        x = self.norm(self.dropout(F.gelu(self.widen(self.input_dropout(wide)))))
        x = x + time_encoding(frames.time_s, x.shape[-1]).to(x.dtype)
        stream, temporal = self.time(x, None, weights)
        return stream, {**maps, "video": temporal} if weights else {}

    def _looked_around(
        self, frames: Frames, mean: Tensor, heard: Tensor | None, weights: bool
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """What is seen (N, F, C) where the attention looks, and if asked for, its maps.

        Where to look is mixed half and half with even weights, whose average is the frame's mean
        (N, F, C). In training a frame gets the one or the other (see `_chosen`).
        """
        flat = mean.flatten(0, 1)
        which = None if weights else self._chosen(flat)
        cells = frames.cells(which)
        if heard is not None:
            heard = heard.flatten(0, 1) if which is None else heard.flatten(0, 1)[which]
        look, channel = self._look(cells, heard)
        seen = (look.unsqueeze(1).to(cells.dtype) @ cells).squeeze(1).float()
        seen = (flat + seen) / 2 if which is None else flat.index_copy(0, which, seen)
        if not weights:
            return seen.view_as(mean), {}
        spatial = ((look + 1 / look.shape[-1]) / 2).view(*mean.shape[:2], *self.grid)
        channel = channel.view(*mean.shape[:2], -1)
        return seen.view_as(mean), {"channel": channel, "spatial": spatial}

    def _chosen(self, frames: Tensor) -> Tensor | None:
        """In training, the numbers of the random quarter of the frames (n, ·) that are looked
        around in, so that the streams above learn to do without the attention: on a few hundred
        clips it is learned by heart otherwise. (As dropout does to units, and stochastic depth,
        Huang et al. 2016, to layers.) Of the others no map is read. None: all, as in evaluation.
        """
        if not self.training:
            return None
        order = torch.rand(len(frames), device=frames.device).argsort()
        return order[: -(-len(frames) // _LOOKED)]

    def _look(self, maps: Tensor, heard: Tensor | None) -> tuple[Tensor, Tensor]:
        """Where to look (n, S), from each cell's neighbourhood, its content and the sound.

        maps (n, S, C); heard (n, d_audio) or None. Also the channels' attention (n, P).
        """
        # Normalizing is folded into the projection, so that the maps are read once.
        weight = self.project.weight / self.deviation[: self.channels]
        bias = self.project.bias - weight @ self.mean[: self.channels]
        cells = F.gelu(F.linear(maps, weight, bias))
        average, largest = cells.mean(dim=1), cells.max(dim=1).values
        channel = (self.channel(average) + self.channel(largest)).sigmoid()
        cells = cells * channel.unsqueeze(1)
        summary = torch.stack([cells.mean(dim=-1), cells.max(dim=-1).values], dim=1)
        near = self.spatial(summary.unflatten(-1, self.grid)).flatten(1)  # type: ignore[no-untyped-call]
        sought = self.seek.expand(len(cells), -1)
        if heard is not None:
            sought = sought + self.listen(heard)
        content = (cells @ sought.unsqueeze(-1)).squeeze(-1)
        return (near + content / math.sqrt(cells.shape[-1])).softmax(dim=-1), channel


class CrossModal(nn.Module):
    """Each stream asks the other: attention both ways, residual. Shapes stay."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        audio, video = config.audio_feat_dim, config.video_feat_dim
        self.audio_norm = nn.LayerNorm(audio)
        self.video_norm = nn.LayerNorm(video)
        self.audio_to_video = Attention(audio, video, config.num_heads)
        self.video_to_audio = Attention(video, audio, config.num_heads)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, audio: Tensor, video: Tensor, audio_valid: Tensor, weights: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
        """(N, T, da), (N, F, dv) → both enriched, and the maps (N, H, T, F), (N, H, F, T)."""
        heard, seen = self.audio_norm(audio), self.video_norm(video)
        for_audio, to_video = self.audio_to_video(heard, seen, None, weights)
        for_video, to_audio = self.video_to_audio(seen, heard, audio_valid, weights)
        audio, video = audio + self.dropout(for_audio), video + self.dropout(for_video)
        return audio, video, {"audio_to_video": to_video, "video_to_audio": to_audio}
