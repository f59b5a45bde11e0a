"""Which windows a recording has, and in which stretches they are made.

A stretch is a run of windows that are decoded in one go. Where stretches begin follows from the
settings alone, never from what is left to do or how many workers there are: so a row is the same
whenever it is made.
"""

from __future__ import annotations

import math

from cache.format.shard import SHARD_CLIPS
from cache.format.windows import OFFSET_DECIMALS
from extract.config import ExtractConfig

STRETCH_S = 120.0
"""A stretch covers no more than this where it has several windows: so much is held in memory."""
MINIMUM_S = 0.08
"""Shortest picture stream that counts as a clip: two frames at 25 a second."""

FEWEST_BYTES_A_SECOND = 50
"""A length at which a file has fewer is not believed: its packets are looked through."""


def offsets_of(length_s: float, config: ExtractConfig) -> list[float]:
    """Where the windows of a recording of `length_s` begin, s: 0, hop, 2 hop, … .

    Each shows something that the one before it did not, and no less than a clip must have; the
    last ends at or after the end. Without a hop there is the first alone.

    Examples
    --------
    >>> offsets_of(20.0, ExtractConfig(clip_seconds=10, hop_seconds=5))
    [0.0, 5.0, 10.0]
    >>> offsets_of(20.1, ExtractConfig(clip_seconds=10, hop_seconds=5))
    [0.0, 5.0, 10.0]
    """
    if config.hop_seconds is None:
        return [0.0]
    beyond_s = length_s - config.clip_seconds - shortest_s(config)
    more = math.floor(beyond_s / config.hop_seconds) + 1 if beyond_s >= 0 else 0
    return [round(k * config.hop_seconds, OFFSET_DECIMALS) for k in range(more + 1)]


def shortest_s(config: ExtractConfig) -> float:
    """Less than this is no clip, s."""
    return max(config.shortest_samples / config.sample_rate_hz, MINIMUM_S)


def stretches(offsets_s: list[float], config: ExtractConfig) -> list[tuple[float, ...]]:
    """The windows of each stretch of a recording."""
    hop_s = config.hop_seconds or config.clip_seconds
    fitting = math.floor((STRETCH_S - config.clip_seconds) / hop_s) + 1
    size = max(1, min(SHARD_CLIPS, fitting))
    return [tuple(offsets_s[n : n + size]) for n in range(0, len(offsets_s), size)]


def believable(length_s: float, size: int) -> bool:
    """Whether media of `size` bytes may be as long as it declares."""
    return 0 < length_s <= size / FEWEST_BYTES_A_SECOND
