"""A run looks at one recording of a cache."""

from __future__ import annotations

from pathlib import Path

from cache import Cache
from train.annotate.exports import Found
from train.annotate.recording import Recording, spans
from train.runs.timelines import read_off_of, timelines
from train.runs.trained import TrainedRun


def look_at(
    run: TrainedRun,
    cache: Cache,
    name: str,
    media: Path | None = None,
    truth: tuple[Found, ...] | None = None,
    device: str | None = None,
) -> Recording:
    """What a run finds in the recording `name`; media: its file; truth: what is true of it.

    Raises CacheError where its windows can't be read.
    """
    rows = tuple(cache.recordings[name])
    length_s, unseen = spans(cache, rows)
    timeline = timelines(run, cache, [cache.ids[row] for row in rows], device)[name]
    way, classes = read_off_of(run), run.about.classes
    said = way.candidates([timeline])
    columns = zip(said.category, said.start_s, said.end_s, said.confidence, strict=True)
    candidates = [
        Found(classes[category], float(start), float(end), float(sure))
        for category, start, end, sure in columns
    ]
    return Recording(
        name,
        media,
        rows,
        length_s,
        unseen,
        tuple(classes),
        timeline,
        tuple(sorted(candidates, key=lambda one: (one.start_s, one.end_s, one.category))),
        way.threshold,
        truth,
    )
