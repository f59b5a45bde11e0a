"""What the subcommands do, as plain functions: the command line is a thin shell over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cache.atomic import plain_folder
from cache.command import say
from cache.errors import ConfigError
from cache.reader import Cache, open_cache
from train import checkpoint, page, plots, run_plots, runs
from train.answers import as_table, check_alike, describe_run, unseen_notes, unseen_s
from train.checkpoint import BEST, About
from train.clip_features import check_same_features
from train.config import TrainConfig
from train.data import Dataset, load_clips, load_dataset, pick_device, resolve
from train.decode import ensemble
from train.evaluate import (
    Result,
    common_decoding,
    evaluate,
    prediction,
    prediction_rows,
    write_result,
)
from train.look import choose, gallery, hardest, look
from train.loop import History, best_epoch, predict
from train.loop import fit as train_model
from train.metrics import Predictions
from train.model import FusionModel
from train.standardise import standardise
from train.tables import class_table, comparison, seeds_table, table
from train.world import World, joined

ABLATIONS = ("both", "audio", "video")
_GATES = 6  # clips drawn from either end of the list
Guesses = Mapping[str, Predictions]


@dataclass(frozen=True)
class Member:
    """A trained model, scored on a split: its folder, what it knows of itself, what it said."""

    run: Path
    about: About
    guesses: Guesses
    result: Result


def fit(
    cache_path: Path,
    run: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    seeds: Sequence[int] = (),
    ablations: bool = False,
    pictures: int = 4,
) -> list[Result]:
    """Train, evaluate on val, draw; one result (see `evaluate`) per model.

    The features are read once for all seeds and, with `ablations`, for the three models of both
    streams, of audio alone and of video alone, which are trained the same way. Of the processes
    that `torchrun` started all train together, and the first does the rest.
    """
    with joined(pick_device(config.device)) as world:
        return _fit(world, cache_path, run, config, resume, seeds, ablations, pictures)


def _fit(
    world: World,
    cache_path: Path,
    run: Path,
    config: TrainConfig,
    resume: bool,
    seeds: Sequence[int],
    ablations: bool,
    pictures: int,
) -> list[Result]:
    cache = open_cache(cache_path)
    config = resolve(config, cache, cache.labels.classes)
    if ablations and config.modality != "both":
        raise ConfigError(
            f"modality: --ablations trains all three; drop --modality {config.modality}"
        )
    configs = {run: config}
    if ablations:
        configs = {run / name: config.revised(modality=name) for name in ABLATIONS}
    places = {place: [place / f"seed-{seed}" for seed in seeds] or [place] for place in configs}
    if config.batch_size < world.size:
        raise ConfigError(f"batch_size: {config.batch_size}, for {world.size} processes")
    for one in [one for members in places.values() for one in members if world.leads]:
        runs.claim_run(one, resume and (one / checkpoint.LAST).exists() if seeds else resume)
    dataset = load_dataset(cache, config, ("train", "val"))
    if world.leads:
        print(describe(cache, dataset), flush=True)
    results = []
    for place, settings in configs.items():
        narrowed = only(dataset, settings.modality)
        chosen = dict(zip(places[place], seeds or [config.seed], strict=True))
        members = []
        for one, seed in chosen.items():
            about = _about(cache, narrowed, settings.revised(seed=seed))
            history = _train_one(cache, narrowed, one, about, resume, world)
            if world.leads:
                members.append(_finish_one(cache, narrowed, one, history, pictures))
        results += [member.result for member in members]
        _together(place, members, narrowed, "val")
    if ablations and world.leads:
        print(f"\n{report([run / name for name in ABLATIONS], 'val')}")
    return results


def only(dataset: Dataset, modality: str) -> Dataset:
    """The same data with the streams that a model of this modality reads; nothing is copied."""
    clips = dataset.clips
    return replace(
        dataset,
        clips=replace(
            clips,
            audio=None if modality == "video" else clips.audio,
            maps=None if modality == "audio" else clips.maps,
        ),
    )


def _about(cache: Cache, dataset: Dataset, config: TrainConfig) -> About:
    return About(
        config=config,
        classes=dataset.classes,
        shapes=checkpoint.shapes_as_json(dataset.clips.shapes),
        fingerprint=cache.fingerprint,
        features=cache.config,
    )


def _train_one(
    cache: Cache, dataset: Dataset, run: Path, about: About, resume: bool, world: World
) -> History:
    config, device = about.config, dataset.clips.device
    torch.manual_seed(config.seed)
    model = FusionModel(dataset.clips.shapes, config).to(device)
    standardise(model, dataset.clips, dataset.splits["train"], world)
    again = resume and (run / checkpoint.LAST).exists()
    if world.leads:
        count = sum(parameter.numel() for parameter in model.parameters())
        where = device.type if world.size == 1 else f"{world.size} processes, {device.type}"
        print(f"run {run}: {count:,} parameters on {where}, seed {config.seed}")
        (run / runs.CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        runs.write_json(run / runs.FEATURES_FILE, runs.features_of(cache))
    return train_model(model, dataset, about, run, again, world)


def _finish_one(
    cache: Cache, dataset: Dataset, run: Path, history: History, pictures: int
) -> Member:
    runs.write_json(run / runs.HISTORY_FILE, history)
    model, about, _ = checkpoint.load(run / BEST)
    model.to(dataset.clips.device)
    trained = about.config.gate_weight > 0
    why = "which scored higher on val at the best epoch" if trained else "as the gate has no loss"
    print(f"start and end: by the {about.decoding}, {why}")
    figures = {"curves": run_plots.curves_figure(history, best_epoch(history))}
    drawn = plots.save_figures(run / plots.FOLDER, figures)
    return _score_one(cache, dataset, model, about, run, "val", pictures, drawn)


def evaluate_run(
    run: Path, cache_path: Path, split: str, *, device: str | None = None, pictures: int = 4
) -> list[Result]:
    """Score a run (or each seed of it, and their ensemble) on a split; writes what it finds."""
    cache = open_cache(cache_path)
    members = []
    dataset: Dataset | None = None
    for place in runs.members(run):
        model, about, _ = checkpoint.load(place / BEST)
        check_same_features(cache, about, place)
        config = about.config if device is None else about.config.revised(device=device)
        if dataset is None:
            dataset = load_dataset(cache, config, (split,))
        if dataset.classes != about.classes:
            raise ConfigError(
                f"{cache.path}: its classes are not those the run {place} was trained on; "
                f"expected {', '.join(about.classes)}"
            )
        model.to(dataset.clips.device)
        members.append(_score_one(cache, dataset, model, about, place, split, pictures, []))
    assert dataset is not None
    _together(run, members, dataset, split)
    return [member.result for member in members]


def _together(run: Path, members: Sequence[Member], dataset: Dataset, split: str) -> None:
    """Score the ensemble of a run's seeds, write it beside them, and print the seeds' table."""
    if len(members) < 2:
        return
    abouts = [member.about for member in members]
    decoding = common_decoding(abouts)
    guesses = ensemble([member.guesses for member in members], dataset.clips.shapes.clip_seconds)
    result = evaluate(guesses, decoding, abouts[0], dataset, split)
    result["seeds"] = [about.config.seed for about in abouts]
    write_result(run, result)
    rows = prediction_rows(dataset, split, guesses[decoding])
    runs.write_json(run / f"predictions_{split}.json", rows)
    print(f"\n{seeds_table([member.result for member in members], result)}")
    print(f"runs: {run}/seed-*; the ensemble's scores: {run}/metrics_{split}.json")


def predict_cache(
    run: Path,
    cache_path: Path,
    *,
    out: Path | None = None,
    device: str | None = None,
    pictures: int | None = None,
) -> list[dict[str, str | float | None]]:
    """Class, confidence, start and end of every clip of a cache; labels are not needed.

    `not_looked_at_s` is what of the media lies beyond the clip, None where that isn't known. A
    folder of seeds answers as an ensemble; the pictures show the attention of its first member.
    """
    cache = open_cache(cache_path)
    places = runs.members(run)
    loaded = [checkpoint.load(place / BEST)[:2] for place in places]
    members = [(place, about) for place, (_, about) in zip(places, loaded, strict=True)]
    for place, about in members:
        check_same_features(cache, about, place)
    check_alike(members)
    if not cache.ids:
        raise ConfigError(f"{cache.path}: no clip in this cache; nothing to predict")
    model, about = loaded[0]
    config = about.config if device is None else about.config.revised(device=device)
    clips = load_clips(cache, config, cache.ids, len(about.classes))
    rows = torch.arange(len(clips.ids), device=clips.device)
    guesses = [predict(member.to(clips.device), clips, rows) for member, _ in loaded]
    answers, decoding = guesses[0], str(about.decoding)
    if len(loaded) > 1:
        answers = ensemble(guesses, clips.shapes.clip_seconds)
        decoding = common_decoding([about for _, about in loaded])
    say(describe_run(run, members))
    unseen = unseen_s(cache)
    found: list[dict[str, str | float | None]] = [
        {
            "id": clip_id,
            **prediction(answers[decoding], row, about.classes),
            "not_looked_at_s": unseen[clip_id],
        }
        for row, clip_id in enumerate(clips.ids)
    ]
    folder = out or (run if len(loaded) > 1 else places[0]) / "predictions"
    plain_folder(folder)
    runs.write_json(folder / "predictions.json", found)
    say(as_table(found))
    for note in unseen_notes(cache, unseen):
        say(note)
    print("pictures:")
    for row in range(len(found))[:pictures]:
        view = look(
            model, cache, clips, row, answers, decoding, row, about.classes, models=len(loaded)
        )
        for path in plots.draw_clip(folder / plots.FOLDER, view):
            say(f"  {path}")
    say(f"written: {folder / 'predictions.json'}")
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
    return comparison(stored)


def _score_one(
    cache: Cache,
    dataset: Dataset,
    model: FusionModel,
    about: About,
    run: Path,
    split: str,
    pictures: int,
    drawn: list[Path],
) -> Member:
    """Evaluate, write, draw, print."""
    samples, clip_seconds = dataset.splits[split], dataset.clips.shapes.clip_seconds
    guesses = predict(model, dataset.clips, samples.clip)
    guess = guesses[about.decoding]
    result = evaluate(guesses, about.decoding, about, dataset, split)
    rows = prediction_rows(dataset, split, guess)
    runs.write_json(run / f"predictions_{split}.json", rows)
    written = write_result(run, result)
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
    drawn += plots.save_figures(run / plots.FOLDER, figures)
    drawn.insert(0, page.write(run, result, rows, views, mels))
    for number in choose(rows, clip_seconds, pictures):
        view = look(
            model, cache, dataset.clips, int(samples.clip[number]), guesses, about.decoding, number,
            about.classes, rows[number],
        )  # fmt: skip
        drawn += plots.draw_clip(run / plots.FOLDER / split, view)
    print(f"\n{table(result)}\n\nby class, hardest first:\n{class_table(result)}")
    print(f"scores: {written}\npictures:")
    for path in drawn:
        print(f"  {path}")
    return Member(run, about, guesses, result)


def describe(cache: Cache, dataset: Dataset) -> str:
    """Which data a run sees, and what was left out, for people."""
    sizes = ", ".join(f"{name} {len(rows)}" for name, rows in dataset.splits.items())
    lines = [f"cache {cache.path}: {len(cache)} clips; rows: {sizes}", dataset.clips.mode]
    lines += dataset.notes
    if dataset.without_features:
        named = ", ".join(dataset.without_features[:10])
        more = len(dataset.without_features) - 10
        lines.append(
            f"{len(dataset.without_features)} labelled clip(s) without features left out: {named}"
            + (f" and {more} more" if more > 0 else "")
        )
    for (early, late), ids in dataset.leaks.items():
        lines.append(
            f"{len(ids)} id(s) stand in both {early} and {late} "
            "(--drop-leaks keeps them in the later split only)"
        )
    return "\n".join(lines)
