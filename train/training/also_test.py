"""Test scored after each epoch, beside a training that it tells nothing.

Most published codes choose the epoch by the test split. What that would give is told by this, so
that figures which were chosen so can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from train.data.dataset import Dataset
from train.distributed import ProcessGroup
from train.model.fusion import FusionModel
from train.runs.checkpoint import About
from train.runs.folders import HISTORY_FILE
from train.runs.looks import ON_TEST, add_look
from train.runs.trained import Answer
from train.score.detection import segment_scores
from train.score.predict import events, predict

Look = Callable[[FusionModel, About], dict[str, float]]


def look_at(test: Dataset, run: Path, group: ProcessGroup) -> Look:
    """What scores an epoch's weights on test, a data set of its own, and counts that as a look.

    It is given the weights and how validation reads them off, and gives segment accuracy (Tian et
    al. 2018) by the name ON_TEST. Of several processes all must call it.
    """
    samples, clip_seconds = test.splits["test"], test.clips.shapes.clip_seconds
    rows = events(samples, clip_seconds)

    def look(model: FusionModel, about: About) -> dict[str, float]:
        answer = Answer.of(predict(model, test.clips, samples.clip, group), about)
        truth, guess = rows.of(rows.real), answer.predictions.of(rows.real)
        right = segment_scores(truth, guess, clip_seconds)["segment_accuracy"]
        assert right is not None
        if group.is_main_process:
            add_look(run, about.epoch, HISTORY_FILE, {"segment_accuracy": right})
        return {ON_TEST: right}

    return look
