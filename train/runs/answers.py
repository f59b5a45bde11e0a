"""What is told of a prediction beside it: who answered, and what of the media was not looked at."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cache import Cache
from cache.common.cli import printable
from cache.common.errors import ConfigError
from train.runs import folders as runs
from train.runs.checkpoint import BEST, About
from train.runs.record import Record
from train.score.metrics import CRITERION

_WORTH_TELLING_S = 0.5  # sound and pictures of one recording end that far apart
_NAMED = 10


def check_alike(members: Sequence[tuple[Path, About]]) -> None:
    """Raise ConfigError unless the models' answers may be averaged: same input, same classes."""
    first, one = members[0]
    for place, about in members[1:]:
        for what, ours, theirs in (
            ("classes", one.classes, about.classes),
            ("streams", one.config.modality, about.config.modality),
            ("input shapes", one.shapes, about.shapes),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"{place}: trained with other {what} than {first}: they are no seeds of one "
                    "training, and can't answer together; name one of them"
                )


def describe_run(run: Path, members: Sequence[tuple[Path, About, Record | None]]) -> str:
    """Which run answers, on what it was trained, when, and how good it was on validation."""
    _, about, _ = members[0]
    who = (
        f"the ensemble of {len(members)} models in {run}" if len(members) > 1 else f"the run {run}"
    )
    when = max(runs.trained_at(place / BEST) for place, _, _ in members)
    date = datetime.datetime.fromtimestamp(when).strftime("%Y-%m-%d %H:%M")
    streams = {"both": "sound and pictures"}.get(about.config.modality, about.config.modality)
    scores = [f"{one.score:.3f}" for _, one, _ in members if one.score is not None]
    return (
        f"answered by {who}: trained {date} on {_trained_on([one for _, _, one in members])}, "
        f"{streams}, {len(about.classes)} classes, features {about.fingerprint[:16]}…; "
        f"{CRITERION} on val {', '.join(scores) or 'unknown'}"
    )


def _trained_on(records: Sequence[Record | None]) -> str:
    """How many clips the models were trained and selected on, as their records have it."""
    known = [record for record in records if record is not None]
    if len(known) < len(records):
        return "clips that are not known (it has no record)"
    train, val = (
        "–".join(str(count) for count in sorted({len(one.ids(split)) for one in known}))
        for split in ("train", "val")
    )
    return f"{train} clips (selected on {val})"


def unseen_s(cache: Cache) -> dict[str, float | None]:
    """Seconds of each clip's media that its features don't cover; None where it declares none."""
    rows = cache.index.live.rows
    beyond = rows["media_s"] - rows["valid_s"]
    values = [round(max(0.0, value), 3) if math.isfinite(value) else None for value in beyond]
    return dict(zip(cache.ids, values, strict=True))


def unseen_notes(cache: Cache, unseen: Mapping[str, float | None]) -> list[str]:
    """A sentence for each recording of which much was not looked at, the longest first.

    And one for the clips that have no features, since they get no answer.
    """
    clip_seconds = cache.config["clip_seconds"]
    much = sorted(
        (clip_id for clip_id, value in unseen.items() if (value or 0.0) >= _WORTH_TELLING_S),
        key=lambda clip_id: -(unseen[clip_id] or 0.0),
    )
    notes = [
        f"note: {clip_id}: {unseen[clip_id]:.1f} s of it were not looked at; the answer is for its "
        f"first {cache.index.clips[clip_id].valid_s:g} s (a clip is {clip_seconds:g} s)"
        for clip_id in much[:_NAMED]
    ]
    if len(much) > _NAMED:
        rest = sum(unseen[clip_id] or 0.0 for clip_id in much[_NAMED:])
        notes.append(
            f"note: of {len(much) - _NAMED} more, {rest:.1f} s were not looked at (not_looked_at_s)"
        )
    failed = sorted(cache.index.failures)
    if failed:
        more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        notes.append(
            f"note: no answer for {len(failed)} clip(s) that could not be extracted: "
            f"{', '.join(failed[:_NAMED])}{more}; `python -m cache info` says why"
        )
    return notes


def as_table(found: Sequence[Mapping[str, Any]]) -> str:
    """The answers for people, a line each."""
    rows = [{name: printable(value) for name, value in one.items()} for one in found]
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format)
