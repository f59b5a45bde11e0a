"""Annotation files, read line by line: every row that can't be understood is named.

AVE's own format (Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV
2018) has one event a line, `Category&VideoID&Quality&StartTime&EndTime`; a user's own set is a
CSV with the columns `id,category,start,end` and optionally `split`. A row without a category says
that nothing in the clip is an event. Names are brought to NFC.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import math
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

from cache.common.errors import AnnotationError
from cache.format.names import check_class, check_id, look, one_form
from cache.format.schema import NO_SPLIT, SPLITS

AVE_FILE = "Annotations.txt"
SPLIT_FILES = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
MAX_FILE_BYTES = 1 << 28
MAX_LINE = 1 << 16  # characters of a line, and of a CSV record of several lines
_AVE_HEADER = ["category", "videoid", "quality", "starttime", "endtime"]
_REQUIRED = ("id", "category", "start", "end")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|infinity|nan)")
_SHOWN = 10


Event = tuple[str, str, float | None, float | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One event: which recording, which class, from when to when (seconds), in which split.

    NaN and NaN where it is known what happens, not when. A recording without an event has one
    with an empty category, from 0 to 0. `file` and `line` are where it stands.
    """

    id: str
    category: str
    start_s: float
    end_s: float
    split: int = NO_SPLIT
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)

    @property
    def event(self) -> Event:
        """All of it but the split; None and None for a time that isn't known, equal to itself."""
        times = (None, None) if math.isnan(self.start_s) else (self.start_s, self.end_s)
        return self.id, self.category, *times


def read_csv(path: Path) -> tuple[list[Row], list[str]]:
    """The events of a CSV, and the names of the columns that mean nothing here.

    Raises AnnotationError that names every bad line (the first ten).
    """
    with opened_lines(path) as lines:
        records = _records(path, lines)
        number, header = next(((n, cells) for n, cells in records if cells), (1, []))
        places, unused = _columns(f"{path}: line {number}", header)
        found = ((n, _csv_row(cells, places, len(header))) for n, cells in records if cells)
        return collect(path, found), unused


def read_ave(path: Path) -> list[Row]:
    """The events of a file in AVE's format.

    Raises AnnotationError that names every bad line (the first ten).
    """
    with opened_lines(path) as lines:
        return collect(path, _ave_lines(lines))


def read_ave_set(path: Path) -> tuple[list[Row], list[str]]:
    """AVE's annotations with the splits that stand in files beside them; what files those were.

    Any of the three split files will do. One that is named itself, or all that are there where
    `Annotations.txt` is not, are annotations too. Rows are matched by the whole event, since an
    id may stand in several splits. Raises AnnotationError for a row that no annotation has.
    """
    split_of = {file: SPLITS.index(name) for name, file in SPLIT_FILES.items()}
    if path.name in split_of:
        return [replace(row, split=split_of[path.name]) for row in read_ave(path)], [path.name]
    files = [file for file in split_of if exists(path.parent / file)]
    stands = [replace(row, split=split_of[f]) for f in files for row in read_ave(path.parent / f)]
    if files and path.name == AVE_FILE and not exists(path):
        return stands, files
    places: dict[Event, list[int]] = defaultdict(list)
    for row in stands:
        places[row.event].append(row.split)
    rows = [
        replace(row, split=places[row.event].pop(0)) if places[row.event] else row
        for row in read_ave(path)
    ]
    unknown = [event for event, left in places.items() if left]
    if unknown:
        raise AnnotationError(
            f"{path.parent}: {len(unknown)} row(s) of the split files are not in the "
            f"annotation file {path.name}, first: {unknown[0]}"
        )
    return rows, [path.name, *files]


def exists(path: Path) -> bool:
    """Whether something stands there, be it a link to nowhere."""
    return path.is_symlink() or path.exists()


class Lines:
    """The lines of a text file, one after the other, none too long to hold; counts them."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self.number = 0
        self.begin()

    def begin(self) -> None:
        """A new record begins with the next line."""
        self.first, self._length = self.number + 1, 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._length += len(line)
        if self._length > MAX_LINE:
            many = "; is a quote left open?" if self.number > self.first else ""
            raise AnnotationError(
                f"{self._path}: line {self.first}: longer than {MAX_LINE:,} characters, "
                f"which no event is{many}"
            )
        self._check_text(line)
        return line

    def _check_text(self, line: str) -> None:
        """Raise AnnotationError for bytes that are no UTF-8, which stand as lone surrogates."""
        where = f"{self._path}: line {self.number}: expected UTF-8 text, found "
        wide = line[:2] in ("\udcff\udcfe", "\udcfe\udcff") or 3 * line.count("\0") > len(line)
        if self.number == 1 and wide:
            raise AnnotationError(f"{where}UTF-16 or no text at all; save the file as UTF-8")
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            raise AnnotationError(
                f"{where}the byte 0x{byte:02x} (Latin-1 or Windows-1252?); save the file as UTF-8"
            ) from None


@contextlib.contextmanager
def opened_lines(path: Path) -> Iterator[Lines]:
    """A plain file's lines; AnnotationError where it is none, or can't be read."""
    expected = f"expected AVE's {AVE_FILE} or a CSV with the columns {','.join(_REQUIRED)}"
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for, a device never ends
            raise AnnotationError(f"{path}: no plain file; {expected}")
        if state.st_size > MAX_FILE_BYTES:
            raise AnnotationError(
                f"{path}: {state.st_size:,} bytes, more than {MAX_FILE_BYTES:,}; {expected}"
            )
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield Lines(path, file)
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror}); {expected}") from None


def collect(path: Path, lines: Iterable[tuple[int, Row | str]]) -> list[Row]:
    """The rows of a file's numbered lines; AnnotationError that names every bad one (ten)."""
    rows: list[Row] = []
    problems: list[str] = []
    bad = 0
    classes: dict[str, tuple[str, int]] = {}  # by their look: the name, the line it first stood in
    for number, row in lines:
        if isinstance(row, Row):
            name, line = classes.setdefault(look(row.category), (row.category, number))
            if name == row.category:
                rows.append(replace(row, file=path.name, line=number))
                continue
            row = (
                f"the class {row.category!r} differs from {name!r} of line {line} in case, spaces "
                "or the form of a character alone; write both alike, or name them apart"
            )
        bad += 1
        if bad <= _SHOWN:
            problems.append(f"  line {number}: {row}")
    if bad:
        more = f"\n  … and {bad - _SHOWN} more" if bad > _SHOWN else ""
        raise AnnotationError(
            f"{path}: {bad} line(s) can't be understood:\n" + "\n".join(problems) + more
        )
    if not rows:
        raise AnnotationError(f"{path}: expected one event a line, found none")
    return rows


def _ave_lines(lines: Lines) -> Iterator[tuple[int, Row | str]]:
    for line in lines:
        lines.begin()
        parts = [part.strip(" \t\r\n") for part in line.split("&")]
        if parts == [""] or (lines.number == 1 and [p.lower() for p in parts] == _AVE_HEADER):
            continue
        if len(parts) == 5:
            yield lines.number, _row(parts[1], parts[0], parts[3], parts[4])
        else:
            hint = "; no name may have a & in it" if len(parts) > 5 else ""
            hint = "; a CSV's name ends in .csv" if len(parts) == 1 and "," in line else hint
            yield (
                lines.number,
                "expected Category&VideoID&Quality&StartTime&EndTime, found "
                f"{line.rstrip()[:80]!r}{hint}",
            )


def _records(path: Path, lines: Lines) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV with the line that each begins in; [] for one with nothing in it."""
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise AnnotationError(
                f"{path}: line {lines.first}: expected CSV; is a quote left open? ({error})"
            ) from None
        yield lines.first, cells if "".join(cells).strip() else []


def _columns(where: str, header: list[str]) -> tuple[dict[str, int], list[str]]:
    """Where each known column stands, and the names of the others."""
    names = [one_form(name).strip().lower() for name in header]
    known = (*_REQUIRED, "split")
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        shown = ",".join(name[:40] for name in names[:_SHOWN])
        other = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        raise AnnotationError(
            f"{where}: expected the columns id,category,start,end (and optionally split), "
            f"found {shown or 'nothing'}; missing: {', '.join(missing)}"
            + (f"; its columns are parted by {other!r}, save it with commas" if other else "")
        )
    for name in known:
        if names.count(name) > 1:
            raise AnnotationError(
                f"{where}: the column {name} stands {names.count(name)} times; which one counts?"
            )
    unused = [name for name in names if name and name not in known]
    near = [name for name in unused if "split" in name]
    near += difflib.get_close_matches("split", unused, 1, 0.75)
    if near and "split" not in names:
        raise AnnotationError(
            f"{where}: the column {near[0][:40]!r} is unknown; if it holds the splits, "
            "name it split, else name it differently"
        )
    return {name: names.index(name) for name in known if name in names}, unused


def _csv_row(cells: list[str], places: Mapping[str, int], width: int) -> Row | str:
    if len(cells) > width:
        return f"expected {width} cells, found more; quote what has a comma in it"
    if len(cells) <= max(places[name] for name in _REQUIRED):
        return f"expected {width} cells, found {len(cells)}"
    cell = {name: cells[at].strip(" \t") for name, at in places.items() if at < len(cells)}
    split = cell.get("split", "").lower()
    if split and split not in SPLITS:
        return f"expected a split of {', '.join(SPLITS)} or an empty one, found {split[:40]!r}"
    row = _row(cell["id"], cell["category"], cell["start"], cell["end"])
    return replace(row, split=SPLITS.index(split)) if split and isinstance(row, Row) else row


def _row(clip_id: str, category: str, start: str, end: str) -> Row | str:
    clip_id, category = one_form(clip_id), one_form(category)
    if problem := check_id(clip_id):
        return problem
    if not category:
        return Row(clip_id, "", 0.0, 0.0)
    if problem := check_class(category):
        return problem
    if not start and not end:
        return Row(clip_id, category, math.nan, math.nan)
    if not (_NUMBER.fullmatch(start.lower()) and _NUMBER.fullmatch(end.lower())):
        comma = "; write 1.5, not 1,5" if "," in start + end else ""
        return f"expected start and end in seconds, found {start[:40]!r} and {end[:40]!r}{comma}"
    start_s, end_s = float(start) + 0.0, float(end) + 0.0  # -0 is 0
    finite = math.isfinite(start_s) and math.isfinite(end_s)
    if not (finite and 0 <= start_s <= end_s):
        both = "" if finite else ", both finite"
        return f"expected 0 <= start <= end in seconds{both}, found {start_s:g} and {end_s:g}"
    return Row(clip_id, category, start_s, end_s)
