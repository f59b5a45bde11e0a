"""Which file a recording was made of, told by the size and time that its rows keep; where it is."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cache import Cache
from cache.common.errors import ConfigError
from cache.format.windows import window_of
from cache.labels.media_names import media_id

_DEEP = 4
_PLAYED = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".webm", ".mkv", ".ogv"), "video"),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".m4a", ".aac", ".ogg", ".oga", ".opus"), "audio"),
}
Made = tuple[int, int]
"""Bytes and time of change, ns, of a file."""


@dataclass(frozen=True)
class Media:
    """What the files that a person named are in a cache.

    files: of each recording that is to be looked at, None where its file is not known. failed:
    ids of windows, or recordings, that could not be extracted, and why. changed: files that are
    called as a recording is and are no longer what it was extracted from. unknown: files that a
    person named, of which the cache has nothing.
    """

    files: Mapping[str, Path | None]
    failed: Mapping[str, str]
    changed: Sequence[Path] = ()
    unknown: Sequence[Path] = ()


def find_media(cache: Cache, named: Sequence[Path]) -> Media:
    """The recordings of the files, and of the files in the folders, that a person named.

    Where none is named, all recordings. Raises ConfigError for what is not there.
    """
    failures = cache.failures
    if not named:
        failed = {name: one.message for name, one in failures.items()}
        return Media(dict.fromkeys(cache.recordings), failed)
    rows = {name: made_of(cache, rows) for name, rows in cache.recordings.items()}
    lost = {name: (one.media_size, one.media_mtime_ns) for name, one in failures.items()}
    by_made = _turned([*rows.items(), *lost.items()])
    found, failed = dict[str, Path | None](), dict[str, str]()
    changed, unknown = list[Path](), list[Path]()
    for path, made in _files(named).items():
        names = _called(by_made.get(made, []), path)
        if not names and path.stem in rows:
            names = [path.stem]
            changed.append(path)
        found |= {name: path for name in names if name in rows}
        failed |= {name: failures[name].message for name in names if name in lost}
        if not names and path in named:
            unknown.append(path)
    return Media(dict(sorted(found.items())), dict(sorted(failed.items())), changed, unknown)


def made_of(cache: Cache, rows: Sequence[int]) -> Made:
    """Size and time of the file that a recording's windows were made of."""
    size, mtime_ns = cache.media_stamps
    return int(size[rows[0]]), int(mtime_ns[rows[0]])


def _turned(made: Iterable[tuple[str, Made]]) -> dict[Made, list[str]]:
    """Which ids are of files of this size and time."""
    names: dict[Made, list[str]] = {}
    for name, one in made:
        names.setdefault(one, []).append(name)
    return names


def _called(names: Sequence[str], path: Path) -> Sequence[str]:
    """Of the ids of several files that are alike those that are called as this one is."""
    called = [name for name in names if window_of(name).recording == path.stem]
    return called or names


def _files(named: Sequence[Path]) -> dict[Path, Made]:
    """Each plain file, and each of a folder that isn't hidden, with its size and time."""
    found: dict[Path, Made] = {}
    for path in named:
        try:
            path.stat()
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError as error:
            raise ConfigError(
                f"{path}: can't be looked at ({error.strerror}); expected a media file, or a "
                "folder of such"
            ) from None
        for one in inside:
            with contextlib.suppress(OSError):  # a link that leads nowhere
                state = one.stat()
                if stat.S_ISREG(state.st_mode) and not one.name.startswith("."):
                    found[one] = (state.st_size, state.st_mtime_ns)
    return found


def path_from(media: Path | None, folder: Path) -> str | None:
    """Where a file is, as seen from a folder; None where it isn't known, or on no path."""
    if media is None:
        return None
    try:
        return Path(os.path.relpath(media.absolute(), folder.absolute())).as_posix()
    except ValueError:  # on another drive
        return None


def address(media: Path | None, folder: Path) -> str | None:
    """Where a file is, as a page in a folder names it: no path becomes a scheme or a fragment."""
    path = path_from(media, folder)
    if path is None:
        return None if media is None else media.absolute().as_uri()
    return quote(os.fsencode(path))


@dataclass(frozen=True)
class Playable:
    """A clip's file as a page plays it.

    Attributes
    ----------
    address: of the file, as the page's folder sees it; kind: "video" or "audio".
    offset_s: where in the file the clip begins.
    by_name: it is called as the clip's recording, but not the very file that was extracted.
    """

    address: str
    kind: str
    offset_s: float
    by_name: bool


def playable(
    cache: Cache, named: Sequence[Path], ids: Iterable[str], folder: Path
) -> dict[str, Playable]:
    """Of these clips those whose file is among, or in a folder of, what a person named.

    Files that browsers play, by their suffix, are looked at, in folders up to four deep; hidden
    ones and what is no regular file never. folder: where the page will be.
    """
    rows = [cache.row(clip_id) for clip_id in ids] if named else []
    wanted = {cache.windows[row].recording for row in rows}
    files = _by_recording(named, wanted)
    found = {}
    for row in rows:
        window, made = cache.windows[row], made_of(cache, [row])
        near = files.get(window.recording, {})
        order = sorted(near, key=lambda one: (near[one] != made, _kind(one) == "audio", one))
        place = address(order[0], folder) if order else None
        if place is not None:
            exact = near[order[0]] == made
            found[cache.ids[row]] = Playable(place, _kind(order[0]), window.offset_s, not exact)
    return found


def _by_recording(named: Sequence[Path], wanted: Collection[str]) -> dict[str, dict[Path, Made]]:
    """The files that are called as one of the recordings, by its name."""
    found: dict[str, dict[Path, Made]] = {}
    for path in _walked(named):
        name = media_id(path.name)
        if name in wanted and _kind(path):
            with contextlib.suppress(OSError):  # it is gone, or a link that leads nowhere
                state = path.stat()
                if stat.S_ISREG(state.st_mode):
                    made = (state.st_size, state.st_mtime_ns)
                    found.setdefault(name, {})[path] = made
    return found


def _walked(named: Sequence[Path]) -> Iterator[Path]:
    for top in named:
        if not top.exists():
            raise ConfigError(f"{top}: not there; --media names media files, or folders of such")
        if not top.is_dir():
            yield top
        for place, folders, names in os.walk(top):
            deep = len(Path(place).relative_to(top).parts)
            folders[:] = [one for one in folders if deep < _DEEP and not one.startswith(".")]
            yield from (Path(place, one) for one in names if not one.startswith("."))


def _kind(path: Path) -> str:
    """What a browser plays a file as; "" of one that it doesn't."""
    return _PLAYED.get(path.suffix.lower(), "")
