"""Score models on whole recordings: one model, or the ensemble of a run's models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache import Cache
from train.commands.scored import Scored
from train.data.dataset import Rows
from train.runs.evaluate import write_result
from train.runs.record import Record
from train.runs.recordings import (
    RecordingAnswer,
    Recordings,
    answered_recordings,
    evaluate_recordings,
    intervals,
)
from train.runs.timelines import read_off_of, timelines
from train.runs.trained import TrainedModel, TrainedRun
from train.score.named import MODEL, Result


def score_on_recordings(
    cache: Cache,
    rows: Rows,
    one: TrainedModel,
    split: str,
    place: Path,
    device: str | None,
) -> Scored:
    """Answer each recording of a split, score, and write into `place`."""
    known = one.record or Record(rows.used(), None)
    recordings = Recordings.of(cache, rows, split)
    run = TrainedRun(one.folder, [one])
    found = timelines(run, cache, recordings.clips, device)
    in_order = [found[name] for name in recordings.names]
    answer = RecordingAnswer.of(recordings, in_order, read_off_of(run))
    result = evaluate_recordings(answer, one.about, cache, rows, split, [known])
    result["other_cache"] = None if place == one.folder else cache.path.resolve().name
    answered = answered_recordings(answer, rows.labels.classes)
    written = write_result(one.folder, place, result, answered)
    return Scored(one, known, answer, result, place, written)


def together_on_recordings(
    scored: Sequence[Scored], cache: Cache, rows: Rows, split: str
) -> tuple[Result, RecordingAnswer]:
    """The scores of the mean answer of a run's models, and that answer.

    With them, as `of_seeds`, how sure the mean of the models' own scores is.
    """
    answers = [one.answer for one in scored if isinstance(one.answer, RecordingAnswer)]
    answer, records = RecordingAnswer.mean(answers), [one.record for one in scored]
    result = evaluate_recordings(answer, scored[0].trained.about, cache, rows, split, records)
    result["of_seeds"] = {"intervals": {MODEL: intervals(answers)}}
    return result, answer
