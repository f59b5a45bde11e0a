"""Names of media files, as other programs write them into annotations, and the ids they stand for.

A recording's id is the name of its file without folder and suffix.
"""

from __future__ import annotations

import re
from pathlib import Path

from cache.format.names import one_form

SUFFIXES = (
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "flv", "wmv", "3gp",
    "ogv", "asf", "wav", "m4a", "mp3", "ogg", "oga", "opus", "flac", "aac", "aif", "aiff", "wma",
)  # fmt: skip
_TAILS = re.compile(  # what Raven, BirdNET and people put behind a recording's name
    r"(\.Table\.\d+)?\.selections?|\.BirdNET\.(selection\.table|results)|[._]labels", re.IGNORECASE
)


class MediaNames:
    """The media names of a file; two that give one id are a contradiction."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def clash(self, name: str) -> str | None:
        """What is wrong with a name among those before it, or None."""
        other = self._names.setdefault(media_id(name), name)
        if other == name:
            return None
        return (
            f"the media {name[:80]!r} and {other[:80]!r} have one name but for folder or suffix; "
            "name them alike, or apart"
        )


def media_id(name: str) -> str:
    """The id of the recording that a media name stands for.

    Examples
    --------
    >>> media_id("audio/rec_1.wav"), media_id("C:\\\\x\\\\rec_1.MP4"), media_id("Dr. Who")
    ('rec_1', 'rec_1', 'Dr. Who')
    """
    name = re.split(r"[/\\]", one_form(name))[-1]
    stem, _, suffix = name.rpartition(".")
    return stem if stem and suffix.lower() in SUFFIXES else name


def recording_of(path: Path) -> str:
    """The id of the recording that an annotation file is named by.

    Examples
    --------
    >>> recording_of(Path("rec_1.mp4.txt")), recording_of(Path("rec_1.Table.1.selections.txt"))
    ('rec_1', 'rec_1')
    """
    stem = path.stem
    tail = next((t for t in _TAILS.finditer(stem) if t.end() == len(stem)), None)
    return media_id(stem[: tail.start()] if tail and tail.start() else stem)
