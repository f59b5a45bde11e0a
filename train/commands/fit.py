"""Train: what `python -m train fit` does, as a plain function."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from cache import Cache, open_cache
from cache.common.atomic import replace_file
from cache.common.cli import printable, say
from cache.common.errors import ConfigError
from train.commands.evaluate import Loaded, Member, report, score_one, together
from train.config import TrainConfig
from train.data.dataset import Dataset, Rows, choose_rows, load_dataset, resolve
from train.data.features import torch_device
from train.distributed import ProcessGroup, process_group
from train.fit.loop import best_epoch
from train.fit.loop import fit as train_model
from train.fit.normalize import normalize
from train.fit.state import History
from train.model.fusion import FusionModel
from train.report import plots, run_plots
from train.runs import checkpoint, code, record
from train.runs import folders as runs
from train.runs.checkpoint import About
from train.runs.clip_features import check_same_features
from train.runs.evaluate import Result

ABLATIONS = ("both", "audio", "video")


def fit(
    cache_path: Path,
    run: Path | None,
    config: TrainConfig,
    *,
    resume: bool = False,
    seeds: Sequence[int] = (),
    ablations: bool = False,
    pictures: int = 4,
) -> list[Result]:
    """Train, evaluate on val, draw; one result (see `evaluate`) per model.

    run: the folder to make; None makes a new one under `runs/`.

    The features are read once for all seeds and, with `ablations`, for the three models of both
    streams, of audio alone and of video alone, which are trained the same way. Of the processes
    that `torchrun` started all train together, and the first does the rest.
    """
    with process_group(torch_device(config.device)) as group:
        return _fit(group, cache_path, run, config, resume, seeds, ablations, pictures)


def _fit(
    group: ProcessGroup,
    cache_path: Path,
    run: Path | None,
    config: TrainConfig,
    resume: bool,
    seeds: Sequence[int],
    ablations: bool,
    pictures: int,
) -> list[Result]:
    cache = open_cache(cache_path)
    if resume:  # other classes are told by what they are, not by their number
        config = config.revised(num_classes=None)
    config = resolve(config, cache, cache.labels.classes)
    if ablations and config.modality != "both":
        raise ConfigError(
            f"modality: --ablations trains all three; drop --modality {config.modality}"
        )
    configs = {".": config}
    if ablations:
        configs = {name: config.revised(modality=name) for name in ABLATIONS}
    rows = choose_rows(cache, config)
    _check_plan(cache, rows, config, group)
    with ExitStack() as held:
        if group.is_main_process:
            members = [f"{part}/{name}" for part in configs for name in _names(seeds)]
            run = held.enter_context(runs.claimed(run, members, resume))
            for place in (run / member for member in members if resume):
                _check_resumed(cache, place, rows)
        top = run or runs.new_run()
        dataset = load_dataset(cache, config, ("train", "val"), rows)
        if group.is_main_process:
            say(f"{describe(cache, dataset)}\n{_code()}")
        results = []
        for part, settings in configs.items():
            narrowed = only(dataset, settings.modality)
            done = []
            for name, seed in zip(_names(seeds), seeds or [config.seed], strict=True):
                place, about = (
                    top / part / name,
                    _about(cache, narrowed, settings.revised(seed=seed)),
                )
                history = _train_one(cache, narrowed, place, about, resume, group)
                if group.is_main_process:
                    done.append(_finish_one(cache, narrowed, place, history, pictures))
            results += [member.result for member in done]
            together(top / part, done, narrowed, "val")
        if ablations and group.is_main_process:
            say(f"\n{report([top / name for name in ABLATIONS], 'val')}")
    return results


def _names(seeds: Sequence[int]) -> list[str]:
    """The folder of each seed's model; without seeds, the one model's."""
    return [f"seed-{seed}" for seed in seeds] or ["."]


def _check_plan(cache: Cache, rows: Rows, config: TrainConfig, group: ProcessGroup) -> None:
    """Refuse what can't be trained before anything is made or read."""
    for name in ("train", "val"):
        if not len(rows.kept[name]):
            raise ConfigError(
                f"{cache.path}: the split {name!r} has no rows with features; can't train. See "
                "`python -m cache info`; `python -m cache relabel` gives the cache other labels"
            )
    if config.batch_size < group.size:
        raise ConfigError(f"batch_size: {config.batch_size}, for {group.size} processes")


def _check_resumed(cache: Cache, run: Path, rows: Rows) -> None:
    """Refuse to go on with a run on other features, classes or label rows than it began with."""
    path = run / checkpoint.LAST
    if not path.exists():
        say(f"{run}: no epoch was finished here; training begins anew", error=True)
        return
    _, about, _ = checkpoint.load(path)
    check_same_features(cache, about, run)
    found = record.read(run, about)
    for text in record.cautions(run, found):
        say(f"warning: {text}", error=True)
    record.check_same_rows(run, about.classes, None if found is None else found.rows, rows.used())


def _code() -> str:
    return f"code: {code.described(code.version(), *code.commit())}"


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
    cache: Cache, dataset: Dataset, run: Path, about: About, resume: bool, group: ProcessGroup
) -> History:
    config, device = about.config, dataset.clips.device
    torch.manual_seed(config.seed)
    model = FusionModel(dataset.clips.shapes, config).to(device)
    normalize(model, dataset.clips, dataset.splits["train"], group)
    again = resume and (run / checkpoint.LAST).exists()
    if group.is_main_process:
        count = sum(parameter.numel() for parameter in model.parameters())
        where = device.type if group.size == 1 else f"{group.size} processes, {device.type}"
        say(f"run {run}: {count:,} parameters on {where}, seed {config.seed}")
        before = record.read(run, about) if again else None
        if before is not None or not again:  # a run of an older version stays without
            making = None if before is None else before.making
            record.start(run, dataset.rows.used(), device, group.size, making)
        replace_file(run / runs.CONFIG_FILE, config.to_json().encode())
        runs.write_json(run / runs.FEATURES_FILE, runs.features_of(cache))
    history = train_model(model, dataset, about, run, again, group)
    if group.is_main_process:
        record.end(run)
    return history


def _finish_one(
    cache: Cache, dataset: Dataset, run: Path, history: History, pictures: int
) -> Member:
    runs.write_json(run / runs.HISTORY_FILE, history)
    model, about, _ = checkpoint.load(run / checkpoint.BEST)
    trained = about.config.gate_weight > 0
    why = "which scored higher on val at the best epoch" if trained else "as the gate has no loss"
    say(f"start and end: by the {about.decoding}, {why}")
    figures = {"curves": run_plots.curves_figure(history, best_epoch(history))}
    drawn = plots.save_figures(run / plots.FOLDER, figures)
    one = Loaded(run, model.to(dataset.clips.device), about, record.read(run, about))
    return score_one(cache, dataset, one, "val", pictures, drawn)


def describe(cache: Cache, dataset: Dataset) -> str:
    """Which data a run sees, and what was left out, for people."""
    sizes = ", ".join(f"{name} {len(some)}" for name, some in dataset.splits.items())
    lines = [f"cache {cache.path}: {len(cache)} clips; rows: {sizes}", dataset.clips.mode]
    rows = dataset.rows
    lines += printable(rows.notes)
    if rows.without_features:
        named = ", ".join(rows.without_features[:10])
        more = len(rows.without_features) - 10
        lines.append(
            f"{len(rows.without_features)} labelled clip(s) without features left out: {named}"
            + (f" and {more} more" if more > 0 else "")
        )
    for (early, late), ids in rows.leaks.items():
        lines.append(
            f"{len(ids)} id(s) stand in both {early} and {late} "
            "(--drop-leaks keeps them in the later split only)"
        )
    return "\n".join(lines)
