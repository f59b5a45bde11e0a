"""Looks at the test split: a run counts each one that gave scores, whoever takes it."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import NamedTuple

from cache.common.atomic import append_line
from cache.common.plain import read_plain
from train.runs.folders import HISTORY_FILE
from train.runs.stored import read_history
from train.score.named import Scores

ON_TEST = "test_segment_accuracy"
"""What an epoch's record calls its segment accuracy on test, where it was looked at."""
TEST_RECORD = "test_evaluations.jsonl"
_MAX_BYTES = 1 << 26


def count_looks(run: Path) -> int:
    """How often a run has been scored on test."""
    try:
        return read_plain(run / TEST_RECORD, _MAX_BYTES).count(b"\n")
    except FileNotFoundError:
        return 0


def add_look(run: Path, epoch: int, written: str, scores: Scores) -> None:
    """Count a look that gave scores, which are written into a file of the run."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"time": now, "epoch": epoch, "scores": written, **scores}
    append_line(run / TEST_RECORD, json.dumps(line, allow_nan=False))


class ChosenOnTest(NamedTuple):
    """The epoch (from 1) with the highest segment accuracy on test, of how many, and that score."""

    epoch: int
    epochs: int
    segment_accuracy: float


def chosen_on_test(run: Path) -> ChosenOnTest | None:
    """What choosing the epoch on test would give, which is no result; None where none was scored.

    ConfigError where the run's history is damaged.
    """
    path = run / HISTORY_FILE
    history = read_history(path) if path.exists() else []
    scored = [entry for entry in history if ON_TEST in entry]
    if not scored:
        return None
    best = max(scored, key=lambda entry: entry[ON_TEST])
    return ChosenOnTest(int(best["epoch"]), len(scored), best[ON_TEST])
