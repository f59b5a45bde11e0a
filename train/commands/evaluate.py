"""`python -m train evaluate`: score a run beside its baselines, write the scores, draw, print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache import Cache
from cache.common.atomic import plain_folder
from cache.common.cli import line_width, say
from cache.joined import open_caches
from cache.labels.annotations import some
from cache.labels.store import labels_sha256
from train.commands.recordings import score_on_recordings, together_on_recordings
from train.commands.scored import Scored
from train.data.dataset import Dataset, Rows, choose_rows, load_dataset
from train.report.drawing import FOLDER
from train.report.page import FILE
from train.report.page_scores import OTHER_LABELS
from train.report.pictures import draw_split, maps_to_draw
from train.report.recordings_page import write_recordings
from train.report.tables import apart, class_table, seeds_table, table
from train.runs.evaluate import answered_events, evaluate, of_seeds, true_events, write_result
from train.runs.record import Record, is_own
from train.runs.recordings import RecordingAnswer, answered_recordings, on_recordings, vague
from train.runs.trained import Answer, TrainedModel, load_run
from train.score.named import Result

Data = Dataset | Rows
"""What is scored: clips with their features, or, of whole recordings, their label rows."""


def evaluate_run(
    run: Path | None,
    cache_path: Path,
    split: str,
    *,
    device: str | None = None,
    pictures: int = 4,
    media: Sequence[Path] | None = None,
    heads: bool = False,
) -> list[Result]:
    """Score a run (or each seed or fold, and their ensemble) on a split; writes what it finds.

    run: None takes the newest. pictures: how many clips are drawn one by one; with 0 nothing is
    drawn. media: files, or folders of files, that the page plays. heads: each head is drawn, too.
    """
    trained, cache = load_run(run), open_caches(cache_path)
    trained.check_features(cache)
    for text in trained.cautions():
        say(f"warning: {text}", error=True)
    config = trained.config(device)
    rows = choose_rows(cache, config, trained.about.classes)
    data: Data = rows
    if on_recordings(cache, trained.about):
        mine = {rows.labels.ids[row] for row in rows.labels.rows(split)}
        if left_out := sorted(mine & vague(rows.labels)):
            say(f"note: {len(left_out)} recording(s) with an event that doesn't say when are left "
                f"out: {some(left_out)}")  # fmt: skip
    else:
        data = load_dataset(cache, config, (split,), rows)
    scored = []
    for one in trained.models:
        scored.append(score_model(cache, data, one, split, pictures, device, media, heads))
        if len(trained.models) == 1:
            result = scored[0].result
            say(f"\n{table(result, line_width())}")
            say(f"\nby class, hardest first:\n{class_table(result)}")
        _print_places(scored[-1], pictures)
    if len(scored) > 1:
        _print_together(trained.folder, scored, cache, data, split)
    return [one.result for one in scored]


def score_model(
    cache: Cache,
    data: Data,
    one: TrainedModel,
    split: str,
    pictures: int,
    device: str | None = None,
    media: Sequence[Path] | None = None,
    heads: bool = False,
) -> Scored:
    """Answer, score, write and, where there are to be pictures, draw: each clip is run once."""
    if isinstance(data, Rows):
        scored = score_on_recordings(cache, data, one, split, _place(one, data), device)
        if pictures and isinstance(scored.answer, RecordingAnswer):
            write_recordings(scored.place, scored.result, scored.answer, cache, media)
        return scored
    known = one.record or Record(data.rows.used(), None)
    place = _place(one, data.rows)
    if pictures and not data.splits[split].timed_count():
        say(f"no pictures: no event of {split} says when it is")
        pictures = 0
    truth = true_events(data, split)
    maps = maps_to_draw(one, data, truth, pictures) if pictures else None
    answer = one.answer(data.clips, data.splits[split].clip, maps)
    result = evaluate(answer, one.about, data, split, [known])
    result["other_cache"] = None if place == one.folder else cache.path.resolve().name
    answered = answered_events(data, split, answer)
    written = write_result(one.folder, place, result, answered)
    if maps is not None:
        draw_split(place, cache, data, answer, result, answered, maps, pictures, media, heads)
    return Scored(one, known, answer, result, place, written)


def score_ensemble(
    run: Path, scored: Sequence[Scored], cache: Cache, data: Data, split: str
) -> tuple[Result, Answer | RecordingAnswer, Path]:
    """Score the mean answer of a run's seeds and write that beside them; the answer, and where.

    With it goes, as `of_seeds`, how sure the mean of the seeds' own scores is.
    """
    first, records = scored[0], [one.record for one in scored]
    answer: Answer | RecordingAnswer
    if isinstance(data, Rows):
        result, answer = together_on_recordings(scored, cache, data, split)
        answered = answered_recordings(answer, data.labels.classes)
    else:
        answers = [one.answer for one in scored if isinstance(one.answer, Answer)]
        answer = Answer.mean(answers)
        result = evaluate(answer, first.trained.about, data, split, records)
        result["of_seeds"] = of_seeds(answers, data, split, first.record)
        answered = answered_events(data, split, answer)
    result["seeds"] = [one.trained.about.config.seed for one in scored]
    result["other_cache"] = first.result["other_cache"]
    place = plain_folder(run / first.place.relative_to(first.trained.folder))
    return result, answer, write_result(run, place, result, answered)


def _print_together(
    run: Path, scored: Sequence[Scored], cache: Cache, data: Data, split: str
) -> None:
    together, _, written = score_ensemble(run, scored, cache, data, split)
    results = {str(one.trained.folder.relative_to(run)): one.result for one in scored}
    kind = next(iter(results)).split("-")[0]
    of = "seeds" if kind == "seed" else "models of folds"
    width = line_width()
    say(f"\n{apart(results, width)}\n\n{seeds_table([*results.values()], together, of, width)}")
    say(f"\nby class, hardest first, of the ensemble:\n{class_table(together)}")
    say(f"runs: {run}/{kind}-*; the ensemble's scores: {written}")


def _print_places(one: Scored, pictures: int) -> None:
    say(f"scores: {one.written}")
    if pictures and (one.place / FILE).exists():
        say(f"pictures: {one.place / FILE}, {one.place / FOLDER}/")


def _place(one: TrainedModel, rows: Rows) -> Path:
    """Where scores go: into the run those of its own cache's labels, apart those of another's."""
    if one.record is None or is_own(one.record, rows.labels):
        return one.folder
    return plain_folder(one.folder / f"{OTHER_LABELS}{labels_sha256(rows.labels)[:8]}")
