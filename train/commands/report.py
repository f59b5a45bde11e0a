"""`python -m train report`: the stored scores of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.common.cli import say
from cache.common.errors import AvelError, ConfigError
from train.commands.folds import report_folds
from train.report.tables import Runs, comparison, differences, of_ensemble, of_seeds, spread
from train.runs import folders
from train.runs.looks import chosen_on_test
from train.runs.paired import paired_scores


def report(paths: Sequence[Path], split: str) -> str:
    """The scores of runs, and of their seeds' ensembles; ConfigError where their data differ.

    Of several runs also each one minus the first, paired by clip, where their answers are stored
    and are of clips with one event each.
    Of runs that were divided into folds the scores over those, whatever the split.
    """
    if (over_folds := report_folds(paths)) is not None:
        return over_folds
    short = len({path.name for path in paths}) == len(paths)
    places = {path.name if short else str(path): path for path in paths}
    stored: Runs = {
        name: (
            seeds := [folders.read_result(place, split) for place in folders.members(path)],
            folders.read_ensemble(path, split, len(seeds)),
        )
        for name, path in places.items()
    }
    folders.check_same_data({name: seeds for name, (seeds, _) in stored.items()})
    if len({result.get("code") for seeds, _ in stored.values() for result in seeds}) > 1:
        say("warning: not all were scored by the same code; evaluate them again", error=True)
    told = comparison(stored)
    if split == "test":
        told = "\n".join([told, *_chosen_on_test(places)])
    if len(stored) == 1 or any(
        "recordings" in one for seeds, _ in stored.values() for one in seeds
    ):
        return told
    try:
        return f"{told}\n{_differences(places, stored, split)}"
    except AvelError as error:
        say(f"warning: no differences between the runs: {error}", error=True)
        return told


def _chosen_on_test(places: Mapping[str, Path]) -> list[str]:
    """For each run whose epochs were scored on test a line: what choosing among them gives."""
    lines = []
    for name, path in places.items():
        try:
            found = [one for place in folders.members(path) if (one := chosen_on_test(place))]
        except ConfigError as error:
            say(f"warning: {error}", error=True)
            continue
        if not found:
            continue
        score = spread([{"": one.segment_accuracy} for one in found])[""]
        epochs = ", ".join(f"{one.epoch} of {one.epochs}" for one in found)
        lines.append(
            f"not a result: {of_seeds(name, len(found))} has segment accuracy {score} where the "
            f"epoch ({epochs}) is chosen on test, as for most published figures; not comparable to "
            "what stands above"
        )
    return lines


def _differences(places: Mapping[str, Path], stored: Runs, split: str) -> str:
    """Each run, and each ensemble, minus the first run."""
    models: dict[str, Sequence[Path]] = {}
    for name, (seeds, together) in stored.items():
        models[of_seeds(name, len(seeds))] = folders.members(places[name])
        if together is not None:
            models[of_ensemble(name, len(seeds))] = [places[name]]
    clip_seconds = {result.get("clip_seconds") for seeds, _ in stored.values() for result in seeds}
    (seconds,) = clip_seconds if len(clip_seconds) == 1 else (None,)
    if seconds is None:
        raise ConfigError(
            "not all runs' scores say how long their clips are; they are of an older version: "
            "evaluate the runs again"
        )
    (first, base), *others = paired_scores(models, split, seconds).items()
    return differences({f"{name} minus {first}": (one - base).stored() for name, one in others})
