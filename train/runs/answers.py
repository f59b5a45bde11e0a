"""A run's answers for all clips of a cache, and what is told beside them.

Who answered, what of the media was not looked at, and which clips the run has seen before.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cache import Cache
from cache.common.cli import printable
from cache.common.errors import ConfigError
from train.data.features import FeatureStore, load_features
from train.runs import folders
from train.runs.folders import HANDED, weights_file
from train.runs.record import Record, seen
from train.runs.recordings import as_rows, on_recordings
from train.runs.timelines import read_off_of, timelines
from train.runs.trained import Answer, TrainedRun
from train.score.named import CRITERION, CRITERION_OF_SEVERAL
from train.score.timeline import Timeline

STREAMS = {"both": "sound and pictures", "audio": "sound alone", "video": "pictures alone"}
"""What a model gets, in words."""
_WORTH_TELLING_S = 0.5  # sound and pictures of one recording end that far apart
_NAMED = 10
ClipAnswer = dict[str, str | float | None]


def predict(run: TrainedRun, cache: Cache, device: str | None = None) -> list[ClipAnswer]:
    """Class, confidence, start and end (s) of every clip of a cache; labels are not needed.

    In the order of the cache's ids; see `clip_answers`. Of a run for which a clip may have several
    events, and in a cache of windows, the events of every recording instead, see `found_events`.
    device: default is the run's. Raises CacheError where the cache holds other features than the
    run was trained on.
    """
    run.check_features(cache)
    if on_recordings(cache, run.about):
        return found_events(run, cache, timelines(run, cache, device=device))
    return clip_answers(run, cache, run.answer(load_all_clips(run, cache, device)))


def found_events(run: TrainedRun, cache: Cache, of: Mapping[str, Timeline]) -> list[ClipAnswer]:
    """A record for each event that is found in recordings, by recording and time.

    of: what `timelines` gives. `seen` is of the recording, see `clip_answers`. A recording in which
    nothing is found has none.
    """
    names, classes = list(of), run.about.classes
    before = seen_in(run, names)
    found = read_off_of(run).events(list(of.values()))
    return [
        {"recording": names[number], **row, "seen": before[names[number]]}
        for number, row in as_rows(classes, found)
    ]


def seen_in(run: TrainedRun, ids: Sequence[str]) -> dict[str, str]:
    """Whether the run has seen recordings, by name: "train", "val", "no" or "unknown"."""
    records = [one.record for one in run.models if one.record is not None]
    known = len(records) == len(run.models) and all(record.knows_seen for record in records)
    before = dict.fromkeys(ids, "no" if known else "unknown")
    for split, some in seen(records, ids).items():
        before.update(dict.fromkeys(some, split))
    return before


def load_all_clips(run: TrainedRun, cache: Cache, device: str | None) -> FeatureStore:
    """All clips of a cache that has the run's features (see `TrainedRun.check_features`)."""
    if not cache.ids:
        raise ConfigError(f"{cache.path}: no clip in this cache; nothing to predict")
    return load_features(cache, run.config(device), cache.ids, len(run.about.classes))


def clip_answers(run: TrainedRun, cache: Cache, answer: Answer) -> list[ClipAnswer]:
    """A record for each clip of the cache, in the order of its ids.

    `event` says whether there is one, None where the run doesn't decide that; the class, start and
    end are those that it would have. `not_looked_at_s` is what of the media lies beyond the clip,
    None where that isn't known; `seen` is "train" where a model was trained on the clip, "val"
    where one was selected on it, "no", or "unknown" where a model has no record, or begins from
    weights of one that has none.
    """
    before, unseen = seen_in(run, cache.ids), unseen_s(cache)
    return [
        {
            "id": clip_id,
            **answer.entry(number),
            "not_looked_at_s": unseen[clip_id],
            "seen": before[clip_id],
        }
        for number, clip_id in enumerate(cache.ids)
    ]


def describe_run(run: TrainedRun) -> str:
    """Which run answers, on what it was trained, when, and how good it was on validation."""
    about, models = run.about, run.models
    who = (
        f"the ensemble of {len(models)} models in {run.folder}"
        if len(models) > 1
        else f"the run {run.folder}"
    )
    when = max(folders.trained_at(weights_file(one.folder)) for one in models)
    date = datetime.datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M")
    if any(one.record is None and weights_file(one.folder).name == HANDED for one in models):
        date = "at a time that is not told"
    what = "recordings" if about.features.get("hop_seconds") else "clips"
    criterion = CRITERION_OF_SEVERAL if about.config.events == "several" else CRITERION
    scores = [f"{one.about.score:.3f}" for one in models if one.about.score is not None]
    on = _trained_on([one.record for one in models], what)
    return (
        f"answered by {who}: trained {date} on {on}, "
        f"{STREAMS[about.config.modality]}, {len(about.classes)} classes, "
        f"features {about.fingerprint[:16]}…; {criterion} on val {', '.join(scores) or 'unknown'}"
    )


def _trained_on(records: Sequence[Record | None], what: str) -> str:
    """How many clips or recordings the models were trained and selected on, by their records."""
    known = [record for record in records if record is not None]
    if len(known) < len(records):
        return f"{what} that are not known (it has no record)"
    train, val = (
        "–".join(str(count) for count in sorted({len(one.ids(split)) for one in known}))
        for split in ("train", "val")
    )
    return f"{train} {what} (selected on {val})"


def unseen_s(cache: Cache) -> dict[str, float | None]:
    """Seconds of each clip's media that its features don't cover; None where it declares none."""
    valid_s, media_s = cache.lengths_s
    beyond = media_s - valid_s
    values = [round(max(0.0, value), 3) if math.isfinite(value) else None for value in beyond]
    return dict(zip(cache.ids, values, strict=True))


def seen_notes(found: Sequence[ClipAnswer]) -> list[str]:
    """A sentence for each way in which the run has seen some of the clips before."""
    notes = []
    for split, what in (("train", "trained"), ("val", "selected")):
        count = sum(entry["seen"] == split for entry in found)
        if count:
            notes.append(
                f"{count} of {len(found)} clips are such as the run was {what} on (seen: {split})"
            )
    return notes


def unseen_notes(cache: Cache) -> list[str]:
    """A sentence for each recording of which much was not looked at, the longest first.

    And one for the clips that have no features, since they get no answer.
    """
    clip_seconds, length_s = cache.clip_seconds, cache.lengths_s[0]
    unseen = unseen_s(cache) if cache.declaration.hop_s is None else {}
    much = sorted(
        (clip_id for clip_id, value in unseen.items() if (value or 0.0) >= _WORTH_TELLING_S),
        key=lambda clip_id: -(unseen[clip_id] or 0.0),
    )
    notes = [
        f"note: {clip_id}: {unseen[clip_id]:.1f} s of it were not looked at; the answer is for its "
        f"first {length_s[cache.row(clip_id)]:g} s (a clip is {clip_seconds:g} s)"
        for clip_id in much[:_NAMED]
    ]
    if len(much) > _NAMED:
        rest = sum(unseen[clip_id] or 0.0 for clip_id in much[_NAMED:])
        notes.append(
            f"note: of {len(much) - _NAMED} more, {rest:.1f} s were not looked at (not_looked_at_s)"
        )
    if much:
        notes.append("note: `make annotate MEDIA=FILE` looks at whole recordings")
    failed = sorted(cache.failures)
    if failed:
        more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        notes.append(
            f"note: no answer for {len(failed)} clip(s) that could not be extracted: "
            f"{', '.join(failed[:_NAMED])}{more}; `python -m cache info` says why"
        )
    return notes


def as_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The answers for people, a line each; what they say of `event` only where it was decided."""
    decided = any(one.get("event") is not None for one in found)
    hidden = () if decided else ("event", "event_confidence")
    rows = [{n: printable(_word(v)) for n, v in one.items() if n not in hidden} for one in found]
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format)


def _word(value: object) -> object:
    """yes or no for what is true or false."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
