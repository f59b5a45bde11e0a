"""`python -m train report`: the stored scores of several runs side by side, as text or tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cache.common.atomic import replace_file
from cache.common.cli import line_width, say
from cache.common.errors import AvelError, ConfigError
from train.commands.folds import read_folds
from train.config import SCORED
from train.report import compare_page, papers
from train.report.compared import Compared
from train.report.fold_tables import folds_table
from train.report.tables import Runs, comparison, differences, of_ensemble, of_seeds, spread
from train.runs import folders
from train.runs.looks import chosen_on_test
from train.runs.paired import paired_scores
from train.score.intervals import EventScores
from train.score.named import MODEL

TEXT = "text"


def show_report(
    paths: Sequence[Path], split: str, form: str, out: Path | None, page: Path | None
) -> None:
    """Print what `report` gives, or write it to a file; page: write one of them all as well."""
    compared = compare(paths, split)
    text = rendered(compared, form, line_width() if out is None else None)
    if out is None:
        say(text)
    else:
        replace_file(out, f"{text}\n".encode("utf-8", "replace"))
        say(f"written: {out}")
    if page is not None:
        compare_page.write(page, compared)
        say(f"page: {page}")


def report(paths: Sequence[Path], split: str, form: str = TEXT) -> str:
    """The scores of runs, and of their seeds' ensembles; ConfigError where their data differ.

    form: TEXT or one of `papers.FORMATS`. Of several runs also each one minus the first, paired by
    clip, where their answers are stored and are of clips with one event each. Of runs that were
    divided into folds the scores over those, whatever the split.
    """
    return rendered(compare(paths, split), form)


def compare(paths: Sequence[Path], split: str) -> Compared:
    """Read the stored scores of runs that can be compared."""
    short = len({path.name for path in paths}) == len(paths)
    places = {path.name if short else str(path): path for path in paths}
    divided = read_folds(places)
    split = split if divided is None else SCORED
    stored: Runs = divided or {
        name: (
            seeds := [folders.read_result(place, split) for place in folders.members(path)],
            folders.read_ensemble(path, split, len(seeds)),
        )
        for name, path in places.items()
    }
    places, stored = _apart(places, stored)
    folders.check_same_data({name: seeds for name, (seeds, _) in stored.items()})
    if len({result.get("code") for seeds, _ in stored.values() for result in seeds}) > 1:
        again = "evaluate them again" if divided is None else "resume them to score again"
        say(f"warning: not all were scored by the same code; {again}", error=True)
    return Compared(places, stored, split, _paired(places, stored, split))


def _apart(places: Mapping[str, Path], stored: Runs) -> tuple[dict[str, Path], Runs]:
    """The same with other names for runs that are called as one of the baselines is."""
    taken = {name for seeds, _ in stored.values() for one in seeds for name in one["scores"]}
    names = {name: f"run {name}" if name in taken - {MODEL} else name for name in places}
    return {names[n]: p for n, p in places.items()}, {names[n]: one for n, one in stored.items()}


def _paired(places: Mapping[str, Path], stored: Runs, split: str) -> dict[str, EventScores]:
    """The scores of each event by row; {} where runs are alone, or can't be paired."""
    if len(stored) == 1 or any(
        "recordings" in one for seeds, _ in stored.values() for one in seeds
    ):
        return {}
    models: dict[str, Sequence[Path]] = {}
    for name, (seeds, together) in stored.items():
        parts = [places[name]] if split == SCORED else folders.members(places[name])
        models[of_seeds(name, len(seeds))] = parts
        if together is not None:
            models[of_ensemble(name, len(seeds))] = [places[name]]
    clip_seconds = {result.get("clip_seconds") for seeds, _ in stored.values() for result in seeds}
    try:
        (seconds,) = clip_seconds if len(clip_seconds) == 1 else (None,)
        if seconds is None:
            raise ConfigError(
                "not all runs' scores say how long their clips are; they are of an older version: "
                "evaluate the runs again"
            )
        return paired_scores(models, split, seconds)
    except AvelError as error:
        say(f"warning: no differences between the runs: {error}", error=True)
        return {}


def rendered(compared: Compared, form: str, width: int | None = None) -> str:
    """A comparison as TEXT, or in one of `papers.FORMATS`; width: as of `train.report.tables`."""
    return _as_text(compared, width) if form == TEXT else papers.FORMATS[form](compared)


def _as_text(compared: Compared, width: int | None) -> str:
    """The scores for a terminal, the settings that differ below."""
    stored = compared.stored
    if compared.split == SCORED:
        text = folds_table({name: seeds[0] for name, (seeds, _) in stored.items()}, width=width)
    else:
        text = comparison(stored, width=width)
    if compared.split == "test":
        text = "\n".join([text, *_chosen_on_test(compared.places)])
    if len(compared.paired) > 1:
        text += f"\n{differences(compared.minus_first(), width)}"
    told = [f"  {name}: {words}" for name, words in compared.settings.items() if words]
    return "\n".join([text, *(["\nsettings that differ:", *told] if told else [])])


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
