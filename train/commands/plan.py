"""What a fit will train, and whether it may: looked at before anything is read or made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cache import Cache
from cache.common.cli import printable, say
from cache.common.errors import ConfigError
from cache.joined import JoinedCache
from train.config import TrainConfig
from train.data.dataset import Dataset, Rows, choose_rows
from train.data.folds import LEAST_FOLDS, MOST_FOLDS, Division
from train.data.settled import settle_events, settle_weak
from train.distributed import ProcessGroup
from train.runs import checkpoint, folders, record
from train.runs.clip_features import check_same_features
from train.runs.making import Making
from train.training.begin import Start

ABLATIONS = ("both", "audio", "video")
WHOLE = "."
"""The name of the one part of a set that is not divided into folds."""


@dataclass(frozen=True)
class Job:
    """A model to train: its folder in the run ("." is the run's own), its settings, its rows.

    part: the fold whose rows it gets, or WHOLE; start: whose weights it begins with, if any's.
    """

    name: str
    config: TrainConfig
    part: str
    start: Start | None


@dataclass(frozen=True)
class Plan:
    """All models to train on a cache, on which rows: a part for each fold, or WHOLE.

    untouched: how many rows of test there are; also_test: whether it is scored after each epoch.
    """

    cache: Cache
    config: TrainConfig
    division: Division | None
    parts: Mapping[str, Rows]
    jobs: Sequence[Job]
    untouched: int
    also_test: bool

    @classmethod
    def of(
        cls,
        cache: Cache,
        config: TrainConfig,
        seeds: Sequence[int],
        ablations: bool,
        division: Division | None,
        starts: Sequence[Start],
        also_test: bool = False,
    ) -> Plan:
        """From resolved settings; ConfigError for what can't be asked for together."""
        rows = choose_rows(cache, config)
        config, told = settle_events(cache, config, rows)
        rows = settle_weak(cache, config, replace(rows, notes=[told, *rows.notes]))
        parts = {WHOLE: rows} if division is None else division.parts(rows, cache)
        jobs = _jobs(config, seeds, ablations, list(parts), starts)
        return cls(cache, config, division, parts, jobs, len(rows.kept["test"]), also_test)

    def check(self, group: ProcessGroup) -> None:
        """Refuse what can't be trained."""
        if self.config.weak and (
            self.config.events == "several" or self.cache.declaration.hop_s is not None
        ):
            raise ConfigError(
                f"weak: {self.cache.path} has clips with several events, or windows of recordings, "
                "of which no class is known by itself; --weak needs clips with one event at most "
                "(--events single) in a cache without --hop"
            )
        for rows in self.parts.values():
            for name in ("train", "val"):
                _check_events(self.cache, rows, name)
        if self.config.batch_size < group.size:
            raise ConfigError(f"batch_size: {self.config.batch_size}, for {group.size} processes")
        if self.also_test:
            self._check_test()

    def _check_test(self) -> None:
        why, rows = "", self.parts.get(WHOLE)
        if rows is None:
            why = "--folds leaves test alone, or divides it with the rest"
        elif self.config.events == "several" or self.cache.declaration.hop_s is not None:
            why = "segment accuracy is of clips with one event at most, here are several"
        elif not rows.labels.timed[rows.kept["test"]].any():
            why = f"{self.cache.path} has no event of test with features and times"
        if why:
            raise ConfigError(f"--also-score-test: {why}; drop it")

    def check_resumed(self, run: Path) -> None:
        """Refuse other features, classes, label rows or weights than a run began with."""
        places = {run / job.name: job for job in self.jobs}
        begun = [place for place in places if (place / folders.LAST).exists()]
        for place, job in places.items():
            _check_start(place, job.start, len(begun) == len(places))
            if place in begun:
                _check_rows(self.cache, place, self.parts[job.part])
            else:
                say(f"{place}: no epoch was finished here; training begins anew", error=True)

    def described(self, dataset: Dataset) -> str:
        """Which data a run sees, and what was left out, for people; dataset: of the first part."""
        rows = dataset.rows
        told = ", ".join(
            f"{name} {len(some)}"
            + (f" ({empty} without an event)" if (empty := some.background_count()) else "")
            for name, some in dataset.splits.items()
        )
        told = f"rows: {told}"
        if self.division is not None:
            told = self.division.described(self.parts, self.untouched)
        lines = [f"cache {self.cache.path}: {len(self.cache)} clips; {told}"]
        if self.also_test:
            lines.append(
                f"test ({self.untouched} rows) is scored after each epoch: each is counted as a "
                "look at it, and none decides anything (--also-score-test)"
            )
        lines += [*_lacking(self.cache), dataset.clips.mode, *printable(rows.notes)]
        train = dataset.splits["train"]
        drawn, empty = train.epoch_size(self.config.background_share), train.background_count()
        if drawn < len(train):
            lines.append(
                f"an epoch has {drawn - len(train) + empty} of the {empty} training clips without "
                "an event, drawn anew each time (--background-share)"
            )
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


def _check_events(cache: Cache, rows: Rows, split: str) -> None:
    """Raise CacheError where a split has nothing to train, or to select, on."""
    if not rows.labels.background[rows.kept[split]].all():
        return
    what = "event, only clips without one" if len(rows.kept[split]) else "rows with features"
    advice = (
        "`python -m cache info` says more; `python -m cache relabel` gives the cache other labels, "
        "and --folds needs no splits"
    )
    if vague := int(rows.labels.weak.sum()):
        what += f" and times ({vague} events of the set have a class alone)"
        advice = (
            "Classes alone are enough where a clip has one event at most (--events single), in a "
            "cache without --hop, and not divided by --folds"
        )
    raise ConfigError(f"{cache.path}: the split {split!r} has no {what}; can't train. {advice}")


def _lacking(cache: Cache) -> list[str]:
    """Of joined caches, which clips each lacks, that another one has."""
    found = cache.lacking if isinstance(cache, JoinedCache) else {}
    return [
        f"{len(ids)} clip(s) left out that {path} lacks: {', '.join(printable(ids[:10]))}"
        + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
        for path, ids in found.items()
        if ids
    ]


def _jobs(
    config: TrainConfig,
    seeds: Sequence[int],
    ablations: bool,
    parts: Sequence[str],
    starts: Sequence[Start],
) -> list[Job]:
    """Each model to train; the i-th seed begins with the i-th of `starts`, counted round."""
    if ablations and config.modality != "both":
        raise ConfigError(
            f"modality: --ablations trains all three; drop --modality {config.modality}"
        )
    if ablations and list(parts) != [WHOLE]:
        raise ConfigError(
            "--folds, --ablations: one at a time; train each of --modality both, audio and video "
            "with --folds, which divides all alike"
        )
    kinds = {name: config.revised(modality=name) for name in ABLATIONS if ablations}
    numbered = {f"seed-{seed}": seed for seed in seeds} or {WHOLE: config.seed}
    return [
        Job(
            str(Path(kind, part, name)),
            settings.revised(seed=seed),
            part,
            starts[number % len(starts)] if starts else None,
        )
        for kind, settings in (kinds or {WHOLE: config}).items()
        for part in parts
        for number, (name, seed) in enumerate(numbered.items())
    ]


def division(
    run: Path | None, folds: int | None, of: str, seed: int, resume: bool
) -> Division | None:
    """How the set is divided: as asked, or as it was for a run that is resumed."""
    if folds is None:
        if of != "train+val":
            raise ConfigError(f"--folds-of {of}: says what --folds divides; pass --folds as well")
        return None
    if not LEAST_FOLDS <= folds <= MOST_FOLDS:
        raise ConfigError(
            f"--folds {folds}: expected {LEAST_FOLDS} to {MOST_FOLDS}, as in each fold one part is "
            "scored, another selects, and the others train"
        )
    wanted = Division.parse({"folds": folds, "of": of, "seed": seed})
    path = None if run is None else run / folders.FOLDS_FILE
    if not resume or path is None or not path.exists():
        return wanted
    before = Division.from_json(path)
    if (before.folds, before.of) != (wanted.folds, wanted.of):
        raise ConfigError(
            f"{run}: can't be resumed with --folds {folds} --folds-of {of}: it was divided "
            f"otherwise; pass --folds {before.folds} --folds-of {before.of}"
        )
    return before


def _check_rows(cache: Cache, place: Path, rows: Rows) -> None:
    _, about, _ = checkpoint.load(place / folders.LAST)
    check_same_features(cache, about, place)
    found = record.read(place, about)
    for text in record.cautions(place, found):
        say(f"warning: {place}: {text}", error=True)
    before = None if found is None else found.rows
    record.check_same_rows(place, about.classes, before, rows.used())


def _check_start(place: Path, start: Start | None, all_begun: bool) -> None:
    making = Making.of(place)
    init = None if making is None else making.init
    if making is None or (start is None and (init is None or all_begun)):
        return
    if start is None or init is None or init.checkpoint_sha256 != start.sha256:
        before = "no other run's weights" if init is None else f"the weights of {init.run}"
        digest = "" if init is None else f" (sha256 {init.checkpoint_sha256[:16]}…)"
        raise ConfigError(
            f"{place}: can't be resumed {'so' if start else 'without --init'}: it began with "
            f"{before}{digest}; "
            + ("drop --init" if init is None else "pass --init with the run that it began from")
        )
