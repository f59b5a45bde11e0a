"""Find each clip's media, in both layouts, and choose which moments of it are looked at.

Ids are matched against the names that a folder really holds; none is ever joined to a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.errors import AnnotationError
from cache.row_table import Entry
from cache.shard import Failure

CONTAINER_SUFFIXES = frozenset(
    {"mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "flv", "wmv", "3gp"}
    | {"ogv", "asf", "m4a", "mp3", "ogg", "flac"}
)
_DIGITS = re.compile(r"([0-9]+)")
PICTURE_SUFFIXES = frozenset({"jpg", "jpeg", "png"})


@dataclass(frozen=True)
class Source:
    """One clip's media.

    Either `container` (a file with both streams), or `sound` (WAV) and `frames` (a folder of
    pictures) of the processed layout, of which one may be absent. `size` and `mtime_ns` tell
    later whether it changed.
    """

    id: str
    container: Path | None = None
    sound: Path | None = None
    frames: Path | None = None
    size: int = 0
    mtime_ns: int = 0

    @property
    def path(self) -> Path:
        """The file to name in messages."""
        return self.container or self.sound or self.frames or Path(self.id)

    def made(self, row: Entry | Failure) -> bool:
        """Whether a stored row or failure came from this very media."""
        return (row.media_size, row.media_mtime_ns) == (self.size, self.mtime_ns)


def find_annotations(data: Path) -> Path:
    """The annotation file of a data folder: AVE's, or the only CSV there."""
    if data.is_file():
        return data
    for folder in _roots(data):
        for name in ("Annotations.txt", "annotations.csv"):
            if (folder / name).is_file():
                return folder / name
    tables = sorted(data.glob("*.csv")) if data.is_dir() else []
    if len(tables) == 1:
        return tables[0]
    found = f"found {len(tables)} CSV files" if data.is_dir() else "the folder doesn't exist"
    raise AnnotationError(
        f"{data}: expected Annotations.txt (AVE's format) or one CSV with the columns "
        f"id,category,start,end; {found}. Name the file with --annotations FILE"
    )


def find_sources(data: Path, ids: Iterable[str]) -> dict[str, Source]:
    """The media of each id that has any, preferring complete processed media (less to decode).

    Looks in DATA, DATA/AVE_Dataset and DATA/AVE_Processed for `AVE/<id>.<container>`,
    `<id>.<container>`, `audio_wav/<id>.wav` and `video_frames/<id>/`.
    """
    containers: dict[str, os.DirEntry[str]] = {}
    sounds: dict[str, os.DirEntry[str]] = {}
    folders: dict[str, os.DirEntry[str]] = {}
    for root in _roots(data):
        for folder in (root / "AVE", root):
            for entry in _entries(folder):
                stem, _, suffix = entry.name.rpartition(".")
                if suffix.lower() in CONTAINER_SUFFIXES:
                    containers.setdefault(stem, entry)
        for entry in _entries(root / "audio_wav"):
            stem, _, suffix = entry.name.rpartition(".")
            if suffix.lower() == "wav":
                sounds.setdefault(stem, entry)
        for entry in _entries(root / "video_frames"):
            folders.setdefault(entry.name, entry)
    sources = {}
    for clip_id in ids:
        container, sound, frames = (found.get(clip_id) for found in (containers, sounds, folders))
        if container and not (sound and frames):
            sources[clip_id] = _source(clip_id, container=container)
        elif sound or frames:
            sources[clip_id] = _source(clip_id, sound=sound, frames=frames)
    return sources


def file_source(path: Path) -> Source:
    """A single media file, or a folder of pictures, as a source.

    Its id is the name without the suffix. A WAV is read as those beside pictures are.
    """
    state = path.stat()
    size, name = state.st_size, path.stem
    kind = "sound" if path.suffix.lower() == ".wav" else "container"
    if path.is_dir():
        size, name, kind = 0, path.absolute().name, "frames"
    return Source(name, **{kind: path}, size=size, mtime_ns=state.st_mtime_ns)


def pictures(folder: Path) -> list[Path]:
    """A frame folder's pictures in natural order: frame_2 before frame_10."""
    names = [
        entry.name
        for entry in _entries(folder)
        if entry.name.rpartition(".")[2].lower() in PICTURE_SUFFIXES
    ]
    names.sort(
        key=lambda name: [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)]
    )
    return [folder / name for name in names]


def centres_s(extent_s: float, count: int) -> npt.NDArray[np.float64]:
    """The centres of `count` equal parts of [0, extent_s), in seconds: (count,)."""
    return np.linspace(0.5, count - 0.5, count) * np.float64(extent_s / count)


def _roots(data: Path) -> tuple[Path, ...]:
    return data, data / "AVE_Dataset", data / "AVE_Processed"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _source(clip_id: str, **entries: os.DirEntry[str] | None) -> Source:
    found = {name: entry for name, entry in entries.items() if entry is not None}
    states = {name: entry.stat() for name, entry in found.items()}
    return Source(
        clip_id,
        **{name: Path(entry.path) for name, entry in found.items()},
        size=sum(state.st_size for name, state in states.items() if name != "frames"),
        mtime_ns=max(state.st_mtime_ns for state in states.values()),
    )
