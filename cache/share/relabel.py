"""`relabel`: new annotations for a cache, or corrections of some recordings; features untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from cache.common.cli import Options, Parser, local_path, say
from cache.common.errors import CacheError
from cache.format.lock import writer_lock
from cache.format.names import one_form
from cache.labels.annotations import (
    DEFAULT_SEED,
    Labels,
    read_annotations,
    remarks,
    some,
    without_an_event,
)
from cache.labels.changes import corrected, event_changes
from cache.labels.store import write_labels
from cache.reader import Cache, open_cache

_TOO_LATE_S = 1.0


def add_relabel(command: Callable[[str, str], Parser]) -> None:
    """Add `relabel`."""
    one = command("relabel", "put new annotations or splits onto a cache; features stay untouched")
    one.add_argument("folder", type=local_path, metavar="FOLDER")
    one.add_argument(
        "annotations",
        type=local_path,
        metavar="ANNOTATIONS",
        help="a file, or a folder of files: AVE's, CSV, ActivityNet's JSON, Audacity, ELAN, … "
        "(docs/labels.md)",
    )
    one.add_argument(
        "--only-these",
        action="store_true",
        help="these are corrections of some recordings: replace the events of these, keep all "
        "others",
    )
    one.add_argument(
        "--split-seed",
        type=int,
        help="divide all ids anew where the annotations have no splits (without it, ids keep "
        "their split, and new ones get theirs with seed 42)",
    )
    one.set_defaults(run=_relabel)


def _relabel(arguments: Options) -> int:
    folder: Path = arguments.folder
    if folder.is_file():
        raise CacheError(
            f"{folder}: a packed file is never changed; unpack it, relabel, pack again"
        )
    if arguments.only_these and arguments.split_seed is not None:
        raise CacheError("--split-seed divides all ids anew: it doesn't go with --only-these")
    cache = open_cache(folder)
    with writer_lock(folder):
        before, told = _labels_before(cache, arguments.only_these)
        found = labels = _read(cache, arguments, before)
        if arguments.only_these and before is not None:
            _check_known(cache, before, found, arguments.annotations)
            labels = corrected(before, found, arguments.annotations.name)
        write_labels(folder, labels)
    for line in _told(cache, told, before, labels):
        say(line)
    if lost := _lost(before, labels, arguments.annotations.name):
        say(lost, error=True)
    return 0


def _read(cache: Cache, arguments: Options, before: Labels | None) -> Labels:
    seed = arguments.split_seed
    windows = cache.declaration.hop_s is not None
    return read_annotations(
        arguments.annotations,
        None if windows else cache.clip_seconds,
        DEFAULT_SEED if seed is None else seed,
        before if seed is None else None,
    )


def _check_known(cache: Cache, before: Labels, found: Labels, file: Path) -> None:
    """Raise CacheError where no recording of the corrections is known: they are named otherwise."""
    known = {one_form(name) for name in (*before.ids, *cache.recordings)}
    strange = sorted(set(found.ids) - known)
    if len(strange) == len(set(found.ids)):
        raise CacheError(
            f"{file}: none of its {len(strange)} recording(s) is in {cache.path}: "
            f"{some(strange)}; there are {some(sorted(known))}. A file of Audacity's or ELAN's has "
            "the name of its recording"
        )
    if strange:
        say(f"note      {len(strange)} recording(s) that were not there: {some(strange)}")


def _told(cache: Cache, told: str, before: Labels | None, labels: Labels) -> Iterator[str]:
    """What there was, what there is now, and what changed."""
    ids, recordings = set(labels.ids), cache.recordings
    what = "clips" if cache.declaration.hop_s is None else "recordings"
    without = sum(recording not in ids for recording in recordings)
    empty = int(labels.background.sum())
    yield (
        f"{cache.path}: {told} before, {len(labels) - empty} of "
        f"{len(labels.classes)} classes"
        + (f" and {without_an_event(empty)}" if empty else "")
        + f" now ({labels.source}); features untouched, "
        f"{sum(recording not in recordings for recording in ids)} of {len(ids)} {what} without "
        "features" + (f", {without} in the cache without labels" if without else "")
    )
    if before is not None:
        yield from event_changes(before, labels).described()
    yield from remarks(before, labels)
    if late := _beyond(cache, labels):
        yield f"note      {len(late)} event(s) end after their recording does: {some(late)}"


def _beyond(cache: Cache, labels: Labels) -> list[str]:
    """The events that end a second or more after their recording does, in a cache of windows."""
    if cache.declaration.hop_s is None:
        return []
    ends_s: dict[str, float] = {}
    for window, *known_s in zip(cache.windows, *cache.lengths_s, strict=True):
        name, (valid_s, media_s) = window.recording, known_s
        reached = [ends_s.get(name, 0.0), window.offset_s + valid_s]
        ends_s[name] = float(np.nanmax([*reached, media_s]))
    return [
        f"{name} {category} {start_s:.10g} to {end_s:.10g} s, of {ends_s[name]:.10g} s"
        for name, category, start_s, end_s in zip(
            labels.ids, labels.names(), labels.start_s.tolist(), labels.end_s.tolist(), strict=True
        )
        if end_s >= ends_s.get(name, np.inf) + _TOO_LATE_S
    ]


def _lost(before: Labels | None, labels: Labels, file: str) -> str:
    """Which recordings had labels and have none now, if any, and what to do."""
    ids = set(labels.ids)
    rows = [clip_id for clip_id in before.ids if one_form(clip_id) not in ids] if before else []
    if not rows:
        return ""
    lost = list(dict.fromkeys(rows))
    return (
        f"WARNING   {len(lost)} recording(s) that had labels have none now, as {file} doesn't "
        f"name them: {some(lost)}. Was it meant to correct some recordings alone? Relabel with the "
        "annotations that were there before, then with these and --only-these"
    )


def _labels_before(cache: Cache, needed: bool) -> tuple[Labels | None, str]:
    try:
        labels = cache.stored_labels()
    except CacheError as error:  # to be replaced is what such labels need
        if needed:
            raise
        say(f"note      {error}; which splits the ids were in is lost", error=True)
        return None, "damaged labels"
    if needed and labels is None:
        raise CacheError(f"{cache.path}: has no labels to correct; leave out --only-these")
    return labels, labels.counted() if labels else "0 events"
