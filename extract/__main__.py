"""Command line: `python -m extract --data DIR --cache DIR`, or `python -m extract clip FILE`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cache.check.repair import damaged_shards, repair, without
from cache.common.cli import exit_code, say
from cache.common.cores import cores
from cache.common.errors import CacheError, ConfigError
from cache.common.settings import command_line
from cache.common.url import shown
from cache.format.identity import Identity
from cache.format.index import Index, extend_index, shard_files
from cache.format.index_file import load_index, save_index
from cache.format.lock import claimed
from cache.labels.annotations import DEFAULT_SEED, Labels, read_annotations, remarks
from cache.labels.store import write_labels
from extract.config import ExtractConfig
from extract.features.weights import check_weights
from extract.finding import find_annotations, find_sources
from extract.identity import identity_for
from extract.one_clip import one_clip
from extract.parallel.guard import WORKING, interrupted
from extract.parallel.job import Workers, pick_device
from extract.plan import (
    Plan,
    cut_seconds,
    describe_plan,
    ids_of_part,
    make_plan,
    parse_part,
    stored_labels,
    unseen,
)
from extract.sources import MediaSource


class Command(ExtractConfig):
    """Extract the features of an annotated set of clips into an HDF5 cache.

    Reads AVE's layouts (AVE/<id>.mp4, or audio_wav/<id>.wav with video_frames/<id>/) and its
    Annotations.txt, or a CSV with the columns id,category,start,end[,split]. What is finished is
    kept: run it again to go on after a stop. Exit code 0: complete; 1: more clips failed or are
    missing than --max-failures allows, or some are left to do; 2: a clear error; 130: stopped by
    Ctrl-C.

    Example: python -m extract --data AVE_Dataset --cache features --jobs 8
    """

    data: Path
    """Folder with the media and the annotations."""
    cache: Path
    """Folder of the feature cache; made if it is not there."""
    annotations: Path | None = None
    """Annotation file; none: DATA/Annotations.txt, or the only CSV in DATA."""
    split_seed: int = DEFAULT_SEED
    """Seed of the 70/15/15 division, used where there are no official splits, for ids that are
    new: those in the cache keep their split. (`python -m cache relabel --split-seed` divides
    anew.)"""
    weights: str = "imagenet"
    """imagenet (torchvision's, downloaded once), the path of a state dict, or random:SEED."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the video network runs; auto: the GPU if there is one."""
    jobs: int | None = Field(None, ge=1)
    """Worker processes; none: one per core."""
    dask: str = ""
    """Address of a Dask scheduler (tcp://host:8786) whose workers extract instead. They need this
    package, and see DATA and the cache folder at the same paths."""
    store: str = ""
    """URL (s3://, ssh://, a folder, …) that a cluster's workers put their shards to, where they
    don't share the cache folder; it ends up holding the whole cache as well."""
    part: str = ""
    """K/N: extract the Kth of N equal parts alone, as a job of an array; parts may run at the same
    time, on machines that share the cache folder."""
    stall_seconds: float = Field(300.0, gt=0)
    """A clip that takes longer than this is given up, and counts as failed."""
    dry_run: bool = False
    """Print the plan and stop."""
    retry_failed: bool = False
    """Try clips again that failed before. (Changed media is always tried again.)"""
    max_failures: int = Field(0, ge=0)
    """Failed or missing clips that are still a success (exit code 0)."""

    @property
    def features(self) -> ExtractConfig:
        """The settings that decide the numbers."""
        return ExtractConfig.parse(
            {name: getattr(self, name) for name in ExtractConfig.model_fields}
        )

    def workers(self, extracting: bool) -> Workers:
        """Who extracts; the workers of a cluster choose their devices themselves."""
        device: str = self.device
        if extracting and not self.dask:
            device = pick_device(device, self.features)
        jobs = self.jobs or cores()
        return Workers(self.weights, device, jobs, self.stall_seconds, self.dask, self.store)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if self.store and not self.dask:
            raise ConfigError(
                "--store is where a cluster's workers put shards: it goes with --dask"
            )
        if self.part and self.store:
            raise ConfigError(
                "--part needs a cache folder that is shared: it doesn't go with --store"
            )
        if self.part:
            parse_part(self.part)
        return self


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["clip"]:
        return exit_code(lambda: one_clip(arguments[1:]))
    if arguments[:1] == ["yamnet"]:
        from extract.yamnet import yamnet

        return exit_code(lambda: yamnet(arguments[1:]))
    return exit_code(lambda: extract(command_line(Command, arguments, prog="python -m extract")))


def extract(command: Command) -> int:
    """Extract what the command names; returns the exit code."""
    check_weights(command.weights)
    config = command.features
    path = command.annotations or find_annotations(command.data)
    stored = stored_labels(command.cache)
    labels = read_annotations(path, cut_seconds(config), command.split_seed, stored)
    sources = find_sources(command.data, dict.fromkeys(labels.ids), config.modalities)
    _describe_labels(labels, None if command.part else stored)

    identity = identity_for(command.cache, command.weights, config)
    index = load_index(command.cache, identity)
    damaged = damaged_shards(command.cache, index)
    wanted = ids_of_part(labels.ids, command.part) if command.part else None
    whole = without(index, damaged)
    plan = make_plan(labels, sources, whole, command.retry_failed, wanted, config)
    workers = command.workers(bool(plan.todo))
    say(describe_plan(plan, command.data, command.cache, config, workers))
    if command.dry_run:
        if note := unseen(whole, config):
            say(note)
        return 0
    task = Task(command, labels, sources, wanted, workers)
    finished = True
    if command.part:
        index, finished = _part(task, identity, index, damaged)
    elif plan.todo or index.stale or damaged or not (stored and labels.equals(stored)):
        with claimed(command.cache, identity) as identity:
            _put_labels(task, path, stored)
            index, finished = _work(task, identity)
    return _conclude(command, task.plan(index, retry=False), index, finished)


@dataclass(frozen=True)
class Task:
    """What is to be extracted: all, or the clips in `wanted`."""

    command: Command
    labels: Labels
    sources: dict[str, MediaSource]
    wanted: frozenset[str] | None
    workers: Workers

    def plan(self, index: Index, retry: bool) -> Plan:
        """What is to do now."""
        config = self.command.features
        return make_plan(self.labels, self.sources, index, retry, self.wanted, config)


def _describe_labels(labels: Labels, stored: Labels | None) -> None:
    say(f"labels    {labels.counted()}, {len(labels.classes)} classes, {labels.source}")
    for line in remarks(stored, labels):
        say(line)


def _put_labels(task: Task, path: Path, known: Labels | None) -> None:
    """Store the labels; read anew where others replaced those that were known meanwhile."""
    command, labels, stored = task.command, task.labels, stored_labels(task.command.cache)
    if stored and not (known and stored.equals(known)):
        cut_s = cut_seconds(command.features)
        labels = read_annotations(path, cut_s, command.split_seed, stored)
        _describe_labels(labels, stored)
    if stored and not labels.equals(stored):
        say("labels    replaced by the ones read now; features untouched")
    write_labels(command.cache, labels)


def _part(
    task: Task, identity: Identity, index: Index, damaged: Collection[str]
) -> tuple[Index, bool]:
    """Do a part, beside others that may run at the same time."""
    folder = task.command.cache
    if damaged:
        raise CacheError(
            f"{folder}: {len(damaged)} damaged shard(s); run `make features` without PART once, "
            "which mends them, or `python -m cache repair`"
        )
    todo = task.plan(index, task.command.retry_failed).todo
    if not todo:
        return index, True
    from extract.parallel.pipeline import run

    with claimed(folder, identity, shared=True) as identity:
        stored = stored_labels(folder)
        if stored is None:
            write_labels(folder, task.labels)
        elif not task.labels.equals(stored):
            say("labels    the cache's stay; `make features` without PART replaces them")
        index = extend_index(index, shard_files(folder), folder, identity)  # others made some
        return run(todo, folder, identity, task.workers, index, alone=False)


def _work(task: Task, identity: Identity) -> tuple[Index, bool]:
    """Do what is left now that nobody else can write."""
    folder, store = task.command.cache, task.command.store
    interrupted(folder, WORKING)  # what killed runs and parts noted says nothing any more
    if store:
        from extract.parallel.store import fetch_finished, publish_cache

        fetched = fetch_finished(store, folder, identity)
        if fetched:
            say(f"store     {fetched} shard(s) of an earlier run fetched from {shown(store)}")
    index = load_index(folder, identity)
    suspects = damaged_shards(folder, index)
    if suspects:
        told, index = repair(folder, identity, suspects)
        for sentence in told:
            say(f"damaged   {sentence}")
    todo, finished = task.plan(index, task.command.retry_failed).todo, True
    if todo:
        from extract.parallel.pipeline import run

        index, finished = run(todo, folder, identity, task.workers, index)
    elif index.stale:
        save_index(folder, identity, index)
    if store and finished:
        publish_cache(store, folder)
    return index, finished


def _conclude(command: Command, plan: Plan, index: Index, finished: bool) -> int:
    """Say how it ended; returns the exit code."""
    for failure in list(plan.failed.values())[:10]:
        failed = f"failed    {failure.id} ({failure.stage}): {failure.message}"
        say(failed, error=True, one_line=True)
    for problem in index.damaged.values():
        say(f"damaged   {problem}", error=True, one_line=True)
    if note := unseen(index, command.features):
        say(note)
    lost = len(plan.failed) + len(plan.missing)
    say(
        f"finished  {len(plan.done)} of {len(plan.wanted)} clips in {command.cache}; "
        f"{len(plan.failed)} failed, {len(plan.missing)} without media, {plan.to_do} left to do"
    )
    if not finished:
        say("stopped   run the same command again to go on", error=True)
        return 130
    if plan.todo:
        say(f"error: {plan.to_do} clip(s) are left to do, run it again", error=True)
        return 1
    if lost > command.max_failures:
        say(
            f"error: {lost} clip(s) have no features, --max-failures allows "
            f"{command.max_failures}; everything else is kept. They are tried again when their "
            "media appear or change, and with --retry-failed",
            error=True,
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
