"""Cross-validation: labelled clips divided by id into parts, each of which is scored once.

In fold k part k is scored, the next one selects (epoch, decoding), the others train: nothing that
is scored was trained or selected on. For small sets, where a fixed test split would be a few clips
(Stone 1974; stratified, Kohavi 1995). Shapes: R label rows, n rows that are divided.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cache import SPLITS, Cache, Labels
from cache.common.errors import ConfigError
from cache.common.settings import Settings
from cache.format.names import one_form
from cache.format.schema import NO_SPLIT
from train.config import SCORED, TrainConfig
from train.data.dataset import Dataset, Rows, load_dataset
from train.data.targets import looked_at

LEAST_FOLDS = 3
MOST_FOLDS = 1000
_TURNS = {SCORED: 0, "val": 1}
_NAMED = 5


class Division(Settings):
    """How a set is divided: equal ones divide equal labels equally, whatever their order."""

    folds: int = Field(ge=LEAST_FOLDS, le=MOST_FOLDS)
    """How many parts, and so how many folds."""
    of: Literal["train+val", "all"] = "train+val"
    """Which rows: those of train and val, so that test stays untouched; or all labelled ones."""
    seed: int = Field(ge=0, lt=1 << 32)
    """Decides, with the ids alone, which part an id is in."""

    def parts(self, rows: Rows, cache: Cache) -> dict[str, Rows]:
        """The rows of each fold, `fold-1` to `fold-K`, as its "train", "val" and SCORED.

        ConfigError where there are fewer ids than folds.
        """
        labels, pool = rows.labels, self._pool(rows, cache)
        ids = [one_form(labels.ids[row]) for row in pool]
        part_of = divide(ids, [_kind(labels, row) for row in pool], self.folds, self.seed)
        if len(part_of) < self.folds:
            raise ConfigError(
                f"--folds {self.folds}: {cache.path} has {len(part_of)} clips with labels and "
                f"features in {self._which()}; pass at most as many folds as clips"
                + ("" if self.of == "all" else ", or --folds-of all")
            )
        part = np.array([part_of[clip_id] for clip_id in ids], np.int64)
        notes = [*rows.notes, *_rare(ids, [_kind(labels, row) for row in pool])]
        return {
            f"fold-{number + 1}": self._fold(replace(rows, notes=notes), pool, part, number)
            for number in range(self.folds)
        }

    def _fold(
        self, rows: Rows, pool: npt.NDArray[np.int64], part: npt.NDArray[np.int64], number: int
    ) -> Rows:
        """One fold's rows; the others' labels are in no split.

        Events that don't say when are learned from where their part's turn is to train.
        """
        turn, timed = (part - number) % self.folds, ~rows.labels.weak[pool]
        kept = {name: pool[(turn == at) & timed] for name, at in _TURNS.items()}
        kept["train"] = pool[turn > 1]
        split = np.full(len(rows.labels), NO_SPLIT, np.int8)
        for name, some in kept.items():
            split[some] = SPLITS.index("test" if name == SCORED else name)
        source = f"{rows.labels.source}; fold {number + 1} of {self.folds}, seed {self.seed}"
        return replace(
            rows,
            labels=replace(rows.labels, split=split, source=source),
            kept=kept,
            unknown={name: {} for name in kept},
            # Within what is divided an id has one part, wherever its rows stood.
            leaks={} if self.of == "all" else {p: i for p, i in rows.leaks.items() if "test" in p},
        )

    def _pool(self, rows: Rows, cache: Cache) -> npt.NDArray[np.int64]:
        """The numbers of the rows that are divided (n,), in the order of the labels."""
        names = SPLITS if self.of == "all" else ("train", "val")
        found = [rows.kept[name] for name in names]
        if self.of == "all":
            labels = rows.labels
            loose = np.flatnonzero(labels.split == NO_SPLIT)
            known, vague = looked_at(cache), labels.weak
            usable = [row for row in loose if labels.ids[row] in known and not vague[row]]
            found.append(np.array(usable, np.int64))
        return np.sort(np.concatenate(found))

    def _which(self) -> str:
        return "all splits" if self.of == "all" else "train and val"

    def described(self, parts: Mapping[str, Rows], untouched: int) -> str:
        """What each fold has, for people; untouched: rows of test."""
        sizes = {}
        for name in ("train", "val", SCORED):
            counts = [len(one.kept[name]) for one in parts.values()]
            sizes[name] = "–".join(str(n) for n in sorted({min(counts), max(counts)}))
        text = (
            f"{self.folds} folds of the rows of {self._which()}, divided by id with seed "
            f"{self.seed}: {sizes['train']} train, {sizes['val']} select, {sizes[SCORED]} are "
            "scored in each"
        )
        if untouched and self.of != "all":
            text += f"; the {untouched} of test stay untouched (--folds-of all takes them in)"
        return text


def divide(ids: Sequence[str], kinds: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """The part, from 0, of each id; a row has an id and a class (n).

    Ids are dealt out in turn, class after class, in an order that seed and id decide. So parts
    differ by one id at most, and so do the ids that they have of a class where each id has one;
    an id of several classes counts as one of its rarest. All rows of an id are in one part.
    """
    count = Counter(kind for _, kind in dict.fromkeys(zip(ids, kinds, strict=True)))
    of: dict[str, set[str]] = defaultdict(set)
    for clip_id, kind in zip(ids, kinds, strict=True):
        of[clip_id].add(kind)
    rarest = {
        clip_id: min(some, key=lambda kind: (count[kind], kind)) for clip_id, some in of.items()
    }
    order = sorted(rarest, key=lambda clip_id: (rarest[clip_id], _lot(clip_id, seed)))
    return {clip_id: place % folds for place, clip_id in enumerate(order)}


def load_folds(cache: Cache, config: TrainConfig, parts: Mapping[str, Rows]) -> dict[str, Dataset]:
    """The folds with features, which are read once for all; see `load_dataset`."""
    first = next(iter(parts.values()))
    kept = {(fold, name): some for fold, one in parts.items() for name, some in one.kept.items()}
    named = {f"{fold} {name}": some for (fold, name), some in kept.items()}
    together = load_dataset(cache, config, list(named), replace(first, kept=named))
    return {
        fold: replace(
            together,
            splits={name: together.splits[f"{fold} {name}"] for name in one.kept},
            rows=one,
        )
        for fold, one in parts.items()
    }


def _kind(labels: Labels, row: int) -> str:
    category = int(labels.category[row])
    return one_form(labels.classes[category]) if category >= 0 else ""


def _lot(clip_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{clip_id}".encode()).hexdigest()


def _rare(ids: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """A note of the classes with too few ids to be trained on wherever they are scored."""
    count = Counter(kind for _, kind in dict.fromkeys(zip(ids, kinds, strict=True)))
    rare = [f"{kind} ({n})" for kind, n in sorted(count.items()) if n < LEAST_FOLDS]
    if not rare:
        return []
    more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
    return [
        f"{len(rare)} class(es) have fewer than {LEAST_FOLDS} clips, so that some are scored by a "
        f"model that was trained on none of them: {', '.join(rare[:_NAMED])}{more}"
    ]
