"""Find a data folder's annotations, and each clip's media in both layouts.

Ids are matched against the names that a folder really holds; none is ever joined to a path. Names
are compared in Unicode's composed form (NFC), whichever a disk keeps; hidden files are no media.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cache.common.errors import AnnotationError, MediaError
from cache.format.names import one_form
from cache.labels.files import AVE_FILE, SPLIT_FILES
from extract.sources import PICTURE_SUFFIXES, MediaSource, entries, picture_files, signature

# In the order in which they are preferred where a clip has several.
VIDEO_SUFFIXES = (
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "flv", "wmv", "3gp",
    "ogv", "asf",
)  # fmt: skip
SOUND_SUFFIXES = ("m4a", "mp3", "ogg", "flac")
MEDIA_SUFFIXES = frozenset({*VIDEO_SUFFIXES, *SOUND_SUFFIXES, "wav"})
LOOKED_FOR = (
    "ID.mp4 (or .mkv, .webm, …) in AVE/, media/ and the folder itself, ID.wav in audio_wav/, "
    "media/ and the folder itself, a folder ID of pictures in video_frames/; the same in "
    "AVE_Dataset/ and AVE_Processed/"
)
_RANK = {suffix: rank for rank, suffix in enumerate(VIDEO_SUFFIXES + SOUND_SUFFIXES)}
_STREAMS = {"both": {"sound", "frames"}, "audio": {"sound"}, "video": {"frames"}}
_WALK_LIMIT = 100_000
_EXPECTED = (
    "expected Annotations.txt (AVE's format) or one CSV with the columns id,category,start,end"
)
_File = os.DirEntry[str]


def find_annotations(data: Path) -> Path:
    """The annotation file of a data folder: AVE's, or the only CSV there.

    AVE's split files do without `Annotations.txt`: its path then stands for those that are there.
    """
    try:
        if not stat.S_ISDIR(data.stat().st_mode):
            return data
    except OSError as error:
        absent = error.errno == errno.ENOENT
        problem = "the folder doesn't exist" if absent else f"can't be read ({error.strerror})"
        raise AnnotationError(f"{data}: {problem}; {_EXPECTED}") from None
    for folder in _roots(data):
        names = {file.name for file in _listed(folder)}
        for name in (AVE_FILE, "annotations.csv", "events.csv"):
            if name in names:
                return folder / name
    tables = [file.name for file in _listed(data) if _split(file.name)[1] == "csv"]
    if len(tables) == 1:
        return data / tables[0]
    for folder in _roots(data):
        if not tables and any(file.name in SPLIT_FILES.values() for file in _listed(folder)):
            return folder / AVE_FILE
    shown = f" ({', '.join(tables[:5])})" if tables else ""
    raise AnnotationError(
        f"{data}: {_EXPECTED}; found {len(tables)} CSV files{shown}. Name the file with "
        "--annotations FILE"
    )


def find_sources(
    data: Path, ids: Iterable[str], modalities: str = "both"
) -> dict[str, MediaSource]:
    """The media of each id that has any: with the streams wanted, then with less to decode.

    Looks in DATA, DATA/AVE_Dataset and DATA/AVE_Processed for `AVE/<id>.<container>`,
    `<id>.<container>`, `audio_wav/<id>.wav` and `video_frames/<id>/`, and in `media/`; an id may
    also be a whole file name. Media that can't be looked at, such as a link to nowhere, gives a
    source with a problem. Raises MediaError for a folder of media that can't be listed.
    """
    folder, wanted, sources = _Folder.listed(data), _STREAMS[modalities], {}
    for clip_id in ids:
        offers = folder.offers(clip_id)
        offers.sort(key=lambda offer: len(wanted - offer.streams))
        if offers:
            sources[clip_id] = _usable(offer.source(clip_id, wanted) for offer in offers)
    return sources


def elsewhere(data: Path, ids: Collection[str]) -> dict[str, Path]:
    """Media beneath a folder that may be what is missing, by id.

    Its name is the id's but for capital letters or a suffix, or it lies in another folder than
    those that are looked in.
    """
    wanted = {name.casefold(): i for i in ids for name in (_media_stem(i), one_form(i))}
    found: dict[str, Path] = {}
    looked_at = 0
    for folder, folders, files in os.walk(_roots(data)[0]):
        looked_at += len(folders) + len(files)
        frames = folders if Path(folder).name == "video_frames" else []
        for name in sorted([*frames, *files]):
            clip_id = wanted.get(_media_stem(name).casefold())
            if clip_id is not None and not name.startswith("."):
                found.setdefault(clip_id, Path(folder, name))
        hidden = {name for name in folders if name.startswith(".")}
        folders[:] = [] if frames or looked_at > _WALK_LIMIT else sorted({*folders} - hidden)
    return found


@dataclass(frozen=True)
class _Offer:
    """One way to get a clip: its files as MediaSource names them, and others of the same kind."""

    parts: dict[str, _File]
    passed_over: list[_File]

    @property
    def streams(self) -> set[str]:
        """What is in it, as far as names tell."""
        if "container" in self.parts:
            return {"sound"} if _sound_alone(self.parts["container"]) else {"sound", "frames"}
        return set(self.parts)

    def source(self, clip_id: str, wanted: Collection[str]) -> MediaSource:
        """As a source; what isn't wanted isn't looked at."""
        paths = {name: Path(file.path) for name, file in self.parts.items()}
        source = MediaSource(
            clip_id, paths.get("container"), paths.get("sound"), paths.get("frames")
        )
        facts: list[tuple[str, os.stat_result | None]] = []
        try:
            for name, file in self.parts.items():
                if name != "frames":
                    facts.append((file.name, _state(file)))
                elif "frames" in wanted:
                    facts += _pictures(paths[name])
        except MediaError as error:
            return replace(source, problem=error.problem, culprit=Path(error.path))
        size, mtime_ns = signature(facts)
        note = self._note([name for name, _ in facts])
        return replace(source, size=size, mtime_ns=mtime_ns, note=note)

    def _note(self, names: Iterable[str]) -> str:
        notes = []
        if self.passed_over:
            taken = next(iter(self.parts.values()))
            others = ", ".join(file.path for file in self.passed_over)
            same = any(one_form(file.name) == one_form(taken.name) for file in self.passed_over)
            why = " (one name, spelt in two ways)" if same else ""
            notes.append(f"{taken.path} taken, not {others}{why}")
        pictures = [_split(name) for name in names]
        pictures = [(stem, suffix) for stem, suffix in pictures if suffix in PICTURE_SUFFIXES]
        twice = len(pictures) - len({stem for stem, _ in pictures})
        if twice:
            notes.append(f"{twice} picture(s) with two suffixes, one of each taken")
        return "; ".join(notes)


@dataclass(frozen=True)
class _Folder:
    """What a data folder holds: files by name without suffix, in the order of preference."""

    containers: dict[str, list[_File]]
    sounds: dict[str, list[_File]]
    frames: dict[str, list[_File]]

    @classmethod
    def listed(cls, data: Path) -> _Folder:
        """List the places where media is looked for."""
        found: tuple[dict[str, list[_File]], ...] = tuple(defaultdict(list) for _ in range(3))
        for root in _roots(data):
            for file in (*_listed(root / "AVE"), *_listed(root / "media"), *_listed(root)):
                if _split(file.name)[1] in _RANK:
                    found[0][_split(file.name)[0]].append(file)
            for file in (*_listed(root / "audio_wav"), *_listed(root / "media"), *_listed(root)):
                if _split(file.name)[1] == "wav":
                    found[1][_split(file.name)[0]].append(file)
            for file in _listed(root / "video_frames"):
                found[2][one_form(file.name)].append(file)
        for files in found[0].values():
            files.sort(key=lambda file: _RANK[_split(file.name)[1]])
        return cls(*found)

    def offers(self, clip_id: str) -> list[_Offer]:
        """Every way to get a clip: complete processed media, containers, half of the former."""
        clip_id = one_form(clip_id)
        containers, sounds = _named(self.containers, clip_id), _named(self.sounds, clip_id)
        frames = self.frames.get(clip_id, [])
        if sounds and not frames:
            frames = self.frames.get(_split(sounds[0].name)[0], [])
        parts = {name: files[0] for name, files in (("sound", sounds), ("frames", frames)) if files}
        processed = [_Offer(parts, [*sounds[1:], *frames[1:]])] if parts else []
        whole = [
            _Offer(
                {"container": file},
                [o for o in containers if o is not file and _sound_alone(o) == _sound_alone(file)],
            )
            for file in containers
        ]
        return processed + whole if len(parts) == 2 else whole + processed


def _usable(sources: Iterator[MediaSource]) -> MediaSource:
    """The first source without a problem; where each has one, the first."""
    first = next(sources)
    if first.problem:
        for source in sources:
            if not source.problem:
                why = f"{source.path} taken, not {first.path} ({first.problem})"
                return replace(source, note=f"{why}; {source.note}".removesuffix("; "))
    return first


def _named(found: dict[str, list[_File]], clip_id: str) -> list[_File]:
    """The files of an id, which is their name without suffix, or else their whole name."""
    files = found.get(_split(clip_id)[0], [])
    return found.get(clip_id) or [file for file in files if one_form(file.name) == clip_id]


def _state(file: _File) -> os.stat_result:
    try:
        state = file.stat()
    except OSError as error:
        problem = f"can't be looked at ({error.strerror})"
        if error.errno == errno.ENOENT and file.is_symlink():
            problem = f"a link to {Path(file.path).readlink()}, where nothing is"
        raise MediaError(file.path, "find", problem) from None
    if stat.S_ISDIR(state.st_mode):
        raise MediaError(file.path, "find", "expected a file, found a folder")
    return state


def _pictures(folder: Path) -> list[tuple[str, os.stat_result | None]]:
    facts: list[tuple[str, os.stat_result | None]] = []
    try:
        for file in picture_files(folder):
            facts.append((file.name, None))
            with contextlib.suppress(OSError):  # the decoder tells, if it needs that one
                facts[-1] = file.name, file.stat()
    except OSError as error:
        problem = f"expected a folder of pictures, found: {error.strerror}"
        raise MediaError(folder, "find", problem) from None
    if not facts:
        raise MediaError(folder, "find", f"expected .jpg or .png pictures, found {_other(folder)}")
    return facts


def _other(folder: Path) -> str:
    """What a folder without pictures holds, in words."""
    found = [
        f"{one.name}/" if one.is_dir(follow_symlinks=False) else one.name for one in entries(folder)
    ]
    return f"none, but {', '.join(found[:3])}{', …' if len(found) > 3 else ''}" if found else "none"


def _roots(data: Path) -> tuple[Path, ...]:
    with contextlib.suppress(OSError):
        data = data.parent if data.is_file() else data
    return data, data / "AVE_Dataset", data / "AVE_Processed"


def _listed(folder: Path) -> list[_File]:
    """What a folder holds; nothing where there is no such folder."""
    try:
        return entries(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        problem = f"the folder can't be listed ({error.strerror}); mend that, or move it away"
        raise MediaError(folder, "find", problem) from None


def _sound_alone(file: _File) -> bool:
    return _split(file.name)[1] in SOUND_SUFFIXES


def _split(name: str) -> tuple[str, str]:
    """(name without suffix in composed form, suffix in small letters)."""
    stem, _, suffix = one_form(name).rpartition(".")
    return stem, suffix.lower()


def _media_stem(name: str) -> str:
    """A name without the suffix of a media file."""
    stem, suffix = _split(name)
    return stem if suffix in _RANK or suffix == "wav" else one_form(name)
