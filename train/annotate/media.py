"""Which file a recording of a cache was made of: told by the size and time that its rows keep."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache import Cache
from cache.common.errors import ConfigError
from cache.format.windows import window_of

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
