"""The best trials against the default, trained again with fresh seeds, so that luck doesn't count.

A trial that looks best among many had luck with its seeds, too. So the best few and the default are
trained in full with seeds that no trial had, and paired: seed by seed, and clip by clip of val.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.config import TrainConfig
from train.runs.folders import HISTORY_FILE
from train.runs.paired import paired_scores
from train.runs.stored import read_history
from train.score.intervals import Estimate
from train.training.choice import criterion, kept_epoch, scored_by

NORMAL = "default"


@dataclass(frozen=True)
class Again:
    """Settings that were trained again.

    scores: the criterion on val of each fresh seed; gain: of their mean over the default's, with
    its 95 % interval over the clips of val, None where such can't be paired, and of the default.
    """

    name: str
    settings: Mapping[str, object]
    scores: Sequence[float]
    default: Sequence[float]
    gain: Estimate | None

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.scores))

    @property
    def ahead(self) -> list[float]:
        """By how much it is better than the default, seed by seed."""
        return [a - b for a, b in zip(self.scores, self.default, strict=True)]

    @property
    def is_better(self) -> bool:
        """Whether it is a find: better with every seed, and the clips' interval above zero."""
        if self.name == NORMAL or min(self.ahead) <= 0:
            return False
        return self.gain is None or (self.gain.low is not None and self.gain.low > 0)


def compared(
    folder: Path,
    settings: Mapping[str, Mapping[str, object]],
    config: TrainConfig,
    seeds: Sequence[int],
    clip_seconds: float,
) -> list[Again]:
    """What was trained again in `folder`/<name>/seed-…, the default first, then the best first.

    settings: by name, NORMAL among them; config: of what is not searched, resolved.
    """
    places = {name: [folder / name / f"seed-{seed}" for seed in seeds] for name in settings}
    scores = {name: [_score(one, config) for one in some] for name, some in places.items()}
    gains: dict[str, Estimate] = {}
    if config.events == "single":
        clips = paired_scores(places, "val", clip_seconds)
        of = criterion_of(places[NORMAL][0])
        gains = {name: (one - clips[NORMAL]).estimates()[of] for name, one in clips.items()}
    found = [
        Again(name, some, scores[name], scores[NORMAL], gains.get(name) if name != NORMAL else None)
        for name, some in settings.items()
    ]
    return sorted(found, key=lambda one: (one.name != NORMAL, -one.mean))


def best_of(found: Sequence[Again]) -> Again:
    """The find with the highest mean; the default where there is none."""
    return max(
        (one for one in found if one.is_better or one.name == NORMAL),
        key=lambda one: (one.is_better, one.mean),
    )


def criterion_of(run: Path) -> str:
    """What a run was chosen by, as its scores call it."""
    return criterion(read_history(run / HISTORY_FILE)[-1]).removeprefix("val_")


def _score(run: Path, config: TrainConfig) -> float:
    """The criterion of the weights that a run kept."""
    history = read_history(run / HISTORY_FILE)
    return scored_by(history[kept_epoch(history, config) - 1])
