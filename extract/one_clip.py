"""`python -m extract clip FILE`: one file into a small cache, as another cache was made."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from cache.common.cli import Parser, say
from cache.common.errors import ConfigError
from cache.common.strict_json import read_json
from cache.format.identity import Identity, config_differences
from cache.format.index_file import load_index
from cache.format.lock import claimed
from extract.config import ExtractConfig
from extract.features.weights import check_weights
from extract.identity import load_digest, new_identity
from extract.parallel.job import Workers, pick_device
from extract.sources import MediaSource, file_source, picture_files

_NO_WEIGHTS = "imagenet"  # what a cache without video names; no network is loaded for it
_NEEDS = {
    "both": "a video with sound",
    "audio": "a file with sound",
    "video": "a video, or a folder of pictures",
}


def one_clip(argv: Sequence[str]) -> int:
    """Extract one file the way another cache was made."""
    parser = Parser(
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
    source = _source(arguments.file, config.modalities)
    weights, digest = _NO_WEIGHTS, ""
    if config.modalities != "audio":
        weights = arguments.weights or _weights(like, arguments.like)
        check_weights(weights)
        digest = load_digest(config.backbone, weights)
    identity = new_identity(config, weights, digest)
    if identity.numbers != like.numbers:
        raise ConfigError(_other_features(arguments.like, identity, like))
    from extract.parallel.pipeline import run

    with claimed(arguments.cache, identity) as identity:
        workers = Workers(weights, pick_device(arguments.device, config))
        before = load_index(arguments.cache, identity)
        index, finished = run([source], arguments.cache, identity, workers, before)
    if source.id in index.failures:
        needed = _NEEDS[config.modalities]
        problem = f"{index.failures[source.id].message} (needed here: {needed})"
        say(f"error: {problem}", error=True, one_line=True)
        return 2
    return 0 if finished else 130


def _other_features(path: Path, identity: Identity, like: Identity) -> str:
    lines = config_differences(identity.config, like.config)
    then, now = like.feature_version, identity.feature_version
    if then != now:
        lines.append(
            f"features of version {now} here, {then} there: some are computed otherwise since (see "
            "CHANGELOG.md); extract the set again and train on that, or use the release of then"
        )
    return f"{path}: features of this file would not be such as it asks for:\n  " + "\n  ".join(
        line.replace(" in the cache", " there") for line in lines
    )


def _source(file: Path, modalities: str) -> MediaSource:
    needed = _NEEDS[modalities]
    try:
        kind = file.stat().st_mode
        if stat.S_ISDIR(kind) and not (modalities == "video" and picture_files(file)):
            what = "a folder" if modalities != "video" else "a folder without pictures"
            raise ConfigError(f"{file}: expected {needed}, found {what}")
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise ConfigError(f"{file}: expected {needed}, found no plain file")
        source = file_source(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; expected {needed}") from None
    except OSError as error:
        raise ConfigError(f"{file}: can't be looked at ({error.strerror})") from None
    if source.id not in (file.stem, file.absolute().name):
        say(f"note      {file}: called {source.id} in the cache", one_line=True)
    return source


def _like(path: Path) -> Identity:
    """The identity that a features.json or cache.json holds; it may come from a stranger."""
    expected = "expected a run's features.json or a cache's cache.json"
    return Identity.parse(read_json(path, expected), str(path))


def _weights(like: Identity, path: Path) -> str:
    weights = like.provenance.get("weights")
    if not isinstance(weights, str):
        raise ConfigError(f"{path}: names no weights; name them with --weights")
    return weights
