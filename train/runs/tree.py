"""Which runs there are under a folder: finished or not, alone, of seeds or folds, of a sweep."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cache.common.errors import ConfigError
from cache.format.lock import LOCK_FILE
from train.runs.folders import BEST, CONFIG_FILE, HANDED, RECORD_FILE
from train.runs.progress import METRICS_FILE

_MARKS = frozenset((BEST, HANDED, CONFIG_FILE, METRICS_FILE, RECORD_FILE))
_PART = re.compile(r"(seed|fold)-(\d+)")
_DEPTH = 6


@dataclass(frozen=True)
class Place:
    """A run: its folder, and those of its models, finished or not: itself, its seeds or folds."""

    folder: Path
    models: tuple[Path, ...]

    @property
    def moved(self) -> float:
        """When something happened last in one of its models, in s since 1970."""
        return max(map(_moved, self.models))


def places(root: Path) -> list[Place]:
    """All runs under a folder, itself too, in the order of their names; links aren't followed.

    Raises ConfigError where there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(
            f"{root}: no folder of runs here; train one with `python -m train fit --cache CACHE`"
        )
    return list(_places(root, _DEPTH))


def _places(folder: Path, depth: int) -> Iterator[Place]:
    names, inside = _content(folder)
    parts = [path for path in inside if _PART.fullmatch(path.name)]
    if names & _MARKS:
        yield Place(folder, (folder,))
    elif parts:
        models = [one for part in sorted(parts, key=_number) for one in _models(part)]
        yield Place(folder, tuple(models))
    elif depth:
        found = [one for path in sorted(inside) for one in _places(path, depth - 1)]
        if not found and LOCK_FILE in names:
            found = [Place(folder, (folder,))]  # whose first epoch has not begun
        yield from found


def _models(part: Path) -> list[Path]:
    """A seed's or fold's model, or a fold's seeds."""
    if part.name.startswith("seed"):
        return [part]
    seeds = [path for path in _content(part)[1] if path.name.startswith("seed-")]
    return sorted((s for s in seeds if _PART.fullmatch(s.name)), key=_number) or [part]


def _number(part: Path) -> tuple[str, int, str]:
    kind, number = part.name.split("-")
    return kind, int(number[:18]), number


def _content(folder: Path) -> tuple[set[str], list[Path]]:
    """The names in a folder, and the folders in it that a run may be in."""
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
        inside = [e.name for e in found if e.name[:1] != "." and e.is_dir(follow_symlinks=False)]
    except OSError:
        return set(), []
    return {entry.name for entry in found}, [folder / name for name in inside]


def _moved(model: Path) -> float:
    for name in (METRICS_FILE, RECORD_FILE, BEST, HANDED, LOCK_FILE, "."):
        try:
            return (model / name).lstat().st_mtime
        except OSError:
            continue
    return 0.0
