"""The JSON of ActivityNet, which UnAV-100, THUMOS and others share: `database → id → annotations`.

Each video has a `subset` and a list of annotations, `{"segment": [start, end], "label": …}`, in
seconds (Caba Heilbron et al., "ActivityNet", CVPR 2015; Geng et al., "Dense-Localizing
Audio-Visual Events in Untrimmed Videos", CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cache.format.names import check_class, one_form
from cache.format.schema import SPLITS
from cache.labels.files import Places, Row, event_row, split_number
from cache.labels.media_names import MediaNames, media_id

_TEST = SPLITS.index("test")


def database_rows(videos: Mapping[str, Any], notes: list[str]) -> Places:
    """The rows of the videos in a `database`.

    A video without annotations has no event; but where no video of the test subset has any, their
    labels are held back, as ActivityNet's are: these are left out, which is noted.
    """
    test = [v for v in videos.values() if isinstance(v, dict) and _subset(v) == _TEST]
    held_back = bool(test) and not any(video.get("annotations") for video in test)
    if held_back:
        notes.append(f"{len(test)} video(s) of the test subset, none with a label: left out")
    names = MediaNames()
    for name, video in videos.items():
        place = f"video {name[:80]!r}"
        if problem := names.clash(name) or _problem(video):
            yield place, problem
        elif not (held_back and _subset(video) == _TEST):
            yield from _video(place, media_id(name), video)


def _problem(video: Any) -> str | None:
    if not isinstance(video, dict) or not isinstance(video.get("annotations"), list):
        return "expected an object with a list of annotations"
    if _subset(video) is None:
        words = "training, validation, testing"
        return f"expected a subset of {words}, found {str(video['subset'])[:40]!r}"
    return None


def _subset(video: Mapping[str, Any]) -> int | None:
    subset = video.get("subset", "")
    return split_number(subset) if isinstance(subset, str) else None


def _video(place: str, clip_id: str, video: Mapping[str, Any]) -> Places:
    split = _subset(video)
    assert split is not None  # _problem has looked
    events: list[Any] = video["annotations"]
    rows = [_row(clip_id, event) for event in events] or [event_row(clip_id, "", None)]
    for count, row in enumerate(rows, 1):
        where = f"{place}, annotation {count}" if events else place
        yield where, replace(row, split=split) if isinstance(row, Row) else row


def _row(clip_id: str, event: Any) -> Row | str:
    segment = event.get("segment") if isinstance(event, dict) else None
    label = event.get("label") if isinstance(event, dict) else None
    if not isinstance(label, str) or not isinstance(segment, list) or len(segment) != 2:
        return 'expected {"segment": [START, END], "label": TEXT}'
    if not all(type(time) in (int, float) for time in segment):
        return f"expected two numbers, in seconds, found {str(segment)[:80]}"
    label = label.strip()
    return check_class(one_form(label)) or event_row(
        clip_id, label, (float(segment[0]), float(segment[1]))
    )
