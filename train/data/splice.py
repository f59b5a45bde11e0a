"""Events among what they are not: other clips' sound and frames around a part of an event.

On a few hundred clips a model learns by heart what stands around an event. Spliced clips show it
the same event among strangers, and what it is that begins and ends: in time what CutMix (Yun et
al. 2019) does in space. Letters of shapes as in `train.data.batch`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from train.data.batch import Batch

SHORTEST_S, LONGEST_S = 1.0, 8.0
_OF_WHOLE_CLIPS = 0.3
"""How often events that fill their clip are spliced, of how often the others are: each becomes a
shorter one, and what share of events is shorter is a thing to be learned too."""
_UNCUT = 0.5
"""Of spliced events that are shorter than the clip, the share that is not cut itself."""


def splice(
    batch: Batch, category: Tensor, interval: Tensor, share: float, clip_seconds: float
) -> tuple[Batch, Tensor]:
    """Clips, a `share` of which other clips of the batch surround, and their events (N, 2).

    A window over a part of the event stays; around it the sound, the frames, or both (each of
    another clip) are those of clips with an event of another class or with none. So nothing around
    it is both heard and seen that is of its class, and the event is what the window leaves of it.
    category (N,), −1 for no event: such clips stay as they are; interval (N, 2) as fractions.
    """
    n, device = len(category), category.device
    if not n:
        return batch, interval
    heard_of, seen_of = (torch.rand(n, device=device).argsort() for _ in range(2))
    of_sound, of_frames = category[heard_of], category[seen_of]
    strangers = (of_sound != category) & (of_frames != category) & (of_sound != of_frames)
    whole = interval[:, 1] - interval[:, 0] > 0.999
    rate = torch.where(whole, share * _OF_WHOLE_CLIPS, share)
    chosen = strangers & (category >= 0) & (torch.rand(n, device=device) < rate)
    window = _windows(interval, whole, clip_seconds)
    sound, frames = batch.sound, batch.frames
    which = torch.randint(3, (n,), device=device)  # sound, frames, or both
    in_sound = which != 1 if frames is not None else torch.ones_like(chosen)
    in_frames = which != 0 if sound is not None else torch.ones_like(chosen)
    if sound is not None:
        # No step is cut: the window is widened to where one begins and one ends.
        step = sound.step_s / clip_seconds
        begin, end = (window / step).unbind(dim=1)
        widened = torch.stack([begin.floor(), end.ceil()], dim=1) * step
        window = torch.where(in_sound[:, None], widened, window)
        outside = _outside(sound.time_s.expand(n, -1), window, clip_seconds)
        outside &= (chosen & in_sound)[:, None]
        features = torch.where(outside[:, :, None], sound.features[heard_of], sound.features)
        valid = torch.where(outside, sound.valid[heard_of], sound.valid)
        sound = replace(sound, features=features, valid=valid)
    if frames is not None:
        outside = _outside(frames.time_s, window, clip_seconds)
        outside &= (chosen & in_frames)[:, None]
        maps = torch.where(outside[:, :, None, None], frames.maps[seen_of], frames.maps)
        frames = replace(frames, maps=maps)
    left = torch.stack(
        [
            torch.maximum(interval[:, 0], window[:, 0]),
            torch.minimum(interval[:, 1], window[:, 1]),
        ],
        dim=1,
    )
    return Batch(sound, frames), torch.where(chosen[:, None], left, interval)


def _windows(interval: Tensor, whole: Tensor, clip_seconds: float) -> Tensor:
    """(N, 2) fractions of the clip: around a moment of the event, or around all of it."""
    begin, end = interval.unbind(dim=1)
    draws = torch.rand(5, len(interval), device=interval.device)
    length = (SHORTEST_S + (LONGEST_S - SHORTEST_S) * draws[0]) / clip_seconds
    moment = begin + (end - begin) * draws[1]
    first = (moment - length * draws[2]).clamp(0.0, 1.0)
    part = torch.stack([first, (first + length).clamp_max(1.0)], dim=1)
    around = torch.stack([begin * draws[2].sqrt(), 1 - (1 - end) * draws[3].sqrt()], dim=1)
    uncut = ~whole & (draws[4] < _UNCUT)
    return torch.where(uncut[:, None], around, part)


def _outside(time_s: Tensor, window: Tensor, clip_seconds: float) -> Tensor:
    """Which of the times (N, L) lie outside the window of their clip: (N, L) bool."""
    at = time_s / clip_seconds
    return (at < window[:, :1]) | (at >= window[:, 1:])
