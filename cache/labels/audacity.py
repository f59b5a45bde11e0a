"""Audacity's label tracks: `start<tab>end<tab>label`, one file a recording, named by it.

A label made in a spectrogram has a second line, `\\<tab>low<tab>high`, its frequencies in Hz,
which mean nothing here. An empty file says that nothing in the recording is an event.
(https://manual.audacityteam.org/man/importing_and_exporting_labels.html)
"""

from __future__ import annotations

from pathlib import Path

from cache.labels.files import Places, Row, event_row, number, opened_lines, text_row
from cache.labels.media_names import recording_of


def label_rows(path: Path, notes: list[str]) -> Places:
    """The rows of a label track."""
    recording, empty = recording_of(path), True
    with opened_lines(path) as lines:
        for line in lines:
            lines.begin()
            text = line.rstrip("\r\n")
            if not text.strip():
                continue
            cells = [cell.strip(" ") for cell in text.split("\t")]
            frequencies = cells[0] == "\\" and len(cells) == 3 and not empty
            if not (frequencies and None not in map(_decimal, cells[1:])):
                yield f"line {lines.number}", _row(recording, cells, text)
            empty = False
    if empty:
        yield "line 1", event_row(recording, "", None)


def _row(recording: str, cells: list[str], text: str) -> Row | str:
    if len(cells) != 3 or not cells[0] or not cells[1]:
        return f"expected START, END and LABEL, parted by tabs, found {text[:80]!r}"
    if not cells[2]:
        return f"a label without a name, from {cells[0][:40]}; give it that of its class"
    return text_row(recording, cells[2], cells[0], cells[1], comma=True)


def _decimal(text: str) -> float | None:
    return number(text, comma=True)
