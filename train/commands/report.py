"""`python -m train report`: the stored scores of several runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.common.cli import say
from train.commands.folds import report_folds
from train.report.tables import Runs, comparison
from train.runs import folders


def report(paths: Sequence[Path], split: str) -> str:
    """The scores of runs, and of their seeds' ensembles; ConfigError where their data differ.

    Of runs that were divided into folds the scores over those, whatever the split.
    """
    if (over_folds := report_folds(paths)) is not None:
        return over_folds
    short = len({path.name for path in paths}) == len(paths)
    stored: Runs = {
        path.name if short else str(path): (
            seeds := [folders.read_result(place, split) for place in folders.members(path)],
            folders.read_ensemble(path, split, len(seeds)),
        )
        for path in paths
    }
    folders.check_same_data({name: seeds for name, (seeds, _) in stored.items()})
    if len({result.get("code") for seeds, _ in stored.values() for result in seeds}) > 1:
        say("warning: not all were scored by the same code; evaluate them again", error=True)
    return comparison(stored)
