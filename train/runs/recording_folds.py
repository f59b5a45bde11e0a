"""All folds' answers to recordings as one: each answered by the model that has not seen it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from cache import Cache
from train.runs.folds import known_of
from train.runs.record import Record
from train.runs.recordings import (
    EventRow,
    RecordingAnswer,
    Recordings,
    answered_recordings,
    baselines,
    mean_read_off,
    scored,
)
from train.score.events import EventList
from train.score.named import MODEL, Result, Scores, mean_and_deviation


@dataclass(frozen=True)
class RecordingFold:
    """A fold that was scored: what its models' records say, their (mean) answer, its scores."""

    name: str
    record: Record
    answer: RecordingAnswer
    result: Result


def over_recording_folds(
    cache: Cache, folds: Sequence[RecordingFold], classes: Sequence[str]
) -> tuple[Result, list[EventRow]]:
    """The scores of all folds' recordings as one set, and each with what was answered.

    See `train.runs.folds.over_folds`.
    """
    answer, results = _joined([fold.answer for fold in folds]), [fold.result for fold in folds]
    trivial = [
        baselines(cache, fold.record.rows, fold.answer.recordings.lengths_s) for fold in folds
    ]
    own: list[Scores] = [result["scores"][MODEL] for result in results]
    rows: list[EventRow] = [
        {**row, "fold": fold.name}
        for fold in folds
        for row in answered_recordings(fold.answer, classes)
    ]
    return {
        **results[0],
        **known_of(results),
        **scored(answer, _together(folds, trivial), classes),
        "read_off": answer.read_off.record(),
        "folds": [
            {"fold": f.name, **{k: f.result[k] for k in ("events", "scores")}} for f in folds
        ],
        "mean_and_deviation": {name: [*pair] for name, pair in mean_and_deviation(own).items()},
    }, rows


def _joined(answers: Sequence[RecordingAnswer]) -> RecordingAnswer:
    """Several sets of recordings as one, each read off as its own models chose."""
    parts = [one.recordings for one in answers]
    begins = _begins(answers)
    together = Recordings(
        names=[name for part in parts for name in part.names],
        lengths_s=np.concatenate([part.lengths_s for part in parts]),
        truth=_moved([part.truth for part in parts], begins),
        clips=[clip for part in parts for clip in part.clips],
    )
    return RecordingAnswer(
        together,
        [timeline for one in answers for timeline in one.timelines],
        mean_read_off([one.read_off for one in answers]),
        _moved([one.candidates for one in answers], begins),
        _moved([one.found for one in answers], begins),
    )


def _together(
    folds: Sequence[RecordingFold], trivial: Sequence[Mapping[str, EventList]]
) -> dict[str, EventList]:
    begins = _begins([fold.answer for fold in folds])
    return {name: _moved([one[name] for one in trivial], begins) for name in trivial[0]}


def _begins(answers: Sequence[RecordingAnswer]) -> list[int]:
    """The number of each set's first recording."""
    return [0, *accumulate(len(one.recordings.names) for one in answers)][:-1]


def _moved(lists: Sequence[EventList], begins: Sequence[int]) -> EventList:
    moved = [
        replace(one, recording=one.recording + begin)
        for one, begin in zip(lists, begins, strict=True)
    ]
    return EventList.together(moved)
