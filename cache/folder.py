"""The cache folder: its identity, its labels, its lock, and files that are replaced whole."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.annotations import NO_SPLIT, Labels, check_id
from cache.errors import CacheError
from cache.plain import plain_dataset, read_attribute, reading, write_text
from cache.schema import (
    FORMAT,
    FORMAT_VERSION,
    SPLITS,
    config_differences,
    fingerprint,
    row_digest,
)
from cache.shard import TEMPORARY, encode_text, sync

IDENTITY_FILE, LABELS_FILE, LOCK_FILE = "cache.json", "labels.h5", ".lock"
_LABEL_COLUMNS = ("id", "classes", "category", "start_s", "end_s", "split")


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
        identity = json.loads(path.read_text(encoding="utf-8"))
        if identity["format"] != FORMAT:
            raise CacheError(f"{path}: not a feature cache (format {identity['format']!r})")
        if identity["format_version"] != FORMAT_VERSION:
            raise CacheError(
                f"{path}: format version {identity['format_version']}, this program reads "
                f"{FORMAT_VERSION}; extract again or use the matching release"
            )
        expected = fingerprint(identity["config"], identity["feature_version"])
        if identity["fingerprint"] != expected:
            raise CacheError(
                f"{path}: its fingerprint doesn't match its settings: the file was edited or "
                "damaged; restore it from the cache's other copies"
            )
    except FileNotFoundError:
        what = "is empty or unfinished" if folder.is_dir() else "doesn't exist"
        raise CacheError(
            f"{folder}: no feature cache here (the folder {what}); expected {IDENTITY_FILE}. "
            "Make one with `make features DATA=… CACHE=…`"
        ) from None
    except OSError as error:
        raise CacheError(f"{path}: can't be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: not a cache identity ({error!r})") from None
    return dict(identity)


def claim(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Create the cache, or check that it was made with the same settings.

    Returns the identity on disk. Raises CacheError naming every setting that differs.
    """
    path = folder / IDENTITY_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(identity, indent=2, ensure_ascii=False) + "\n").encode())
        return dict(identity)
    found = read_identity(folder)
    if found["fingerprint"] != identity["fingerprint"]:
        raise CacheError(refusal(folder, identity, found))
    return found


def refusal(folder: Path, identity: Mapping[str, Any], found: Mapping[str, Any]) -> str:
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


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary name, flush, rename."""
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Be the cache's only writer, or raise CacheError saying who is.

    The kernel frees the lock when its process ends, however it ends.
    """
    path = folder / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CacheError(
                f"{folder}: another process is writing this cache: {file.read().strip()}. "
                "Wait for it to end, or stop it; what it finished is kept."
            ) from None
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
        file.flush()
        yield


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of writers that were killed. Call with the lock held."""
    for place in (folder, folder / "shards"):
        if place.is_dir():
            for path in place.iterdir():
                if path.name.startswith(TEMPORARY):
                    path.unlink(missing_ok=True)


def set_aside(folder: Path, shard: str) -> Path:
    """Rename a shard that can't be read: out of the way, and still there to be looked at."""
    path = folder / "shards" / shard
    return path.rename(path.with_suffix(".damaged"))


def write_labels(folder: Path, labels: Labels) -> None:
    """Store labels in the cache, replacing what was there."""
    with h5py.File("labels", "w", driver="core", backing_store=False) as file:
        for name, array in _label_arrays(labels).items():
            file[name] = array
        write_text(file, "source", labels.source)
        write_text(file, "notes", json.dumps(labels.notes))
        write_text(file, "sha256", _labels_sha256(labels))
        file.flush()
        data = file.id.get_file_image()
    replace_file(folder / LABELS_FILE, data)


def read_labels(folder: Path) -> Labels | None:
    """The labels stored in the cache, or None where there are none yet."""
    path = folder / LABELS_FILE
    if not path.exists():
        return None
    try:
        with reading(path, "the label table"), h5py.File(path, "r", locking=False) as file:
            arrays = {name: plain_dataset(file, name)[()] for name in _LABEL_COLUMNS}
            labels = Labels(
                ids=[value.decode() for value in arrays["id"]],
                classes=[value.decode() for value in arrays["classes"]],
                category=arrays["category"].astype(np.int64),
                start_s=arrays["start_s"].astype(np.float64),
                end_s=arrays["end_s"].astype(np.float64),
                split=arrays["split"].astype(np.int8),
                source=str(read_attribute(file, "source")),
                notes=list(json.loads(str(read_attribute(file, "notes")))),
            )
            digest = read_attribute(file, "sha256")
            _check_labels(path, labels)
    except CacheError as error:
        raise CacheError(f"{error}; run `make features` to write the labels anew") from None
    if digest != _labels_sha256(labels):
        raise CacheError(
            f"{path}: its bytes don't match their checksum: it was edited or damaged; "
            "run `make features` to write the labels anew"
        )
    return labels


def _label_arrays(labels: Labels) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    return {
        "id": encode_text(labels.ids),
        "classes": encode_text(labels.classes),
        "category": labels.category.astype(np.int64),
        "start_s": labels.start_s.astype(np.float64),
        "end_s": labels.end_s.astype(np.float64),
        "split": labels.split.astype(np.int8),
    }


def _labels_sha256(labels: Labels) -> str:
    return row_digest(json.dumps([labels.source, labels.notes]), _label_arrays(labels)).hex()


def _check_labels(path: Path, labels: Labels) -> None:
    rows = len(labels.ids)
    columns = (labels.category, labels.start_s, labels.end_s, labels.split)
    if any(column.shape != (rows,) for column in columns):
        raise CacheError(f"{path}: its columns have different lengths")
    if not np.all((labels.category >= 0) & (labels.category < len(labels.classes))):
        raise CacheError(f"{path}: a category is out of range")
    if not np.all((labels.split >= NO_SPLIT) & (labels.split < len(SPLITS))):
        raise CacheError(f"{path}: a split is out of range")
    if not np.all((labels.start_s >= 0) & (labels.start_s <= labels.end_s)):
        raise CacheError(f"{path}: expected 0 <= start <= end in every row")
    for clip_id in labels.ids:
        problem = check_id(clip_id)
        if problem:
            raise CacheError(f"{path}: {problem}")
