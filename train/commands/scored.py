"""A trained model on a split: what it answered, how good that is, where that was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.runs.record import Record
from train.runs.recordings import RecordingAnswer
from train.runs.trained import Answer, TrainedModel
from train.score.named import Result


@dataclass(frozen=True)
class Scored:
    """A trained model on a split. place: where its scores are, the run's folder or one in it."""

    trained: TrainedModel
    record: Record
    answer: Answer | RecordingAnswer
    result: Result
    place: Path
    written: Path
