"""Cache → labelled data: label rows, chosen from labels alone, joined with their clips' features.

Shapes: R label rows, M clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache import SPLITS, Cache, Labels
from cache.common.errors import CacheError, ConfigError
from cache.format.schema import BACKGROUND
from train.config import TrainConfig
from train.data.features import FeatureStore, check_modality, load_features
from train.data.fields import frame_count, inputs_of

UNKNOWN = -2
"""The category of an event of a class that was not asked for."""


@dataclass(frozen=True)
class Rows:
    """Which label rows of a cache can be used, and what was left out.

    Attributes
    ----------
    labels: the cache's label rows, their categories numbered as in the classes that were asked
        for; BACKGROUND (-1) for a clip without an event, UNKNOWN (-2) for a class that is not
        among them.
    kept: split → (n,) int64 numbers of the rows that can be used: their clips have features.
    without_features: ids of the labelled clips that have none.
    unknown: split → class that was not asked for → how many of its events are left out.
    leaks: ids that stand in two splits, for each pair of splits that shares any.
    notes: what else a person should know.
    """

    labels: Labels
    kept: dict[str, npt.NDArray[np.int64]]
    without_features: list[str]
    unknown: dict[str, dict[str, int]]
    leaks: dict[tuple[str, str], list[str]]
    notes: list[str]

    def used(self) -> Labels:
        """The rows of train and val that can be used, in the order of the cache's."""
        rows = np.sort(np.concatenate([self.kept["train"], self.kept["val"]]))
        labels = self.labels
        return Labels(
            ids=[labels.ids[row] for row in rows],
            classes=labels.classes,
            category=labels.category[rows],
            start_s=labels.start_s[rows],
            end_s=labels.end_s[rows],
            split=labels.split[rows],
            source=labels.source,
        )


def choose_rows(cache: Cache, config: TrainConfig, classes: Sequence[str] | None = None) -> Rows:
    """Which label rows can be used; reads labels, no features.

    Those whose clip has no features are left out and named; where `drop_leaks` is set, so are rows
    whose id stands in a later split as well (train < val < test). With `classes`, a run's own, the
    cache's are matched with them by name, whatever their order; events of others are left out.
    Clips without an event stay.
    """
    labels = cache.labels
    leaks, notes = labels.leaks(), list(labels.notes)
    unknown: dict[str, dict[str, int]] = {}
    kept: dict[str, npt.NDArray[np.int64]] = {}
    category = labels.category
    if classes is not None:
        numbers = {normalize("NFC", name): number for number, name in enumerate(classes)}
        found = [numbers.get(normalize("NFC", name), UNKNOWN) for name in labels.classes]
        category = np.array([*found, BACKGROUND], np.int64)[category]  # -1 is the last
    for name in SPLITS:
        leaked = {i for (early, _), ids in leaks.items() if early == name for i in ids}
        dropped = leaked if config.drop_leaks else set()
        rows = [r for r in labels.rows(name) if labels.ids[r] in cache]
        foreign = Counter(
            labels.classes[labels.category[r]] for r in rows if category[r] == UNKNOWN
        )
        unknown[name] = dict(sorted(foreign.items()))
        rows = [r for r in rows if category[r] != UNKNOWN]
        kept[name] = np.array([r for r in rows if labels.ids[r] not in dropped], np.int64)
        if len(kept[name]) < len(rows):
            count = len(rows) - len(kept[name])
            notes.append(f"{count} row(s) of {name} dropped: their ids stand in a later split")
    return Rows(
        labels=replace(labels, category=category, classes=list(classes or labels.classes)),
        kept=kept,
        without_features=sorted({clip_id for clip_id in labels.ids if clip_id not in cache}),
        unknown=unknown,
        leaks=leaks,
        notes=notes,
    )


@dataclass(frozen=True)
class Samples:
    """The label rows of one split, on the device.

    clip: (R,) int64 number of the clip in the features; category: (R,) int64, BACKGROUND for a clip
    without an event; interval: (R, 2) float32 start and end as fractions of the clip, 0 and 0 where
    there is none. `rows` are the numbers of the label rows they
    came from.
    """

    clip: Tensor
    category: Tensor
    interval: Tensor
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def background_count(self) -> int:
        """How many rows are of clips without an event."""
        return int((self.category == BACKGROUND).sum())


@dataclass(frozen=True)
class Dataset:
    """A labelled cache, ready to train on."""

    clips: FeatureStore
    splits: dict[str, Samples]
    rows: Rows

    @property
    def classes(self) -> list[str]:
        """Class names; place in the list is the class number."""
        return self.rows.labels.classes

    @property
    def ids(self) -> list[str]:
        """Clip id of each label row."""
        return self.rows.labels.ids


def resolve(config: TrainConfig, cache: Cache, classes: Sequence[str] | None) -> TrainConfig:
    """Fill in what the cache decides, and refuse what contradicts it."""
    check_modality(config, cache)
    facts: dict[str, int] = {}
    if classes is not None:
        facts["num_classes"] = len(classes)
    if config.modality != "audio":
        frames = inputs_of(cache, config).frames
        assert frames is not None
        facts["num_frames"] = frame_count(frames)
    for name, found in facts.items():
        asked = getattr(config, name)
        if asked is not None and asked != found:
            flag = name.replace("_", "-")
            raise ConfigError(
                f"{name}: the settings say {asked}, the cache {cache.path} has {found}; pass "
                f"--{flag} {found} (or --{flag} None to take the cache's)"
            )
    return config.revised(**facts)


def load_dataset(
    cache: Cache,
    config: TrainConfig,
    splits: Sequence[str] = SPLITS,
    rows: Rows | None = None,
) -> Dataset:
    """Label rows (see `choose_rows`) process_group with features, on the config's device.

    `config` must be resolved.
    """
    rows = rows or choose_rows(cache, config)
    labels = rows.labels
    chosen = {name: rows.kept[name] for name in splits}
    if not any(map(len, chosen.values())):
        foreign = sorted({name for split in splits for name in rows.unknown[split]})
        raise CacheError(
            f"{cache.path}: no label row of {', '.join(splits)} has features"
            + (
                f" and a class that the run knows; it doesn't know {', '.join(foreign[:10])}"
                if foreign
                else ""
            )
            + "; see `python -m cache info`"
        )
    used = sorted({labels.ids[row] for some in chosen.values() for row in some})
    clips = load_features(cache, config, used, len(labels.classes))
    place = {clip_id: row for row, clip_id in enumerate(used)}
    ends = np.stack([labels.start_s, labels.end_s], 1) / cache.clip_seconds

    def samples(some: npt.NDArray[np.int64]) -> Samples:
        return Samples(
            clip=torch.tensor([place[labels.ids[row]] for row in some], dtype=torch.int64).to(
                clips.device
            ),
            category=torch.from_numpy(labels.category[some]).to(clips.device),
            interval=torch.from_numpy(ends[some].astype(np.float32)).to(clips.device),
            rows=some,
        )

    return Dataset(clips, {name: samples(some) for name, some in chosen.items()}, rows)
