"""Cached arrays → model input, in tensors alone: what a graph does in `train.data.pooling`'s place.

Shapes: N clips, T steps of the model, F frames, S steps of a field, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cache.format.fields import Field, Rate
from train.data.batch import Batch, Frames, Sound
from train.data.fields import Inputs, clip_times_s, is_maps, is_pooled, times_of

STEPS, VALID_S = "audio_steps", "valid_s"
"""Inputs beside the fields: how many steps of sound, and how many seconds, a clip has. Where fields
of several caches have steps of their own, the name of each follows its steps'."""
_LITTLE = 1e-9


class AllFrames(Frames):
    """The frames of a batch, all of them, in their order."""

    def means(self) -> Tensor:
        """As of `Frames`, without asking by number."""
        return self.maps.means

    def cells(self, which: Tensor | None = None) -> Tensor:
        """As of `Frames`, without asking by number."""
        return self.maps.cells.flatten(0, 1)


class CachedInput(nn.Module):
    """Cached arrays of N clips → model input.

    What `train.data.pooling` does with arrays, with masks in the place of loops over clips.
    """

    def __init__(self, inputs: Inputs, clip_seconds: float, steps: int) -> None:
        super().__init__()
        self.inputs, self.clip_seconds, self.steps = inputs, clip_seconds, steps
        self.step_s = clip_seconds / steps
        self.steps_of = steps_inputs(inputs)
        self.names = [*inputs.names, *dict.fromkeys(self.steps_of.values()), VALID_S]

    def forward(self, given: dict[str, Tensor]) -> Batch:
        """Arrays by name, as a cache holds them."""
        sound = frames = None
        if self.inputs.sound:
            features, valid = self._sound(self.inputs.sound, given)
            if self.inputs.class_only:
                more, there = self._sound(self.inputs.class_only, given)
                valid = valid & there
                features = torch.where(valid.unsqueeze(2), torch.cat([features, more], dim=2), 0.0)
            time_s = (torch.arange(self.steps) + 0.5) * self.clip_seconds / self.steps
            sound = Sound(features, valid, time_s, self.step_s)
        if self.inputs.frames is not None:
            frames = self._frames(self.inputs.frames, given)
        return Batch(sound, frames)

    def _sound(self, fields: Sequence[Field], given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        means, deviations, valid = [], [], None
        for field in fields:
            values = _flat(field, given)
            if is_pooled(field, self.step_s):
                mean, deviation, here = self._pooled(field, values, self._count(field, given))
                deviations.append(deviation)
            else:
                mean, here = self._at_steps(field, values, given)
            means.append(mean)
            valid = here if valid is None else valid & here
        assert valid is not None
        both = torch.cat([*means, *deviations], dim=2)
        return torch.where(valid.unsqueeze(2), both, 0.0), valid

    def _pooled(self, field: Field, values: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation of the steps in each step of the model, and which have any."""
        at = torch.arange(field.shape[0])
        there = at < count.unsqueeze(1)
        time_s = torch.tensor(clip_times_s(field, self.clip_seconds))
        window = (time_s / self.step_s).long().clamp(0, self.steps - 1)
        inside = (window == torch.arange(self.steps).unsqueeze(1)) & there.unsqueeze(1)
        number = inside.sum(dim=2)
        share = inside.float() / number.clamp_min(1).unsqueeze(2)
        values = torch.where(there.unsqueeze(2), values, 0.0)
        mean = share @ values
        apart = values - mean[:, window]
        return mean, (share @ apart.square()).sqrt(), number > 0

    def _at_steps(
        self, field: Field, values: Tensor, given: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """A field as coarse as the model's steps, at these; and where it is."""
        clips = values.shape[0]
        wanted_s = ((torch.arange(self.steps) + 0.5) * self.step_s).expand(clips, -1)
        time_s, count = self._times(field, given), self._count(field, given)
        out = interpolate(values, time_s, count, wanted_s)
        if not isinstance(field.clock, Rate) or not field.has_steps:
            return out, torch.ones_like(wanted_s, dtype=torch.bool)
        last_s = time_s.gather(1, count.unsqueeze(1) - 1)
        reach = max(field.clock.step_s, self.step_s) / 2
        return out, (wanted_s <= last_s + reach + 1e-6) | (torch.arange(self.steps) == 0)

    def _frames(self, field: Field, given: dict[str, Tensor]) -> Frames:
        maps = given[field.name].float()
        maps = maps if is_maps(field) else _flat(field, given)[..., None, None]
        time_s = self._times(field, given)
        span_s = given[VALID_S] / time_s.shape[1]
        if isinstance(field.clock, Rate):
            span_s = torch.full_like(span_s, field.clock.step_s)
        frames = AllFrames.of(maps.flatten(3).transpose(2, 3), time_s, span_s)
        beside = [
            interpolate(
                _seen(other, given), self._times(other, given), self._count(other, given), time_s
            )
            for other in self.inputs.beside
        ]
        frames.maps.means = torch.cat([frames.maps.means, *beside], dim=2)
        return frames

    def _count(self, field: Field, given: dict[str, Tensor]) -> Tensor:
        """(N,) how many steps of a field a clip has."""
        if field.name in self.steps_of:
            return given[self.steps_of[field.name]]
        steps = field.shape[0] if field.clock else 1
        return torch.full_like(given[VALID_S], steps).long()

    def _times(self, field: Field, given: dict[str, Tensor]) -> Tensor:
        """(N, S) float32, s: when the steps of a field are."""
        if name := times_of(field):
            return given[name].float()
        times_s = torch.tensor(clip_times_s(field, self.clip_seconds), dtype=torch.float32)
        return times_s.expand(given[VALID_S].shape[0], -1)


def _flat(field: Field, given: dict[str, Tensor]) -> Tensor:
    """(N, S, D) float32: a vector of a whole clip is one step."""
    values = given[field.name].float()
    return values.flatten(2) if field.clock else values.flatten(1).unsqueeze(1)


def _seen(field: Field, given: dict[str, Tensor]) -> Tensor:
    """What is seen beside the frames, (N, S, D): maps as their means."""
    return given[field.name].float().mean(dim=(3, 4)) if is_maps(field) else _flat(field, given)


def steps_inputs(inputs: Inputs) -> dict[str, str]:
    """The input that says how many steps a clip has, for each field that has such."""
    fields = [field for field in (*inputs.sound, *inputs.class_only) if field.has_steps]
    alike = len({(field.clock, field.shape[0]) for field in fields}) == 1
    return {one.name: STEPS if alike else f"{STEPS}/{one.name}" for one in fields}


def interpolate(values: Tensor, time_s: Tensor, count: Tensor, wanted_s: Tensor) -> Tensor:
    """As `train.data.pooling.interpolate`, of tensors alone."""
    last = count.unsqueeze(1) - 1
    there = torch.arange(values.shape[1]) <= last
    passed = (time_s.unsqueeze(1) <= wanted_s.unsqueeze(2)) & there.unsqueeze(1)
    low = (passed.sum(dim=2) - 1).clamp_min(0)
    high = torch.minimum(low + 1, last)
    begin, end = time_s.gather(1, low), time_s.gather(1, high)
    share = ((wanted_s - begin) / (end - begin).clamp_min(_LITTLE)).clamp(0.0, 1.0)
    wide = (-1, -1, values.shape[2])
    first = values.gather(1, low.unsqueeze(2).expand(*wide))
    second = values.gather(1, high.unsqueeze(2).expand(*wide))
    return torch.lerp(first, second, share.unsqueeze(2) * (high > low).unsqueeze(2))
