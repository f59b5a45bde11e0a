"""What the JSON of a run must look like before it is used: run folders come from strangers too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cache.common.errors import ConfigError
from cache.common.settings import Settings
from cache.common.strict_json import parse_json, read_json

AGAIN = "score the run again with `python -m train evaluate`, or delete the file"
_Score = Annotated[float, Field(ge=-1e9, le=1e9)]
_Loss = Annotated[float, Field(ge=-1e100, le=1e100)]
_Count = Annotated[int, Field(ge=0)]
_Time = Annotated[float, Field(ge=-1e9, le=1e9)]
_Name = Annotated[str, Field(max_length=4096)]


class StoredEstimate(Settings):
    """A score or a difference and its interval, see `train.score.intervals.Estimate`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    mean: _Score
    low: _Score | None
    high: _Score | None
    clips: _Count
    events: _Count

    @model_validator(mode="after")
    def _has_both_ends(self) -> StoredEstimate:
        if (self.low is None) != (self.high is None):
            raise ValueError("low, high: expected two numbers, or null for both")
        return self


_Estimates = dict[str, dict[str, StoredEstimate]]


class StoredIntervals(Settings):
    """Estimates of each predictor, and of the model minus each baseline, by score."""

    model_config = ConfigDict(extra="ignore", strict=True)

    intervals: _Estimates = Field(default={})
    differences: _Estimates = Field(default={})


class _OfModel(Settings):
    """Scores by predictor, of which the model's are taken out."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: dict[str, _Score | None]


class StoredFold(Settings):
    """What is taken out of a fold in `metrics_folds.json`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    scores: _OfModel


class _Stored(StoredIntervals):
    """What all of `metrics_<split>.json` have; other keys are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True)

    split: Literal["train", "val", "test", "folds"]
    epoch: _Count | Annotated[list[_Count], Field(max_length=1000)] = 0
    events: _Count
    classes_in_split: _Count
    clips_without_features: list[str]
    scores: dict[str, dict[str, _Score | None]]
    of_seeds: StoredIntervals = Field(default=StoredIntervals())
    test_looks: _Count = 1
    seen: dict[str, list[str]] = Field(default={})
    seen_known: bool = False
    other_cache: str | None = None
    code_differs: list[str] = Field(default=[])
    unknown_classes: dict[str, _Count] = Field(default={})
    folds: list[StoredFold] = Field(default=[], max_length=1000)

    @model_validator(mode="after")
    def _has_the_model(self) -> _Stored:
        if "model" not in self.scores:
            raise ValueError("scores: expected those of 'model' among them")
        return self


class StoredResult(_Stored):
    """What is taken out of the scores of clips with one event each."""

    events_shorter_than_clip: _Count
    events_without_times: _Count = 0
    clips_without_event: _Count = 0
    decoding: Literal["gate", "interval"]
    clip_seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None


class StoredRecordings(_Stored):
    """What is taken out of the scores of recordings."""

    recordings: _Count
    recordings_without_events: _Count
    hours: Annotated[float, Field(ge=0, le=1e9)]


class StoredAnswer(Settings):
    """What is taken out of a record of `predictions_<split>.json`: an event and its answer."""

    model_config = ConfigDict(extra="ignore", strict=True)

    id: _Name
    category: _Name
    start_s: _Time | None
    end_s: _Time | None
    predicted: _Name
    predicted_start_s: _Time
    predicted_end_s: _Time
    segment_accuracy: Annotated[float, Field(ge=0, le=1)] | None


class Epoch(Settings):
    """A record of `history.json`."""

    model_config = ConfigDict(extra="ignore", strict=True)

    epoch: Annotated[int, Field(ge=1)]
    train_loss: _Loss
    train_class_loss: _Loss
    train_interval_loss: _Loss
    train_gate_loss: _Loss
    val_class_loss: _Loss
    val_top1: _Loss | None = None
    val_miou: _Loss | None = None
    val_localized_iou: _Loss | None = None
    val_segment_map: _Loss | None = None
    learning_rate: _Loss


_ANSWERS = TypeAdapter(list[StoredAnswer])
_RECORDS = TypeAdapter(list[dict[str, _Loss]], config=ConfigDict(strict=True))


def read_scores(path: Path) -> dict[str, Any]:
    """The content of `metrics_<split>.json`; ConfigError where it is not one."""
    found: Any = read_json(path, AGAIN)
    try:
        listed = isinstance(found, dict) and "recordings" in found
        (StoredRecordings if listed else StoredResult).parse(found, str(path))
    except ConfigError as error:
        raise ConfigError(f"{error}; {AGAIN}") from None
    return dict(found)


def read_answers(path: Path) -> list[StoredAnswer]:
    """The events in `predictions_<split>.json`; ConfigError where it is not one, or an old one.

    Clips without an event have a record there too, whose category is null: they are left out.
    """
    found = read_json(path, AGAIN)
    if isinstance(found, list):
        found = [one for one in found if not (isinstance(one, dict) and _is_background(one))]
    try:
        return _ANSWERS.validate_python(found)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: expected a list of events with their answers, {_first(error)}; {AGAIN}"
        ) from None


def _is_background(record: dict[str, Any]) -> bool:
    return "category" in record and record["category"] is None


def read_history(path: Path) -> list[dict[str, float]]:
    """The content of `history.json`; ConfigError where it is not one."""
    advice = "delete it: it is only drawn"
    return checked_history(read_json(path, advice), str(path), advice)


def parse_history(text: object, where: str) -> list[dict[str, float]]:
    """The history that a checkpoint holds as text."""
    advice = "train anew without --resume"
    if not isinstance(text, str):
        raise ConfigError(f"{where}: expected text; {advice}")
    return checked_history(parse_json(text, where, advice), where, advice)


def checked_history(value: Any, where: str, advice: str) -> list[dict[str, float]]:
    """Records of epochs, numbered from 1; ConfigError for anything else."""
    try:
        _RECORDS.validate_python(value)
    except ValidationError as error:
        raise ConfigError(
            f"{where}: expected a list of epochs' numbers, {_first(error)}; {advice}"
        ) from None
    for number, record in enumerate(value, 1):
        if Epoch.parse(record, f"{where}: epoch {number}").epoch != number:
            raise ConfigError(f"{where}: expected epoch {number}, found another; {advice}")
    return list(value)


def _first(error: ValidationError) -> str:
    """Where the first mistake is, and which."""
    first = error.errors()[0]
    place = ".".join(str(part)[:80] for part in first["loc"])
    return f"at {place or 'the top'}: {first['msg']}"
