"""What labels settle before training: whether clips have several events, and which are weak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cache import Cache, Labels
from train.config import TrainConfig
from train.data.dataset import Rows
from train.data.targets import SEVERAL_FROM, Numbers, how_many


def settle_events(cache: Cache, config: TrainConfig, rows: Rows) -> tuple[TrainConfig, str]:
    """Settings that say whether clips have several events, and why, in a line."""
    known = np.sort(np.concatenate([rows.kept["train"], rows.kept["val"]]))
    some, many = how_many(cache, rows.labels, known)
    kind = config.events
    if kind == "auto":
        kind = "several" if many > SEVERAL_FROM * max(some, 1) else "single"
    told = f"events: {kind} ({many} of {some} clips with an event have two or more; --events)"
    return config.revised(events=kind), told


def settle_weak(cache: Cache, config: TrainConfig, rows: Rows) -> Rows:
    """What to do, by settled settings, with events that don't say when; a note says it.

    Where a clip is a recording and has one event, those of train are learned from, and those of a
    split without any times tell of classes (see `classes_alone`). Of windows, and where a clip may
    have several events, all rows of such recordings are left out: to learn from one of their events
    that it is alone there would be wrong.
    """
    labels = rows.labels
    if not (count := int(labels.weak.sum())):
        return rows
    told, used = f"{count} row(s) say that there is an event, but not when: ", 0
    if config.events == "single" and cache.declaration.hop_s is None:
        rows, used = rows.with_weak(), len(rows.weak)
        told += f"{used} of train are learned from, "
        for name in ("val", "test"):
            if of_classes := int(labels.weak[rows.kept[name]].sum()):
                told += f"{of_classes} of {name}, where none does, tell of classes alone, "
                used += of_classes
        told += f"{count - used} left out, and nothing else of their clips counts as without one"
    else:
        whole = {name: _without_vague(labels, some) for name, some in rows.kept.items()}
        beside = sum(int(labels.timed[rows.kept[name]].sum()) for name in whole)
        beside -= sum(int(labels.timed[some].sum()) for some in whole.values())
        rows = replace(rows, kept=whole)
        told += f"left out, and with them {beside} that do of the same recordings, anywhere in "
        told += "which something more may happen"
    return replace(rows, notes=[*rows.notes, told])


def _without_vague(labels: Labels, rows: Numbers) -> Numbers:
    """Of label rows (n,) those of whose recording every row says when."""
    vague = {labels.ids[row] for row in np.flatnonzero(labels.weak).tolist()}
    return np.array([row for row in rows.tolist() if labels.ids[row] not in vague], np.int64)
