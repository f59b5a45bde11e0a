"""How far a training is, as the run's folder tells while it goes on and afterwards.

metrics.jsonl   a line of JSON for each finished epoch, the records of `history.json`
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache.common.errors import AvelError, ConfigError
from cache.common.plain import read_plain
from cache.common.strict_json import MAX_JSON_BYTES, parse_json
from cache.format.lock import writer_of
from train.runs import folders
from train.runs.folders import weights_file
from train.runs.making import Making
from train.runs.stored import checked_history, read_history
from train.score.named import CRITERIA

METRICS_FILE = "metrics.jsonl"
State = Literal["trains", "starts", "ended", "stopped"]
_AGAIN = "it is only shown: delete it, or train anew"
_LAST = 10
_SLOW, _LONG_S = 10, 30.0
"""How many times as long as an epoch, and how many seconds, nothing may happen without a word."""


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The finished epochs in `metrics.jsonl`; ConfigError where it is none.

    A last line without an end is one that is being written, or that a killed run left: it is no
    epoch yet.
    """
    try:
        *lines, _ = read_plain(path, MAX_JSON_BYTES).split(b"\n")
    except AvelError as error:
        raise ConfigError(f"{error}; {_AGAIN}") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); {_AGAIN}") from None
    parsed = [parse_json(line, f"{path}: line {n}", _AGAIN) for n, line in enumerate(lines, 1)]
    return checked_history(parsed, str(path), _AGAIN)


def history_of(model: Path) -> list[dict[str, float]]:
    """The finished epochs of a model, [] of which nothing is known; ConfigError of damaged ones."""
    path = model / METRICS_FILE
    if path.exists() or path.is_symlink():
        return read_metrics(path)
    path = model / folders.HISTORY_FILE  # of a run of an earlier release
    return read_history(path) if path.exists() else []


@dataclass(frozen=True)
class Progress:
    """How far the training of one model is.

    Attributes
    ----------
    history: the finished epochs, see `read_metrics`.
    epochs: how many are planned; None in runs of earlier releases.
    state: "starts" before it has a record; "stopped" where it didn't end and nobody trains in it.
    why: why it ended or diverged, None where that isn't known.
    moved: when the last epoch ended (or training began), in s since 1970.
    """

    folder: Path
    history: list[dict[str, float]]
    epochs: int | None
    state: State
    why: str | None
    moved: float

    @classmethod
    def of(cls, folder: Path) -> Progress:
        """What a model's folder says; ConfigError where something in it is damaged."""
        alive, making, epochs = bool(writer_of(folder)), Making.of(folder), history_of(folder)
        files = [folder / name for name in (METRICS_FILE, folders.HISTORY_FILE)]
        moved = next((path.lstat().st_mtime for path in files if path.exists()), 0.0)
        last = making.sessions[-1] if making is not None and making.sessions else None
        state: State = "trains" if alive else "stopped"
        if last is None and not epochs and not weights_file(folder).exists():
            state = "starts" if alive else "stopped"
        elif last.ended if last is not None else not alive:
            state = "ended"
        planned = None if last is None else last.epochs
        why = None if last is None else last.ended_because
        return cls(folder, epochs, planned, state, why, moved)

    @property
    def criterion(self) -> str | None:
        """The name of the validation score that is followed."""
        return next((n for n in CRITERIA if self.history and n in self.history[0]), None)

    @property
    def best(self) -> tuple[int, float] | None:
        """The epoch with the best validation score, and that score."""
        if self.criterion is None:
            return None
        scores = [entry.get(self.criterion, 0.0) for entry in self.history]
        return 1 + scores.index(max(scores)), max(scores)

    @property
    def epoch_seconds(self) -> float | None:
        """The mean length of the last epochs in s."""
        known = [entry["seconds"] for entry in self.history[-_LAST:] if "seconds" in entry]
        return sum(known) / len(known) if known else None

    @property
    def seconds_left(self) -> float | None:
        """About how long it will take, in s, where that is known and it goes on."""
        if self.epoch_seconds is None or self.epochs is None or self.state != "trains":
            return None
        return max(0, self.epochs - len(self.history)) * self.epoch_seconds

    @property
    def idle_s(self) -> float:
        """Since when nothing happened, in s."""
        return max(0.0, time.time() - self.moved)

    @property
    def told(self) -> str:
        """What goes on, in words: epoch, time left, or why it ended."""
        done, planned = len(self.history), self.epochs
        count = f"epoch {done}" + (f" of {planned}" if planned is not None else "")
        if self.state == "starts":
            return "not begun: no epoch yet"
        if self.state == "ended":
            return f"ended: {self.why or count}" if self.why or done else "ended"
        if self.state == "stopped":
            why = self.why or "nobody trains in it"
            return f"stopped at {count}: {why}; `train fit --resume` goes on"
        words = [f"trains, {count}"]
        if self.seconds_left is not None:
            words.append(f"about {duration(self.seconds_left)} left")
        if self.idle_s > max(_LONG_S, _SLOW * (self.epoch_seconds or 0.0)):
            words.append(f"no epoch for {duration(self.idle_s)}")
        return ", ".join(words)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
