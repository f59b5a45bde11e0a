"""Annotation and split files → labels.

The AVE dataset (Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV
2018) writes one event a line, `Category&VideoID&Quality&StartTime&EndTime`; a user's own set is
a CSV with the columns `id,category,start,end` and optionally `split`. Labels are kept per row: an
id may have several rows with different categories.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.errors import AnnotationError
from cache.schema import MAX_ID_BYTES, SPLITS

NO_SPLIT = -1
SPLIT_FILES = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
_HEADER = ["category", "videoid", "quality", "starttime", "endtime"]


@dataclass(frozen=True)
class Labels:
    """R events: which clip, which class, from when to when, in which split.

    Attributes
    ----------
    ids: clip id of each row; an id may stand in several rows.
    classes: class names in order of first appearance.
    category: (R,) int64 index into `classes`.
    start_s, end_s: (R,) float64 seconds from clip start; start = end is an empty event.
    split: (R,) int8 index into ("train", "val", "test"), or -1 for none.
    source: where the rows and the splits came from, for people.
    notes: what was changed on reading (events cut at the clip's end, …).
    """

    ids: list[str]
    classes: list[str]
    category: npt.NDArray[np.int64]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    split: npt.NDArray[np.int8]
    source: str = ""
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Row numbers of a split, in file order."""
        return np.flatnonzero(self.split == SPLITS.index(split)).astype(np.int64)

    def equals(self, other: Labels) -> bool:
        """Whether both hold the same rows, classes and splits."""
        mine, theirs = (
            (labels.ids, labels.classes, labels.notes, labels.source) for labels in (self, other)
        )
        return mine == theirs and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("category", "start_s", "end_s", "split")
        )

    def leaks(self) -> dict[tuple[str, str], list[str]]:
        """Ids that stand in two splits, for each pair of splits that shares any."""
        members = {name: {self.ids[row] for row in self.rows(name)} for name in SPLITS}
        shared = {(a, b): sorted(members[a] & members[b]) for a, b in combinations(SPLITS, 2)}
        return {pair: ids for pair, ids in shared.items() if ids}


@dataclass(frozen=True)
class _Row:
    id: str
    category: str
    start_s: float
    end_s: float
    split: str = ""

    @property
    def key(self) -> tuple[str, str, float, float]:
        return self.id, self.category, self.start_s, self.end_s


def read_annotations(path: Path, clip_seconds: float, split_seed: int = 42) -> Labels:
    """Read an AVE annotation file (with the split files beside it) or a CSV.

    Without split files (or a `split` column) ids are divided 70/15/15, stratified by class and
    grouped by id, in an order that depends on `split_seed` and the ids alone.

    Raises AnnotationError that names every bad line (the first ten).
    """
    if path.suffix.lower() == ".csv":
        rows = _read_csv(path)
        if any(row.split for row in rows):
            splits = [SPLITS.index(row.split) if row.split else NO_SPLIT for row in rows]
            source = f"{path.name}, its own splits"
        else:
            splits, source = _divide(rows, split_seed), _divided(path, split_seed)
    else:
        rows = _read_ave(path)
        files = {name: path.parent / file for name, file in SPLIT_FILES.items()}
        present = {name: file for name, file in files.items() if file.exists()}
        if len(present) == len(files):
            splits, source = (
                _official(rows, files),
                f"{path.name}, {', '.join(SPLIT_FILES.values())}",
            )
        elif present:
            missing = ", ".join(str(files[name]) for name in files if name not in present)
            raise AnnotationError(
                f"{path.parent}: expected all three split files or none, missing: {missing}"
            )
        else:
            splits, source = _divide(rows, split_seed), _divided(path, split_seed)
    return _labels(rows, splits, clip_seconds, source)


def check_id(clip_id: str) -> str | None:
    """What is wrong with an id, or None. Ids name files, so nothing in them may leave a folder."""
    if not clip_id or clip_id in {".", ".."}:
        return f"{clip_id!r} is no clip id"
    if len(clip_id.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        return f"the id {clip_id[:20]!r}… is longer than {MAX_ID_BYTES} bytes"
    if not clip_id.isprintable() or "/" in clip_id or "\\" in clip_id:
        return f"the id {clip_id!r} has a slash or a control character"
    return None


def _divided(path: Path, seed: int) -> str:
    return f"{path.name}, divided 70/15/15 by id with seed {seed}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AnnotationError(
            f"{path}: can't be read ({error.strerror}); expected AVE's Annotations.txt or a CSV "
            "with the columns id,category,start,end"
        ) from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: expected UTF-8 text ({error})") from None


def _collect(path: Path, lines: Iterable[tuple[int, _Row | str]]) -> list[_Row]:
    rows: list[_Row] = []
    problems: list[str] = []
    for number, row in lines:
        if isinstance(row, _Row):
            rows.append(row)
        else:
            problems.append(f"  line {number}: {row}")
    if problems:
        more = f"\n  … and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise AnnotationError(
            f"{path}: {len(problems)} line(s) can't be understood:\n"
            + "\n".join(problems[:10])
            + more
        )
    if not rows:
        raise AnnotationError(f"{path}: expected one event a line, found none")
    return rows


def _read_ave(path: Path) -> list[_Row]:
    return _collect(path, _ave_lines(_read_text(path)))


def _ave_lines(text: str) -> Iterator[tuple[int, _Row | str]]:
    for number, line in enumerate(text.splitlines(), 1):
        parts = [part.strip() for part in line.split("&")]
        if not line.strip() or (number == 1 and [part.lower() for part in parts] == _HEADER):
            continue
        if len(parts) != 5:
            yield (
                number,
                f"expected Category&VideoID&Quality&StartTime&EndTime, found {line[:80]!r}",
            )
        else:
            yield number, _row(parts[1], parts[0], parts[3], parts[4])


def _read_csv(path: Path) -> list[_Row]:
    reader = csv.DictReader(_read_text(path).splitlines(), skipinitialspace=True)
    names = [name.strip().lower() for name in reader.fieldnames or []]
    missing = [name for name in ("id", "category", "start", "end") if name not in names]
    if missing:
        raise AnnotationError(
            f"{path}: expected the columns id,category,start,end (and optionally split), "
            f"found {','.join(names) or 'nothing'}; missing: {', '.join(missing)}"
        )
    reader.fieldnames = names
    try:
        return _collect(path, ((reader.line_num, _csv_row(values)) for values in reader))
    except csv.Error as error:
        raise AnnotationError(
            f"{path}: line {reader.line_num}: expected CSV; is a quote left open? ({error})"
        ) from None


def _csv_row(values: dict[str, str | None]) -> _Row | str:
    if None in values:
        return f"expected {len(values) - 1} cells, found more; quote what has a comma in it"
    cell = {name: (value or "").strip() for name, value in values.items()}
    split = cell.get("split", "").lower()
    if split and split not in SPLITS:
        return f"expected a split of {', '.join(SPLITS)} or an empty one, found {split!r}"
    row = _row(cell["id"], cell["category"], cell["start"], cell["end"])
    return replace(row, split=split) if isinstance(row, _Row) else row


def _row(clip_id: str, category: str, start: str, end: str) -> _Row | str:
    problem = check_id(clip_id)
    if problem:
        return problem
    if not category:
        return f"expected a category for {clip_id!r}, found none"
    try:
        start_s, end_s = float(start), float(end)
    except ValueError:
        return f"expected start and end in seconds, found {start!r} and {end!r}"
    if not (math.isfinite(start_s) and math.isfinite(end_s) and 0 <= start_s <= end_s):
        return f"expected 0 <= start <= end in seconds, found {start_s:g} and {end_s:g}"
    return _Row(clip_id, category, start_s, end_s)


def _official(rows: list[_Row], files: dict[str, Path]) -> list[int]:
    """Split of each row, matched by the whole event since an id may stand in several splits."""
    places: dict[tuple[str, str, float, float], list[int]] = defaultdict(list)
    for name, file in files.items():
        for row in _read_ave(file):
            places[row.key].append(SPLITS.index(name))
    splits = [places[row.key].pop(0) if places[row.key] else NO_SPLIT for row in rows]
    unknown = [key for key, left in places.items() if left]
    if unknown:
        raise AnnotationError(
            f"{files['train'].parent}: {len(unknown)} row(s) of the split files are not in the "
            f"annotation file, first: {unknown[0]}"
        )
    return splits


def _divide(rows: list[_Row], seed: int) -> list[int]:
    """70/15/15 by id, stratified by an id's first class. Hash order: equal on every machine."""
    class_of: dict[str, str] = {}
    for row in rows:
        class_of.setdefault(row.id, row.category)
    members: dict[str, list[str]] = defaultdict(list)
    for clip_id, category in class_of.items():
        members[category].append(clip_id)
    split_of: dict[str, int] = {}
    for ids in members.values():
        ids.sort(key=lambda clip_id: hashlib.sha256(f"{seed}:{clip_id}".encode()).digest())
        held_out = round(0.15 * len(ids))
        for place, clip_id in enumerate(ids):
            split_of[clip_id] = 1 if place < held_out else 2 if place < 2 * held_out else 0
    return [split_of[row.id] for row in rows]


def _labels(rows: list[_Row], splits: list[int], clip_seconds: float, source: str) -> Labels:
    """Cut events at the clip's end (the media is cut there too) and number the classes."""
    kept = [n for n, row in enumerate(rows) if row.start_s < clip_seconds]
    cut = sum(rows[n].end_s > clip_seconds for n in kept)
    notes = []
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} event(s) begin after {clip_seconds:g} s: left out")
    if cut:
        notes.append(f"{cut} event(s) end after {clip_seconds:g} s: cut there")
    if not kept:
        raise AnnotationError(f"{source}: no event begins within the first {clip_seconds:g} s")
    classes = list(dict.fromkeys(rows[n].category for n in kept))
    number = {name: index for index, name in enumerate(classes)}
    return Labels(
        ids=[rows[n].id for n in kept],
        classes=classes,
        category=np.array([number[rows[n].category] for n in kept], np.int64),
        start_s=np.array([rows[n].start_s for n in kept], np.float64),
        end_s=np.array([min(rows[n].end_s, clip_seconds) for n in kept], np.float64),
        split=np.array([splits[n] for n in kept], np.int8),
        source=source,
        notes=notes,
    )
