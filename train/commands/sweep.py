"""`python -m train sweep`: search settings on val, train the best again, say what was found."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cache import Cache
from cache.common.atomic import appending, plain_folder
from cache.common.cli import printable, say
from cache.common.cores import cores
from cache.common.errors import AvelError, CacheError, ConfigError
from cache.format.lock import writer_lock, writer_of
from cache.joined import open_caches
from train.commands.fit import fit
from train.commands.plan import WHOLE, Plan
from train.config import TrainConfig
from train.data.dataset import Rows, resolve
from train.distributed import SINGLE_PROCESS
from train.parallel import cpu_threads, most_at_once, side_by_side
from train.runs.evaluate import rows_digest
from train.runs.folders import LAST, RERUN
from train.score.metrics import Events
from train.sweep.compare import NORMAL, Again, compared, criterion_of
from train.sweep.outputs import BEST, CSV, PAGE, Found
from train.sweep.plan import SweepPlan
from train.sweep.space import Value, read_space, settings_of, stored, values_of
from train.sweep.study import Sweep, best_first, counts, finished, optuna_here
from train.sweep.trial import Search

LOG = "rerun.log"
_FIRST_FRESH = 1000
"""Fresh seeds are numbered from here; trials' from 0."""


@dataclass(frozen=True)
class Wanted:
    """How much a sweep is to do; see `train.commands.sweep_options`."""

    trials: int
    jobs: int | None
    trial_seeds: int
    trial_epochs: int | None
    again: int
    fresh_seeds: int

    def check(self) -> None:
        """ConfigError for what makes no sense."""
        least = {"trials": 1, "trial_seeds": 1, "fresh_seeds": 2, "jobs": 1, "trial_epochs": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: expected {low} or more")
        if self.trial_seeds > _FIRST_FRESH:
            raise ConfigError(f"--trial-seeds {self.trial_seeds}: expected up to {_FIRST_FRESH}")


def sweep(
    cache_path: Path, out: Path, config: TrainConfig, space_path: Path | None, wanted: Wanted
) -> Path:
    """Search, or go on with the search in `out`; returns its page.

    config: the settings of all that is not searched. Features are read once for all trials of this
    command; of test nothing is read. The best trials and the default are trained again as ordinary
    runs of seeds in `out`/rerun.
    """
    wanted.check()
    optuna_here()
    space = read_space(space_path, config)
    cache = open_caches(cache_path)
    todo = Plan.of(cache, resolve(config, cache, cache.labels.classes), [], False, None, [])
    todo.check(SINGLE_PROCESS)
    settled, rows = todo.config, todo.parts[WHOLE]
    whole = settled.epochs_over(len(rows.kept["train"]))
    short = settled.revised(epochs=wanted.trial_epochs or -(-whole // 3))
    seeds = tuple(range(wanted.trial_seeds))
    plain_folder(out)
    SweepPlan(
        config=short,
        space=stored(space),
        seeds=list(seeds),
        fingerprint=cache.fingerprint,
        rows=_digest(rows),
        epochs=whole,
    ).store(out)
    with Sweep(out, space).claimed() as mine:
        if not _searched(mine, cache, short, rows, seeds, wanted):
            return out / PAGE
        with contextlib.ExitStack() as held:
            if not _alone(held, out / RERUN):
                return out / PAGE
            again = _again(mine, cache, cache_path, config, settled, wanted)
            found = _found(mine, cache, config, settled, short, rows, again)
            found.write()
    _tell(found)
    return out / PAGE


def _tell(found: Found) -> None:
    out, best = found.folder, found.folder / BEST
    say(f"\n{found.verdict}")
    say(f"settings: {best} (`python -m train fit --cache CACHE --config {best}`)")
    say(f"page: {out / PAGE}; all trials: {out / CSV}; the runs: {out / RERUN}/")


def _digest(rows: Rows) -> str:
    """Of the rows of train and val, with their split."""
    used, digests = rows.used(), []
    for split in ("train", "val"):
        some = used.rows(split)
        truth = Events(used.category[some], used.start_s[some], used.end_s[some])
        digests.append(rows_digest([used.ids[row] for row in some], truth, used.classes))
    return "+".join(digests)


def _searched(
    mine: Sweep,
    cache: Cache,
    short: TrainConfig,
    rows: Rows,
    seeds: tuple[int, ...],
    wanted: Wanted,
) -> bool:
    """Do the trials that are missing; whether all are done, those of other processes as well."""
    study, normal = mine.study(), values_of(short, mine.space)
    if normal is None:
        say("note      the space doesn't hold the default, so no trial is the default")
    gone = mine.begin(study, normal)
    if gone:
        say(f"{gone} trial(s) whose process ended before them were given up; others follow")
    found = counts(study)
    before = finished(found)
    if before < wanted.trials:
        say(f"sweep {mine.folder}: {before} of {wanted.trials} trials are done; {_states(found)}")
        search = Search.of(cache, short, rows, seeds)
        for note in printable([search.dataset.clips.mode, *rows.notes]):
            say(note)
        _work(mine, search, wanted)
    found = counts(study)
    if found["running"]:
        say(
            f"other processes still work on {found['running']} trial(s) of {mine.folder}; the last "
            "to end goes on, or run the same command again"
        )
        return False
    if not found["complete"]:
        raise ConfigError(
            f"{mine.folder}: no trial came to its end ({_states(found)}); {CSV} there will say why "
            "once one does: mend what they name, or pass another SPACE and OUT"
        )
    return True


def _states(found: Mapping[str, int]) -> str:
    told = ", ".join(f"{count} {name}" for name, count in sorted(found.items()) if count)
    return told or "none has begun"


def _work(mine: Sweep, search: Search, wanted: Wanted) -> None:
    streamed = search.dataset.clips.stream is not None
    on_cpu = search.dataset.clips.device.type == "cpu"
    may = most_at_once(wanted.trials) if on_cpu and not streamed else 1
    jobs = min(wanted.jobs or cores(), may, wanted.trials)
    if wanted.jobs is not None and jobs < min(wanted.jobs, wanted.trials):
        say(f"note      {jobs} trial(s) at a time: no more run side by side here", error=True)
    if jobs == 1:
        with cpu_threads(1 if on_cpu else None):
            mine.work(search, wanted.trials)
        return
    workers = {
        f"worker {number}": partial(mine.work, search, wanted.trials)
        for number in range(1, jobs + 1)
    }
    side_by_side(workers, jobs)


def _alone(held: contextlib.ExitStack, rerun: Path) -> bool:
    """Be the only one that trains the best again; False, said, where another process does."""
    try:
        held.enter_context(writer_lock(plain_folder(rerun), "sweep"))
    except CacheError:
        if not (who := writer_of(rerun)):
            raise
        say(f"{rerun}: {who} trains the best again and writes the page; all trials are kept")
        return False
    return True


def _again(
    mine: Sweep,
    cache: Cache,
    cache_path: Path,
    config: TrainConfig,
    settled: TrainConfig,
    wanted: Wanted,
) -> list[Again]:
    """Train the best few and the default in full; as ordinary runs of seeds, if need be resumed."""
    normal = values_of(settled, mine.space)
    tried: list[Mapping[str, Value]] = [] if normal is None else [normal]
    settings: dict[str, Mapping[str, Value]] = {NORMAL: {}}
    for one in best_first(mine.study()):
        if len(settings) <= wanted.again and one.params not in tried:
            tried.append(one.params)
            settings[f"trial-{one.number}"] = settings_of(one.params)
    seeds = [_FIRST_FRESH + number for number in range(wanted.fresh_seeds)]
    say(
        f"training the best {len(settings) - 1} trial(s) and the default again, in full, with "
        f"{len(seeds)} fresh seed(s) each: {mine.folder / LOG}"
    )
    for name, changes in settings.items():
        _run(mine.folder, cache_path, name, config.revised(**changes), seeds)
    return compared(mine.folder / RERUN, settings, settled, seeds, cache.clip_seconds)


def _run(out: Path, cache_path: Path, name: str, config: TrainConfig, seeds: Sequence[int]) -> None:
    run = out / RERUN / name
    places = [run / f"seed-{seed}" for seed in seeds]
    if all((place / "metrics_val.json").exists() for place in places):
        return
    begun = any((place / LAST).exists() for place in places)
    try:
        with (
            appending(out / LOG) as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            fit(cache_path, run, config, resume=begun, seeds=seeds, pictures=0)
    except AvelError:
        say(f"{name}: not trained to its end; mend what follows, then the same sweep command goes "
            "on", error=True)  # fmt: skip
        raise
    say(f"{name}: trained again")


def _found(
    mine: Sweep,
    cache: Cache,
    config: TrainConfig,
    settled: TrainConfig,
    short: TrainConfig,
    rows: Rows,
    again: Sequence[Again],
) -> Found:
    train, val = (len(rows.kept[name]) for name in ("train", "val"))
    return Found(
        folder=mine.folder,
        study=mine.study(),
        config=config,
        criterion=criterion_of(mine.folder / RERUN / NORMAL / f"seed-{_FIRST_FRESH}"),
        data=f"Cache {printable(cache.path.name)} ({cache.fingerprint[:8]}), {train} rows of train "
        f"and {val} of val; nothing of test was read",
        shared=f"A trial has {short.epochs} epoch(s) and is the mean of its seeds; worse than "
        "the median early in the first or at its end, it is stopped. Whatever is not searched is "
        "as in sweep.json.",
        again=again,
    )
