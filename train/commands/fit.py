"""`python -m train fit`: train one model or many, score each on val, say which is good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cache import Cache
from cache.common.atomic import replace_file
from cache.common.cli import line_width, say
from cache.joined import open_caches
from train.commands import plan
from train.commands.evaluate import score_ensemble
from train.commands.folds import score_folds
from train.commands.plan import Plan
from train.commands.scored import Scored
from train.commands.training import Kind, Trainings, only
from train.config import TrainConfig
from train.data.dataset import Dataset, load_dataset, resolve
from train.data.features import torch_device
from train.data.folds import load_folds
from train.distributed import ProcessGroup, process_group
from train.parallel import cpu_threads, most_at_once, side_by_side
from train.report.drawing import FOLDER
from train.report.page import FILE
from train.report.tables import Runs, comparison
from train.runs import code, folders
from train.runs.recordings import on_recordings
from train.score.named import MODEL, Result
from train.training.begin import starts
from train.training.weak import with_times


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
    together, and the first does the rest. folds: into how many parts to divide the clips for
    cross-validation (see `Division`): a model for each, or one for each seed; the results are those
    of `score_folds`. init: a run whose weights to begin with (`train.training.begin`). also_test:
    see `train.training.also_test`.
    """
    with ExitStack() as held:
        group = held.enter_context(process_group(torch_device(config.device)))
        cache = open_caches(cache_path)
        # When resumed, other classes are told by what they are, not by their number.
        asked = config.revised(num_classes=None) if resume else config
        config = resolve(asked, cache, cache.labels.classes)
        divided = plan.division(run, folds, folds_of, (*seeds, config.seed)[0], resume)
        begin = [] if init is None else starts(init, cache, config)
        todo = Plan.of(cache, config, seeds, ablations, divided, begin, also_test)
        todo.check(group)
        if group.is_main_process:
            claim = folders.claimed_run(run, [job.name for job in todo.jobs], resume)
            run = held.enter_context(claim)
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
            kind: with_times(only(datasets[kind[0]], kind[1]), config, group)
            for kind in dict.fromkeys(kinds)
        }
        shared = Trainings(cache, datasets, learned, test, top, resume, pictures, group)
        trainings = {job.name: partial(shared.run, job) for job in todo.jobs}
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


def _code() -> str:
    return f"code: {code.described(code.version(), *code.commit())}"


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
    say(f"\n{comparison(runs, brief=True, width=line_width())}")
    say(f"all scores: {', '.join(str(one.written) for one in done)}")
    pages = [one.place / FILE for one in done if (one.place / FILE).exists()]
    if pictures and pages:
        beside = "it" if len(pages) == 1 else "them"
        say(f"pictures: {', '.join(map(str, pages))}; more in {FOLDER}/ beside {beside}")
    return [one.result for one in done]
