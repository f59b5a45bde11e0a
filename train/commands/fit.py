"""`python -m train fit`: train one model or many, score each on val, say which is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from cache import Cache
from cache.common.atomic import replace_file
from cache.common.cli import say
from cache.joined import open_caches
from train.commands import plan
from train.commands.curves import Curves, draw_curves
from train.commands.evaluate import score_ensemble, score_model
from train.commands.folds import score_folds
from train.commands.plan import Job, Plan
from train.commands.scored import Scored
from train.config import TrainConfig
from train.data.dataset import Dataset, load_dataset, resolve
from train.data.features import torch_device
from train.data.folds import load_folds
from train.distributed import ProcessGroup, process_group
from train.fit.also_test import Look, look_at
from train.fit.begin import described, starts
from train.fit.choice import why_ended
from train.fit.loop import train_model
from train.fit.normalize import normalize
from train.fit.settle import described_read_off, settle
from train.fit.state import History
from train.fit.tell import Callback, Console, MetricsFile, TensorBoard
from train.fit.validate import calibration_notes
from train.fit.weak import guess_times
from train.model.fusion import FusionModel
from train.parallel import cpu_threads, most_at_once, side_by_side
from train.report.drawing import FOLDER
from train.report.page import FILE
from train.report.tables import Runs, comparison
from train.runs import checkpoint, code, folders, record
from train.runs.checkpoint import About
from train.runs.evaluate import MODEL, Result
from train.runs.making import Init
from train.runs.recordings import on_recordings
from train.runs.trained import TrainedModel
from train.score.predict import TrainingError

Kind = tuple[str, str]
"""A part of the data and the streams that a model gets of it."""


def fit(
    cache_path: Path,
    run: Path | None,
    config: TrainConfig,
    *,
    resume: bool = False,
    seeds: Sequence[int] = (),
    ablations: bool = False,
    folds: int | None = None,
    folds_of: str = "train+val",
    init: Path | None = None,
    pictures: int = 4,
    also_test: bool = False,
) -> list[Result]:
    """Train, evaluate on val, draw; one result (see `evaluate`) per model.

    run: the folder to make; None makes a new one under `runs/`. The features are read once for all
    seeds and, with `ablations`, for the three models of both streams, of audio alone and of video
    alone, which are trained the same way. Of the processes that `torchrun` started all train
    together, and the first does the rest.

    folds: into how many parts to divide the clips for cross-validation (see `Division`): a model
    for each, or one for each seed; the results are those of `score_folds`. init: a run whose
    weights to begin with (see `train.fit.begin`). also_test: see `train.fit.also_test`.
    """
    with ExitStack() as held:
        group = held.enter_context(process_group(torch_device(config.device)))
        cache = open_caches(cache_path)
        # When resumed, other classes are told by what they are, not by their number.
        config = config.revised(num_classes=None) if resume else config
        config = resolve(config, cache, cache.labels.classes)
        divided = plan.division(run, folds, folds_of, (*seeds, config.seed)[0], resume)
        begin = [] if init is None else starts(init, cache, config)
        todo = Plan.of(cache, config, seeds, ablations, divided, begin, also_test)
        todo.check(group)
        if group.is_main_process:
            names = [job.name for job in todo.jobs]
            run = held.enter_context(folders.claimed_run(run, names, resume))
            if resume:
                todo.check_resumed(run)
        return _train_all(todo, run or folders.new_run(), resume, pictures, group)


def _train_all(
    todo: Plan, top: Path, resume: bool, pictures: int, group: ProcessGroup
) -> list[Result]:
    cache, config, divided = todo.cache, todo.config, todo.division
    if divided is None:
        whole = load_dataset(cache, config, ("train", "val"), todo.parts[plan.WHOLE])
        datasets = {plan.WHOLE: whole}
    else:
        datasets = load_folds(cache, config, todo.parts)
    # A data set of its own, so that what is trained on is the same with it and without.
    test = load_dataset(cache, config, ["test"], todo.parts[plan.WHOLE]) if todo.also_test else None
    if group.is_main_process:
        say(f"{todo.described(next(iter(datasets.values())))}\n{_code()}")
        if divided is not None:
            replace_file(top / folders.FOLDS_FILE, divided.to_json().encode())
    kinds: list[Kind] = [(job.part, job.config.modality) for job in todo.jobs]
    threads = _threads(config, datasets, group)
    with cpu_threads(threads):
        learned = {
            kind: _with_times(only(datasets[kind[0]], kind[1]), config, group)
            for kind in dict.fromkeys(kinds)
        }
        trainings = {
            job.name: partial(
                _train_and_score,
                cache,
                datasets,
                learned,
                test,
                top,
                job,
                resume,
                pictures,
                group,
            )
            for job in todo.jobs
        }
        stream = any(one.clips.stream is not None for one in datasets.values())
        at_once = 1 if stream or threads != 1 else most_at_once(len(trainings))
        if at_once > 1:
            say(f"{len(trainings)} trainings, {at_once} at a time, a thread each")
            found = [*side_by_side(trainings, at_once).values()]
        else:
            found = [train() for train in trainings.values()]
        done = [one for one in found if one is not None]
        if done and divided is not None:
            return score_folds(top, cache, datasets, done)
        return _print_end(done, cache, datasets[plan.WHOLE], pictures) if done else []


def _threads(
    config: TrainConfig, datasets: Mapping[str, Dataset], group: ProcessGroup
) -> int | None:
    """Threads of each training; None where the settings leave them as they are."""
    first = next(iter(datasets.values()))
    if first.clips.device.type != "cpu" or group.size > 1:
        return None
    return config.threads_over(max(len(one.splits["train"]) for one in datasets.values()))


def _train_and_score(
    cache: Cache,
    datasets: Mapping[str, Dataset],
    learned: Mapping[Kind, Dataset],
    test: Dataset | None,
    top: Path,
    job: Job,
    resume: bool,
    pictures: int,
    group: ProcessGroup,
) -> Scored | None:
    """One model, trained and scored; None in the processes that don't score."""
    kind = job.part, job.config.modality
    look = None
    if test is not None:
        look = look_at(only(test, job.config.modality), top / job.name, group)
    history = _train(cache, learned[kind], top, job, resume, group, pictures, look)
    if not group.is_main_process:
        return None
    narrowed = only(datasets[job.part], job.config.modality)
    return _score(cache, narrowed, learned[kind], top / job.name, history, pictures)


def _with_times(dataset: Dataset, config: TrainConfig, group: ProcessGroup) -> Dataset:
    """What is trained and chosen on: training events without times get guessed ones.

    With --weak all are without, and validation's stay so.
    """
    dataset = dataset.without_times() if config.weak else dataset
    count = int(dataset.splits["train"].weak.sum())
    if count and group.is_main_process:
        say(f"{count} training events have a class alone: guessing when they are")
    return guess_times(dataset, group)


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
    top: Path,
    job: Job,
    resume: bool,
    group: ProcessGroup,
    pictures: int = 0,
    look: Look | None = None,
) -> History:
    run, config, init = top / job.name, job.config, None
    about = About.of(config, dataset, cache)
    torch.manual_seed(config.seed)
    model = FusionModel(dataset.clips.shapes, config).to(dataset.clips.device)
    normalize(model, dataset.clips, dataset.splits["train"], group)
    again = resume and (run / checkpoint.LAST).exists()
    if job.start is not None and not again:
        init = job.start.init(job.start.take_over(model, dataset.classes))
    if group.is_main_process:
        count = sum(parameter.numel() for parameter in model.parameters())
        where = dataset.clips.device.type
        where = where if group.size == 1 else f"{group.size} processes, {where}"
        say(f"run {run}: {count:,} parameters on {where}, seed {config.seed}")
        if init is not None:
            say(f"init: {described(*init, dataset)}")
        _record_start(cache, dataset, run, about, again, group, init)
    callbacks: list[Callback] = [Console(), MetricsFile(run), TensorBoard(run)]
    callbacks += [Curves(run, config)] if pictures else []
    try:
        history = train_model(model, dataset, about, run, again, group, callbacks, look)
    except TrainingError as error:
        if group.is_main_process:
            record.end(run, str(error), well=False)
        raise
    if group.is_main_process:
        record.end(run, why := why_ended(history, config))
        say(f"ended: {why}")
    return history


def _record_start(
    cache: Cache,
    dataset: Dataset,
    run: Path,
    about: About,
    again: bool,
    group: ProcessGroup,
    init: tuple[Init, frozenset[str]] | None,
) -> None:
    """Store how a run is made, before its first epoch or those that are to follow."""
    config, train = about.config, dataset.splits["train"]
    before = record.read(run, about) if again else None
    if before is not None or not again:  # a run of an older version stays without
        epochs = config.epochs_over(train.epoch_size(config.background_share))
        making = None if before is None else before.making
        rows, device = dataset.rows.used(), dataset.clips.device
        record.start(run, rows, device, group.size, epochs, making, init)
    replace_file(run / folders.CONFIG_FILE, config.to_json().encode())
    folders.write_json(run / folders.FEATURES_FILE, cache.identity.record())


def _score(
    cache: Cache, dataset: Dataset, learned: Dataset, run: Path, history: History, pictures: int
) -> Scored:
    """Score a model that was trained just now on val, and draw how it was trained.

    learned: the data as it was trained and chosen on.
    """
    folders.write_json(run / folders.HISTORY_FILE, history)
    one = TrainedModel.load(run)
    listed = on_recordings(cache, one.about)
    if one.about.config.events == "single":
        trained = one.about.config.gate_weight > 0
        why = "which scored higher on val" if trained else "as the gate has no loss"
        if not learned.splits["val"].timed_count():
            why = "as no times of val are looked at"
        say(f"start and end: by the {one.about.decoding}, {why}")
        for text in calibration_notes(one.about.calibration, learned):
            say(text)
    if listed:
        one = settle(one, cache, dataset)
        say(described_read_off(one.about))
    if pictures:
        draw_curves(run, history, one.about.epoch)
    return score_model(cache, dataset.rows if listed else dataset, one, "val", pictures)


def _print_end(
    done: Sequence[Scored], cache: Cache, dataset: Dataset, pictures: int
) -> list[Result]:
    """Print the scores that matter, of ensembles of seeds as well, and where all else is.

    Returns the result of each model.
    """
    runs: Runs = {}
    for modality in dict.fromkeys(one.trained.about.config.modality for one in done):
        scored = [one for one in done if one.trained.about.config.modality == modality]
        results, together = [one.result for one in scored], None
        if len(scored) > 1:
            listed = on_recordings(cache, scored[0].trained.about)
            data, top = dataset.rows if listed else dataset, scored[0].trained.folder.parent
            together, *_ = score_ensemble(top, scored, cache, data, "val")
        runs[MODEL if len(scored) == len(done) else modality] = results, together
    say(f"\n{comparison(runs, brief=True)}")
    say(f"all scores: {', '.join(str(one.written) for one in done)}")
    pages = [one.place / FILE for one in done if (one.place / FILE).exists()]
    if pictures and pages:
        beside = "it" if len(pages) == 1 else "them"
        say(f"pictures: {', '.join(map(str, pages))}; more in {FOLDER}/ beside {beside}")
    return [one.result for one in done]
