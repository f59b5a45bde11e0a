"""A sweep's folder and its trials, which several processes and machines may work on at once.

sweep.json             what all trials share; the same command goes on only where that is the same
journal.log            Optuna's journal: a line of JSON for each thing that happened; no server
worker-1a2b…           locked while a process works on trials, gone after; how others see it alive
trials.csv, best.json, sweep.html
rerun/<name>/seed-…    the best trials and the default again, with fresh seeds: ordinary runs
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import secrets
import socket
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.common.atomic import writing
from cache.common.cli import say
from cache.common.errors import AvelError, CacheError, ConfigError
from cache.common.plain import open_plain
from train.runs.progress import duration
from train.score.predict import TrainingError
from train.sweep.space import Space, holds, settings_of, suggest
from train.sweep.trial import Search

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

JOURNAL = "journal.log"
_MAX_JOURNAL_BYTES = 1 << 28
_NAME, _WORKER = "sweep", re.compile(r"worker-[0-9a-f]{16}")
_FIRST = 6
"""So many trials are never stopped early."""
_YOUNG_S = 60.0
_NOT_READ = (
    LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError,
    RecursionError,
)  # fmt: skip
"""What Optuna raises of lines that are no journal."""


def optuna_here() -> Any:
    """The module optuna, quiet; ConfigError that says how to get it."""
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "a sweep needs Optuna, which is not installed: pip install 'avel-two-stage[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@dataclass(frozen=True)
class Sweep:
    """A sweep as one process sees it. worker: the name of its lock; number: of this process."""

    folder: Path
    space: Space
    worker: str = ""
    number: int = 0

    def study(self) -> optuna.Study:
        """The trials, made where there are none; nothing of a journal is executed.

        Optuna reads JSON lines alone. CacheError for links and what no journal is.
        """
        tools, path = optuna_here(), self.folder / JOURNAL
        journal = tools.storages.journal
        try:
            lock = journal.JournalFileSymlinkLock(str(path))
            with writing(path):
                _mend(path, lock)
            storage = tools.storages.JournalStorage(
                journal.JournalFileBackend(str(path), lock_obj=lock)
            )
            pruner = tools.pruners.MedianPruner(_FIRST)
            study: optuna.Study = tools.create_study(
                storage=storage,
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
            )
            who = f"{socket.gethostname()} {self.number} {len(study.trials)}"
            study.sampler = tools.samplers.TPESampler(seed=zlib.crc32(who.encode()))
            for one in study.get_trials(deepcopy=False):
                _check_trial(one, self.space)
            return study
        except _NOT_READ as error:
            told = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise CacheError(
                f"{path}: no journal of a sweep that can be read ({told}); pass another OUT"
            ) from None

    @contextlib.contextmanager
    def claimed(self) -> Iterator[Sweep]:
        """Be known as alive to the others that work on the sweep while the block runs."""
        name = f"worker-{secrets.token_hex(8)}"
        path = self.folder / name
        with writing(path):
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield replace(self, worker=name)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def numbered(self, number: int) -> Sweep:
        """The same in a process of its own, which draws other trials."""
        return replace(self, number=number)

    def retire(self, study: optuna.Study) -> int:
        """End the trials whose processes are gone; how many there were."""
        states = optuna_here().trial.TrialState
        gone = [one for one in study.get_trials(deepcopy=False) if self._is_gone(one)]
        for one in gone:
            study.tell(one.number, state=states.FAIL, skip_if_finished=True)
        for path in self.folder.glob("worker-*"):
            if _WORKER.fullmatch(path.name) and not _is_held(path):
                path.unlink(missing_ok=True)
        return len(gone)

    def _is_gone(self, one: FrozenTrial) -> bool:
        if one.state.name != "RUNNING":
            return False
        name = str(one.user_attrs.get("worker", ""))
        if not name and one.datetime_start is not None:  # it may say so in a moment
            return time.time() - one.datetime_start.timestamp() > _YOUNG_S
        return not _WORKER.fullmatch(name) or not _is_held(self.folder / name)

    def work(self, search: Search, trials: int) -> None:
        """Do trials until the sweep has so many, those of others counted."""
        study, start = self.study(), time.perf_counter()
        before = finished(counts(study))
        while True:
            found = counts(study)
            if finished(found) + found["running"] >= trials:
                return
            trial, begun = study.ask(), time.perf_counter()
            trial.set_user_attr("worker", self.worker)
            told, now = self._one(study, trial, search), time.perf_counter()
            done = finished(counts(study))
            left = (now - start) / max(done - before, 1) * max(trials - done, 0)
            about = f", about {duration(left)} left" if left else ""
            say(f"trial {trial.number} ({done} of {trials}{about}): {told}; {now - begun:.0f} s")

    def _one(self, study: optuna.Study, trial: optuna.Trial, search: Search) -> str:
        """Do a trial; what became of it, in words."""
        states, values = optuna_here().trial.TrialState, suggest(trial, self.space)

        def report(look: int, score: float) -> bool:
            trial.report(score, look)
            return trial.should_prune()

        told = "pruned: worse there than half of those that came to their end"
        try:
            score = search.score(settings_of(values), report)
            if score is None:
                study.tell(trial, state=states.PRUNED)
            else:
                study.tell(trial, score)
                told = f"{score:.4f} (best so far {study.best_value:.4f})"
        except (TrainingError, ConfigError) as error:
            told = f"failed: {str(error)[:300]}"
            trial.set_user_attr("reason", str(error)[:300])
            study.tell(trial, state=states.FAIL)
        except BaseException:
            study.tell(trial, state=states.FAIL)
            raise
        shown = ", ".join(f"{name} {shown_value(value)}" for name, value in values.items())
        return f"{told}; {shown}"


def shown_value(value: object) -> str:
    """A setting's value for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def counts(study: optuna.Study) -> Counter[str]:
    """How many trials are in which state; "stopped" are those whose process ended before them."""
    return Counter(state_of(one) for one in study.get_trials(deepcopy=False))


def state_of(one: FrozenTrial) -> str:
    """What became of a trial: complete, pruned, failed, stopped, running or waiting."""
    name = one.state.name.lower()
    if name == "fail":
        return "failed" if "reason" in one.user_attrs else "stopped"
    return name


def best_first(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that came to their end, the best first; stopped ones have a last look's score."""
    trials = study.get_trials(deepcopy=False)
    done = [(one.value, one) for one in trials if state_of(one) == "complete"]
    known = [(value, one) for value, one in done if value is not None]
    return [one for _, one in sorted(known, key=lambda pair: -pair[0])]


def finished(found: Counter[str]) -> int:
    """How many trials count: whatever was tried to the end or given up for a reason."""
    return found["complete"] + found["pruned"] + found["failed"]


def _check_trial(one: FrozenTrial, space: Space) -> None:
    """ValueError for a trial that no sweep over the space makes: journals come from strangers."""
    for name, value in one.params.items():
        if name not in space or not holds(space[name], value):
            raise ValueError(f"trial {one.number}: {name[:80]!r} is not searched, or not there")
    values = one.values or []
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    if (
        len(numbers) < len(values)
        or len(values) > 1
        or (one.state.name == "COMPLETE") > len(values)
    ):
        raise ValueError(f"trial {one.number}: expected one finite score")


def _mend(path: Path, lock: Any) -> None:
    """Take off half a line that a killed writer left; refuse what can't be a journal."""
    if not path.exists() and not path.is_symlink():
        return
    os.close(open_plain(path))
    size = path.stat().st_size
    if size > _MAX_JOURNAL_BYTES:
        raise CacheError(f"{path}: larger than {_MAX_JOURNAL_BYTES:,} bytes, which no journal is")
    lock.acquire()
    try:
        with path.open("r+b") as file:
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)
    finally:
        lock.release()


def _is_held(path: Path) -> bool:
    """Whether a living process holds a worker's lock."""
    try:
        descriptor = open_plain(path)
    except (AvelError, OSError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
