"""What the subcommands do, as plain functions: the command line is a thin shell over them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cache.errors import ConfigError
from cache.reader import Cache, open_cache
from train import checkpoint, plots, runs
from train.checkpoint import BEST, About
from train.config import TrainConfig
from train.data import Clips, Dataset, load_clips, load_dataset, resolve, standardise
from train.evaluate import (
    comparison,
    evaluate,
    prediction,
    prediction_rows,
    seeds_table,
    table,
    write_result,
)
from train.loop import autocast, best_epoch, predict
from train.loop import fit as train_model
from train.metrics import Predictions
from train.model import FusionModel


def fit(
    cache_path: Path,
    run: Path,
    config: TrainConfig,
    *,
    resume: bool = False,
    seeds: Sequence[int] = (),
    pictures: int = 4,
) -> list[dict[str, Any]]:
    """Train, evaluate on val, draw; one result (see `evaluate`) per seed.

    The features are read once for all seeds.
    """
    cache = open_cache(cache_path)
    config = resolve(config, cache, cache.labels.classes)
    places = {run / f"seed-{seed}": seed for seed in seeds} or {run: config.seed}
    for place in places:
        runs.claim_run(place, resume and (place / checkpoint.LAST).exists() if seeds else resume)
    dataset = load_dataset(cache, config, ("train", "val"))
    print(describe(cache, dataset), flush=True)
    results = []
    for place, seed in places.items():
        again = resume and (place / checkpoint.LAST).exists()
        results.append(_fit_one(cache, dataset, place, config.revised(seed=seed), again, pictures))
    if seeds:
        print(f"\n{seeds_table(results)}\nruns: {run}/seed-*")
    return results


def _fit_one(
    cache: Cache, dataset: Dataset, run: Path, config: TrainConfig, resume: bool, pictures: int
) -> dict[str, Any]:
    about = About(
        config=config,
        classes=dataset.classes,
        shapes=checkpoint.shapes_as_json(dataset.clips.shapes),
        fingerprint=cache.fingerprint,
        features=cache.config,
    )
    torch.manual_seed(config.seed)
    model = FusionModel(dataset.clips.shapes, config).to(dataset.clips.device)
    standardise(model, dataset.clips, dataset.splits["train"])
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"run {run}: {count:,} parameters on {dataset.clips.device.type}, seed {config.seed}")
    (run / runs.CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
    runs.write_json(run / runs.FEATURES_FILE, runs.features_of(cache))
    history = train_model(model, dataset, about, run, resume)
    runs.write_json(run / runs.HISTORY_FILE, history)
    model, about, _ = checkpoint.load(run / BEST)
    model.to(dataset.clips.device)
    print(f"start and end: by the {about.decoding}, which scored higher on val at the best epoch")
    figures = {"curves": plots.curves_figure(history, best_epoch(history))}
    drawn = plots.save_figures(run / plots.FOLDER, figures)
    return _report(cache, dataset, model, about, run, "val", pictures, drawn)


def evaluate_run(
    run: Path, cache_path: Path, split: str, *, device: str | None = None, pictures: int = 4
) -> list[dict[str, Any]]:
    """Score a run (or each seed of it) on a split; writes metrics, predictions and pictures."""
    cache = open_cache(cache_path)
    results = []
    dataset: Dataset | None = None
    for place in runs.members(run):
        model, about, _ = checkpoint.load(place / BEST)
        runs.check_same_features(cache, about, place)
        config = about.config if device is None else about.config.revised(device=device)
        if dataset is None:
            dataset = load_dataset(cache, config, (split,))
        if dataset.classes != about.classes:
            raise ConfigError(
                f"{cache.path}: its classes are not those the run {place} was trained on; "
                f"expected {', '.join(about.classes)}"
            )
        model.to(dataset.clips.device)
        results.append(_report(cache, dataset, model, about, place, split, pictures, []))
    if len(results) > 1:
        print(f"\n{seeds_table(results)}")
    return results


def predict_cache(
    run: Path,
    cache_path: Path,
    *,
    out: Path | None = None,
    device: str | None = None,
    pictures: int | None = None,
) -> list[dict[str, str | float]]:
    """Class, confidence, start and end of every clip of a cache; labels are not needed."""
    cache = open_cache(cache_path)
    place = runs.members(run)[0]
    model, about, _ = checkpoint.load(place / BEST)
    runs.check_same_features(cache, about, place)
    if not cache.ids:
        raise ConfigError(f"{cache.path}: no clip in this cache; nothing to predict")
    config = about.config if device is None else about.config.revised(device=device)
    clips = load_clips(cache, config, cache.ids, len(about.classes))
    model.to(clips.device)
    rows = torch.arange(len(clips.ids), device=clips.device)
    guess = predict(model, clips, rows)[about.decoding]
    found = [
        {"id": clip_id, **prediction(guess, row, about.classes)}
        for row, clip_id in enumerate(clips.ids)
    ]
    folder = out or place / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(folder / "predictions.json", found)
    print(pd.DataFrame(found).to_string(index=False, float_format="{:.2f}".format))
    print("pictures:")
    for row in range(len(found))[:pictures]:
        view = look(model, cache, clips, row, guess, row, about.classes)
        for path in plots.draw_clip(folder / plots.FOLDER, view):
            print(f"  {path}")
    print(f"written: {folder / 'predictions.json'}")
    return found


def report(paths: Sequence[Path], split: str) -> str:
    """The runs' stored scores side by side; refuses runs whose data differ."""
    results = {
        str(path): [runs.read_json(place / f"metrics_{split}.json") for place in runs.members(path)]
        for path in paths
    }
    runs.check_same_data(results)
    return comparison(results)


def _report(
    cache: Cache,
    dataset: Dataset,
    model: FusionModel,
    about: About,
    run: Path,
    split: str,
    pictures: int,
    drawn: list[Path],
) -> dict[str, Any]:
    """Evaluate, write, draw, print."""
    result, guess = evaluate(model, about, dataset, split)
    rows = prediction_rows(dataset, split, guess)
    runs.write_json(run / f"predictions_{split}.json", rows)
    written = write_result(run, result)
    folder = run / plots.FOLDER
    figures = {
        f"intervals_{split}": plots.intervals_figure(rows, dataset.clips.shapes.clip_seconds),
        f"confusion_{split}": plots.confusion_figure(
            np.array(result["confusion"], np.float64), dataset.classes
        ),
    }
    drawn += plots.save_figures(folder, figures)
    samples = dataset.splits[split]
    for number in choose(rows, dataset.clips.shapes.clip_seconds, pictures):
        view = look(
            model, cache, dataset.clips, int(samples.clip[number]), guess, number, about.classes,
            rows[number],
        )  # fmt: skip
        drawn += plots.draw_clip(folder / split, view)
    print(f"\n{table(result)}\nscores: {written}\npictures:")
    for path in drawn:
        print(f"  {path}")
    return result


def choose(rows: Sequence[dict[str, Any]], clip_seconds: float, count: int) -> list[int]:
    """Which events to draw: the first shorter than the clip of each class, then any others."""
    short = [n for n, row in enumerate(rows) if row["end_s"] - row["start_s"] < clip_seconds]
    first: dict[str, int] = {}
    for number in short:
        first.setdefault(rows[number]["category"], number)
    order = list(dict.fromkeys([*first.values(), *short, *range(len(rows))]))
    return order[:count]


@torch.inference_mode()
def look(
    model: FusionModel,
    cache: Cache,
    clips: Clips,
    clip: int,
    guess: Predictions,
    number: int,
    classes: Sequence[str],
    truth: dict[str, Any] | None = None,
) -> plots.View:
    """One clip with its attention maps; `number` is its place in `guess`."""
    with autocast(clips.device):
        output = model.eval()(
            clips.batch(torch.tensor([clip], device=clips.device)), return_attention=True
        )
    said = prediction(guess, number, classes)
    return plots.View(
        id=clips.ids[clip],
        attention={
            name: value[0].double().cpu().numpy() for name, value in output.attention.items()
        },
        clip_seconds=clips.shapes.clip_seconds,
        step_s=clips.step_s,
        frame_time_s=clips.frame_time_s[clip].double().cpu().numpy(),
        pictures=[] if clips.maps is None else cache.jpegs(clips.ids[clip]),
        predicted=str(said["predicted"]),
        confidence=float(said["confidence"]),
        predicted_s=(float(said["predicted_start_s"]), float(said["predicted_end_s"])),
        category=None if truth is None else truth["category"],
        true_s=None if truth is None else (truth["start_s"], truth["end_s"]),
    )


def describe(cache: Cache, dataset: Dataset) -> str:
    """Which data a run sees, and what was left out, for people."""
    sizes = ", ".join(f"{name} {len(rows)}" for name, rows in dataset.splits.items())
    lines = [f"cache {cache.path}: {len(cache)} clips; rows: {sizes}", *dataset.notes]
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
