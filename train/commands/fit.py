"""`python -m train fit`: train one model or many, score each on val, say which is good."""

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
from train.commands.evaluate import Scored, score_ensemble, score_model
from train.config import TrainConfig
from train.data.dataset import Dataset, Rows, choose_rows, load_dataset, resolve
from train.data.features import torch_device
from train.distributed import ProcessGroup, process_group
from train.fit.loop import train_model
from train.fit.normalize import normalize
from train.fit.state import History
from train.model.fusion import FusionModel
from train.report import run_plots
from train.report.drawing import FOLDER, save_figures
from train.report.page import FILE
from train.report.tables import HEADLINE, Runs, comparison
from train.runs import checkpoint, code, folders, record
from train.runs.checkpoint import About
from train.runs.clip_features import check_same_features
from train.runs.evaluate import MODEL, Result
from train.runs.trained import TrainedModel

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

    run: the folder to make; None makes a new one under `runs/`. The features are read once for all
    seeds and, with `ablations`, for the three models of both streams, of audio alone and of video
    alone, which are trained the same way. Of the processes that `torchrun` started all train
    together, and the first does the rest.
    """
    with ExitStack() as held:
        group = held.enter_context(process_group(torch_device(config.device)))
        cache = open_cache(cache_path)
        # When resumed, other classes are told by what they are, not by their number.
        config = config.revised(num_classes=None) if resume else config
        config = resolve(config, cache, cache.labels.classes)
        models, rows = _models(config, seeds, ablations), choose_rows(cache, config)
        _check_plan(cache, rows, config, group)
        if group.is_main_process:
            run = held.enter_context(folders.claimed_run(run, list(models), resume))
            for place in (run / name for name in models if resume):
                _check_resumed(cache, place, rows)
        top = run or folders.new_run()
        dataset = load_dataset(cache, config, ("train", "val"), rows)
        if group.is_main_process:
            say(f"{_describe(cache, dataset)}\n{_code()}")
        done = []
        for name, settings in models.items():
            narrowed, place = only(dataset, settings.modality), top / name
            history = _train(cache, narrowed, place, settings, resume, group)
            if group.is_main_process:
                done.append(_score(cache, narrowed, place, history, pictures))
        return _print_end(done, dataset, pictures) if done else []


def _models(config: TrainConfig, seeds: Sequence[int], ablations: bool) -> dict[str, TrainConfig]:
    """The settings of each model to train, by its folder in the run; "." is the run's own."""
    if ablations and config.modality != "both":
        raise ConfigError(
            f"modality: --ablations trains all three; drop --modality {config.modality}"
        )
    parts = {name: config.revised(modality=name) for name in ABLATIONS if ablations}
    return {
        str(Path(part, name)): settings.revised(seed=seed)
        for part, settings in (parts or {".": config}).items()
        for name, seed in ({f"seed-{seed}": seed for seed in seeds} or {".": config.seed}).items()
    }


def _check_plan(cache: Cache, rows: Rows, config: TrainConfig, group: ProcessGroup) -> None:
    """Refuse what can't be trained before anything is made or read."""
    for name in ("train", "val"):
        if not len(rows.kept[name]):
            raise ConfigError(
                f"{cache.path}: the split {name!r} has no rows with features; can't train. See "
                "`python -m cache info`; `python -m cache relabel` gives the cache other labels"
            )
        if rows.labels.background[rows.kept[name]].all():
            raise ConfigError(
                f"{cache.path}: the split {name!r} has no event, only clips without one; can't "
                "train. Give it some with `python -m cache relabel`"
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


def _train(
    cache: Cache,
    dataset: Dataset,
    run: Path,
    config: TrainConfig,
    resume: bool,
    group: ProcessGroup,
) -> History:
    about = About.of(config, dataset, cache)
    device = dataset.clips.device
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
        replace_file(run / folders.CONFIG_FILE, config.to_json().encode())
        folders.write_json(run / folders.FEATURES_FILE, cache.identity.record())
    history = train_model(model, dataset, about, run, again, group)
    if group.is_main_process:
        record.end(run)
    return history


def _score(cache: Cache, dataset: Dataset, run: Path, history: History, pictures: int) -> Scored:
    """Score a model that was trained just now on val, and draw how it was trained."""
    folders.write_json(run / folders.HISTORY_FILE, history)
    one = TrainedModel.load(run)
    trained = one.about.config.gate_weight > 0
    why = "which scored higher on val at the best epoch" if trained else "as the gate has no loss"
    say(f"start and end: by the {one.about.decoding}, {why}")
    if pictures:
        curves = run_plots.curves_figure(history, one.about.epoch)
        save_figures(run / FOLDER, {"curves": curves})
    return score_model(cache, dataset, one, "val", pictures)


def _print_end(done: Sequence[Scored], dataset: Dataset, pictures: int) -> list[Result]:
    """Print the scores that matter, of ensembles of seeds as well, and where all else is.

    Returns the result of each model.
    """
    runs: Runs = {}
    for modality in dict.fromkeys(one.trained.about.config.modality for one in done):
        scored = [one for one in done if one.trained.about.config.modality == modality]
        results, together = [one.result for one in scored], None
        if len(scored) > 1:
            together, _ = score_ensemble(scored[0].trained.folder.parent, scored, dataset, "val")
        runs[MODEL if len(scored) == len(done) else modality] = results, together
    say(f"\n{comparison(runs, HEADLINE)}")
    say(f"all scores: {', '.join(str(one.written) for one in done)}")
    if pictures:
        pages = ", ".join(str(one.place / FILE) for one in done)
        say(f"pictures: {pages}; more in {FOLDER}/ beside {'it' if len(done) == 1 else 'them'}")
    return [one.result for one in done]


def _describe(cache: Cache, dataset: Dataset) -> str:
    """Which data a run sees, and what was left out, for people."""
    sizes = ", ".join(
        f"{name} {len(some)}"
        + (f" ({empty} without an event)" if (empty := some.background_count()) else "")
        for name, some in dataset.splits.items()
    )
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
