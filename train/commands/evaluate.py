"""What the subcommands do with trained runs; `train.commands.fit` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cache import Cache, open_cache
from cache.common.atomic import plain_folder
from cache.common.cli import say
from cache.common.errors import ConfigError
from cache.labels.store import labels_sha256
from train.data.dataset import Dataset, choose_rows, load_dataset
from train.data.features import load_features
from train.model.fusion import FusionModel
from train.report import page, plots, run_plots
from train.report.attention import choose, gallery, hardest, look
from train.report.tables import class_table, comparison, seeds_table, table
from train.runs import checkpoint, record
from train.runs import folders as runs
from train.runs.answers import as_table, check_alike, describe_run, unseen_notes, unseen_s
from train.runs.checkpoint import BEST, About
from train.runs.clip_features import check_same_features
from train.runs.evaluate import (
    Result,
    common_decoding,
    evaluate,
    prediction,
    prediction_rows,
    write_result,
)
from train.runs.record import Record
from train.score.decode import ensemble
from train.score.metrics import Predictions
from train.score.predict import predict

_GATES = 6  # clips drawn from either end of the list
Guesses = Mapping[str, Predictions]


@dataclass(frozen=True)
class Member:
    """A trained model, scored on a split: its folder, what it knows of itself, what it said.

    place: where its scores are, the run or a folder in it.
    """

    run: Path
    place: Path
    about: About
    record: Record
    guesses: Guesses
    result: Result


@dataclass(frozen=True)
class Loaded:
    """A trained model from its run: what it knows of itself, and its record, if it has any."""

    run: Path
    model: FusionModel
    about: About
    record: Record | None


def load_run(run: Path, cache: Cache) -> list[Loaded]:
    """The models of a run, checked against the cache's features, with their records.

    What a person should know before they are used goes to stderr.
    """
    found: list[Loaded] = []
    for place in runs.members(run):
        model, about, _ = checkpoint.load(place / BEST)
        check_same_features(cache, about, place)
        found.append(Loaded(place, model, about, record.read(place, about)))
    check_alike([(one.run, one.about) for one in found])
    for text in dict.fromkeys(t for one in found for t in record.cautions(run, one.record)):
        say(f"warning: {text}", error=True)
    return found


def evaluate_run(
    run: Path, cache_path: Path, split: str, *, device: str | None = None, pictures: int = 4
) -> list[Result]:
    """Score a run (or each seed of it, and their ensemble) on a split; writes what it finds."""
    cache = open_cache(cache_path)
    loaded = load_run(run, cache)
    about = loaded[0].about
    config = about.config if device is None else about.config.revised(device=device)
    rows = choose_rows(cache, config, about.classes)
    dataset = load_dataset(cache, config, (split,), rows)
    members = [
        score_one(cache, dataset, one, split, pictures, [])
        for one in (replace(one, model=one.model.to(dataset.clips.device)) for one in loaded)
    ]
    together(run, members, dataset, split)
    return [member.result for member in members]


def together(run: Path, members: Sequence[Member], dataset: Dataset, split: str) -> None:
    """Score the ensemble of a run's seeds, write it beside them, and print the seeds' table."""
    if len(members) < 2:
        return
    abouts = [member.about for member in members]
    decoding = common_decoding(abouts)
    guesses = ensemble([member.guesses for member in members], dataset.clips.shapes.clip_seconds)
    records = [member.record for member in members]
    result = evaluate(guesses, decoding, abouts[0], dataset, split, records)
    result["seeds"] = [about.config.seed for about in abouts]
    result["other_cache"] = members[0].result["other_cache"]
    place = plain_folder(run / members[0].place.relative_to(members[0].run))
    rows = prediction_rows(dataset, split, guesses[decoding])
    written = write_result(run, place, result, rows)
    say(f"\n{seeds_table([member.result for member in members], result)}")
    say(f"runs: {run}/seed-*; the ensemble's scores: {written}")


def predict_cache(
    run: Path,
    cache_path: Path,
    *,
    out: Path | None = None,
    device: str | None = None,
    pictures: int | None = None,
) -> list[dict[str, str | float | None]]:
    """Class, confidence, start and end of every clip of a cache; labels are not needed.

    `not_looked_at_s` is what of the media lies beyond the clip, None where that isn't known;
    `seen` says whether the run was trained or selected on the clip. A folder of seeds answers as
    an ensemble; the pictures show the attention of its first member.
    """
    cache = open_cache(cache_path)
    loaded = load_run(run, cache)
    if not cache.ids:
        raise ConfigError(f"{cache.path}: no clip in this cache; nothing to predict")
    model, about = loaded[0].model, loaded[0].about
    config = about.config if device is None else about.config.revised(device=device)
    clips = load_features(cache, config, cache.ids, len(about.classes))
    rows = torch.arange(len(clips.ids), device=clips.device)
    guesses = [predict(one.model.to(clips.device), clips, rows) for one in loaded]
    answers, decoding = guesses[0], str(about.decoding)
    if len(loaded) > 1:
        answers = ensemble(guesses, clips.shapes.clip_seconds)
        decoding = common_decoding([one.about for one in loaded])
    say(describe_run(run, [(one.run, one.about, one.record) for one in loaded]))
    unseen, seen = unseen_s(cache), _seen_by(loaded, clips.ids)
    found: list[dict[str, str | float | None]] = [
        {
            "id": clip_id,
            **prediction(answers[decoding], row, about.classes),
            "not_looked_at_s": unseen[clip_id],
            "seen": seen[clip_id],
        }
        for row, clip_id in enumerate(clips.ids)
    ]
    folder = plain_folder(out or (run if len(loaded) > 1 else loaded[0].run) / "predictions")
    runs.write_json(folder / "predictions.json", found)
    say(as_table(found))
    for note in unseen_notes(cache, unseen):
        say(note)
    say("pictures:")
    for row in range(len(found))[:pictures]:
        view = look(
            model, cache, clips, row, answers, decoding, row, about.classes, models=len(loaded)
        )
        for path in plots.draw_clip(folder / plots.FOLDER, view):
            say(f"  {path}")
    say(f"written: {folder / 'predictions.json'}")
    return found


def _seen_by(loaded: Sequence[Loaded], ids: Sequence[str]) -> dict[str, str]:
    """For each clip: "train" where a model was trained on it, "val" where one was selected on it.

    "no" for the others, "unknown" where a model has no record.
    """
    records = [one.record for one in loaded if one.record is not None]
    found = dict.fromkeys(ids, "no" if len(records) == len(loaded) else "unknown")
    for split, some in record.seen(records, ids).items():
        found.update(dict.fromkeys(some, split))
        if some:
            what = "trained" if split == "train" else "selected"
            say(
                f"{len(some)} of {len(ids)} clips are such as the run was {what} on (seen: {split})"
            )
    return found


def report(paths: Sequence[Path], split: str) -> str:
    """The runs' stored scores side by side; refuses runs whose data differ."""
    short = len({path.name for path in paths}) == len(paths)
    stored = {
        path.name if short else str(path): (
            seeds := [runs.read_result(place, split) for place in runs.members(path)],
            runs.read_ensemble(path, split, len(seeds)),
        )
        for path in paths
    }
    runs.check_same_data({name: seeds for name, (seeds, _) in stored.items()})
    if len({result.get("code") for seeds, _ in stored.values() for result in seeds}) > 1:
        say("warning: not all were scored by the same code; evaluate them again", error=True)
    return comparison(stored)


def score_one(
    cache: Cache, dataset: Dataset, one: Loaded, split: str, pictures: int, drawn: list[Path]
) -> Member:
    """Evaluate, write, draw, print."""
    run, model, about = one.run, one.model, one.about
    known = one.record or Record(dataset.rows.used(), None)
    place = run if one.record is None else _place(run, one.record, cache, dataset)
    samples, clip_seconds = dataset.splits[split], dataset.clips.shapes.clip_seconds
    guesses = predict(model, dataset.clips, samples.clip)
    guess = guesses[about.decoding]
    result = evaluate(guesses, about.decoding, about, dataset, split, [known])
    result["other_cache"] = None if place == run else cache.path.resolve().name
    rows = prediction_rows(dataset, split, guess)
    written = write_result(run, place, result, rows)
    figures = {
        f"intervals_{split}": run_plots.intervals_figure(rows, clip_seconds),
        f"confusion_{split}": run_plots.confusion_figure(
            np.array(result["confusion"], np.float64), dataset.classes
        ),
    }
    order = hardest(rows, len(rows))
    views, mels = gallery(
        model, cache, dataset, split, guesses, about.decoding, rows, order[: page.GALLERY]
    )
    ends = list(dict.fromkeys([*order[:_GATES], *order[-_GATES:]]))  # the worst, then the best
    some, _ = gallery(model, cache, dataset, split, guesses, about.decoding, rows, ends)
    figures[f"gates_{split}"] = plots.gates_figure(some)
    drawn += plots.save_figures(place / plots.FOLDER, figures)
    drawn.insert(0, page.write(place, result, rows, views, mels))
    for number in choose(rows, clip_seconds, pictures):
        view = look(
            model, cache, dataset.clips, int(samples.clip[number]), guesses, about.decoding, number,
            about.classes, rows[number],
        )  # fmt: skip
        drawn += plots.draw_clip(place / plots.FOLDER / split, view)
    say(f"\n{table(result)}\n\nby class, hardest first:\n{class_table(result)}")
    say(f"scores: {written}\npictures:")
    for path in drawn:
        say(f"  {path}")
    return Member(run, place, about, known, guesses, result)


def _place(run: Path, own: Record, cache: Cache, dataset: Dataset) -> Path:
    """Where scores go: into the run those of its own cache's labels, apart those of another's."""
    labels = dataset.rows.labels
    if record.is_own(own, labels):
        return run
    return plain_folder(run / f"on-{labels_sha256(labels)[:8]}")
