"""`python -m train annotate`: what a run finds in recordings of any length, in people's formats."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cache import Cache
from cache.common.atomic import plain_folder
from cache.common.cli import printable, say
from cache.common.errors import AvelError, ConfigError
from cache.common.progress import Progress
from cache.format.windows import window_of
from cache.joined import open_caches
from train.annotate import outputs
from train.annotate.exports import Found
from train.annotate.formats import FORMATS
from train.annotate.look import look_at
from train.annotate.recording import true_events
from train.report.media import Media, find_media, path_from
from train.runs.answers import describe_run, seen_in
from train.runs.folders import weights_file
from train.runs.trained import TrainedRun, load_run

_NAMED, _LISTED = 10, 40
_SEEN = {"train": "the run was trained on it", "val": "the run was selected on it"}
Entry = Mapping[str, Any]
"""What a recording's events.json says."""


def annotate(
    run: Path | None,
    cache_path: Path,
    out: Path,
    media: Sequence[Path] = (),
    formats: Sequence[str] = FORMATS,
    probabilities: bool = False,
    device: str | None = None,
) -> int:
    """Find events in the recordings of a cache and write them into `out`; returns the exit code.

    media: files, or folders of files, whose recordings are meant; none: all of the cache. What was
    made of the same features by the same run in the same formats is kept. 0: all were looked at;
    1: some could not be read, or written, which is said; the others are done all the same.
    """
    trained, cache = load_run(run), open_caches(cache_path)
    trained.check_features(cache)
    for text in trained.cautions():
        say(f"warning: {text}", error=True)
    found = find_media(cache, media)
    if not found.files and not found.failed:
        raise ConfigError(f"{cache.path}: no recording of these in this cache; nothing to annotate")
    task = Task(trained, cache, plain_folder(out), found, tuple(formats), probabilities, device)
    say(task.answer)
    todo = task.todo()
    if done := len(found.files) - len(todo):
        say(f"{done} of {len(found.files)} recordings were done before: kept as they are")
    for text in (*_notes(cache, found), *_seen_notes(task.seen)):
        say(text)
    lost = {**_unread(found), **task.do(todo)}
    return _conclude(task, lost)


@dataclass(frozen=True)
class Task:
    """The recordings to annotate, and how."""

    run: TrainedRun
    cache: Cache
    out: Path
    media: Media
    formats: tuple[str, ...]
    probabilities: bool
    device: str | None

    @cached_property
    def truth(self) -> Mapping[str, tuple[Found, ...]]:
        """What is known to be true, by recording."""
        return true_events(self.cache.stored_labels())

    @cached_property
    def answer(self) -> str:
        """Who answers, for people."""
        return describe_run(self.run)

    @cached_property
    def folders(self) -> Mapping[str, str]:
        """Each recording's folder."""
        return outputs.folder_names(list(self.cache.recordings))

    @cached_property
    def run_digest(self) -> str:
        """Of the run's weights, by which it is known again."""
        found = []
        for one in self.run.models:
            with weights_file(one.folder).open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
        return hashlib.sha256("".join(found).encode()).hexdigest()

    @cached_property
    def seen(self) -> Mapping[str, str]:
        """Whether the run has seen a recording."""
        return seen_in(self.run, list(self.media.files))

    def todo(self) -> list[str]:
        """Recordings whose files are not as is wanted now."""
        return [n for n in self.media.files if not outputs.is_done(self.folder(n), self.stamp(n))]

    def folder(self, name: str) -> Path:
        """Where a recording's files go."""
        return self.out / self.folders[name]

    def stamp(self, name: str) -> dict[str, Any]:
        """All that a recording's files depend on, as plain values."""
        digests = [self.cache.row_digests[row] for row in self.cache.recordings[name]]
        truth = self.truth.get(name)
        return {
            "version": outputs.VERSION,
            "run": self.run_digest,
            "features": hashlib.sha256(b"".join(digests)).hexdigest(),
            "media": path_from(self.media.files[name], self.out),
            "truth": None if truth is None else hashlib.sha256(repr(truth).encode()).hexdigest(),
            "formats": list(self.formats),
            "probabilities": self.probabilities,
        }

    def facts(self, name: str) -> list[tuple[str, str]]:
        """What made a recording's answer, for people."""
        seen = _SEEN.get(self.seen[name], "no" if self.seen[name] == "no" else "not known")
        return [
            ("Answer", self.answer),
            ("Seen before", seen),
            ("Features", self.cache.fingerprint),
        ]

    def do(self, todo: Sequence[str]) -> dict[str, str]:
        """Look at recordings and write what is found; returns those that failed, and why."""
        windows = {name: len(self.cache.recordings[name]) for name in todo}
        lost = {}
        with Progress(sum(windows.values()), "window", "annotate", quiet_s=2) as progress:
            for name in todo:
                try:
                    media, truth = self.media.files[name], self.truth.get(name)
                    one = look_at(self.run, self.cache, name, media, truth, self.device)
                    outputs.write_recording(
                        self.folder(name), one, self.cache, self.formats, self.stamp(name),
                        self.facts(name), self.seen[name], self.probabilities,
                    )  # fmt: skip
                except AvelError as error:
                    lost[name] = str(error)
                progress.add(windows[name])
        return lost


def _conclude(task: Task, lost: Mapping[str, str]) -> int:
    """Write the lists of all recordings, say what was found and what was not; the exit code."""
    every, others = outputs.stored(task.out, list(task.cache.recordings), task.run_digest)
    run = task.answer.removeprefix("answered by ")
    written = outputs.write_all(task.out, every, lost, task.formats, run, task.run.about.classes)
    mine = [every[task.folders[name]] for name in task.media.files if task.folders[name] in every]
    for text in _found(mine):
        say(text)
    if others:
        say(f"note: {others} recording(s) in {task.out} were annotated by another run, or before "
            "a change of this program: they are not in the lists of all")  # fmt: skip
    for name, why in lost.items():
        say(f"error: {why if '/' in why else f'{name}: {why}'}", error=True, one_line=True)
    for path in written:
        say(f"written: {path}")
    if task.cache.path.parent == task.out:
        say(f"{task.cache.path} ({_size(task.cache.path)}) holds the features, so that another "
            "call does only what is new; delete it when you need that no longer")  # fmt: skip
    return 1 if lost else 0


def _found(mine: Sequence[Entry]) -> list[str]:
    """The events of one recording, a line each; of more recordings how many of which class."""
    if len(mine) == 1:
        return _one(mine[0])
    lines = []
    for one in mine[:_LISTED]:
        counts = Counter(event["category"] for event in one["events"])
        what = " · ".join(f"{name} {count}" for name, count in counts.items()) or "no event"
        lines.append(f"{one['media']}, {one['length_s']:g} s: {what}{_beyond(one)}")
    if len(mine) > _LISTED:
        lines.append(f"and {len(mine) - _LISTED} more")
    return [str(printable(line)) for line in lines]


def _one(one: Entry) -> list[str]:
    lines = [f"{one['media']}, {one['length_s']:g} s{_beyond(one)}:"]
    lines += [
        f"  {event['start_s']:8.1f} to {event['end_s']:6.1f} s  {event['category']} "
        f"({event['confidence']:.0%})"
        for event in one["events"]
    ] or ["  no event"]
    return [str(printable(line)) for line in lines]


def _beyond(one: Entry) -> str:
    seconds = sum(end - start for start, end in one["not_looked_at"])
    return f" ({seconds:.1f} s of it not looked at)" if seconds else ""


def _size(folder: Path) -> str:
    """How much a folder's files take."""
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _unread(media: Media) -> dict[str, str]:
    """Recordings of which nothing could be extracted, and files that the cache doesn't know."""
    lost: dict[str, str] = {}
    for clip_id, why in media.failed.items():
        name = window_of(clip_id).recording if clip_id not in media.files else clip_id
        if name not in media.files:
            lost.setdefault(name, why)
    for path in media.unknown:
        lost[str(path)] = "not in the cache: it was not extracted"
    return lost


def _notes(cache: Cache, media: Media) -> list[str]:
    """What a person should know of recordings that are answered all the same."""
    changed = [f"{path}: changed since its features were made" for path in media.changed]
    parts = [
        f"{clip_id}: this part could not be read: {why}"
        for clip_id, why in media.failed.items()
        if window_of(clip_id).recording in media.files
    ]
    hop = [] if cache.declaration.hop_s else [
        f"the cache holds the first {cache.clip_seconds:g} s of each recording alone; extract with "
        "HOP=5 to look at all of it"
    ]  # fmt: skip
    notes = [*changed, *parts]
    more = [f"and {len(notes) - _NAMED} more of this kind"] if len(notes) > _NAMED else []
    return [f"note: {printable(text)}" for text in (*hop, *notes[:_NAMED], *more)]


def _seen_notes(seen: Mapping[str, str]) -> list[str]:
    """How many recordings the run has seen before."""
    counts = Counter(seen.values())
    return [
        f"note: {counts[split]} of {len(seen)} recordings: {what}; on others it is less sure"
        for split, what in _SEEN.items()
        if counts[split]
    ]
