"""Label Studio's export (JSON): a list of tasks, each with what people marked in one recording.

Regions of `Labels` over sound or time, in seconds, are events; others, as those of
`TimelineLabels`, which count frames of an unknown rate, are left out, which is noted.
(https://labelstud.io/guide/task_format)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from cache.format.names import check_class, one_form
from cache.labels.files import Places, Row, event_row
from cache.labels.media_names import SUFFIXES, MediaNames, media_id

_UPLOAD = re.compile(r".*/upload/[0-9]+/[0-9a-f]{8}-")  # what Label Studio puts before a name


def task_rows(tasks: list[Any], notes: list[str]) -> Places:
    """The rows of the tasks; one that nobody has annotated is left out, which is noted."""
    names, untouched, others = MediaNames(), 0, 0
    for number, task in enumerate(tasks, 1):
        place, name = f"task {number}", _media(task)
        done = [one for one in _list(task, "annotations") if not _get(one, "was_cancelled")]
        if not done and name:
            untouched += 1
        elif problem := _problem(name, done) or names.clash(name):
            yield place, problem
        else:
            regions = [r for r in _list(done[0], "result") if _get(r, "type") == "labels"]
            others += len(_list(done[0], "result")) - len(regions)
            yield from _regions(place, media_id(name), regions)
    if tasks and untouched == len(tasks):
        yield "every task", "nobody has annotated it; do that in Label Studio, then export"
    elif untouched:
        notes.append(f"{untouched} task(s) that nobody has annotated: left out")
    if others:
        notes.append(f"{others} region(s) that are no Labels in seconds: left out")


def _problem(name: str, done: list[Any]) -> str | None:
    if not name:
        return "expected a task whose data names one media file"
    if len(done) > 1:
        return f"{len(done)} annotations of {name[:80]!r}; which one counts? Keep one"
    return None


def _media(task: Any) -> str:
    """The name of a task's media file, "" for none or several."""
    data = _get(task, "data")
    texts = [text for text in data.values() if isinstance(text, str)] if _is(data) else []
    found = {
        unquote(_UPLOAD.sub("", text).rpartition("?d=")[2])
        for text in texts
        if text.rpartition(".")[2].lower() in SUFFIXES
    }
    return found.pop() if len(found) == 1 else ""


def _regions(place: str, clip_id: str, regions: list[Any]) -> Places:
    for number, region in enumerate(regions, 1):
        for row in _rows(clip_id, _get(region, "value")):
            yield f"{place}, region {number}", row
    if not regions:
        yield place, event_row(clip_id, "", None)


def _rows(clip_id: str, value: Any) -> Iterator[Row | str]:
    start_s, end_s, labels = (_get(value, name) for name in ("start", "end", "labels"))
    if not all(type(time) in (int, float) for time in (start_s, end_s)):
        yield "expected a start and an end, in seconds"
    elif not labels or not isinstance(labels, list) or {type(name) for name in labels} != {str}:
        yield "expected a label: which class is it?"
    else:
        for name in dict.fromkeys(one_form(name).strip() for name in labels):
            yield check_class(name) or event_row(clip_id, name, (float(start_s), float(end_s)))


def _get(value: Any, name: str) -> Any:
    return value.get(name) if _is(value) else None


def _list(value: Any, name: str) -> list[Any]:
    found = _get(value, name)
    return found if isinstance(found, list) else []


def _is(value: Any) -> bool:
    return isinstance(value, dict)
