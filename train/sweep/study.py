"""A sweep's folder and its trials, which several processes and machines may work on at once.

sweep.json             what all trials share; the same command goes on only where that is the same
journal.log            Optuna's journal: a line of JSON for each thing that happened; no server
journal.lock           held for the moment in which a process takes its next trial
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
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.common.atomic import writing
from cache.common.cli import say
from cache.common.errors import AvelError, CacheError, ConfigError
from cache.common.plain import open_plain
from train.runs.progress import duration
from train.score.predict import TrainingError
from train.sweep.journal import Journal, alone
from train.sweep.space import Space, Value, holds, settings_of, suggest
from train.sweep.trial import Search

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

JOURNAL, LOCK = "journal.log", "journal.lock"
_NAME, _WORKER = "sweep", re.compile(r"worker-[0-9a-f]{16}")
_FIRST = 6
"""So many trials are never stopped early."""
_LOST = "lost: another process took this one for dead; has the file system locks?"
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
    """A sweep as one process sees it. worker: the name of its lock."""

    folder: Path
    space: Space
    worker: str = ""

    def study(self) -> optuna.Study:
        """The trials, made where there are none; nothing of a journal is executed.

        Optuna reads JSON lines alone. CacheError for links and what no journal is.
        """
        tools, path = optuna_here(), self.folder / JOURNAL
        try:
            storage = tools.storages.JournalStorage(Journal(path))
            pruner = tools.pruners.MedianPruner(_FIRST)
            study: optuna.Study = tools.create_study(
                storage=storage,
                study_name=_NAME,
                direction="maximize",
                load_if_exists=True,
                pruner=pruner,
            )
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
        path, new = self.folder / name, self.folder / f"new-{name}"
        try:
            with alone(new):
                with writing(path):
                    new.rename(path)  # never seen without its lock, which would look dead
                yield replace(self, worker=name)
        finally:
            for one in (new, path):
                with contextlib.suppress(OSError):
                    one.unlink()

    def begin(self, study: optuna.Study, first: Mapping[str, Value] | None) -> int:
        """End the trials whose processes are gone, and return how many; let the first be `first`.

        Of several processes that begin at once one does it.
        """
        with alone(self.folder / LOCK):
            gone = self._retire(study)
            if first is not None:
                study.enqueue_trial(dict(first), skip_if_exists=True)
        for path in self.folder.glob("worker-*"):
            if _WORKER.fullmatch(path.name) and not _is_held(path):
                path.unlink(missing_ok=True)
        return gone

    def _retire(self, study: optuna.Study) -> int:
        """End the trials whose processes are gone; how many there were."""
        states = optuna_here().trial.TrialState
        gone = [one for one in study.get_trials(deepcopy=False) if self._is_gone(one)]
        for one in gone:
            study.tell(one.number, state=states.FAIL, skip_if_finished=True)
        return len(gone)

    def _is_gone(self, one: FrozenTrial) -> bool:
        name = str(one.user_attrs.get("worker", ""))
        return one.state.name == "RUNNING" and not (
            _WORKER.fullmatch(name) and _is_held(self.folder / name)
        )

    def ask(self, study: optuna.Study, trials: int) -> optuna.Trial | None:
        """The next trial, None once there are so many; what it tries depends on its number.

        One process asks at a time: two at once would begin one too many, or try the same.
        """
        with alone(self.folder / LOCK):
            self._retire(study)  # of those that were killed meanwhile
            found = counts(study)
            if finished(found) + found["running"] >= trials:
                return None
            trial = study.ask()
            trial.set_user_attr("worker", self.worker)
        study.sampler = optuna_here().samplers.TPESampler(seed=trial.number)
        return trial

    def work(self, search: Search, trials: int) -> None:
        """Do trials until the sweep has so many, those of others counted."""
        study, start = self.study(), time.perf_counter()
        before = finished(counts(study))
        while (trial := self.ask(study, trials)) is not None:
            begun = time.perf_counter()
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
                ended = study.tell(trial, state=states.PRUNED, skip_if_finished=True)
            else:
                ended = study.tell(trial, score, skip_if_finished=True)
            if ended.state == states.FAIL:
                told = _LOST
            elif score is not None:
                told = f"{score:.4f} (best so far {study.best_value:.4f})"
        except (TrainingError, ConfigError) as error:
            told = f"failed: {str(error)[:300]}"
            trial.set_user_attr("reason", str(error)[:300])
            study.tell(trial, state=states.FAIL)
        except optuna_here().exceptions.UpdateFinishedTrialError:
            told = _LOST
        except BaseException:
            study.tell(trial, state=states.FAIL, skip_if_finished=True)
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
