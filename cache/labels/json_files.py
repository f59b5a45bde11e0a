"""Annotations in JSON: ActivityNet's object with a `database`, or Label Studio's list of tasks."""

from __future__ import annotations

from pathlib import Path

from cache.common.errors import AnnotationError
from cache.common.strict_json import loads
from cache.labels.activitynet import database_rows
from cache.labels.files import Places, whole_file
from cache.labels.label_studio import task_rows

MAX_JSON_BYTES = 1 << 25
_PARTS = 16  # of 64 bytes: short labels, without spaces between them
_EXPECTED = (
    'expected {"database": {ID: {"subset": …, "annotations": [{"segment": [0, 1.5], …, or a list '
    "of tasks as Label Studio exports it"
)


def json_rows(path: Path, notes: list[str]) -> Places:
    """The rows of a JSON file; AnnotationError where it is none, or none of these."""
    try:
        record = loads(whole_file(path, MAX_JSON_BYTES), _PARTS)
    except ValueError as error:
        raise AnnotationError(f"{path}: this is not JSON ({error}); {_EXPECTED}") from None
    videos = record.get("database") if isinstance(record, dict) else None
    if isinstance(record, list):
        yield from task_rows(record, notes)
    elif isinstance(videos, dict):
        yield from database_rows(videos, notes)
    else:
        raise AnnotationError(f"{path}: found no database in it; {_EXPECTED}")
