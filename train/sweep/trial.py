"""One trial: the mean validation score of a few seeds; hopeless ones are stopped on the way.

Weights stay in memory and nothing is drawn: only the score is kept. A trial is a shorter training
than the one it stands for; the learning rate falls over its own epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from cache import Cache
from train.config import TrainConfig
from train.data.dataset import Dataset, Rows, load_dataset
from train.model.fusion import FusionModel
from train.training.choice import scored_by
from train.training.loop import Trainer, validated
from train.training.normalize import normalize
from train.training.state import TrainState
from train.training.validate import labels_grid
from train.training.weak import with_times

LOOKS = (0.4, 1.0)
"""After which shares of a training's epochs its validation score is looked at."""
Report = Callable[[int, float], bool]
"""Told the look's number (from 1) and the score there; whether to stop."""


@dataclass(frozen=True)
class Search:
    """What all trials share: the data, read once, and the settings that are not searched.

    config: resolved, its epochs those of a trial; dataset: train and val, nothing of test.
    """

    config: TrainConfig
    dataset: Dataset
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, cache: Cache, config: TrainConfig, rows: Rows, seeds: tuple[int, ...]) -> Search:
        """Reads features."""
        dataset = load_dataset(cache, config, ("train", "val"), rows)
        return cls(config, with_times(dataset, config), seeds)

    def score(self, settings: Mapping[str, object], report: Report) -> float | None:
        """The mean over the seeds of the criterion at the end of each; None where it was stopped.

        The first seed's way there is reported. TrainingError where a training diverges.
        """
        found = []
        for number, seed in enumerate(self.seeds):
            config = self.config.revised(**settings, seed=seed)
            value = self._train(config, report if number == 0 else _go_on)
            if value is None:
                return None
            found.append(value)
        return sum(found) / len(found)

    def _train(self, config: TrainConfig, report: Report) -> float | None:
        dataset, train = self.dataset, self.dataset.splits["train"]
        torch.manual_seed(config.seed)
        model = FusionModel(dataset.clips.shapes, config).to(dataset.clips.device)
        normalize(model, dataset.clips, train)
        state = TrainState.begin(model, config, train.epoch_size(config.background_share))
        trainer = Trainer(state, config, dataset.clips, train)
        grid_s = 0.0 if config.events == "several" else labels_grid(dataset)
        epochs, score, best = config.epochs_over(len(train)), -1.0, -1.0
        looks = {math.ceil(share * epochs): n for n, share in enumerate(LOOKS, 1)}
        for epoch in range(1, epochs + 1):
            state.rate_of(epoch, epochs)
            trainer.train_epoch(epoch)
            if epoch in looks or config.selection == "best":
                values, _ = validated(state.ema.model, dataset, grid_s)
                score = scored_by(values)
                state.scored(score)
                best = max(best, score)
            if epoch in looks and report(looks[epoch], score):
                return None
        return best if config.selection == "best" else score


def _go_on(look: int, score: float) -> bool:
    return False
