"""Score what was trained in folds: each fold on its own part, then all parts as one set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cache import Cache
from cache.common.cli import line_width, say
from cache.common.errors import ConfigError
from train.commands.evaluate import score_ensemble, score_model
from train.commands.scored import Scored
from train.config import SCORED
from train.data.dataset import Dataset
from train.report.fold_tables import folds_table
from train.report.tables import Runs
from train.runs import folders
from train.runs.evaluate import write_result
from train.runs.folds import Fold, over_folds
from train.runs.recording_folds import RecordingFold, over_recording_folds
from train.runs.recordings import RecordingAnswer, on_recordings
from train.score.named import MODEL, Result


def score_folds(
    run: Path, cache: Cache, datasets: Mapping[str, Dataset], done: Sequence[Scored]
) -> list[Result]:
    """Score each fold's models on the part that they have not seen, then all parts together.

    datasets: each fold's, by its name; done: all models. Writes `metrics_folds.json` and
    `predictions_folds.json` into each model's folder, each fold's, and the run's. Returns the
    result over all folds, then each fold's own.
    """
    folds: list[Fold] = []
    listed: list[RecordingFold] = []
    for name, dataset in datasets.items():
        models = [one.trained for one in done if (run / name) in _with_parents(one.trained.folder)]
        data = dataset.rows if on_recordings(cache, models[0].about) else dataset
        scored = [score_model(cache, data, one, SCORED, 0) for one in models]
        record, result, answer = scored[0].record, scored[0].result, scored[0].answer
        if len(scored) > 1:
            result, answer, _ = score_ensemble(run / name, scored, cache, data, SCORED)
        if isinstance(answer, RecordingAnswer):
            listed.append(RecordingFold(name, record, answer, result))
        else:
            folds.append(Fold(name, dataset, record, answer, result))
    classes = next(iter(datasets.values())).classes
    together, rows = over_recording_folds(cache, listed, classes) if listed else over_folds(folds)
    written = write_result(run, run, together, rows)
    say(f"\n{folds_table({MODEL: together}, brief=True, width=line_width())}")
    say(
        "over folds: every clip answered by the fold that was neither trained nor selected on it; "
        "baselines by each fold's own training rows"
    )
    say(f"all scores: {written}, {run}/fold-*; `python -m train report {run}` shows them")
    return [together, *(one.result for one in folds), *(one.result for one in listed)]


def read_folds(places: Mapping[str, Path]) -> Runs | None:
    """The stored scores of runs of folds over those, by name; None where none of the runs is one.

    ConfigError where only some are, or where one isn't finished.
    """
    divided = [path for path in places.values() if (path / folders.FOLDS_FILE).exists()]
    if not divided:
        return None
    if len(divided) < len(places):
        other = next(path for path in places.values() if path not in divided)
        raise ConfigError(
            f"{divided[0]} and {other} can't be compared: the first was scored over folds, the "
            "other on a split; name runs of one kind"
        )
    return {name: ([_read(path)], None) for name, path in places.items()}


def _read(run: Path) -> Result:
    """The scores over a run's folds; ConfigError where there are none yet."""
    path = run / f"metrics_{SCORED}.json"
    if not path.exists():
        raise ConfigError(
            f"{path}: not all folds of this run are trained; `python -m train fit --cache CACHE "
            f"--run {run} --resume --folds K` goes on"
        )
    found = folders.read_result(run, SCORED)
    if not found.get("folds"):
        raise ConfigError(f"{path}: holds no scores of folds; resume the run to score it again")
    return found


def _with_parents(folder: Path) -> list[Path]:
    return [folder, *folder.parents]
