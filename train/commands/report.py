"""`python -m train report`: the stored scores of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.common.cli import say
from cache.common.errors import ConfigError
from train.data.folds import SCORED
from train.report.fold_tables import folds_table
from train.report.tables import Runs, comparison
from train.runs import folders
from train.runs.evaluate import Result


def report(paths: Sequence[Path], split: str) -> str:
    """The scores of runs, and of their seeds' ensembles; ConfigError where their data differ.

    Of runs that were divided into folds the scores over those, whatever the split.
    """
    divided = [path for path in paths if (path / folders.FOLDS_FILE).exists()]
    if divided and len(divided) < len(paths):
        other = next(path for path in paths if path not in divided)
        raise ConfigError(
            f"{divided[0]} and {other} can't be compared: the first was scored over folds, the "
            "other on a split; name runs of one kind"
        )
    short = len({path.name for path in paths}) == len(paths)
    names = {path: path.name if short else str(path) for path in paths}
    if divided:
        return _over_folds({name: path for path, name in names.items()})
    stored: Runs = {
        name: (
            seeds := [folders.read_result(place, split) for place in folders.members(path)],
            folders.read_ensemble(path, split, len(seeds)),
        )
        for path, name in names.items()
    }
    folders.check_same_data({name: seeds for name, (seeds, _) in stored.items()})
    _warn({result.get("code") for seeds, _ in stored.values() for result in seeds})
    return comparison(stored)


def _over_folds(paths: dict[str, Path]) -> str:
    stored = {name: _read(path) for name, path in paths.items()}
    folders.check_same_data({name: [result] for name, result in stored.items()})
    _warn({result.get("code") for result in stored.values()})
    return folds_table(stored)


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
        raise ConfigError(f"{path}: holds no scores of folds; delete it and score the run again")
    return found


def _warn(codes: set[str | None]) -> None:
    if len(codes) > 1:
        say("warning: not all were scored by the same code; evaluate them again", error=True)
