"""Small caches in which some clips have no event, from the features on to the labels."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from synthetic_cache import make_cache
from tiny_runs import TINY, tiny_labels

from cache import Labels
from cache.format.schema import BACKGROUND


def with_background(labels: Labels, clips: int, splits: Sequence[int] = (0, 0, 0, 1, 2)) -> Labels:
    """The labels and so many clips without an event more, split as `splits` says, over and over."""
    return Labels(
        ids=[*labels.ids, *(f"empty{n:03}" for n in range(clips))],
        classes=labels.classes,
        category=np.concatenate([labels.category, np.full(clips, BACKGROUND)]),
        start_s=np.concatenate([labels.start_s, np.zeros(clips)]),
        end_s=np.concatenate([labels.end_s, np.zeros(clips)]),
        split=np.concatenate([labels.split, np.resize(np.array(splits, np.int8), clips)]),
        source=labels.source,
    )


def mixed_cache(folder: Path, clips: int = 30, empty: int = 15, **changes: Any) -> Path:
    """A tiny cache of which the last clips have no event, and nothing in their features."""
    labels = with_background(tiny_labels(clips), empty)
    return make_cache(folder, labels=dataclasses.replace(labels, **changes), **TINY)
