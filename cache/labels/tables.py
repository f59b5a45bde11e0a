"""Tables of events: a CSV of one's own, DCASE's, BirdNET's, Raven's selection tables.

The columns are `id,category,start,end` and optionally `split`, or what other programs call them;
commas, semicolons or tabs part them.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from cache.common.errors import AnnotationError
from cache.format.names import check_id, one_form
from cache.format.schema import SPLITS
from cache.labels.files import Lines, Places, Row, number, opened_lines, split_number, text_row
from cache.labels.media_names import MediaNames, media_id, recording_of

_ALIASES = {
    "id": ("media", "filename", "file", "recording", "audio filename", "begin file", "filepath"),
    "category": ("event label", "label", "class", "event", "species", "common name", "annotation"),
    "start": ("onset", "start s", "start time", "begin time (s)", "start (s)"),
    "end": ("offset", "end s", "end time", "end time (s)", "end (s)"),
    "split": ("subset",),
}
_TIMES_OF_ONE_FILE = ("begin time (s)", "start (s)")  # Raven's and BirdNET's: a file a recording
_PATH, _IN_FILE = "begin path", "file offset (s)"
_SHOWN = 10


@dataclass(frozen=True)
class _Columns:
    """Where each known column stands, and how its cells are meant."""

    places: Mapping[str, int]
    width: int
    comma: bool  # whether 1,5 is a number
    media: bool  # whether ids are names of media files
    recording: str  # the id of all rows where there is no such column

    @property
    def least(self) -> int:
        """The cells that a row has at least."""
        return 1 + max(at for name, at in self.places.items() if name != "split")


_OURS = ("confidence",)
"""Columns that our own lists of found events have: nothing to be said of them."""


def table_rows(path: Path, notes: list[str]) -> Places:
    """The rows of a table; what columns mean nothing here is noted."""
    with opened_lines(path) as lines:
        mark, records = _records(path, lines)
        place, header = next(((n, cells) for n, cells in records if cells), ("line 1", []))
        columns, unused = _columns(path, place, header, mark)
        unused = [name for name in unused if name.strip().lower() not in _OURS]
        if unused:
            shown = ", ".join(name[:80] for name in unused[:5]) + (" …" if len(unused) > 5 else "")
            notes.append(f"{len(unused)} column(s) not used: {shown}")
        names = MediaNames()
        for place, cells in records:
            if cells:
                yield place, _row(cells, columns, names)


def read_splits(path: Path, needed: bool = True) -> dict[str, int]:
    """The split of each recording by a table with the columns id (or media) and split.

    Without `needed` there may be no such column, and all are in none.

    Raises AnnotationError that names the first bad line.
    """
    found: dict[str, int] = {}
    with opened_lines(path) as lines:
        _, records = _records(path, lines)
        place, header = next(((n, cells) for n, cells in records if cells), ("line 1", []))
        known, _ = _known(f"{path}: {place}", header)
        if "id" not in known or (needed and "split" not in known):
            raise AnnotationError(f"{path}: {place}: expected the columns id,split")
        at, split_at = known["id"][0], known.get("split", (None, ""))[0]
        for place, cells in records:
            if not cells:
                continue
            if len(cells) <= max(at, split_at or 0):
                raise AnnotationError(f"{path}: {place}: expected an id and a split")
            name, text = cells[at].strip(" \t"), "" if split_at is None else cells[split_at]
            clip_id = one_form(name) if known["id"][1] == "id" else media_id(name)
            if problem := check_id(clip_id):
                raise AnnotationError(f"{path}: {place}: {problem}")
            split = split_number(text)
            if split is None or found.setdefault(clip_id, split) != split:
                raise AnnotationError(
                    f"{path}: {place}: expected one split of {', '.join(SPLITS)} for {clip_id!r}, "
                    f"found {text[:40]!r}"
                )
    return found


def _records(path: Path, lines: Lines) -> tuple[str, Iterator[tuple[str, list[str]]]]:
    """What parts the cells, and the records with the place of each; [] for an empty one."""
    first = ""
    while not first.strip():
        lines.begin()
        first = next(lines, "")
        if not first:
            break
    mark = max(",\t;", key=first.count)

    def records() -> Iterator[tuple[str, list[str]]]:
        text = chain([first], lines) if first else lines
        reader = csv.reader(text, strict=True, skipinitialspace=True, delimiter=mark)
        begun = False
        while True:
            if begun:
                lines.begin()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise AnnotationError(
                    f"{path}: line {lines.first}: expected CSV; is a quote left open? ({error})"
                ) from None
            begun = True
            yield f"line {lines.first}", cells if "".join(cells).strip() else []

    return mark, records()


def _known(where: str, header: list[str]) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Each known column: where it stands, by which name; and the names of the others."""
    names = [one_form(name).strip().lower() for name in header]
    plain = [name.replace("_", " ") for name in names]
    known: dict[str, tuple[int, str]] = {}
    for column, aliases in _ALIASES.items():
        called = [name for name in plain if name == column]
        called = called or [name for name in plain if name in aliases]
        if column == "id" and not called:
            called = [name for name in plain if name == _PATH]
        if len(called) > 1 and len(set(called)) == 1:
            raise AnnotationError(
                f"{where}: the column {names[plain.index(called[0])]} stands {len(called)} times; "
                "which one counts?"
            )
        if len(called) > 1:
            both = " and ".join(repr(names[plain.index(name)]) for name in called[:2])
            raise AnnotationError(
                f"{where}: the columns {both} may both be the {column}; which one counts? Name it "
                f"{column}"
            )
        if called:
            known[column] = plain.index(called[0]), called[0]
    taken = {at for at, _ in known.values()}
    return known, [name for at, name in enumerate(names) if name and at not in taken]


def _columns(path: Path, place: str, header: list[str], mark: str) -> tuple[_Columns, list[str]]:
    where = f"{path}: {place}"
    known, unused = _known(where, header)
    of_one_file = known.get("start", (0, ""))[1] in _TIMES_OF_ONE_FILE
    needed = ("category", "start", "end") if of_one_file else ("id", "category", "start", "end")
    if missing := [name for name in needed if name not in known]:
        shown = ",".join(name[:40] for name in header[:_SHOWN])
        other = len(header) == 1 and "|" in header[0]
        raise AnnotationError(
            f"{where}: expected the columns id,category,start,end (and optionally split), or what "
            f"docs/labels.md lists for them, found {shown or 'nothing'}; missing: "
            + ", ".join(missing)
            + ("; its columns are parted by '|', save it with commas" if other else "")
        )
    near = [name for name in unused if "split" in name]
    near += difflib.get_close_matches("split", unused, 1, 0.75)
    if near and "split" not in known:
        raise AnnotationError(
            f"{where}: the column {near[0][:40]!r} is unknown; if it holds the splits, "
            "name it split, else name it differently"
        )
    places = {name: at for name, (at, _) in known.items()}
    if of_one_file and _IN_FILE in unused:
        places[_IN_FILE] = [name.strip().lower() for name in header].index(_IN_FILE)
        unused.remove(_IN_FILE)
    media = known.get("id", (0, "id"))[1] != "id"
    return _Columns(places, len(header), mark != ",", media, recording_of(path)), unused


def _row(cells: list[str], columns: _Columns, names: MediaNames) -> Row | str:
    width, places = columns.width, columns.places
    if len(cells) > width:
        return f"expected {width} cells, found more; quote what has a comma in it"
    if len(cells) < columns.least:
        return f"expected {width} cells, found {len(cells)}"
    cell = {name: cells[at].strip(" \t") for name, at in places.items() if at < len(cells)}
    split = split_number(cell.get("split", ""))
    if split is None:
        found = cell["split"][:40]
        return f"expected a split of {', '.join(SPLITS)} or an empty one, found {found!r}"
    clip_id = cell.get("id", columns.recording)
    if columns.media:
        if problem := names.clash(clip_id):
            return problem
        clip_id = media_id(clip_id)
    row = text_row(clip_id, cell["category"], cell["start"], cell["end"], columns.comma)
    if isinstance(row, Row) and row.category and _IN_FILE in cell:
        row = _in_its_file(row, number(cell[_IN_FILE], columns.comma))
    return replace(row, split=split) if isinstance(row, Row) else row


def _in_its_file(row: Row, offset_s: float | None) -> Row | str:
    """A row on its own file's clock: Raven's begin and end count through all files of a table."""
    if offset_s is None or not 0 <= offset_s < float("inf"):
        return "expected the column File Offset (s) in seconds"
    end_s = round(offset_s + row.end_s - row.start_s, 6)
    return replace(row, start_s=offset_s, end_s=max(offset_s, end_s))
