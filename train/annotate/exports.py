"""Lists of events as the files of other programs: CSV, Audacity, ELAN, WebVTT, Label Studio.

Each writer is a pure function that gives UTF-8 bytes, times in seconds with three decimals. All
but WebVTT can be read again by `python -m cache relabel` (docs/labels.md), Label Studio's once it
was annotated there.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

CSV_COLUMNS = ("media", "start_s", "end_s", "category", "confidence")
LABEL_STUDIO_CONFIG = """<View>
  <Labels name="events" toName="sound">{labels}</Labels>
  <Video name="picture" value="$media" sync="sound"/>
  <Audio name="sound" value="$media" sync="picture"/>
</View>
"""
_WRITTEN = "1970-01-01T00:00:00+00:00"  # the same events give the same bytes
_SOUNDS = ("wav", "mp3", "m4a", "ogg", "opus", "flac")


@dataclass(frozen=True)
class Found:
    """An event: its class, where it begins and ends in its recording (s), how sure (0 to 1)."""

    category: str
    start_s: float
    end_s: float
    confidence: float


def csv_bytes(events: Mapping[str, Sequence[Found]]) -> bytes:
    """A table of all recordings' events; one without an event has a row without a class."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_COLUMNS)
    for media, found in events.items():
        for one in _sorted(found):
            times = f"{one.start_s:.3f}", f"{one.end_s:.3f}"
            table.writerow([media, *times, one.category, f"{one.confidence:.3f}"])
        if not found:
            table.writerow([media, "", "", "", ""])
    return text.getvalue().encode()


def audacity_bytes(events: Sequence[Found]) -> bytes:
    """A label track: `start<tab>end<tab>class`, a line an event.

    (https://manual.audacityteam.org/man/importing_and_exporting_labels.html)
    """
    lines = [f"{one.start_s:.3f}\t{one.end_s:.3f}\t{one.category}\n" for one in _sorted(events)]
    return "".join(lines).encode()


def webvtt_bytes(events: Sequence[Found]) -> bytes:
    """Captions, to be shown over the recording: a cue an event (https://www.w3.org/TR/webvtt1/)."""
    cues = []
    for one in _sorted(events):
        begin_ms = _ms(one.start_s)
        end_ms = max(_ms(one.end_s), begin_ms + 1)  # a cue must not end where it begins
        cues.append(f"\n{_clock(begin_ms)} --> {_clock(end_ms)}\n{escape(one.category)}\n")
    return ("WEBVTT\n" + "".join(cues)).encode()


def elan_bytes(media_name: str, events: Sequence[Found]) -> bytes:
    """An ELAN file (EAF 3.0): a tier a class, each annotation's value its class.

    Events of one class that overlap are on further tiers: within one, ELAN has no overlap.
    """
    slots: list[tuple[int, int]] = []
    tiers: list[str] = []
    for tier, found in _tiers(events).items():
        tiers.append(f'<TIER LINGUISTIC_TYPE_REF="event" TIER_ID={quoteattr(tier)}>\n')
        for one in found:
            number = len(slots) // 2 + 1
            slots += [(_ms(one.start_s), 2 * number - 1), (_ms(one.end_s), 2 * number)]
            tiers.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{number}" '
                f'TIME_SLOT_REF1="ts{2 * number - 1}" TIME_SLOT_REF2="ts{2 * number}">'
                f"<ANNOTATION_VALUE>{escape(one.category)}</ANNOTATION_VALUE>"
                "</ALIGNABLE_ANNOTATION></ANNOTATION>\n"
            )
        tiers.append("</TIER>\n")
    times = [f'<TIME_SLOT TIME_SLOT_ID="ts{n}" TIME_VALUE="{ms}"/>\n' for ms, n in sorted(slots)]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<ANNOTATION_DOCUMENT AUTHOR="" DATE="{_WRITTEN}" FORMAT="3.0" VERSION="3.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">\n'
        '<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">\n'
        f"{_media(media_name)}</HEADER>\n"
        f"<TIME_ORDER>\n{''.join(times)}</TIME_ORDER>\n{''.join(tiers)}"
        '<LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="event" '
        'TIME_ALIGNABLE="true"/>\n</ANNOTATION_DOCUMENT>\n'
    ).encode()


def label_studio_bytes(media_name: str, length_s: float, events: Sequence[Found]) -> bytes:
    """A task of Label Studio's with the events as predictions, for `LABEL_STUDIO_CONFIG`.

    The media is served by Label Studio's local files, below its document root.
    (https://labelstud.io/guide/predictions, /templates/video_timeline_segmentation)
    """
    ordered = _sorted(events)
    results = [
        {
            "id": f"event{number}",
            "from_name": "events",
            "to_name": "sound",
            "type": "labels",
            "original_length": round(length_s, 3),
            "value": {
                "start": round(one.start_s, 3),
                "end": round(one.end_s, 3),
                "channel": 0,
                "labels": [one.category],
            },
            "score": round(one.confidence, 3),
        }
        for number, one in enumerate(ordered, 1)
    ]
    task: dict[str, Any] = {
        "data": {"media": f"/data/local-files/?d={_quoted(media_name)}"},
        "predictions": [{"model_version": "avel", "result": results}],
    }
    return json.dumps([task], ensure_ascii=False, indent=1).encode()


def label_studio_config(classes: Sequence[str]) -> bytes:
    """The labelling interface that the tasks belong to, with all classes."""
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in classes)
    return LABEL_STUDIO_CONFIG.format(labels=labels + "\n  ").encode()


def _sorted(events: Sequence[Found]) -> list[Found]:
    return sorted(events, key=lambda one: (one.start_s, one.end_s, one.category))


def _tiers(events: Sequence[Found]) -> dict[str, list[Found]]:
    """The events of each tier, by its name: `Bark`, and `Bark (2)` for what overlaps it."""
    taken = {one.category for one in events}
    tiers: dict[str, list[Found]] = {}
    for category in sorted(taken):
        lanes: list[list[Found]] = []
        for one in _sorted([one for one in events if one.category == category]):
            free = (lane for lane in lanes if _ms(lane[-1].end_s) <= _ms(one.start_s))
            lane = next(free, None)
            lanes.append([one]) if lane is None else lane.append(one)
        names = _names(category, taken)
        tiers |= {next(names): lane for lane in lanes}
    return tiers


def _names(category: str, taken: set[str]) -> Iterator[str]:
    yield category
    number = 1
    while number := number + 1:
        if f"{category} ({number})" not in taken:
            yield f"{category} ({number})"


def _media(name: str) -> str:
    suffix = name.rpartition(".")[2].lower()
    kind = "audio" if suffix in _SOUNDS else "video"
    form = "x-wav" if suffix == "wav" else suffix if suffix.isalnum() else "unknown"
    where = quoteattr(f"./{_quoted(name)}")
    return (
        f"<MEDIA_DESCRIPTOR MEDIA_URL={where} MIME_TYPE={quoteattr(f'{kind}/{form}')} "
        f"RELATIVE_MEDIA_URL={where}/>\n"
    )


def _quoted(name: str) -> str:
    """A path as part of an address; its bytes may be no text."""
    return quote(os.fsencode(name))


def _ms(time_s: float) -> int:
    return round(1000 * time_s)


def _clock(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{ms:03}"
