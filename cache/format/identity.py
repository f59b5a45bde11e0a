"""The cache folder's identity, `cache.json`: what the numbers depend on, and what made them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cache.common.atomic import plain_folder, replace_file, writing
from cache.common.errors import CacheError
from cache.common.plain import read_plain
from cache.common.settings import canonical_json
from cache.common.strict_json import loads
from cache.format import version1
from cache.format.schema import FORMAT, FORMAT_VERSION, MAX_TEXT_BYTES, SHARD_FOLDER, Declaration

IDENTITY_FILE = "cache.json"
IDENTITY_LIMIT_BYTES = 1 << 20
_HOP = "hop_seconds"


@dataclass(frozen=True)
class Identity:
    """What a cache is: every part of the program is handed this one object.

    Attributes
    ----------
    feature_version: of the code that computes features.
    config: settings of the extraction, for people and for what extracts; opaque to the cache.
    declaration: what a row holds.
    provenance: what made the features; not part of the fingerprint.
    format_version: 2, or 1 of caches whose `cache.json` declares nothing.
    """

    feature_version: int
    config: Mapping[str, Any]
    declaration: Declaration
    provenance: Mapping[str, Any]
    format_version: int = FORMAT_VERSION

    @property
    def numbers(self) -> dict[str, Any]:
        """All that a row's numbers depend on, as plain values; equal where they are alike."""
        return {
            "config": dict(self.config),
            "feature_version": self.feature_version,
            **self.declaration.record(),
        }

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that are equal exactly when two caches' rows may be mixed.

        Covers the extraction settings (the weights' SHA-256 among them), the version of the
        feature code, what is declared and the format version; not paths, workers, order, machine
        or library versions.
        """
        if self.format_version == version1.VERSION:
            return version1.fingerprint(self.config, self.feature_version)
        covered = {**self.numbers, "format_version": self.format_version}
        return hashlib.sha256(canonical_json(covered).encode()).hexdigest()

    def without_hop(self) -> Self:
        """The same of clips that are no windows: where they begin changes none of their numbers."""
        config = {name: value for name, value in self.config.items() if name != _HOP}
        return replace(self, config=config, declaration=replace(self.declaration, hop_s=None))

    def record(self) -> dict[str, Any]:
        """The content of `cache.json`, and of a run's `features.json`."""
        declared = {} if self.format_version == version1.VERSION else self.declaration.record()
        return {
            "format": FORMAT,
            "format_version": self.format_version,
            "feature_version": self.feature_version,
            "fingerprint": self.fingerprint,
            **declared,
            "config": dict(self.config),
            "provenance": dict(self.provenance),
        }

    def render(self) -> bytes:
        """The text of a `cache.json`."""
        record = self.record()
        digest = hashlib.sha256(canonical_json(record).encode()).hexdigest()
        text = json.dumps({**record, "sha256": digest}, indent=2, ensure_ascii=False)
        return (text + "\n").encode()

    @classmethod
    def parse(cls, record: object, where: str) -> Self:
        """The identity in a record, perhaps a stranger's; CacheError where it is none, or edited.

        Records of runs of earlier releases name no format and no feature version.
        """
        try:
            if not isinstance(record, dict):
                raise TypeError(f"{type(record).__name__}, expected an object")
            if record.get("format", FORMAT) != FORMAT:
                raise CacheError(f"{where}: not a feature cache (format {record['format']!r})")
            version = record.get("format_version", version1.VERSION)
            if type(version) is not int or version not in (version1.VERSION, FORMAT_VERSION):
                raise CacheError(
                    f"{where}: format version {version!r}, this program reads {version1.VERSION} "
                    f"to {FORMAT_VERSION}; extract again or use the matching release"
                )
            config, provenance = (_plain_object(record, name) for name in ("config", "provenance"))
            old = version == version1.VERSION
            declared = version1.declared_by(config) if old else Declaration.parse(record)
            feature_version = record.get("feature_version", version1.FIRST_FEATURE_VERSION)
            if type(feature_version) is not int:
                raise TypeError("feature_version is no whole number")
            found = cls(feature_version, config, declared, provenance, version)
            told = record["fingerprint"]
        except (ValueError, LookupError, TypeError, RecursionError, ArithmeticError) as error:
            raise CacheError(f"{where}: not a cache identity ({error!r})") from None
        if told != found.fingerprint:
            raise CacheError(_edited(where))
        return found


def _plain_object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(record[name], dict):
        raise TypeError(f"{name} is no object")
    if len(canonical_json(record[name]).encode()) > MAX_TEXT_BYTES:
        raise ValueError(f"{name} has more than {MAX_TEXT_BYTES:,} bytes")
    return dict(record[name])


def read_identity(folder: Path) -> Identity:
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


def parse_identity(data: bytes, where: str) -> Identity:
    """The checked content of a `cache.json`."""
    try:
        record = loads(data)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{where}: not a cache identity ({error!r})") from None
    # Caches of the first release have no checksum.
    digest = record.pop("sha256", None) if isinstance(record, dict) else None
    identity = Identity.parse(record, where)
    # The very text: in JSON, 1e-5 and 1E-5 are equal and differ by one bit.
    if record != identity.record() or (digest is not None and data != identity.render()):
        raise CacheError(_edited(where))
    return identity


def _edited(where: str) -> str:
    return (
        f"{where}: its fingerprint doesn't match its settings, or its checksum its text: "
        "the file was edited or damaged; restore it from the cache's other copies"
    )


def claim(folder: Path, identity: Identity) -> Identity:
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
        if found.fingerprint != identity.fingerprint:
            raise CacheError(refusal(folder, identity, found))
    plain_folder(folder / SHARD_FOLDER)
    if found is None:
        replace_file(path, identity.render())
    return found or identity


def refusal(where: Path | str, identity: Identity, found: Identity) -> str:
    """Why a cache made with other settings can't be used, setting by setting."""
    lines = config_differences(identity.config, found.config)
    if identity.feature_version != found.feature_version:
        lines.append(
            f"feature code version: {identity.feature_version} here, "
            f"{found.feature_version} in the cache"
        )
    if identity.format_version != found.format_version:
        lines.append(
            f"format version: {identity.format_version} here, {found.format_version} in the "
            "cache: each can be read, trained on and merged with its like; to extend one of "
            f"version {version1.VERSION}, extract it anew"
        )
    elif not lines:
        lines.append("what is declared of the rows differs")
    return (
        f"{where}: this cache was made with other settings; mixing them would spoil it:\n  "
        + "\n  ".join(lines)
        + "\nUse those settings, or another CACHE folder."
    )


def config_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """One readable line per setting that differs: `name: ours → theirs`."""

    def shown(values: Mapping[str, Any], name: str) -> str:
        return repr(values[name]) if name in values else "none"

    return [
        f"{name}: {shown(ours, name)} here, {shown(theirs, name)} in the cache"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]


def set_aside(folder: Path, shard: str) -> Path:
    """Rename a shard that is damaged: out of the way, and still there to be looked at."""
    path = plain_folder(folder / SHARD_FOLDER) / shard
    with writing(path):
        return path.rename(path.with_suffix(".damaged"))
