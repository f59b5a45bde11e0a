"""The scores of each event as runs stored them, in one order, so that runs make pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cache.common.errors import ConfigError
from train.runs.stored import AGAIN, StoredAnswer, read_answers
from train.score.intervals import EventScores
from train.score.metrics import tiou

_Event = tuple[str, str, float, float]


def paired_scores(
    models: Mapping[str, Sequence[Path]], split: str, clip_seconds: float
) -> dict[str, EventScores]:
    """The scores of each event of a split, by name; the mean over those of a name (its seeds).

    models: by name the folders in which `predictions_<split>.json` are. Raises ConfigError where
    one is missing or damaged, and where they are not of the same events.
    """
    expected: list[_Event] | None = None
    found = {}
    for name, places in models.items():
        several = []
        for place in places:
            path = place / f"predictions_{split}.json"
            answers = in_order(path)
            events = [_event(one) for one in answers]
            expected = expected or events
            if not events or events != expected:
                raise ConfigError(
                    f"{path}: expected the same events as in the first run, found "
                    f"{len(events)} events, others than its {len(expected)}; {AGAIN}"
                )
            several.append(_scores(answers, clip_seconds))
        found[name] = EventScores.mean(several)
    return found


def in_order(path: Path) -> list[StoredAnswer]:
    """The events in `predictions_<split>.json` in the one order that all runs have."""
    return sorted(read_answers(path), key=_event)


def _event(one: StoredAnswer) -> _Event:
    start, end = (-1.0 if time is None else time for time in (one.start_s, one.end_s))
    return one.id, one.category, start, end


def _scores(answers: Sequence[StoredAnswer], clip_seconds: float) -> EventScores:
    start, end, said_start, said_end, seconds_right = np.array(
        [
            (a.start_s, a.end_s, a.predicted_start_s, a.predicted_end_s, a.segment_accuracy)
            for a in answers
        ],
        np.float64,
    ).T
    return EventScores.made_of(
        np.unique([a.id for a in answers], return_inverse=True)[1],
        right=np.array([a.category == a.predicted for a in answers]),
        overlap=tiou(start, end, said_start, said_end),
        short=end - start < clip_seconds,
        seconds_right=seconds_right,
    )
