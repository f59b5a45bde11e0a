"""Several runs on the same data: their scores row by row, and which beats which in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.report.differing import that_differ
from train.report.estimates import bracket
from train.report.tables import Runs, groups_of, of_ensemble, of_seeds, sure_of
from train.score.intervals import EventScores
from train.score.named import MODEL, Result, mean_and_deviation


@dataclass(frozen=True)
class Row:
    """What a table says of a model, of several seeds' mean, or of a baseline.

    Attributes
    ----------
    settings: in which it differs from the other runs, "" of baselines.
    scores: by name the mean, and the sample deviation over seeds (None of a single model).
    sure: the scores' intervals, and `ahead` the differences from each baseline, as results have
        them; see `train.score.intervals.Estimate`.
    best: the scores in which it beats every other row beyond the paired interval.
    """

    name: str
    settings: str
    scores: Mapping[str, tuple[float, float | None]]
    sure: Mapping[str, Mapping[str, Any]]
    ahead: Mapping[str, Mapping[str, Mapping[str, Any]]]
    trivial: bool = False
    best: frozenset[str] = frozenset()

    def shown(self, key: str) -> tuple[str, str]:
        """A score with its deviation, and its interval, as text; "" where that isn't known."""
        mean, deviation = self.scores.get(key, (None, None))
        text = "–" if mean is None else f"{mean:.3f}"
        text += "" if deviation is None else f" ± {deviation:.3f}"
        sure = self.sure.get(key, {})
        return text, bracket(sure) if sure else ""


@dataclass(frozen=True)
class Compared:
    """Runs that were scored on the same rows of a split.

    Attributes
    ----------
    places: each run's folder, by name; stored: its results.
    paired: by the name of a row the scores of each event, {} where they can't be had.
    """

    places: Mapping[str, Path]
    stored: Runs
    split: str
    paired: Mapping[str, EventScores]

    @property
    def first(self) -> Result:
        """A result, which has what all have in common."""
        return next(iter(self.stored.values()))[0][0]

    @property
    def labels(self) -> Mapping[str, str]:
        """The headline scores: name → label."""
        return groups_of(self.first, brief=True)[""]

    @property
    def settings(self) -> dict[str, str]:
        """In which settings the runs differ, by name, in words."""
        return that_differ({name: seeds[0]["config"] for name, (seeds, _) in self.stored.items()})

    def minus_first(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Each row's paired difference from the first run, as estimates."""
        pairs = list(self.paired.items())
        return {
            f"{name} minus {pairs[0][0]}": (one - pairs[0][1]).stored() for name, one in pairs[1:]
        }

    def rows(self) -> list[Row]:
        """A row for each run, each ensemble of seeds, then each baseline."""
        rows = [*self._models(), *self._baselines()]
        best = {row.name: set[str]() for row in rows}
        for key in self.labels:
            if (name := self._best(key, rows)) is not None:
                best[name].add(key)
        return [Row(**{**vars(row), "best": frozenset(best[row.name])}) for row in rows]

    def _models(self) -> Iterator[Row]:
        settings = self.settings
        for name, (seeds, together) in self.stored.items():
            found = mean_and_deviation([one["scores"][MODEL] for one in seeds])
            scores = {k: (mean, sd if len(seeds) > 1 else None) for k, (mean, sd) in found.items()}
            yield _row(of_seeds(name, len(seeds)), settings[name], scores, sure_of(seeds, together))
            if together is not None:
                alone = _alone(together["scores"][MODEL])
                yield _row(of_ensemble(name, len(seeds)), settings[name], alone, together)

    def _baselines(self) -> Iterator[Row]:
        for name, scores in self.first["scores"].items():
            if not name.startswith(MODEL):
                sure = self.first.get("intervals", {}).get(name, {})
                yield Row(name, "", _alone(scores), sure, {}, trivial=True)

    def _best(self, key: str, rows: list[Row]) -> str | None:
        """The row that beats every other one in a score, if there is one."""
        known = [row for row in rows if not row.trivial and key in row.scores]
        if not known or any(row.name not in self.paired for row in known):
            return None
        best = max(known, key=lambda row: row.scores[key][0])
        mine = self.paired[best.name]
        others = [row for row in rows if row is not best and key in row.scores]
        ahead = [
            best.ahead.get(row.name, {}).get(key)
            if row.trivial
            else (mine - self.paired[row.name]).stored().get(key)
            for row in others
        ]
        beaten = all(one is not None and one["low"] is not None and one["low"] > 0 for one in ahead)
        return best.name if beaten else None


def _row(
    name: str,
    settings: str,
    scores: Mapping[str, tuple[float, float | None]],
    found: Mapping[str, Any],
) -> Row:
    sure = found.get("intervals", {}).get(MODEL, {})
    return Row(name, settings, scores, sure, found.get("differences", {}))


def _alone(scores: Mapping[str, float | None]) -> dict[str, tuple[float, float | None]]:
    return {key: (value, None) for key, value in scores.items() if value is not None}
