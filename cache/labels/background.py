"""Clips without an event: the list of them beside AVE's annotations, and what contradicts it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.common.errors import AnnotationError
from cache.format.names import check_id, one_form
from cache.format.schema import NO_SPLIT, SPLITS
from cache.labels.files import SPLIT_FILES, Lines, Places, Row, collect, exists, opened_lines

BACKGROUND_FILE = "background.txt"
_SHOWN = 10


def read_background(annotations: Path) -> list[Row]:
    """The clips without an event in the list beside an annotation file in AVE's format.

    Its lines are `id` or `id&split`. There is none where the annotations are one split's alone.
    Raises AnnotationError that names every bad line (the first ten).
    """
    path = annotations.parent / BACKGROUND_FILE
    if annotations.name in SPLIT_FILES.values() or not exists(path):
        return []
    with opened_lines(path) as lines:
        return collect(path, _rows(lines))


def joined(path: Path, rows: Sequence[Row], background: Sequence[Row]) -> list[Row]:
    """Both together; of a clip without an event, what names its split counts alone.

    Raises AnnotationError, with file, line and id, for clips that have an event in other rows.
    """
    together = [*rows, *background]
    empty = {row.id: row for row in together if not row.category}
    both = [(empty[row.id], row) for row in together if row.category and row.id in empty]
    if both:
        clips = len({row.id for row, _ in both})
        lines = [
            f"  {row.id}: no event by {row.place} of {row.file}, {event.category!r} by "
            f"{event.place} of {event.file}"
            for row, event in both[:_SHOWN]
        ]
        more = f"\n  … and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
        raise AnnotationError(
            f"{path}: {clips} clip(s) are said to have no event, and one as well; take "
            "one of the two lines away:\n" + "\n".join(lines) + more
        )
    settled = {row.id for row in together if not row.category and row.split != NO_SPLIT}
    return [r for r in together if r.category or r.split != NO_SPLIT or r.id not in settled]


def _rows(lines: Lines) -> Places:
    for line in lines:
        lines.begin()
        clip_id, *rest = (part.strip(" \t\r\n") for part in line.split("&"))
        if not clip_id and not rest:
            continue
        clip_id, split = one_form(clip_id), rest[0].lower() if rest else ""
        if len(rest) > 1 or (rest and split not in SPLITS):
            yield (
                f"line {lines.number}",
                f"expected ID or ID&SPLIT, with a split of {', '.join(SPLITS)}, found "
                f"{line.rstrip()[:80]!r}",
            )
        else:
            number = SPLITS.index(split) if split else NO_SPLIT
            place = f"line {lines.number}"
            yield place, check_id(clip_id) or Row(clip_id, "", 0.0, 0.0, number)
