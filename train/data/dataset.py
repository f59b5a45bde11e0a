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
from train.data.targets import Targets, looked_at, targets

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
    weak: (n,) int64 numbers of such rows of train that name a class and don't say when.
    without_features: ids of the labelled clips that have none.
    unknown: split → class that was not asked for → how many of its events are left out.
    leaks: ids that stand in two splits, for each pair of splits that shares any.
    notes: what else a person should know.
    """

    labels: Labels
    kept: dict[str, npt.NDArray[np.int64]]
    weak: npt.NDArray[np.int64]
    without_features: list[str]
    unknown: dict[str, dict[str, int]]
    leaks: dict[tuple[str, str], list[str]]
    notes: list[str]

    def with_weak(self) -> Rows:
        """The same, with those rows of train that don't say when among what can be used."""
        train = np.sort(np.concatenate([self.kept["train"], self.weak]))
        return replace(self, kept={**self.kept, "train": train})

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

    Those whose recording has no features are left out and named; so are weak ones, which don't say
    when, but those of train are kept apart, and a split to score or to choose on of which no event
    says when keeps them, for its classes; where `drop_leaks` is set, so are rows whose id stands
    in a later split as well (train < val < test). With `classes`, a run's own, the cache's are
    matched with them by name, whatever their order; events of others are left out. Clips without
    an event stay.
    """
    labels = cache.labels
    leaks, notes = labels.leaks(), list(labels.notes)
    unknown: dict[str, dict[str, int]] = {}
    kept: dict[str, npt.NDArray[np.int64]] = {}
    category, known = _numbered(labels, classes), looked_at(cache)
    for name in SPLITS:
        leaked = {i for (early, _), ids in leaks.items() if early == name for i in ids}
        dropped = leaked if config.drop_leaks else set()
        rows = [r for r in labels.rows(name) if labels.ids[r] in known]
        foreign = [labels.classes[labels.category[r]] for r in rows if category[r] == UNKNOWN]
        unknown[name] = dict(sorted(Counter(foreign).items()))
        rows = [r for r in rows if category[r] != UNKNOWN]
        kept[name] = np.array([r for r in rows if labels.ids[r] not in dropped], np.int64)
        if len(kept[name]) < len(rows):
            count = len(rows) - len(kept[name])
            notes.append(f"{count} row(s) of {name} dropped: their ids stand in a later split")
    weak = kept["train"][labels.weak[kept["train"]]]
    for name, some in kept.items():
        if name == "train" or not classes_alone(cache, config, labels, some):
            kept[name] = some[~labels.weak[some]]
    return Rows(
        weak=weak,
        labels=replace(labels, category=category, classes=list(classes or labels.classes)),
        kept=kept,
        without_features=sorted({clip_id for clip_id in labels.ids if clip_id not in known}),
        unknown=unknown,
        leaks=leaks,
        notes=notes,
    )


def classes_alone(
    cache: Cache, config: TrainConfig, labels: Labels, rows: npt.NDArray[np.int64]
) -> bool:
    """Whether label rows have events and none says when, so that they can tell of classes alone.

    Of windows, and of several events in a clip, they can't.
    """
    events = rows[~labels.background[rows]]
    one_each = config.events != "several" and cache.declaration.hop_s is None
    return one_each and len(events) > 0 and bool(labels.weak[events].all())


def _numbered(labels: Labels, classes: Sequence[str] | None) -> npt.NDArray[np.int64]:
    """(R,) the rows' categories as numbered in `classes`, UNKNOWN for those that are not in it."""
    if classes is None:
        return labels.category
    numbers = {normalize("NFC", name): number for number, name in enumerate(classes)}
    found = [numbers.get(normalize("NFC", name), UNKNOWN) for name in labels.classes]
    return np.array([*found, BACKGROUND], np.int64)[labels.category]  # -1 is the last


@dataclass(frozen=True)
class Samples:
    """What is true of clips of one split, on the device: R samples.

    clip: (R,) int64 number of the clip in the features; category: (R,) int64, BACKGROUND for a clip
    without an event; interval: (R, 2) float32 start and end as fractions of the clip, 0 and 0 where
    there is none. Where a clip may have several events these are (R, E) and (R, E, 2), see
    `Targets`. `rows` are the numbers of the label rows they came from.
    """

    clip: Tensor
    category: Tensor
    interval: Tensor
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def background(self) -> Tensor:
        """(R,) bool which samples are clips without an event."""
        category = self.category if self.category.ndim == 1 else self.category[:, 0]
        return category == BACKGROUND

    @property
    def weak(self) -> Tensor:
        """(R,) bool which samples are events that don't say when: their intervals are NaN."""
        return self.interval.isnan().flatten(1).any(dim=1)

    def timed_count(self) -> int:
        """How many samples are events that say when."""
        return int((~self.background & ~self.weak).sum())

    def background_count(self) -> int:
        """How many samples are clips without an event."""
        return int(self.background.sum())

    def epoch_size(self, background_share: float) -> int:
        """How many samples an epoch has, of which at most a share may be without an event."""
        empty = self.background_count()
        events = len(self) - empty
        if background_share == 1:
            return len(self)
        return events + min(empty, int(events * background_share / (1 - background_share)))

    def drawn(self, order: Tensor, background_share: float) -> Tensor:
        """Of all samples, in a random order (R,) on the host, those of an epoch, in that order."""
        empty = self.background.cpu()[order]
        left_out = len(self) - self.epoch_size(background_share)
        return order[~empty | (empty.cumsum(0) > left_out)]


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

    def without_times(self) -> Dataset:
        """The same, of single events of which none says when; nothing else is copied."""
        splits = {
            name: replace(
                one, interval=torch.where(one.background[:, None], one.interval, torch.nan)
            )
            for name, one in self.splits.items()
        }
        return replace(self, splits=splits)

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
    """Label rows (see `choose_rows`) with features, on the config's device.

    `config` must be resolved. Each sample is a clip and one event, or with events "several" a clip
    and all of them, see `targets`.
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
    several = config.events == "several"
    found = {name: targets(cache, labels, some, several) for name, some in chosen.items()}
    used = np.unique(np.concatenate([one.clips for one in found.values()]))
    clips = load_features(cache, config, [cache.ids[n] for n in used], len(labels.classes))
    samples = {name: _samples(one, several, clips, used) for name, one in found.items()}
    return Dataset(clips, samples, rows)


def _samples(
    one: Targets, several: bool, clips: FeatureStore, used: npt.NDArray[np.int64]
) -> Samples:
    """Targets on the device; used: the rows in the cache of its clips."""
    ends = np.stack([one.start_s, one.end_s], 2) / clips.shapes.clip_seconds
    category, interval = torch.from_numpy(one.category), torch.from_numpy(np.float32(ends))
    if not several:
        category, interval = category.squeeze(1), interval.squeeze(1)
    return Samples(
        clip=torch.from_numpy(np.searchsorted(used, one.clips)).to(clips.device),
        category=category.to(clips.device),
        interval=interval.to(clips.device),
        rows=one.rows,
    )
