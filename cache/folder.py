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

from cache.annotations import Labels, check_id
from cache.errors import CacheError
from cache.schema import FORMAT, FORMAT_VERSION, config_differences, fingerprint
from cache.shard import TEMPORARY, encode_text, sync

IDENTITY_FILE, LABELS_FILE, LOCK_FILE = "cache.json", "labels.h5", ".lock"


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


def write_labels(folder: Path, labels: Labels) -> None:
    """Store labels in the cache, replacing what was there."""
    arrays = _label_arrays(labels)
    with h5py.File("labels", "w", driver="core", backing_store=False) as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs["source"] = labels.source
        file.attrs["notes"] = json.dumps(labels.notes)
        file.attrs["sha256"] = row_digest(labels.source + json.dumps(labels.notes), arrays).hex()
        file.flush()
        data = file.id.get_file_image()
    replace_file(folder / LABELS_FILE, data)


def read_labels(folder: Path) -> Labels | None:
    """The labels stored in the cache, or None where there are none yet."""
    path = folder / LABELS_FILE
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = {}
            for name in ("id", "classes", "category", "start_s", "end_s", "split"):
                dataset = file[name]
                if file.get(name, getlink=True).__class__ is not h5py.HardLink:
                    raise CacheError(f"{path}: {name} is a link elsewhere; refused")
                if dataset.external or dataset.is_virtual or dataset.dtype.kind not in "Sif":
                    raise CacheError(f"{path}: {name} is not plain data; refused")
                arrays[name] = dataset[()]
            labels = Labels(
                ids=[value.decode() for value in arrays["id"]],
                classes=[value.decode() for value in arrays["classes"]],
                category=arrays["category"].astype(np.int64),
                start_s=arrays["start_s"].astype(np.float64),
                end_s=arrays["end_s"].astype(np.float64),
                split=arrays["split"].astype(np.int8),
                source=str(file.attrs["source"]),
                notes=list(json.loads(file.attrs["notes"])),
            )
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise CacheError(
            f"{path}: not a readable label table ({error}); run `make features` to write it anew"
        ) from None
    _check_labels(path, labels)
    return labels


def _check_labels(path: Path, labels: Labels) -> None:
    rows = len(labels.ids)
    columns = (labels.category, labels.start_s, labels.end_s, labels.split)
    if any(column.shape != (rows,) for column in columns):
        raise CacheError(f"{path}: its columns have different lengths")
    if rows and not (0 <= labels.category.min() <= labels.category.max() < len(labels.classes)):
        raise CacheError(f"{path}: a category is out of range")
    for clip_id in labels.ids:
        problem = check_id(clip_id)
        if problem:
            raise CacheError(f"{path}: {problem}")
