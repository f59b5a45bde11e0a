"""`labels.h5`: the annotation rows of a cache, replaced whole without touching features."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.common.atomic import replace_file
from cache.common.errors import CacheError
from cache.common.plain import (
    encode_text,
    open_hdf5,
    plain_dataset,
    read_attribute,
    reading,
    whole,
    write_text,
)
from cache.common.strict_json import loads
from cache.format.names import check_class, check_id, one_form
from cache.format.schema import (
    BACKGROUND,
    MAX_CLASS_BYTES,
    MAX_ID_BYTES,
    NO_SPLIT,
    SPLITS,
    row_digest,
)
from cache.format.sealed import check_seal, is_sealed, sealed_image
from cache.labels.annotations import Labels

LABELS_FILE = "labels.h5"
HISTORY_ENTRIES = 100
MAX_EVENTS = 1 << 21
MAX_CLASSES = 1 << 14
MAX_NOTES = 1000
MAX_LABEL_BYTES = 1 << 30
_HISTORY_BYTES = 1 << 20
_HISTORY_TYPES = {"sha256": str, "source": str, "events": int, "until": str}
_SOURCE_CHARACTERS = 500
_COLUMNS = {
    "id": "S",
    "classes": "S",
    "category": "i8",
    "start_s": "f8",
    "end_s": "f8",
    "split": "i1",
}


def write_labels(folder: Path, labels: Labels) -> None:
    """Store labels in the cache, replacing what was there and recording that.

    Raises CacheError for labels that nobody could read again.
    """
    _check(folder / LABELS_FILE, labels)
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
        if not path.is_symlink() and path.stat().st_size > MAX_LABEL_BYTES:
            raise CacheError(f"{path}: larger than any label table is; refused")
        if is_sealed(path):  # caches of the first release have only the inner checksum
            check_seal(path)
        with open_hdf5(path) as file:
            return labels_of(file)
    except (CacheError, OSError) as error:
        raise CacheError(f"{error}; write the labels anew: `make features`, or relabel") from None


def read_label_history(folder: Path) -> list[dict[str, Any]]:
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
        stored = {name: plain_dataset(file, at + name) for name in _COLUMNS}
        _check_sizes(path, stored)
        arrays = {name: whole(dataset) for name, dataset in stored.items()}
        for name in ("id", "classes"):  # before each of millions of them becomes an object
            if not np.all(arrays[name] != b""):
                raise CacheError(f"{path}: {name} has an empty name")
        holder = file[at] if at else file  # not before: it is no link, as is known now
        labels = Labels(
            ids=[value.decode() for value in arrays["id"]],
            classes=[value.decode() for value in arrays["classes"]],
            category=arrays["category"],
            start_s=arrays["start_s"],
            end_s=arrays["end_s"],
            split=arrays["split"],
            source=str(read_attribute(holder, "source")),
            notes=_notes(path, str(read_attribute(holder, "notes"))),
        )
        digest = read_attribute(holder, "sha256")
        _check(path, labels)
    if digest != labels_sha256(labels):
        raise CacheError(f"{path}: its labels don't match their checksum: it was edited or damaged")
    return labels


def _check_sizes(path: Path, stored: dict[str, h5py.Dataset]) -> None:
    """Raise CacheError unless the columns belong together and are no longer than a table can be.

    A file with holes may claim any number of rows, and takes no place on a disk for them.
    """
    limits = {"id": MAX_ID_BYTES, "classes": MAX_CLASS_BYTES}
    for name, kind in _COLUMNS.items():
        dtype, shape = stored[name].dtype, stored[name].shape
        if dtype != np.dtype(kind) and dtype.kind != kind:
            raise CacheError(f"{path}: {name} is {dtype}, expected {kind}")
        rows = stored["classes" if name == "classes" else "id"].shape
        if len(shape) != 1 or shape != rows:
            raise CacheError(f"{path}: its columns have different lengths")
        most = MAX_CLASSES if name == "classes" else MAX_EVENTS
        if shape[0] > most:
            raise CacheError(f"{path}: {name} has {shape[0]:,} rows, at most {most:,} can be")
        if dtype.itemsize > limits.get(name, dtype.itemsize):
            raise CacheError(f"{path}: {name} holds names longer than {limits[name]} bytes")


def _notes(path: Path, text: str) -> list[str]:
    notes = loads(text)
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise CacheError(f"{path}: notes: expected a list of sentences")
    if len(notes) > MAX_NOTES:
        raise CacheError(f"{path}: {len(notes):,} notes, at most {MAX_NOTES:,} can be")
    return notes


def history_of(file: h5py.File, at: str = "") -> list[dict[str, Any]]:
    """The record of earlier label tables in an open file, checked."""
    path = Path(file.filename)
    with reading(path, "history_json"):
        if f"{at}history_json" not in file:
            return []
        stored = plain_dataset(file, f"{at}history_json")
        if stored.nbytes > _HISTORY_BYTES:
            raise CacheError(f"{path}: a history of {stored.nbytes:,} bytes; refused")
        entries = loads(whole(stored).tobytes())
        if not isinstance(entries, list) or len(entries) > HISTORY_ENTRIES:
            raise CacheError(f"{path}: expected a history of at most {HISTORY_ENTRIES} tables")
        for entry in entries:
            if {name: type(value) for name, value in dict(entry).items()} != _HISTORY_TYPES:
                raise CacheError(f"{path}: its history has an entry that is none")
        return [dict(entry) for entry in entries]


def labels_sha256(labels: Labels) -> str:
    """64 hex digits over everything in a label table."""
    return row_digest(json.dumps([labels.source, labels.notes]), _arrays(labels)).hex()


def _history_after(folder: Path, labels: Labels) -> list[dict[str, Any]]:
    try:
        before = read_labels(folder)
        history = read_label_history(folder)
    except CacheError:
        return []  # damaged: nothing in it can be trusted
    if before is None or labels_sha256(before) == labels_sha256(labels):
        return history
    entry = {
        "sha256": labels_sha256(before),
        "source": before.source[:_SOURCE_CHARACTERS],
        "events": int(np.sum(~before.background)),
        "until": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return [*history, entry][-HISTORY_ENTRIES:]


def _arrays(labels: Labels) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    return {
        "id": encode_text(labels.ids),
        "classes": encode_text(labels.classes),
        "category": labels.category.astype(np.int64),
        "start_s": _one_nan(labels.start_s),
        "end_s": _one_nan(labels.end_s),
        "split": labels.split.astype(np.int8),
    }


def _one_nan(times_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same times; what isn't known has the same bits everywhere, and so the same checksum."""
    return np.where(np.isnan(times_s), np.nan, times_s).astype(np.float64)


def _check(path: Path, labels: Labels) -> None:
    if len(labels.ids) > MAX_EVENTS or len(labels.classes) > MAX_CLASSES:
        raise CacheError(
            f"{path}: {len(labels.ids):,} events of {len(labels.classes):,} classes; at most "
            f"{MAX_EVENTS:,} of {MAX_CLASSES:,} can be"
        )
    if not np.all((labels.category >= BACKGROUND) & (labels.category < len(labels.classes))):
        raise CacheError(f"{path}: a category is out of range")
    _check_background(path, labels)
    if not np.all((labels.split >= NO_SPLIT) & (labels.split < len(SPLITS))):
        raise CacheError(f"{path}: a split is out of range")
    known = (labels.start_s >= 0) & (labels.start_s <= labels.end_s) & (labels.end_s < np.inf)
    if not np.all(known | (labels.weak & np.isnan(labels.end_s))):
        raise CacheError(
            f"{path}: expected 0 <= start <= end in every row, end finite, or both NaN"
        )
    for problem in filter(None, map(check_id, labels.ids)):
        raise CacheError(f"{path}: {problem}")
    for problem in filter(None, map(check_class, labels.classes)):
        raise CacheError(f"{path}: {problem}")
    if len({one_form(name) for name in labels.classes}) < len(labels.classes):
        raise CacheError(f"{path}: a class stands twice in it")


def _check_background(path: Path, labels: Labels) -> None:
    """Raise CacheError where a row without an event has times, or its clip an event as well."""
    empty = labels.background
    if not empty.any():
        return
    if np.any(labels.start_s[empty] != 0) or np.any(labels.end_s[empty] != 0):
        raise CacheError(f"{path}: expected start and end 0 in each row without an event")
    ids = np.array(labels.ids, dtype=object)
    both = sorted(set(ids[empty]) & set(ids[~empty]))
    if both:
        raise CacheError(
            f"{path}: {len(both)} clip(s) are said to have no event, and one as well, first: "
            f"{both[0]!r}"
        )
