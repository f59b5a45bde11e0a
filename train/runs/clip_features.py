"""How media must be extracted for a trained run, and whether a cache was extracted so.

A run that only listens (or only sees) needs that stream alone: it takes a sound file, or a silent
film, though the cache that it was trained on had both streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cache import Cache
from cache.common.errors import CacheError, ConfigError
from cache.common.strict_json import read_json
from cache.format.identity import Identity, config_differences
from cache.joined import JOINED, JoinedCache
from train.config import TrainConfig
from train.runs import folders as runs
from train.runs.checkpoint import About


def narrowed(config: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Extraction settings that give the same numbers, of the stream alone that `modality` names."""
    if modality == "both" or config.get("modalities") != "both":
        return dict(config)
    weights = {} if modality == "video" else {"weights_sha256": ""}
    return {**config, "modalities": modality, **weights}


def wanted(run: Path) -> dict[str, Any]:
    """What `extract clip --like` needs to know to extract media for a run, or a folder of seeds."""
    place = runs.members(run)[0]
    modality, found = TrainConfig.from_json(place / runs.CONFIG_FILE).modality, _identity(place)
    if JOINED in found.config:
        raise ConfigError(
            f"{run}: trained on {len(found.config[JOINED])} caches, joined: make each of them for "
            "the new media as then, and name them all with --cache"
        )
    return _narrowed(found, modality).record()


def check_same_features(cache: Cache, about: About, run: Path) -> None:
    """Raise CacheError, naming the settings that differ, unless the run was trained on such.

    What the cache has of a stream that the run doesn't use is of no account, and so is where in
    their recordings clips begin: their numbers are the same anywhere. Joined caches must be those
    of the run, in its order.
    """
    if cache.fingerprint == about.fingerprint:
        return
    theirs = _identity(run)
    if theirs.fingerprint != about.fingerprint:
        raise ConfigError(
            f"{run / runs.FEATURES_FILE}: not of this run's weights; copy the run's folder again"
        )
    here = cache.caches if isinstance(cache, JoinedCache) else [cache]
    parts = theirs.config.get(JOINED, [theirs])
    if len(parts) != len(here):
        lines = [f"{len(parts)} cache(s) in the run, {len(here)} here"]
    elif JOINED in theirs.config:
        hop_s = theirs.declaration.hop_s
        lines = [
            line for pair in zip(here, parts, strict=True) for line in _part_differs(*pair, hop_s)
        ]
    else:
        lines = _differences(theirs, cache.identity, about.config.modality)
    if lines:
        raise CacheError(
            f"{cache.path}: the run {run} was trained on other features:\n  " + "\n  ".join(lines)
        )


def _identity(run: Path) -> Identity:
    """Of the cache that a run was trained on."""
    path = run / runs.FEATURES_FILE
    try:
        found = Identity.parse(read_json(path, "copy the run's folder again"), str(path))
    except CacheError as error:
        raise ConfigError(f"{error}; copy the run's folder again") from None
    if not isinstance(found.config.get(JOINED, []), list):
        raise ConfigError(f"{path}: {JOINED}: expected a list; copy the run's folder again")
    return found


def _narrowed(identity: Identity, modality: str) -> Identity:
    """The identity of a cache that has the stream alone which `modality` names."""
    config, declared = narrowed(identity.config, modality), identity.declaration
    if modality != "both":
        fields = tuple(field for field in declared.fields if field.stream == modality)
        pictures = declared.pictures if modality == "video" else None
        declared = replace(declared, fields=fields or declared.fields, pictures=pictures)
    return replace(identity, config=config, declaration=declared)


def _differences(theirs: Identity, ours: Identity, modality: str) -> list[str]:
    """A line for each thing that differs, wherever clips begin, in what `modality` reads."""
    theirs, ours = (_narrowed(one, modality).without_hop() for one in (theirs, ours))
    if ours.numbers == theirs.numbers:
        return []
    lines = config_differences(theirs.config, ours.config)
    if not lines and theirs.feature_version != ours.feature_version:
        lines = ["the settings agree, the version of the feature code differs"]
    lines = lines or ["the settings agree, what is declared of the rows differs"]
    return [line.replace(" here,", " in the run,") for line in lines]


def _part_differs(one: Cache, part: Any, hop_s: float | None) -> list[str]:
    """The same of one of several joined caches and what the run knows of its own, of both streams.

    part: settings and fingerprint; hop_s: s between the run's windows.
    """
    ours = one.identity
    try:
        same = replace(
            ours, config=part["config"], declaration=replace(ours.declaration, hop_s=hop_s)
        )
        lines = config_differences(same.without_hop().config, ours.without_hop().config)
        if not lines and same.fingerprint == part["fingerprint"]:
            return []
    except (LookupError, TypeError, ValueError, AttributeError):  # a stranger's
        lines = []
    lines = lines or ["the settings agree, what is declared, or the version of the code, differs"]
    return [f"{one.path}: {line.replace(' here,', ' in the run,')}" for line in lines]
