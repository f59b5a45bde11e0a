"""What is written of each recording, in a folder of its own, and of all of them together.

OUT/events.csv, events.json, index.html   of all recordings that are in OUT; label-studio.xml, the
                               interface that the tasks of Label Studio belong to
OUT/<recording>/events.json    its events, what was not looked at, and what made this: written last,
                               so a recording that has it is done
OUT/<recording>/timeline.html, <recording>.txt (Audacity), .eaf (ELAN), .vtt, .label-studio.json
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache import Cache
from cache.common.atomic import plain_folder, replace_file
from cache.common.errors import ConfigError
from cache.common.settings import canonical_json
from cache.common.strict_json import read_json
from train.annotate import page
from train.annotate.exports import (
    Found,
    audacity_bytes,
    csv_bytes,
    elan_bytes,
    label_studio_bytes,
    label_studio_config,
    webvtt_bytes,
)
from train.annotate.index import index
from train.annotate.recording import Recording, listed
from train.report.drawing import file_name
from train.report.media import path_from

EVENTS, CSV, INDEX = "events.json", "events.csv", "index.html"
INTERFACE = "label-studio.xml"
VERSION = 1
_EACH = "probability_each_second"
_NAME_BYTES = 100
_NO_NAME = set('<>:"|?*')
_TOOLS: Mapping[str, tuple[str, Callable[[Recording, str], bytes]]] = {
    "audacity": (".txt", lambda one, media: audacity_bytes(one.found)),
    "elan": (".eaf", lambda one, media: elan_bytes(media, one.found)),
    "webvtt": (".vtt", lambda one, media: webvtt_bytes(one.found)),
    "label-studio": (
        ".label-studio.json",
        lambda one, media: label_studio_bytes(one.media_name, one.length_s, one.found),
    ),
}


def folder_names(recordings: Collection[str]) -> dict[str, str]:
    """A folder's name for each recording: its own where every file system takes that."""
    looks = Counter(map(_look, recordings))
    return {
        name: name if _plain(name) and looks[_look(name)] == 1 else file_name(f"{name}~")
        for name in recordings
    }


def _look(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _plain(name: str) -> bool:
    """Whether a recording's name may be a folder's, beside the files of all of them."""
    return (
        len(name.encode("utf-8", "replace")) <= _NAME_BYTES
        and name[0] not in ".-~ "
        and name[-1] not in ". "
        and name.casefold() not in ("cache", EVENTS, CSV, INDEX, INTERFACE)
        and not _NO_NAME & set(name)
    )


def write_recording(
    folder: Path,
    recording: Recording,
    cache: Cache,
    formats: Sequence[str],
    stamp: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
    seen: str,
    probabilities: bool,
) -> None:
    """Write a recording's files; the one that says that it is done comes last.

    stamp: all that they depend on; facts: what made them, for people; seen: whether the run has
    seen the recording, see `train.runs.answers.seen_in`.
    """
    plain_folder(folder)
    media = path_from(recording.media, folder) or recording.media_name
    for kind, (suffix, write) in _TOOLS.items():
        if kind in formats:
            replace_file(folder / f"{folder.name}{suffix}", write(recording, media))
    if "page" in formats:
        replace_file(folder / page.FILE, page.page(recording, cache, folder, facts))
    about = {
        "recording": recording.name,
        "media": recording.media_name,
        "length_s": recording.length_s,
        "seen": seen,
        "not_looked_at": [list(span) for span in recording.unseen],
        "events": [asdict(one) for one in recording.found],
        **({_EACH: recording.per_second()} if probabilities else {}),
        "made_by": dict(stamp),
    }
    replace_file(folder / EVENTS, _json(about))


def is_done(folder: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether a recording's files were made as is wanted now."""
    about = _read(folder)
    return about is not None and canonical_json(about["made_by"]) == canonical_json(stamp)


def _found(one: Mapping[str, Any]) -> Found:
    return Found(
        str(one["category"]), float(one["start_s"]), float(one["end_s"]), float(one["confidence"])
    )


def stored(out: Path, recordings: Collection[str], run: str) -> tuple[dict[str, Any], int]:
    """What recordings' events.json in OUT say, by their folders; how many are of another run.

    Those are left out: one list is of one run.
    """
    found, others = dict[str, Any](), 0
    for _, folder in sorted(folder_names(recordings).items()):
        about = _read(out / folder)
        if about is not None and about["made_by"].get("run") == run:
            found[folder] = about
        else:
            others += about is not None
    return found, others


def write_all(
    out: Path,
    every: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    formats: Sequence[str],
    run: str,
    classes: Sequence[str],
) -> list[Path]:
    """Write the lists of all recordings (see `stored`) that FORMATS name; returns the files.

    failed: what could not be read, and why; run: who answers, for people; classes: all it knows.
    """
    names = {at: listed(one["recording"], one["media"]) for at, one in every.items()}
    written: list[tuple[Path, bytes]] = []
    if "csv" in formats:
        lists = {names[at]: list(map(_found, one["events"])) for at, one in every.items()}
        written.append((out / CSV, csv_bytes(lists)))
    if "json" in formats:
        short = [
            {**{key: value for key, value in one.items() if key not in (_EACH, "made_by")},
             "folder": folder}
            for folder, one in every.items()
        ]  # fmt: skip
        about = {"version": VERSION, "run": run, "recordings": short, "not_read": dict(failed)}
        written.append((out / EVENTS, _json(about)))
    if "label-studio" in formats:
        written.append((out / INTERFACE, label_studio_config(classes)))
    if "page" in formats:
        lists_there = [path.name for path, _ in written]
        written.append((out / INDEX, index(every, failed, run, lists_there)))
    for path, content in written:
        replace_file(path, content)
    return [path for path, _ in written]


def _read(folder: Path) -> dict[str, Any] | None:
    """What an events.json says; None where there is none that this program wrote."""
    try:
        about: dict[str, Any] = read_json(folder / EVENTS)
        list(map(_found, about["events"]))
        spans = [(float(start), float(end)) for start, end in about["not_looked_at"]]
        names = str(about["recording"]), str(about["media"]), float(about["length_s"])
        return about if isinstance(about["made_by"], dict) and names and spans is not None else None
    except (ConfigError, LookupError, TypeError, ValueError):
        return None


def _json(value: object) -> bytes:
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "replace")
