"""`python -m extract clip FILE`: one file into a small cache, as another cache was made."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.command import say
from cache.errors import ConfigError
from cache.folder import refusal
from cache.lock import claimed
from cache.schema import FIRST_FEATURE_VERSION, FORMAT, fingerprint
from extract.clips import file_source
from extract.config import ExtractConfig
from extract.identity import load_digest, new_identity
from extract.weights import check_weights
from extract.workers import Workers, pick_device

_NO_WEIGHTS = "imagenet"  # what a cache without video names; no network is loaded for it
_NEEDS = {
    "both": "a video with sound",
    "audio": "a file with sound",
    "video": "a video, or a folder of pictures",
}


def one_clip(argv: Sequence[str]) -> int:
    """Extract one file the way another cache was made."""
    parser = argparse.ArgumentParser(
        prog="python -m extract clip",
        description="Extract one media file into a small cache, with a trained run's settings.",
    )
    parser.add_argument("file", type=Path, help="the media file, or a folder of pictures")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the small cache")
    parser.add_argument(
        "--like", type=Path, required=True, help="a run's features.json, or a cache's cache.json"
    )
    parser.add_argument("--weights", help="where the network's weights are now; default: as then")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments = parser.parse_args(argv)
    like = _like(arguments.like)
    config = ExtractConfig.of(like)
    if not (arguments.file.is_file() or arguments.file.is_dir()):
        raise ConfigError(f"{arguments.file}: no such file; expected {_NEEDS[config.modalities]}")
    weights, digest = _NO_WEIGHTS, ""
    if config.modalities != "audio":
        weights = arguments.weights or like["provenance"]["weights"]
        check_weights(weights)
        digest = load_digest(config.backbone, weights)
    identity = new_identity(config, weights, digest)
    if identity["fingerprint"] != like["fingerprint"]:
        raise ConfigError(
            refusal(arguments.like, identity, {"feature_version": FIRST_FEATURE_VERSION, **like})
        )
    from extract.pipeline import run

    with claimed(arguments.cache, identity) as identity:
        source = file_source(arguments.file)
        workers = Workers(weights, pick_device(arguments.device, config))
        index, finished = run([source], arguments.cache, identity, workers)
    if source.id in index.failures:
        needed = _NEEDS[config.modalities]
        say(f"error: {index.failures[source.id].message} (needed here: {needed})", error=True)
        return 2
    return 0 if finished else 130


def _like(path: Path) -> dict[str, Any]:
    try:
        like = json.loads(path.read_text(encoding="utf-8"))
        if {"config", "fingerprint", "provenance"} <= set(like):
            version = like.get("feature_version", FIRST_FEATURE_VERSION)
            if fingerprint(like["config"], version) == like["fingerprint"]:
                return dict(like)
            raise ConfigError(f"{path}: its fingerprint doesn't match its settings: it was edited")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: can't be read as a run's features.json ({error})") from None
    raise ConfigError(f"{path}: expected a {FORMAT} identity with config, fingerprint, provenance")
