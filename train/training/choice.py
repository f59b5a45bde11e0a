"""Which epoch's weights are kept, when training ends, and why it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from train.config import TrainConfig
from train.score.named import CRITERIA

History = Sequence[dict[str, float]]


def kept_epoch(history: History, config: TrainConfig) -> int:
    """Number (from 1) of the epoch whose weights are kept: the last, or the first of the best."""
    if config.selection == "last":
        return len(history)
    return 1 + int(np.argmax([*map(scored_by, history)]))


def stopped_early(history: History, config: TrainConfig) -> bool:
    """Whether `patience` epochs went by without a better criterion, where the best is kept."""
    return bool(history) and len(history) - kept_epoch(history, config) >= config.patience


def why_ended(history: History, config: TrainConfig) -> str:
    """Why training ended after these epochs, and which weights are kept, for people."""
    last, kept = len(history), kept_epoch(history, config)
    if stopped_early(history, config):
        score = criterion(history[-1]).removeprefix("val_")
        return (
            f"early stopping at epoch {last}, best {kept}: no better {score} on val in "
            f"{config.patience} epochs"
        )
    if config.selection == "best":
        return f"all {last} epochs, best {kept}"
    if config.average_epochs:
        return f"all {last} epochs, weights averaged over about the last {config.average_epochs:g}"
    return f"all {last} epochs, the last one's weights"


def criterion(values: Mapping[str, float]) -> str:
    """The name of the validation score that chooses: the first that an epoch has.

    Where validation has classes without times it is top-1.
    """
    return next(name for name in CRITERIA if name in values)


def scored_by(values: Mapping[str, float]) -> float:
    """That score of an epoch."""
    return values[criterion(values)]
