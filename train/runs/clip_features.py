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
from cache.format import version1
from cache.format.identity import Identity, config_differences
from train.config import TrainConfig
from train.runs import folders as runs
from train.runs.checkpoint import About

_HOP = "hop_seconds"


def narrowed(config: Mapping[str, Any], modality: str) -> dict[str, Any]:
    """Extraction settings that give the same numbers, of the stream alone that `modality` names."""
    if modality == "both" or config.get("modalities") != "both":
        return dict(config)
    weights = {} if modality == "video" else {"weights_sha256": ""}
    return {**config, "modalities": modality, **weights}


def wanted(run: Path) -> dict[str, Any]:
    """What `extract clip --like` needs to know to extract media for a run, or a folder of seeds."""
    place = runs.members(run)[0]
    path = place / runs.FEATURES_FILE
    features = read_json(path, "copy the run's folder again")
    modality = TrainConfig.from_json(place / runs.CONFIG_FILE).modality
    try:
        found = Identity.parse(features, str(path))
    except CacheError as error:
        raise ConfigError(f"{error}; copy the run's folder again") from None
    config, declared = narrowed(found.config, modality), found.declaration
    if modality != "both":
        fields = tuple(field for field in declared.fields if field.stream == modality)
        pictures = declared.pictures if modality == "video" else None
        declared = replace(declared, fields=fields, pictures=pictures)
    return replace(found, config=config, declaration=declared).record()


def check_same_features(cache: Cache, about: About, run: Path) -> None:
    """Raise CacheError, naming the settings that differ, unless the run was trained on such.

    What the cache has of a stream that the run doesn't use is of no account, and so is where in
    their recordings clips begin: their numbers are the same anywhere.
    """
    if cache.fingerprint == about.fingerprint:
        return
    modality = about.config.modality
    theirs, ours = (
        {name: value for name, value in narrowed(config, modality).items() if name != _HOP}
        for config in (about.features, cache.config)
    )
    if ours == theirs and _made_alike(cache, about):
        return
    lines = config_differences(theirs, ours) or [
        "the settings agree, the version of the feature code differs"
    ]
    raise CacheError(
        f"{cache.path}: the run {run} was trained on other features:\n  "
        + "\n  ".join(line.replace(" here,", " in the run,") for line in lines)
    )


def _made_alike(cache: Cache, about: About) -> bool:
    """Whether the code that computed the run's features was of the cache's feature version."""
    version = cache.identity.feature_version
    if about.feature_version is not None:
        return about.feature_version == version
    return version1.fingerprint(about.features, version) == about.fingerprint
