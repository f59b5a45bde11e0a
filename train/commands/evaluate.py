"""`python -m train evaluate`: score a run beside its baselines, write the scores, draw, print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache import Cache
from cache.common.atomic import plain_folder
from cache.common.cli import say
from cache.joined import open_caches
from cache.labels.store import labels_sha256
from train.data.dataset import Dataset, choose_rows, load_dataset
from train.report.drawing import FOLDER
from train.report.page import FILE
from train.report.pictures import draw_split, maps_to_draw
from train.report.tables import class_table, seeds_table, table
from train.runs.evaluate import (
    Result,
    answered_events,
    evaluate,
    of_seeds,
    true_events,
    write_result,
)
from train.runs.record import Record, is_own
from train.runs.trained import Answer, TrainedModel, load_run


@dataclass(frozen=True)
class Scored:
    """A trained model on a split: what it answered, how good that is, where that was written.

    place: where its scores are, the run's folder or one in it.
    """

    trained: TrainedModel
    record: Record
    answer: Answer
    result: Result
    place: Path
    written: Path


def evaluate_run(
    run: Path | None,
    cache_path: Path,
    split: str,
    *,
    device: str | None = None,
    pictures: int = 4,
) -> list[Result]:
    """Score a run (or each seed or fold, and their ensemble) on a split; writes what it finds.

    run: None takes the newest. pictures: how many clips are drawn one by one; with 0 nothing is
    drawn.
    """
    trained, cache = load_run(run), open_caches(cache_path)
    trained.check_features(cache)
    for text in trained.cautions():
        say(f"warning: {text}", error=True)
    config = trained.config(device)
    rows = choose_rows(cache, config, trained.about.classes)
    dataset = load_dataset(cache, config, (split,), rows)
    scored = []
    for one in trained.models:
        scored.append(score_model(cache, dataset, one, split, pictures))
        _print(scored[-1], pictures)
    if len(scored) > 1:
        together, written = score_ensemble(trained.folder, scored, dataset, split)
        kind = trained.models[0].folder.relative_to(trained.folder).parts[0].split("-")[0]
        of = "seeds" if kind == "seed" else "models of folds"
        say(f"\n{seeds_table([one.result for one in scored], together, of)}")
        say(f"runs: {trained.folder}/{kind}-*; the ensemble's scores: {written}")
    return [one.result for one in scored]


def score_model(
    cache: Cache, dataset: Dataset, one: TrainedModel, split: str, pictures: int
) -> Scored:
    """Answer, score, write and, where there are to be pictures, draw: each clip is run once."""
    known = one.record or Record(dataset.rows.used(), None)
    place = one.folder if one.record is None else _place(one.folder, one.record, dataset)
    truth = true_events(dataset, split)
    maps = maps_to_draw(one, dataset, truth, pictures) if pictures else None
    answer = one.answer(dataset.clips, dataset.splits[split].clip, maps)
    result = evaluate(answer, one.about, dataset, split, [known])
    result["other_cache"] = None if place == one.folder else cache.path.resolve().name
    answered = answered_events(dataset, split, answer)
    written = write_result(one.folder, place, result, answered)
    if maps is not None:
        draw_split(place, cache, dataset, answer, result, answered, maps, pictures)
    return Scored(one, known, answer, result, place, written)


def score_ensemble(
    run: Path, scored: Sequence[Scored], dataset: Dataset, split: str
) -> tuple[Result, Path]:
    """Score the mean answer of a run's seeds and write that beside them; where it was written.

    With it goes, as `of_seeds`, how sure the mean of the seeds' own scores is.
    """
    first, answers = scored[0], [one.answer for one in scored]
    answer = Answer.mean(answers)
    records = [one.record for one in scored]
    result = evaluate(answer, first.trained.about, dataset, split, records)
    result["seeds"] = [one.trained.about.config.seed for one in scored]
    result["of_seeds"] = of_seeds(answers, dataset, split, first.record)
    result["other_cache"] = first.result["other_cache"]
    place = plain_folder(run / first.place.relative_to(first.trained.folder))
    answered = answered_events(dataset, split, answer)
    return result, write_result(run, place, result, answered)


def _print(one: Scored, pictures: int) -> None:
    result = one.result
    say(f"\n{table(result)}\n\nby class, hardest first:\n{class_table(result)}")
    say(f"scores: {one.written}")
    if pictures:
        say(f"pictures: {one.place / FILE}, {one.place / FOLDER}/")


def _place(run: Path, own: Record, dataset: Dataset) -> Path:
    """Where scores go: into the run those of its own cache's labels, apart those of another's."""
    labels = dataset.rows.labels
    if is_own(own, labels):
        return run
    return plain_folder(run / f"on-{labels_sha256(labels)[:8]}")
