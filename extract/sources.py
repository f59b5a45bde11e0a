"""One clip's media: its files, whether they changed, their order in time, the moments looked at."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cache.format.names import check_id
from cache.format.row_table import Entry
from cache.format.schema import MAX_ID_BYTES
from cache.format.shard import Failure

PICTURE_SUFFIXES = frozenset({"jpg", "jpeg", "png"})
_SECOND_NS = 10**9
_TIMES_NS = range(-(2**62), 2**62)
# Of 1.0.25, the last two belong together: a number, and a time after it.
_NUMBER = re.compile(r"([0-9]+(?:[.,][0-9]+(?![0-9]|[.,][0-9]))?)")
_WHOLE_NUMBER = re.compile(r"-?[0-9]+(?:[.,][0-9]+)?")


@dataclass(frozen=True)
class MediaSource:
    """One clip's media.

    Either `container` (a file with both streams), or `sound` (WAV) and `frames` (a folder of
    pictures) of the processed layout, of which one may be absent. `size` and `mtime_ns` tell
    later whether it changed (see `signature`). `problem` is why it can't be looked at, "" where
    it can, and `culprit` the path that is meant; `note` is what a person should know about the
    choice. Of a stretch of a recording, `offsets_s` are its windows, and `wanted` the ids of those
    whose rows are to be made; `gone` are those it had when its media was longer. Of a clip alone
    they are empty.
    """

    id: str
    container: Path | None = None
    sound: Path | None = None
    frames: Path | None = None
    size: int = 0
    mtime_ns: int = 0
    problem: str = ""
    culprit: Path | None = None
    note: str = ""
    offsets_s: tuple[float, ...] = ()
    wanted: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    @property
    def clip_ids(self) -> tuple[str, ...]:
        """The clips of which it leaves a row or a failure."""
        return (*self.wanted, *self.gone) or (self.id,)

    @property
    def path(self) -> Path:
        """The file to name in messages."""
        return self.culprit or self.container or self.sound or self.frames or Path(self.id)

    def made(self, row: Entry | Failure) -> bool:
        """Whether a stored row or failure came from this very media."""
        return (row.media_size, row.media_mtime_ns) == (self.size, self.mtime_ns)


def signature(files: Sequence[tuple[str, os.stat_result | None]]) -> tuple[int, int]:
    """(bytes, time of change in ns) of a clip's files, by which a change is noticed.

    Of one file both are the file's own. Of several, the bytes are added and the time is the
    newest's second; its nanoseconds are a checksum of every file's name, size and time, so that
    no change hides behind another file. A file that can't be looked at counts as such (None).
    """
    states = [state for _, state in files if state is not None]
    size = sum(state.st_size for state in states)
    newest_ns = max((state.st_mtime_ns for state in states), default=0)
    newest_ns = min(max(newest_ns, _TIMES_NS.start), _TIMES_NS.stop - 1)
    if len(files) == 1:
        return size, newest_ns
    facts = [(name, state and (state.st_size, state.st_mtime_ns)) for name, state in files]
    digest = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).digest()
    checksum = int.from_bytes(digest[:8], "big") % _SECOND_NS
    return size, newest_ns // _SECOND_NS * _SECOND_NS + checksum


def file_source(path: Path) -> MediaSource:
    """A single media file, or a folder of pictures, as a source.

    Its id is the name without the suffix. A WAV is read as those beside pictures are.
    """
    if path.is_dir():
        states = [(entry.name, entry.stat()) for entry in picture_files(path)]
        size, mtime_ns = signature(states)
        return MediaSource(safe_id(path.absolute().name), frames=path, size=size, mtime_ns=mtime_ns)
    size, mtime_ns = signature([(path.name, path.stat())])
    source = MediaSource(safe_id(path.stem), size=size, mtime_ns=mtime_ns)
    is_wav = path.suffix.lower() == ".wav"
    return replace(source, sound=path) if is_wav else replace(source, container=path)


def safe_id(name: str) -> str:
    """A name as a clip id: itself where it can be one.

    Otherwise what an id can't hold (control characters, slashes, bytes that are no UTF-8) becomes
    "_", what is too long is cut, and a checksum of the whole name keeps different names apart.
    """
    composed = unicodedata.normalize("NFC", name)
    if check_id(composed) is None:
        return composed
    return _marked(composed, name)


def other_id(path: Path) -> str:
    """An id for media whose plain one can't be had: it names the whole path's checksum."""
    return _marked(unicodedata.normalize("NFC", path.stem), str(path.absolute()))


def _marked(composed: str, name: str) -> str:
    """A name that can be an id, with a checksum of another one."""
    mark = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    plain = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in composed)
    kept = plain.encode()[: MAX_ID_BYTES - len(mark)].decode("utf-8", "ignore")
    return kept + mark


def pictures(folder: Path) -> list[Path]:
    """A frame folder's pictures in the order that their names give, see `in_order`."""
    return [folder / name for name in in_order(entry.name for entry in picture_files(folder))]


def picture_files(folder: Path) -> list[os.DirEntry[str]]:
    """Every picture file of a frame folder, sorted by name. OSError where it can't be listed."""
    return [e for e in entries(folder) if e.name.rpartition(".")[2].lower() in PICTURE_SUFFIXES]


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name, without hidden files (`._a.jpg`, `.DS_Store`)."""
    with os.scandir(folder) as found:
        shown = [entry for entry in found if not entry.name.startswith(".")]
    return sorted(shown, key=lambda entry: entry.name)


def in_order(names: Iterable[str]) -> list[str]:
    """Names of pictures in natural order: frame_2 before frame_10, 0.25 before 0.5 before 10.0.

    A point (or comma) between digits is a decimal one, unless what follows it shows that it
    counts: take1.9, take1.10. A minus is a sign where all names are numbers, some of them not
    negative. Capital letters count as small ones. Of one name with several suffixes (1.jpg,
    1.png) the first is taken: it is one picture twice.
    """
    stems = {name.rpartition(".")[0]: name for name in sorted(names, reverse=True)}
    parts = {stem: _NUMBER.split(stem) for stem in stems}
    counting = _counting(parts.values())
    signed = all(map(_WHOLE_NUMBER.fullmatch, stems)) and not all(s[0] == "-" for s in stems)

    def key(stem: str) -> tuple[list[str | tuple[Decimal, Decimal]], str]:
        found: list[str | tuple[Decimal, Decimal]] = []
        for place, part in enumerate(parts[stem]):
            found.append(_value(part, place in counting) if place % 2 else part.casefold())
        if signed and found[0] == "-":
            found[:2] = ["", _value(f"-{parts[stem][1]}", counts=False)]
        return found, stem

    return [stems[stem] for stem in sorted(stems, key=key)]


def _value(text: str, counts: bool) -> tuple[Decimal, Decimal]:
    """A number as something to sort by; where its fraction counts, 1.9 is less than 1.10."""
    whole, _, fraction = text.replace(",", ".").partition(".")
    if counts:
        return Decimal(whole), Decimal(fraction or -1)
    return Decimal(f"{whole}.{fraction or 0}"), Decimal(0)


def _counting(names: Iterable[list[str]]) -> set[int]:
    """The places in split names whose "fractions" count: of several lengths, and one ends in 0.

    Times are written with a fixed number of digits or without zeros at the end.
    """
    fractions: dict[int, set[str]] = defaultdict(set)
    for parts in names:
        for place, part in enumerate(parts):
            fraction = part.replace(",", ".").partition(".")[2]
            if place % 2 and fraction:
                fractions[place].add(fraction)
    return {
        place
        for place, found in fractions.items()
        if len({len(text) for text in found}) > 1
        and any(len(text) > 1 and text.endswith("0") for text in found)
    }


def centres_s(extent_s: float, count: int) -> npt.NDArray[np.float64]:
    """The centres of `count` equal parts of [0, extent_s), in seconds: (count,)."""
    return np.linspace(0.5, count - 0.5, count) * np.float64(extent_s / count)
