"""`python -m extract clip FILE…`: files into a small cache, as another cache was made."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cache.common.cli import Parser, count, say
from cache.common.cores import cores
from cache.common.errors import ConfigError
from cache.common.strict_json import read_json
from cache.format.identity import Identity, config_differences
from cache.format.index import Index
from cache.format.index_file import load_index
from cache.format.lock import claimed
from cache.format.windows import looks_like_window
from cache.labels.annotations import some
from extract.config import ExtractConfig
from extract.features.weights import check_weights
from extract.finding import MEDIA_SUFFIXES
from extract.identity import load_digest, new_identity
from extract.parallel.job import Workers, pick_device
from extract.plan import plan_ids, unseen
from extract.sources import MediaSource, entries, file_source, other_id, picture_files, safe_id

_NO_WEIGHTS = "imagenet"  # what a cache without video names; no network is loaded for it
_NEEDS = {
    "both": "a video with sound",
    "audio": "a file with sound",
    "video": "a video, or a folder of pictures",
}


def one_clip(argv: Sequence[str]) -> int:
    """Extract files the way another cache was made."""
    arguments = _parser().parse_args(argv)
    like = _like(arguments.like)
    config = ExtractConfig.of(like)
    if arguments.hop_seconds is not None:
        config = config.revised(hop_seconds=arguments.hop_seconds)
    sources = _sources(arguments.file, config)
    weights, digest = _NO_WEIGHTS, ""
    if config.modalities != "audio":
        weights = arguments.weights or _weights(like, arguments.like)
        check_weights(weights)
        digest = load_digest(config.backbone, weights)
    identity = new_identity(config, weights, digest)
    if identity.without_hop().numbers != like.without_hop().numbers:
        raise ConfigError(_other_features(arguments.like, identity, like))
    with claimed(arguments.cache, identity) as identity:
        index, finished = load_index(arguments.cache, identity), True
        retry = len(sources) == 1  # who names one file wants to know why it fails
        plan = plan_ids(sources, sources, index, retry, config=config)
        if plan.todo:
            from extract.parallel.pipeline import run

            device = pick_device(arguments.device, config)
            workers = Workers(weights, device, arguments.jobs or cores())
            index, finished = run(plan.todo, arguments.cache, identity, workers, index)
    if finished and (len(plan.wanted) > 1 or plan.done):
        say(f"{arguments.cache}: {len(plan.done)} clips were there, {plan.to_do} were tried now")
    return _conclude(sources, index, config) if finished else 130


def _parser() -> Parser:
    parser = Parser(
        prog="python -m extract clip",
        description="Extract media files into a small cache, with a trained run's settings.",
    )
    parser.add_argument(
        "file", type=Path, nargs="+", help="media files, folders of them, or a folder of pictures"
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of the small cache")
    parser.add_argument(
        "--like", type=Path, required=True, help="a run's features.json, or a cache's cache.json"
    )
    parser.add_argument(
        "--hop-seconds",
        type=float,
        help="take a clip every so many seconds of each file; default: as then",
    )
    parser.add_argument("--weights", help="where the network's weights are now; default: as then")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--jobs", type=count, default=0, help="worker processes; default: one a core"
    )
    return parser


def _conclude(sources: dict[str, MediaSource], index: Index, config: ExtractConfig) -> int:
    """Say which files gave nothing; returns the exit code, which is milder among several."""
    plan = plan_ids(sources, sources, index, retry=False, config=config)
    for message in dict.fromkeys(failure.message for failure in plan.failed.values()):
        problem = f"{message} (needed here: {_NEEDS[config.modalities]})"
        say(f"error: {problem}", error=True, one_line=True)
    if note := unseen(index, config):
        say(note)
    if not plan.failed:
        return 0
    return 2 if len(sources) == 1 and not plan.done else 1


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


def _sources(given: Sequence[Path], config: ExtractConfig) -> dict[str, MediaSource]:
    """The media that is named, by the id that each gets in the cache.

    Of a folder, the media files in it. What is named itself must be media.
    """
    found: dict[str, MediaSource] = {}
    for path in given:
        inside = _media_in(path, config.modalities)
        if inside and (others := _folders_in(path)):
            say(f"note      {path}: folders in it are not looked into: {some(others)}")
        for file in inside or [path]:
            try:
                source = _source(file, config.modalities)
            except ConfigError as error:
                if not inside:
                    raise
                problem = str(error).removeprefix(f"{file}: ")
                source = MediaSource(safe_id(file.stem), container=file, problem=problem)
            if source.id in found and found[source.id].path == source.path:
                continue
            if source.id in found or (config.hop_seconds and looks_like_window(source.id)):
                source = replace(source, id=other_id(file))
            if source.id not in (file.stem, file.absolute().name):
                say(f"note      {file}: called {source.id} in the cache", one_line=True)
            found[source.id] = source
    return found


def _media_in(folder: Path, modalities: str) -> list[Path]:
    """The media files in a folder, by name; none where it is no folder, or pictures of a clip."""
    try:
        if not folder.is_dir() or (modalities == "video" and picture_files(folder)):
            return []
        found = [Path(entry.path) for entry in entries(folder)]
    except OSError:
        return []  # `_source` says what is wrong with it
    return [path for path in found if path.suffix.lower()[1:] in MEDIA_SUFFIXES]


def _folders_in(folder: Path) -> list[str]:
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def _source(file: Path, modalities: str) -> MediaSource:
    needed = _NEEDS[modalities]
    try:
        kind = file.stat().st_mode
        if stat.S_ISDIR(kind) and not (modalities == "video" and picture_files(file)):
            what = "media in it" if modalities != "video" else "pictures or media in it"
            raise ConfigError(
                f"{file}: expected {needed}, found a folder without {what} (folders in it are not "
                "looked into)"
            )
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise ConfigError(f"{file}: expected {needed}, found no plain file")
        return file_source(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; expected {needed}") from None
    except OSError as error:
        raise ConfigError(f"{file}: can't be looked at ({error.strerror})") from None


def _like(path: Path) -> Identity:
    """The identity that a features.json or cache.json holds; it may come from a stranger."""
    expected = "expected a run's features.json or a cache's cache.json"
    return Identity.parse(read_json(path, expected), str(path))


def _weights(like: Identity, path: Path) -> str:
    weights = like.provenance.get("weights")
    if not isinstance(weights, str):
        raise ConfigError(f"{path}: names no weights; name them with --weights")
    return weights
