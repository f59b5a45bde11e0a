"""Command line: `python -m extract --data DIR --cache DIR`, or `python -m extract clip FILE`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cache.annotations import Labels, read_annotations
from cache.command import exit_code
from cache.errors import CacheError, ConfigError
from cache.folder import make_identity, read_identity, refusal
from cache.index import Index
from cache.index_file import load_index, save_index
from cache.labels_file import read_labels, write_labels
from cache.lock import claimed
from cache.repair import damaged_shards, repair, without
from cache.schema import FORMAT, fingerprint
from cache.settings import command_line
from extract.clips import Source, file_source, find_annotations, find_sources
from extract.config import FEATURE_VERSION, ExtractConfig
from extract.plan import Plan, describe_plan, make_plan
from extract.weights import check_weights, known_digest, weights_file_sha256


class Command(ExtractConfig):
    """Extract the features of an annotated set of clips into an HDF5 cache.

    Reads AVE's layouts (AVE/<id>.mp4, or audio_wav/<id>.wav with video_frames/<id>/) and its
    Annotations.txt, or a CSV with the columns id,category,start,end[,split]. What is finished is
    kept: run it again to go on after a stop. Exit code 0: complete; 1: more clips failed or are
    missing than --max-failures allows; 2: a clear error; 130: stopped by Ctrl-C.

    Example: python -m extract --data AVE_Dataset --cache features --jobs 8
    """

    data: Path
    """Folder with the media and the annotations."""
    cache: Path
    """Folder of the feature cache; made if it is not there."""
    annotations: Path | None = None
    """Annotation file; none: DATA/Annotations.txt, or the only CSV in DATA."""
    split_seed: int = 42
    """Seed of the 70/15/15 division, used where there are no official splits."""
    weights: str = "imagenet"
    """imagenet (torchvision's, downloaded once), the path of a state dict, or random:SEED."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the video network runs; auto: the GPU if there is one."""
    jobs: int | None = Field(None, ge=1)
    """Worker processes; none: one per core."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["clip"]:
        return exit_code(lambda: _one_clip(arguments[1:]))
    return exit_code(lambda: extract(command_line(Command, arguments, prog="python -m extract")))


def extract(command: Command) -> int:
    """Extract what the command names; returns the exit code."""
    check_weights(command.weights)
    config = command.features
    path = command.annotations or find_annotations(command.data)
    labels = read_annotations(path, config.clip_seconds, command.split_seed)
    sources = find_sources(command.data, dict.fromkeys(labels.ids))
    print(f"labels    {len(labels)} events, {len(labels.classes)} classes, {labels.source}")
    for pair, ids in labels.leaks().items():
        print(
            f"leak      {len(ids)} id(s) in both {pair[0]} and {pair[1]}; see --drop-leaks of train"
        )
    for note in labels.notes:
        print(f"note      {note}")

    identity = _identity(command, config)
    index = load_index(command.cache, identity)
    damaged = damaged_shards(command.cache, index)
    plan = make_plan(labels, sources, without(index, damaged), command.retry_failed)
    jobs = command.jobs or _cores()
    device = _device(command.device, config) if plan.todo else "not needed"
    print(describe_plan(plan, command.cache, config, device, jobs), flush=True)
    if command.dry_run:
        return 0
    finished = True
    stored = _stored_labels(command.cache)
    if plan.todo or index.stale or damaged or stored is None or not labels.equals(stored):
        with claimed(command.cache, identity) as identity:
            write_labels(command.cache, labels)
            if stored is not None and not labels.equals(stored):
                print("labels    replaced by the ones read now; features untouched")
            index, finished = _work(command, identity, labels, sources, device, jobs)
    return _conclude(command, make_plan(labels, sources, index, retry=False), index, finished)


def _stored_labels(folder: Path) -> Labels | None:
    """The cache's labels; damaged ones count as none, since the annotations are at hand."""
    try:
        return read_labels(folder)
    except CacheError as error:
        print(f"note      {error}", file=sys.stderr)
        return None


def _work(
    command: Command,
    identity: dict[str, Any],
    labels: Labels,
    sources: dict[str, Source],
    device: str,
    jobs: int,
) -> tuple[Index, bool]:
    """Do what is left now that nobody else can write."""
    index = load_index(command.cache, identity)
    suspects = damaged_shards(command.cache, index)
    if suspects:
        for sentence in repair(command.cache, identity, suspects):
            print(f"damaged   {sentence}")
        index = load_index(command.cache, identity)
    todo = make_plan(labels, sources, index, command.retry_failed).todo
    if not todo:
        if index.stale:
            save_index(command.cache, identity, index)
        return index, True
    from extract.pipeline import run

    return run(todo, command.cache, identity, command.weights, device, jobs)


def _conclude(command: Command, plan: Plan, index: Index, finished: bool) -> int:
    """Say how it ended; returns the exit code."""
    for failure in list(plan.failed.values())[:10]:
        print(f"failed    {failure.id} ({failure.stage}): {failure.message}", file=sys.stderr)
    for problem in index.damaged.values():
        print(f"damaged   {problem}", file=sys.stderr)
    lost = len(plan.failed) + len(plan.missing)
    print(
        f"finished  {len(plan.done)} of {len(plan.wanted)} clips in {command.cache}; "
        f"{len(plan.failed)} failed, {len(plan.missing)} without media, {len(plan.todo)} left to do"
    )
    if not finished:
        print("stopped   run the same command again to go on", file=sys.stderr)
        return 130
    if lost > command.max_failures:
        print(
            f"error: {lost} clip(s) have no features, --max-failures allows "
            f"{command.max_failures}; everything else is kept",
            file=sys.stderr,
        )
        return 1
    return 0


def _identity(command: Command, config: ExtractConfig) -> dict[str, Any]:
    """The identity these settings give; refused now if the cache has another."""
    found = read_identity(command.cache) if (command.cache / "cache.json").exists() else None
    digest = ""
    if config.modalities != "audio":
        known = known_digest(command.weights, config.backbone, found)
        digest = known if known is not None else _load_digest(config.backbone, command.weights)
    resolved = config.resolved(digest)
    if found is not None:
        identity = {**found, "config": resolved, "feature_version": FEATURE_VERSION}
        if fingerprint(resolved, FEATURE_VERSION) != found["fingerprint"]:
            raise ConfigError(refusal(command.cache, identity, found))
        return found
    return _new_identity(config, command.weights, digest)


def _new_identity(config: ExtractConfig, weights: str, digest: str) -> dict[str, Any]:
    from extract.pipeline import provenance

    made_by = provenance(weights, weights_file_sha256(weights))
    return make_identity(config.resolved(digest), FEATURE_VERSION, made_by)


def _load_digest(backbone: str, weights: str) -> str:
    from extract.video import load_backbone

    return load_backbone(backbone, weights, "cpu").weights_sha256


def _device(device: str, config: ExtractConfig) -> str:
    if config.modalities == "audio":
        return "cpu"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device here; use auto or cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_clip(argv: Sequence[str]) -> int:
    """Extract one file the way another cache was made."""
    parser = argparse.ArgumentParser(
        prog="python -m extract clip",
        description="Extract one media file into a small cache, with a trained run's settings.",
    )
    parser.add_argument("file", type=Path, help="the media file")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the small cache")
    parser.add_argument(
        "--like", type=Path, required=True, help="a run's features.json, or a cache's cache.json"
    )
    parser.add_argument("--weights", help="where the network's weights are now; default: as then")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args(argv)
    if not arguments.file.is_file():
        raise ConfigError(f"{arguments.file}: no such file; expected a video with sound")
    like = _like(arguments.like)
    config = ExtractConfig.of(like)
    weights = arguments.weights or like["provenance"]["weights"]
    check_weights(weights)
    digest = _load_digest(config.backbone, weights) if config.modalities != "audio" else ""
    identity = _new_identity(config, weights, digest)
    if identity["fingerprint"] != like["fingerprint"]:
        raise ConfigError(
            refusal(arguments.like, identity, {"feature_version": FEATURE_VERSION, **like})
        )
    from extract.pipeline import run

    with claimed(arguments.cache, identity) as identity:
        source = file_source(arguments.file)
        device = _device(arguments.device, config)
        index, finished = run([source], arguments.cache, identity, weights, device, jobs=1)
    if source.id in index.failures:
        print(f"error: {index.failures[source.id].message}", file=sys.stderr)
        return 2
    return 0 if finished else 130


def _like(path: Path) -> dict[str, Any]:
    try:
        like = json.loads(path.read_text(encoding="utf-8"))
        if {"config", "fingerprint", "provenance"} <= set(like):
            version = like.get("feature_version", FEATURE_VERSION)
            if fingerprint(like["config"], version) == like["fingerprint"]:
                return dict(like)
            raise ConfigError(f"{path}: its fingerprint doesn't match its settings: it was edited")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: can't be read as a run's features.json ({error})") from None
    raise ConfigError(f"{path}: expected a {FORMAT} identity with config, fingerprint, provenance")


if __name__ == "__main__":
    raise SystemExit(main())
