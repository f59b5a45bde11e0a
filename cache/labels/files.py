"""Annotation files, read line by line: every row that can't be understood is named.

Here is what all formats share, and AVE's own (Tian et al., "Audio-Visual Event Localization in
Unconstrained Videos", ECCV 2018), which has one event a line,
`Category&VideoID&Quality&StartTime&EndTime`. A row without a category says that nothing in the
recording is an event, one without times that it happens somewhere in it. Names are brought to NFC.
"""

from __future__ import annotations

import contextlib
import math
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
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
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|infinity|nan)")
_SHOWN = 10
_EXPECTED = (
    f"expected AVE's {AVE_FILE}, a table with the columns id,category,start,end, or another "
    "format of docs/labels.md"
)

Event = tuple[str, str, float | None, float | None]
Places = Iterator[tuple[str, "Row | str"]]
"""What stands at each place of a file: a row, or what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event: which recording, which class, from when to when (seconds), in which split.

    NaN and NaN where it is known what happens, not when. A recording without an event has one
    with an empty category, from 0 to 0. `file` and `place` (`line 3`) are where it stands.
    """

    id: str
    category: str
    start_s: float
    end_s: float
    split: int = NO_SPLIT
    file: str = field(default="", compare=False)
    place: str = field(default="", compare=False)

    @property
    def event(self) -> Event:
        """All of it but the split; None and None for a time that isn't known, equal to itself."""
        times = (None, None) if math.isnan(self.start_s) else (self.start_s, self.end_s)
        return self.id, self.category, *times


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
    with (
        _plain(path, MAX_FILE_BYTES),
        path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
    ):
        yield Lines(path, file)


def whole_file(path: Path, limit_bytes: int) -> bytes:
    """All of a plain file; AnnotationError where it is none, can't be read, or is larger."""
    with _plain(path, limit_bytes), path.open("rb") as file:
        return file.read(limit_bytes)


@contextlib.contextmanager
def _plain(path: Path, limit_bytes: int) -> Iterator[None]:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):  # a pipe would be waited for, a device never ends
            raise AnnotationError(f"{path}: no plain file; {_EXPECTED}")
        if state.st_size > limit_bytes:
            raise AnnotationError(
                f"{path}: {state.st_size:,} bytes, more than {limit_bytes:,}; {_EXPECTED}"
            )
        yield
    except OSError as error:
        raise AnnotationError(f"{path}: can't be read ({error.strerror}); {_EXPECTED}") from None


def collect(path: Path, found: Iterable[tuple[str, Row | str]]) -> list[Row]:
    """The rows of a file's places; AnnotationError that names every bad one (ten)."""
    rows: list[Row] = []
    problems: list[str] = []
    bad = 0
    classes: dict[str, tuple[str, str]] = {}  # by their look: the name, where it first stood
    for place, row in found:
        if isinstance(row, Row):
            name, first = classes.setdefault(look(row.category), (row.category, place))
            if name == row.category:
                rows.append(replace(row, file=path.name, place=place))
                continue
            row = (
                f"the class {row.category!r} differs from {name!r} of {first} in case, spaces or "
                "the form of a character alone; write both alike, or name them apart"
            )
        bad += 1
        if bad <= _SHOWN:
            problems.append(f"  {place}: {row}")
    if bad:
        more = f"\n  … and {bad - _SHOWN} more" if bad > _SHOWN else ""
        what = "line" if problems[0].startswith("  line ") else "place"
        raise AnnotationError(
            f"{path}: {bad} {what}(s) can't be understood:\n" + "\n".join(problems) + more
        )
    if not rows:
        raise AnnotationError(f"{path}: expected one event a line, found none")
    return rows


def text_row(clip_id: str, category: str, start: str, end: str, comma: bool = False) -> Row | str:
    """A row of four texts, or what is wrong with them; with `comma`, 1,5 is a number, too."""
    if not category or not (start or end):
        return event_row(clip_id, category, None)
    start_s, end_s = number(start, comma), number(end, comma)
    if start_s is not None and end_s is not None:
        return event_row(clip_id, category, (start_s, end_s))
    hint = "; write 1.5, not 1,5" if "," in start + end and not comma else ""
    problem = event_row(clip_id, category, None)
    if isinstance(problem, str):
        return problem
    return f"expected start and end in seconds, found {start[:40]!r} and {end[:40]!r}{hint}"


def event_row(clip_id: str, category: str, times_s: tuple[float, float] | None) -> Row | str:
    """A row, or what is wrong with its names or times; without times it isn't known when."""
    clip_id, category = one_form(clip_id), one_form(category)
    if problem := check_id(clip_id):
        return problem
    if not category:
        return Row(clip_id, "", 0.0, 0.0)
    if problem := check_class(category):
        return problem
    start_s, end_s = times_s or (math.nan, math.nan)
    if times_s and not 0 <= start_s <= end_s < math.inf:
        both = "" if math.isfinite(start_s) and math.isfinite(end_s) else ", both finite"
        return f"expected 0 <= start <= end in seconds{both}, found {start_s:g} and {end_s:g}"
    return Row(clip_id, category, start_s + 0.0, end_s + 0.0)  # -0 is 0


def number(text: str, comma: bool = False) -> float | None:
    """The number that a text is, as people write them (no 1_0, no 0x10), or None."""
    text = text.lower()
    if comma and "." not in text:
        text = text.replace(",", ".")
    return float(text) if _NUMBER.fullmatch(text) else None


def split_number(text: str) -> int | None:
    """The split that a word means, NO_SPLIT for an empty one, or None."""
    return _SPLIT_WORDS.get(text.strip().lower())


_SPLIT_WORDS = {"": NO_SPLIT} | {
    word: SPLITS.index(name)
    for name, words in {
        "train": ("train", "training"),
        "val": ("val", "valid", "validation"),
        "test": ("test", "testing"),
    }.items()
    for word in words
}


def _ave_lines(lines: Lines) -> Places:
    for line in lines:
        lines.begin()
        parts = [part.strip(" \t\r\n") for part in line.split("&")]
        if parts == [""] or (lines.number == 1 and [p.lower() for p in parts] == _AVE_HEADER):
            continue
        place = f"line {lines.number}"
        if len(parts) == 5:
            yield place, text_row(parts[1], parts[0], parts[3], parts[4])
        else:
            hint = "; no name may have a & in it" if len(parts) > 5 else ""
            hint = "; a CSV's name ends in .csv" if len(parts) == 1 and "," in line else hint
            yield (
                place,
                "expected Category&VideoID&Quality&StartTime&EndTime, found "
                f"{line.rstrip()[:80]!r}{hint}",
            )
