"""`labels.h5`: the annotation rows of a cache, replaced whole without touching features."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.annotations import NO_SPLIT, Labels, check_id
from cache.atomic import replace_file
from cache.errors import CacheError
from cache.plain import (
    encode_text,
    open_hdf5,
    plain_dataset,
    read_attribute,
    reading,
    whole,
    write_text,
)
from cache.schema import SPLITS, row_digest
from cache.sealed import check_seal, is_sealed, sealed_image

LABELS_FILE = "labels.h5"
HISTORY_ENTRIES = 100
_COLUMNS = {
    "id": "S",
    "classes": "S",
    "category": "i8",
    "start_s": "f8",
    "end_s": "f8",
    "split": "i1",
}


def write_labels(folder: Path, labels: Labels) -> None:
    """Store labels in the cache, replacing what was there and recording that."""
    history = _history_after(folder, labels)
    image = sealed_image(lambda file: fill_labels(file, labels, history))
    replace_file(folder / LABELS_FILE, image)


def fill_labels(group: h5py.Group, labels: Labels, history: list[dict[str, Any]]) -> None:
    """Write the label table into an open file or group."""
    for name, array in _arrays(labels).items():
        group[name] = array
    write_text(group, "source", labels.source)
    write_text(group, "notes", json.dumps(labels.notes))
    write_text(group, "sha256", labels_sha256(labels))
    group["history_json"] = np.frombuffer(json.dumps(history).encode(), np.uint8)


def read_labels(folder: Path) -> Labels | None:
    """The labels stored in the cache, or None where there are none yet."""
    path = folder / LABELS_FILE
    if not path.exists() and not path.is_symlink():
        return None
    try:
        if is_sealed(path):  # caches of the first release have only the inner checksum
            check_seal(path)
        with open_hdf5(path) as file:
            return labels_of(file)
    except (CacheError, OSError) as error:
        raise CacheError(f"{error}; write the labels anew: `make features`, or relabel") from None


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The label tables that stood here before, oldest first: sha256, source, events, until."""
    path = folder / LABELS_FILE
    if not path.exists():
        return []
    with open_hdf5(path) as file:
        return history_of(file)


def labels_of(group: h5py.Group, at: str = "") -> Labels:
    """The labels in an open file (of a pack, below `at`), checked; CacheError when damaged."""
    file = group.file
    path = Path(file.filename)
    with reading(path, "the label table"):
        arrays = {name: whole(plain_dataset(file, at + name)) for name in _COLUMNS}
        for name, kind in _COLUMNS.items():
            found = arrays[name].dtype
            if found != np.dtype(kind) and found.kind != kind:
                raise CacheError(f"{path}: {name} is {found}, expected {kind}")
        holder = file[at] if at else file  # not before: it is no link, as is known now
        labels = Labels(
            ids=[value.decode() for value in arrays["id"]],
            classes=[value.decode() for value in arrays["classes"]],
            category=arrays["category"],
            start_s=arrays["start_s"],
            end_s=arrays["end_s"],
            split=arrays["split"],
            source=str(read_attribute(holder, "source")),
            notes=[str(note) for note in json.loads(str(read_attribute(holder, "notes")))],
        )
        digest = read_attribute(holder, "sha256")
        _check(path, labels)
    if digest != labels_sha256(labels):
        raise CacheError(f"{path}: its labels don't match their checksum: it was edited or damaged")
    return labels


def history_of(file: h5py.File, at: str = "") -> list[dict[str, Any]]:
    """The record of earlier label tables in an open file."""
    path = Path(file.filename)
    with reading(path, "history_json"):
        if f"{at}history_json" not in file:
            return []
        entries = json.loads(whole(plain_dataset(file, f"{at}history_json")).tobytes())
        return [dict(entry) for entry in entries]


def labels_sha256(labels: Labels) -> str:
    """64 hex digits over everything in a label table."""
    return row_digest(json.dumps([labels.source, labels.notes]), _arrays(labels)).hex()


def _history_after(folder: Path, labels: Labels) -> list[dict[str, Any]]:
    try:
        before = read_labels(folder)
        history = read_history(folder)
    except CacheError:
        return []  # damaged: nothing in it can be trusted
    if before is None or labels_sha256(before) == labels_sha256(labels):
        return history
    entry = {
        "sha256": labels_sha256(before),
        "source": before.source,
        "events": len(before),
        "until": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return [*history, entry][-HISTORY_ENTRIES:]


def _arrays(labels: Labels) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    return {
        "id": encode_text(labels.ids),
        "classes": encode_text(labels.classes),
        "category": labels.category.astype(np.int64),
        "start_s": labels.start_s.astype(np.float64),
        "end_s": labels.end_s.astype(np.float64),
        "split": labels.split.astype(np.int8),
    }


def _check(path: Path, labels: Labels) -> None:
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
    for problem in filter(None, map(check_id, labels.ids)):
        raise CacheError(f"{path}: {problem}")
