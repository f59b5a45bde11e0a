"""Which format an annotation file has, and what is in it; a folder is all its files of one kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from cache.common.errors import AnnotationError
from cache.format.schema import NO_SPLIT
from cache.labels.audacity import label_rows
from cache.labels.background import BACKGROUND_FILE, joined, read_background
from cache.labels.elan import elan_rows
from cache.labels.files import (
    AVE_FILE,
    SPLIT_FILES,
    Places,
    Row,
    collect,
    exists,
    number,
    opened_lines,
    read_ave_set,
)
from cache.labels.json_files import json_rows
from cache.labels.media_names import recording_of
from cache.labels.tables import read_splits, table_rows

SPLITS_FILE = "splits.csv"
RECORDINGS_FILE = "recordings.csv"
MAX_FILES = 1 << 17


@dataclass(frozen=True)
class _Kind:
    """A format: what it is called, what reads it, whether a file is one recording's."""

    called: str
    rows: Callable[[Path, list[str]], Places]
    one_recording: bool = False


_TABLE = _Kind("table", table_rows)
_LABELS = _Kind("Audacity", label_rows, one_recording=True)
_KINDS = {
    ".csv": _TABLE,
    ".tsv": _TABLE,
    ".json": _Kind("JSON", json_rows),
    ".eaf": _Kind("ELAN", elan_rows, one_recording=True),
}


@dataclass(frozen=True)
class Annotations:
    """What annotation files say.

    Attributes
    ----------
    rows: in file order, splits where the files name them.
    files: what each file (`Row.file`) is called, for people.
    splits: what its splits are called, where it has any.
    notes: what was left out.
    """

    rows: list[Row]
    files: dict[str, str]
    splits: str = ""
    notes: list[str] = field(default_factory=list)


def read_rows(path: Path) -> Annotations:
    """The rows of an annotation file with all that belongs to it, or of a folder of them.

    Raises AnnotationError that names every bad line (the first ten).
    """
    if path.is_dir():
        if not any(exists(path / name) for name in (AVE_FILE, *SPLIT_FILES.values())):
            return _read_folder(path)
        path = path / AVE_FILE
    kind = _kind_of(path)
    if kind is None:
        rows, names = read_ave_set(path)
        background = read_background(path)
        names += [BACKGROUND_FILE] if background else []
        return Annotations(joined(path, rows, background), {name: name for name in names})
    notes: list[str] = []
    rows = joined(path, collect(path, kind.rows(path, notes)), [])
    more, splits = path.parent / RECORDINGS_FILE, "its own splits"
    if kind is _TABLE and path.name != RECORDINGS_FILE and exists(more):
        rows = _with_recordings(more, rows)
    files = dict.fromkeys(row.file for row in rows)
    return Annotations(rows, {name: name for name in files}, splits, notes)


def _kind_of(path: Path) -> _Kind | None:
    """The format of a file; None for AVE's."""
    if kind := _KINDS.get(path.suffix.lower()):
        return kind
    if path.name in (AVE_FILE, *SPLIT_FILES.values()) or not exists(path):
        return None
    return _kind_of_text(path)


def _kind_of_text(path: Path) -> _Kind | None:
    """The format by the first line with anything in it; None for AVE's, or for an empty file."""
    with opened_lines(path) as lines:
        line = next((line for line in lines if line.strip()), "")
    first, tab, _ = line.partition("\t")
    if tab and number(first.strip(), comma=True) is not None:
        return _LABELS
    return _TABLE if tab and line.count("&") != 4 else None


def _read_folder(folder: Path) -> Annotations:
    files = _listed(folder)
    kinds = {file: _kind_of(file) for file in files}
    known = [kind for kind in kinds.values() if kind]
    if not known:
        raise AnnotationError(
            f"{folder}: expected {AVE_FILE}, or files of annotations (.csv, .tsv, .json, .eaf, or "
            ".txt of Audacity or Raven), found none"
        )
    kind = known[0]
    for file, other in kinds.items():
        if other is not kind and (other or file.stat().st_size):
            first = next(one for one in files if kinds[one] is kind)
            raise AnnotationError(
                f"{folder}: expected files of one kind, found {first.name} ({kind.called}) and "
                f"{file.name} ({other.called if other else 'another'}); keep one kind in a folder"
            )
    if kind.one_recording:
        _check_names(folder, files)
    notes: list[str] = []
    rows = collect(folder, chain.from_iterable(_placed(file, kind, notes) for file in files))
    called = f"{folder.name} ({len(files)} {kind.called} file{'s' if len(files) > 1 else ''})"
    splits = "its own splits"
    if exists(folder / SPLITS_FILE):
        rows, splits = _with_splits(folder, rows, notes), SPLITS_FILE
    return Annotations(joined(folder, rows, []), {folder.name: called}, splits, notes)


def _listed(folder: Path) -> list[Path]:
    """The annotation files of a folder; AnnotationError for links, which could lead anywhere."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry, _ in zip(entries, range(MAX_FILES + 1), strict=False)]
    except OSError as error:
        raise AnnotationError(f"{folder}: can't be listed ({error.strerror})") from None
    if len(found) > MAX_FILES:
        raise AnnotationError(f"{folder}: more than {MAX_FILES:,} files; is it the right folder?")
    files = []
    for entry in sorted(found, key=lambda entry: entry.name):
        suffix = Path(entry.name).suffix.lower()
        if entry.name.startswith(".") or entry.name == SPLITS_FILE:
            continue
        if suffix in _KINDS or suffix == ".txt":
            if not entry.is_file(follow_symlinks=False):
                raise AnnotationError(f"{entry.path}: expected a plain file, found none; refused")
            files.append(Path(entry.path))
    return files


def _check_names(folder: Path, files: list[Path]) -> None:
    """Raise AnnotationError for two files of one recording."""
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(recording_of(file), file)
        if other is not file:
            raise AnnotationError(
                f"{folder}: {other.name} and {file.name} are both of the recording "
                f"{recording_of(file)!r}; keep one"
            )


def _placed(file: Path, kind: _Kind, notes: list[str]) -> Places:
    for place, row in kind.rows(file, notes):
        yield f"{file.name}: {place}", row


def _with_recordings(path: Path, rows: list[Row]) -> list[Row]:
    """With the recordings of the list beside a table: those without a row in it have no event.

    The list's splits count for all of them where the table names none.
    """
    listed, known = read_splits(path, needed=False), {row.id for row in rows}
    if all(row.split == NO_SPLIT for row in rows):
        rows = [replace(row, split=listed.get(row.id, NO_SPLIT)) for row in rows]
    return rows + [
        Row(recording, "", 0.0, 0.0, split, path.name, f"the row of {recording!r}")
        for recording, split in listed.items()
        if recording not in known
    ]


def _with_splits(folder: Path, rows: list[Row], notes: list[str]) -> list[Row]:
    splits = read_splits(folder / SPLITS_FILE)
    if more := splits.keys() - {row.id for row in rows}:
        notes.append(f"{len(more)} id(s) of {SPLITS_FILE} have no annotations: {min(more)!r} …")
    return [replace(row, split=splits.get(row.id, NO_SPLIT)) for row in rows]
