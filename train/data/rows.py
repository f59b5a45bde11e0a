"""Which label rows of a cache a run can use: chosen from labels alone, before features are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

import numpy as np
import numpy.typing as npt

from cache import SPLITS, Cache, Labels
from train.config import TrainConfig


@dataclass(frozen=True)
class Rows:
    """Which label rows of a cache can be used, and what was left out.

    Attributes
    ----------
    labels: the cache's label rows, their categories numbered as in the classes that were asked
        for; -1 for a class that is not among them.
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
    """
    labels = cache.labels
    leaks, notes = labels.leaks(), list(labels.notes)
    unknown: dict[str, dict[str, int]] = {}
    kept: dict[str, npt.NDArray[np.int64]] = {}
    category = labels.category
    if classes is not None:
        numbers = {normalize("NFC", name): number for number, name in enumerate(classes)}
        found = [numbers.get(normalize("NFC", name), -1) for name in labels.classes]
        category = np.array(found, np.int64)[category]
    for name in SPLITS:
        leaked = {i for (early, _), ids in leaks.items() if early == name for i in ids}
        dropped = leaked if config.drop_leaks else set()
        rows = [r for r in labels.rows(name) if labels.ids[r] in cache]
        foreign = Counter(labels.classes[labels.category[r]] for r in rows if category[r] < 0)
        unknown[name] = dict(sorted(foreign.items()))
        rows = [r for r in rows if category[r] >= 0]
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
