"""index.html: the recordings that were annotated, each with a strip of its events, as links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cache.common.cli import printable
from train.annotate.page import FILE, HERE
from train.report import web

_COLOURS = 10


def index(
    every: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    run: str,
    lists: Sequence[str],
) -> bytes:
    """The page of all recordings: what their events.json say, by their folders.

    failed: what could not be read, and why; lists: files beside it that hold all events.
    """
    kinds = {event["category"]: None for one in every.values() for event in one["events"]}
    colours = {name: place % _COLOURS for place, name in enumerate(kinds)}
    events = sum(len(one["events"]) for one in every.values())
    style = web.source("timeline.css", HERE)
    text = web.template("index.html", HERE).render(
        title="Recordings",
        summary=f"{len(every)} recording(s), {events} event(s)",
        policy=web.policy(style),
        style=style,
        recordings=[_card(folder, one, colours) for folder, one in every.items()],
        failed=printable(list(failed.items())),
        run=printable(run),
        lists=lists,
    )
    return text.encode("utf-8", "replace")


def _card(folder: str, one: Mapping[str, Any], colours: Mapping[str, int]) -> dict[str, Any]:
    counts = Counter(event["category"] for event in one["events"])
    rows = {name: place for place, name in enumerate(counts)}
    unseen = sum(end - start for start, end in one["not_looked_at"])
    return {
        "address": f"{quote(folder)}/{FILE}",
        "media": printable(one["media"]),
        "length": f"{one['length_s'] // 60:.0f}:{one['length_s'] % 60:04.1f}",
        "length_s": max(one["length_s"], 1e-3),
        "rows": max(4, len(rows)),
        "said": printable(" · ".join(f"{n} {count}" for n, count in counts.items())) or "no event",
        "unseen": f"{unseen:.1f} s of it were not looked at" if unseen else "",
        "bars": [
            {
                "start": event["start_s"],
                "width": max(event["end_s"] - event["start_s"], one["length_s"] / 300),
                "row": rows[event["category"]] + 0.1,
                "colour": colours[event["category"]],
            }
            for event in one["events"]
        ],
    }
