"""Events among what they are not: other clips' sound and frames around an event.

On a few hundred clips a model learns by heart what stands around an event. Spliced clips show it
the same event among strangers: in time what CutMix (Yun et al. 2019) does in space. Events are not
cut, and those that fill their clip are left alone, so their lengths stay as they are in the set.
Letters of shapes as in `train.data.batch`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from train.data.batch import Batch


def splice(
    batch: Batch, category: Tensor, interval: Tensor, share: float, clip_seconds: float
) -> Batch:
    """The clips; in a `share` of those with a shorter event other clips stand around the event.

    The event and a random part of what is beside it stay. Around these the sound, the frames, or
    both (each of another clip of the batch) are those of clips with an event of another class or
    with none. So nothing of its class is both heard and seen around it. Of several events all, and
    what is between them, stay.
    category (N,) or (N, E), −1 for no event: such clips stay as they are; interval (N, 2) or
    (N, E, 2) as fractions.
    """
    n, device = len(category), category.device
    if not n:
        return batch
    category, interval = category.view(n, -1), interval.view(n, -1, 2)
    heard_of, seen_of = (torch.rand(n, device=device).argsort() for _ in range(2))
    of_sound, of_frames = category[heard_of], category[seen_of]
    strangers = _apart(of_sound, category) & _apart(of_frames, category)
    strangers &= _apart(of_sound, of_frames)
    chosen = strangers & (category[:, 0] >= 0) & (torch.rand(n, device=device) < share)
    begin, end = interval[..., 0].amin(dim=1), interval[..., 1].amax(dim=1)
    beside = torch.rand(2, n, device=device).sqrt()
    first, last = begin * beside[0] * clip_seconds, (1 - (1 - end) * beside[1]) * clip_seconds
    sound, frames = batch.sound, batch.frames
    which = torch.randint(3, (n,), device=device)  # sound, frames, or both
    if sound is not None:
        # A step is of one clip: those that the event reaches into are its own.
        centre, half = sound.time_s.expand(n, -1), sound.step_s / 2
        outside = (centre + half <= first[:, None]) | (centre - half >= last[:, None])
        outside &= (chosen & (which != 1) if frames is not None else chosen)[:, None]
        features = torch.where(outside[:, :, None], sound.features[heard_of], sound.features)
        valid = torch.where(outside, sound.valid[heard_of], sound.valid)
        sound = replace(sound, features=features, valid=valid)
    if frames is not None:
        outside = (frames.time_s < first[:, None]) | (frames.time_s >= last[:, None])
        outside &= (chosen & (which != 0) if sound is not None else chosen)[:, None]
        maps = torch.where(outside[:, :, None, None], frames.maps[seen_of], frames.maps)
        frames = replace(frames, maps=maps)
    return Batch(sound, frames)


def _apart(some: Tensor, others: Tensor) -> Tensor:
    """(N,) whether clips have no class in common, of the classes (N, E) of each one's events.

    Two clips without an event have that in common.
    """
    return (some.unsqueeze(2) != others.unsqueeze(1)).all(dim=2).all(dim=1)
