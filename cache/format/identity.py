"""The cache folder's identity, `cache.json`: what the numbers depend on, and what made them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.common.atomic import plain_folder, replace_file, writing
from cache.common.errors import CacheError
from cache.common.plain import read_plain
from cache.common.settings import canonical_json
from cache.common.strict_json import loads
from cache.format.schema import (
    FORMAT,
    FORMAT_VERSION,
    MAX_TEXT_BYTES,
    SHARD_FOLDER,
    config_differences,
    feature_fields,
    fingerprint,
)

IDENTITY_FILE = "cache.json"
IDENTITY_LIMIT_BYTES = 1 << 20
_KEYS = {"format", "format_version", "feature_version", "fingerprint", "config", "provenance"}


def make_identity(
    config: Mapping[str, Any], feature_version: int, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of `cache.json`: what the numbers depend on, and (apart) what made them."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "feature_version": feature_version,
        "fingerprint": fingerprint(config, feature_version),
        "config": dict(config),
        "provenance": dict(provenance),
    }


def read_identity(folder: Path) -> dict[str, Any]:
    """Read and check `cache.json`; CacheError when it is missing, foreign or edited."""
    path = folder / IDENTITY_FILE
    try:
        return parse_identity(read_plain(path, IDENTITY_LIMIT_BYTES), str(path))
    except FileNotFoundError:
        what = f"is {_kind(folder)}" if folder.is_dir() else "doesn't exist"
        raise CacheError(
            f"{folder}: no feature cache here (the folder {what}); expected {IDENTITY_FILE}. "
            "Make one with `make features DATA=… CACHE=…`"
        ) from None
    except OSError as error:
        raise CacheError(f"{path}: can't be read ({error.strerror})") from None


def _kind(folder: Path) -> str:
    """What a folder without `cache.json` may be."""
    ours = {"shards", "labels.h5", "index.h5", "verified.json"}
    with contextlib.suppress(OSError):
        names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        if others := sorted(names - ours)[:3]:
            return f"another one: it holds {', '.join(others)}"
    return "empty or unfinished"


def parse_identity(data: bytes, where: str) -> dict[str, Any]:
    """The checked content of a `cache.json`, without its checksum."""
    try:
        identity = dict(loads(data))
        if identity["format"] != FORMAT:
            raise CacheError(f"{where}: not a feature cache (format {identity['format']!r})")
        if identity["format_version"] != FORMAT_VERSION:
            raise CacheError(
                f"{where}: format version {identity['format_version']!r}, this program reads "
                f"{FORMAT_VERSION}; extract again or use the matching release"
            )
        digest = identity.pop("sha256", None)  # caches of the first release have none
        expected = fingerprint(identity["config"], identity["feature_version"])
        # The very text: in JSON, 1e-5 and 1E-5 are equal and differ by one bit.
        intact = digest is None or data == render_identity(identity)
        intact = intact and set(identity) == _KEYS
        if identity["fingerprint"] != expected or not intact:
            raise CacheError(
                f"{where}: its fingerprint doesn't match its settings, or its checksum its text: "
                "the file was edited or damaged; restore it from the cache's other copies"
            )
        feature_fields(identity["config"])  # settings that name no datasets end here
        if not isinstance(identity["provenance"], dict):
            raise TypeError("provenance is no object")
        for name in ("config", "provenance"):
            if len(canonical_json(identity[name]).encode()) > MAX_TEXT_BYTES:
                raise ValueError(f"{name} has more than {MAX_TEXT_BYTES:,} bytes")
    except (ValueError, LookupError, TypeError, RecursionError, ArithmeticError) as error:
        raise CacheError(f"{where}: not a cache identity ({error!r})") from None
    return identity


def render_identity(identity: Mapping[str, Any]) -> bytes:
    """The text of a `cache.json`."""
    text = json.dumps({**identity, "sha256": _digest(identity)}, indent=2, ensure_ascii=False)
    return (text + "\n").encode()


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()


def claim(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Create the cache, or check that it was made with the same settings.

    Returns the identity on disk. Raises CacheError naming every setting that differs.
    """
    path = folder / IDENTITY_FILE
    if folder.is_file():
        raise CacheError(
            f"{folder}: a packed file is never changed; turn it into a folder first with "
            f"`python -m cache unpack {folder} FOLDER`"
        )
    found = None
    with writing(path):  # a folder that can't be looked into
        there = path.exists()
    if there:
        found = read_identity(folder)
        if found["fingerprint"] != identity["fingerprint"]:
            raise CacheError(refusal(folder, identity, found))
    plain_folder(folder / SHARD_FOLDER)
    if found is None:
        replace_file(path, render_identity(identity))
    return found or dict(identity)


def refusal(folder: Path | str, identity: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Why a cache made with other settings can't be used, setting by setting."""
    lines = config_differences(identity["config"], found["config"])
    if identity["feature_version"] != found["feature_version"]:
        lines.append(
            f"feature code version: {identity['feature_version']} here, "
            f"{found['feature_version']} in the cache"
        )
    return (
        f"{folder}: this cache was made with other settings; mixing them would spoil it:\n  "
        + "\n  ".join(lines)
        + "\nUse those settings, or another CACHE folder."
    )


def set_aside(folder: Path, shard: str) -> Path:
    """Rename a shard that is damaged: out of the way, and still there to be looked at."""
    path = plain_folder(folder / SHARD_FOLDER) / shard
    with writing(path):
        return path.rename(path.with_suffix(".damaged"))
