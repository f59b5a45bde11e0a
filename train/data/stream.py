"""Training on more clips than memory holds: parts of shards flow through a shuffle buffer.

An epoch is planned before it begins. The parts stand in a random order, and with them their
clips: clip p of that stream goes to slot p modulo the number of slots, a ring. A sample is drawn
at place p + u × window, u uniform in [0, 1), so a batch mixes clips of the last `window` clips
that were read; the window is as wide as the ring allows. Everything follows from the epoch's
random order alone, so an epoch can be repeated, and every sample comes exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.data.reader import PART_CLIPS, FeatureReader, Numbers, Part
from train.distributed import ProcessGroup

Put = Callable[[Tensor | slice, Part], None]
"""Stores the clips of a part in slots on the device."""


@dataclass(frozen=True)
class EpochPlan:
    """How an epoch goes through a ring of slots.

    Attributes
    ----------
    samples: (R,) numbers of the samples in the order they are drawn.
    parts: the clips of each part, in the order they are read.
    begins: (P,) place of each part's first clip in the stream.
    before: (P,) number of the batch before which each part must be in its slots, ascending.
    window: clips that a batch is mixed from.
    """

    samples: Numbers
    parts: list[Numbers]
    begins: Numbers
    before: Numbers
    window: int


def plan_epoch(
    order: Numbers, clip: Numbers, parts: Sequence[Numbers], slots: int, size: int
) -> EpochPlan:
    """Plan an epoch over samples in the random order `order`, in batches of `size`.

    order: (R,) different numbers of samples; clip: the clip of each sample, by its number; parts:
    every clip of the samples once, in parts of at most `slots` − `size` clips.
    """
    part_of = part_numbers(parts)
    place_of = np.empty_like(part_of)
    _, first = np.unique(part_of[clip[order]], return_index=True)
    chosen = [parts[number] for number in np.argsort(first)]
    lengths = np.array([len(part) for part in chosen], np.int64)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    place_of[np.concatenate(chosen)] = np.arange(ends[-1])
    place = place_of[clip[order]]
    share = np.random.default_rng(order[:16]).random(len(order))
    window = min(slots, int(ends[-1]))
    while True:
        drawn = np.argsort(place + share * window, kind="stable")
        before, needed = _ring(place[drawn], begins, ends, size)
        if needed <= slots or not window:
            return EpochPlan(order[drawn], chosen, begins, before, window)
        window = max(0, window - (needed - slots))


def part_numbers(parts: Sequence[Numbers]) -> Numbers:
    """The number of the part that each clip is in, by the clip's number."""
    numbers = np.empty(1 + max((int(part.max()) for part in parts), default=-1), np.int64)
    for number, part in enumerate(parts):
        numbers[part] = number
    return numbers


def _ring(place: Numbers, begins: Numbers, ends: Numbers, size: int) -> tuple[Numbers, int]:
    """When each part must be in its slots, and how many slots that takes.

    place: (R,) place in the stream of the clip of each sample, in the order they are drawn.
    """
    batch = np.arange(len(place)) // size
    first = np.full(ends[-1], len(place), np.int64)
    last = np.full(ends[-1], -1, np.int64)
    np.minimum.at(first, place, batch)
    np.maximum.at(last, place, batch)
    before = np.minimum.reduceat(first, begins)
    before = np.minimum.accumulate(before[::-1])[::-1]
    oldest = np.full(int(batch[-1]) + 2, ends[-1], np.int64)  # by batch, place still to be drawn
    np.minimum.at(oldest, last, np.arange(ends[-1]))
    oldest = np.minimum.accumulate(oldest[::-1])[::-1]
    return before, int((ends - np.minimum(oldest[before], begins)).max())


@dataclass(frozen=True)
class Stream:
    """M clips of which as many as there are slots are on the device at a time.

    slot_of: (M,) int64 on the device, where a clip is, if it is there at all.
    """

    reader: FeatureReader
    slots: int
    slot_of: Tensor

    def epoch(
        self,
        put: Put,
        streams: frozenset[str],
        order: Tensor,
        clip: Tensor,
        size: int,
        group: ProcessGroup,
    ) -> Generator[tuple[Tensor, int], None, None]:
        """See `FeatureStore.epoch`. Each process streams its own parts of the cache."""
        clips = clip.cpu().numpy()
        parts = self.reader.parts(np.unique(clips))
        owner = part_numbers(parts)[clips] % group.size
        counts = np.bincount(owner, minlength=group.size)
        shares = np.array(group.share_sizes(size))
        mine = order.numpy()[owner[order.numpy()] == group.rank]
        own = int(shares[group.rank])
        batches: Iterator[Tensor] = iter(())
        if len(mine):
            plan = plan_epoch(mine, clips, parts[group.rank :: group.size], self.slots, own)
            batches = self._drawn(plan, put, streams, own)
        for step in range(max(math.ceil(n / k) for n, k in zip(counts, shares, strict=True))):
            chosen = next(batches, None)
            if chosen is None:
                chosen = torch.empty(0, dtype=torch.int64, device=self.slot_of.device)
            yield chosen, int(np.clip(counts - step * shares, 0, shares).sum())

    def _drawn(
        self, plan: EpochPlan, put: Put, streams: frozenset[str], size: int
    ) -> Iterator[Tensor]:
        """The samples of an epoch batch by batch, each when its clips are in their slots."""
        clips = np.concatenate(plan.parts)
        self._say_where(clips, np.arange(len(clips)) % self.slots)
        arriving = self.reader.ahead(plan.parts, streams)
        samples = torch.from_numpy(plan.samples).to(self.slot_of.device)
        done = 0
        for number, chosen in enumerate(torch.split(samples, size)):
            while done < len(plan.parts) and plan.before[done] <= number:
                part, at = next(arriving), int(plan.begins[done]) % self.slots
                count = len(plan.parts[done])
                if at + count <= self.slots:
                    put(slice(at, at + count), part)
                else:
                    put((torch.arange(at, at + count) % self.slots).to(samples.device), part)
                done += 1
            yield chosen

    def visit(
        self, put: Put, streams: frozenset[str], clips: Tensor, size: int
    ) -> Iterator[Tensor]:
        """Each part of the clips (N,) is read once: the places in `clips` of what is there then.

        At most `size` at a time.
        """
        wanted = clips.cpu().numpy()
        parts = self.reader.parts(np.unique(wanted))
        number = part_numbers(parts)[wanted]
        order = np.argsort(number, kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=len(parts)))
        places_of = np.split(order, ends[:-1])
        arriving = self.reader.ahead(parts, streams)
        for members, part, places in zip(parts, arriving, places_of, strict=True):
            put(slice(0, len(members)), part)
            self._say_where(members, np.arange(len(members)))
            yield from torch.split(torch.from_numpy(places).to(clips.device), size)

    def _say_where(self, clips: Numbers, slots: Numbers) -> None:
        device = self.slot_of.device
        self.slot_of[torch.from_numpy(clips).to(device)] = torch.from_numpy(slots).to(device)


def least_slots(size: int) -> int:
    """The fewest slots with which batches of `size` can be drawn at all."""
    return size + PART_CLIPS
