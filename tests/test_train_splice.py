"""Spliced clips: what stays, what comes from strangers, and which clips are left alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from train.data.batch import Batch, Frames, Sound
from train.data.splice import splice

CLIPS, STEPS, FRAMES = 64, 20, 8


def numbered(clips: int = CLIPS) -> Batch:
    """Clips of 10 s whose every value is the clip's number."""
    number = torch.arange(clips, dtype=torch.float32)
    features = number[:, None, None].expand(clips, STEPS, 3).clone()
    time_s = (torch.arange(STEPS) + 0.5) * 10 / STEPS
    valid = torch.ones(clips, STEPS, dtype=torch.bool)
    frame_time_s = ((torch.arange(FRAMES) + 0.5) * 10 / FRAMES).expand(clips, FRAMES).clone()
    maps = number[:, None, None, None].expand(clips, FRAMES, 4, 2).clone()
    frames = Frames.of(maps, frame_time_s, torch.full((clips,), 10 / FRAMES))
    return Batch(Sound(features, valid, time_s, 10 / STEPS), frames)


def events(clips: int = CLIPS) -> tuple[Tensor, Tensor]:
    """Five classes, some clips without an event, some events that fill the clip."""
    generator = torch.Generator().manual_seed(1)
    category = torch.randint(-1, 5, (clips,), generator=generator)
    ends = torch.rand(clips, 2, generator=generator).sort(dim=1).values
    ends[::4] = torch.tensor([0.0, 1.0])
    return category, ends.masked_fill((category < 0)[:, None], 0.0)


def parts(batch: Batch) -> tuple[Tensor, Tensor]:
    """Which clip each step (N, T) and each frame (N, F) is of."""
    assert batch.sound is not None
    assert batch.frames is not None
    return batch.sound.features[:, :, 0], batch.frames.means()[:, :, 0]


@pytest.mark.parametrize("seed", range(5))
def test_around_an_event_are_strangers_and_the_event_stays(seed: int) -> None:
    torch.manual_seed(seed)
    category, interval = events()
    steps, frames = parts(splice(numbered(), category, interval, 1.0, 10.0))
    own = torch.arange(CLIPS)[:, None]
    middle = (torch.arange(STEPS) + 0.5) / STEPS
    reached = (middle + 0.5 / STEPS > interval[:, :1]) & (middle - 0.5 / STEPS < interval[:, 1:])
    assert torch.equal(steps[reached], own.expand_as(steps)[reached].float())
    seen_at = (torch.arange(FRAMES) + 0.5) / FRAMES
    inside = (seen_at >= interval[:, :1]) & (seen_at < interval[:, 1:])
    assert torch.equal(frames[inside], own.expand_as(frames)[inside].float())
    for clip in range(CLIPS):
        strangers = [set(row[clip].int().tolist()) - {clip} for row in (steps, frames)]
        assert all(len(some) <= 1 for some in strangers), "one stranger for each stream"
        classes = [int(category[n]) for some in strangers for n in some]
        assert int(category[clip]) not in classes
        assert len(set(classes)) == len(classes), "not one class both heard and seen"
        if category[clip] < 0 or interval[clip, 1] - interval[clip, 0] == 1:
            assert not classes, "left alone"
    changed = ((steps != own).any(dim=1), (frames != own).any(dim=1))
    assert (changed[0] & ~changed[1]).any()
    assert (changed[1] & ~changed[0]).any()
    assert (changed[0] & changed[1]).any()


@pytest.mark.parametrize("stream", ["sound", "frames"])
def test_one_stream_alone_is_spliced_as_often(stream: str) -> None:
    torch.manual_seed(0)
    category, interval = events()
    both = numbered()
    alone = dataclasses.replace(both, **{"frames" if stream == "sound" else "sound": None})
    found = splice(alone, category, interval, 1.0, 10.0)
    values = found.sound.features if found.sound is not None else found.frames.means()  # type: ignore[union-attr]
    changed = (values.flatten(1) != torch.arange(CLIPS)[:, None]).any(dim=1)
    assert changed.sum() > CLIPS // 4


def test_nothing_is_spliced_without_a_share_or_strangers() -> None:
    category, interval = events()
    for found in (
        splice(numbered(), category, interval, 0.0, 10.0),
        splice(numbered(), torch.zeros_like(category), interval, 1.0, 10.0),
    ):
        for values in parts(found):
            assert torch.equal(values, torch.arange(CLIPS)[:, None].expand_as(values).float())
    empty = splice(numbered(0), category[:0], interval[:0], 1.0, 10.0)
    assert parts(empty)[0].shape == (0, STEPS)


def test_a_stranger_s_missing_sound_goes_with_it() -> None:
    torch.manual_seed(0)
    category = torch.arange(32)
    batch = numbered(32)
    assert batch.sound is not None
    batch.sound.valid[16:] = False
    found = splice(batch, category, torch.tensor([[0.4, 0.6]]).expand(32, 2), 1.0, 10.0).sound
    assert found is not None
    of = found.features[:, :, 0]
    assert ((of >= 16) & (of != category[:, None]) & (category < 16)[:, None]).any()
    assert torch.equal(found.valid, of < 16)
