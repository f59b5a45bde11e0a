"""A trained run in memory: its models, what is known of each, and how they answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cache import Cache
from cache.common.errors import ConfigError
from cache.labels.annotations import some
from train.config import TrainConfig
from train.data.features import FeatureStore
from train.model.fusion import FusionModel
from train.runs import checkpoint, folders, record
from train.runs.checkpoint import About
from train.runs.clip_features import check_same_features
from train.runs.folders import weights_file
from train.runs.record import Record
from train.score.calibrate import Calibration
from train.score.decode import Evidence
from train.score.metrics import Array, Predictions
from train.score.predict import AttentionWatch, predict


@dataclass(frozen=True)
class Answer:
    """What a model, or several together, says of N clips.

    evidence: calibrated; start and end are read off it as `calibration` says, in the way that
    `decoding` names (see `Evidence.read_off`): both were chosen on validation. event_threshold: the
    confidence from which on a clip is said to have an event, None where that isn't decided.
    """

    evidence: Evidence
    calibration: Calibration
    decoding: str
    classes: Sequence[str]
    clip_seconds: float
    event_threshold: float | None = None

    @classmethod
    def of(cls, said: Evidence, about: About) -> Answer:
        """What a model said, calibrated."""
        calibration, seconds = about.calibration, about.model_shapes().clip_seconds
        evidence = said.calibrated(calibration)
        threshold = about.event_threshold
        return cls(evidence, calibration, about.decoding, about.classes, seconds, threshold)

    @cached_property
    def by_decoding(self) -> Mapping[str, Predictions]:
        """The answers with start and end read off in each way."""
        return self.evidence.read_off(self.calibration, self.clip_seconds)

    @cached_property
    def chance(self) -> Array:
        """(N, G) probability of each part of a clip that the event is heard and seen in it."""
        return self.evidence.on_grid(self.calibration.grid_s, self.clip_seconds)

    @property
    def by_gate(self) -> bool:
        """Whether start and end are read off `chance`."""
        return self.decoding == "gate" and not self.calibration.whole_clip

    @property
    def decided_by(self) -> str:
        """Whose start and end are, for people."""
        if self.decoding == "interval":
            return "the interval head's"
        return "the whole clip's" if self.calibration.whole_clip else "the gate's"

    @property
    def predictions(self) -> Predictions:
        """The answers that count."""
        return self.by_decoding[self.decoding]

    def entry(self, number: int) -> dict[str, Any]:
        """What is said of one clip, for people and JSON.

        Class, start and end are those of the event, should there be one; `event` says whether there
        is, and is None where the run has seen no clips without one.
        """
        guess, threshold = self.predictions, self.event_threshold
        category = int(guess.category[number])
        sure = None if guess.event is None else float(guess.event[number])
        return {
            "predicted": self.classes[category],
            "confidence": float(guess.probability[number, category]),
            "predicted_start_s": float(guess.start_s[number]),
            "predicted_end_s": float(guess.end_s[number]),
            "event_confidence": sure,
            "event": None if sure is None or threshold is None else sure >= threshold,
        }

    @classmethod
    def mean(cls, answers: Sequence[Answer]) -> Answer:
        """The ensemble's answer: the mean of what its members say (Lakshminarayanan et al. 2017).

        It is read off in the way that most members use (of equals the first), with the mean of
        their thresholds. One member's is its own.
        """
        first, *others = answers
        if not others:
            return first
        decoding = common_decoding([one.decoding for one in answers])
        evidence = Evidence.mean([one.evidence for one in answers])
        calibration = Calibration.mean([one.calibration for one in answers])
        threshold, clip_seconds = mean_threshold(answers), first.clip_seconds
        return cls(evidence, calibration, decoding, first.classes, clip_seconds, threshold)


def common_decoding(several: Sequence[str]) -> str:
    """In which way most of several models are read off; of equals the first."""
    return Counter(several).most_common(1)[0][0]


def mean_threshold(answers: Sequence[Answer]) -> float | None:
    """The mean of the answers' event thresholds; None where not all have one."""
    known = [one.event_threshold for one in answers if one.event_threshold is not None]
    return sum(known) / len(known) if len(known) == len(answers) else None


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: its folder, what its checkpoint says of it, its record, if it has any."""

    folder: Path
    model: FusionModel
    about: About
    record: Record | None

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        """The selected weights of a run; CheckpointError or ConfigError for what is none."""
        model, about, _ = checkpoint.load(weights_file(folder))
        return cls(folder, model, about, record.read(folder, about))

    def answer(
        self, clips: FeatureStore, rows: Tensor, watch: AttentionWatch | None = None
    ) -> Answer:
        """The answer to clip rows (N,); `watch` as in `predict`."""
        said = predict(self.model.to(clips.device), clips, rows, watch=watch)
        return Answer.of(said, self.about)


@dataclass(frozen=True)
class TrainedRun:
    """A run, or a folder of seeds, which answers as an ensemble: its models, at least one."""

    folder: Path
    models: Sequence[TrainedModel]

    @property
    def about(self) -> About:
        """What the first model's checkpoint says; all have its classes, streams and shapes."""
        return self.models[0].about

    def config(self, device: str | None = None) -> TrainConfig:
        """The first model's settings, on another device if one is named."""
        config = self.about.config
        return config if device is None else config.revised(device=device)

    def cautions(self) -> list[str]:
        """What a person should know before the run is used, and of which of its models."""
        told: dict[str, list[Path]] = {}
        for one in self.models:
            for text in record.cautions(one.folder, one.record):
                told.setdefault(text, []).append(one.folder)
        everywhere = [one.folder for one in self.models]
        return [
            f"{self.folder if places == everywhere else some(map(str, places))}: {text}"
            for text, places in told.items()
        ]

    def check_features(self, cache: Cache) -> None:
        """Raise CacheError, naming what differs, unless all were trained on such features."""
        for one in self.models:
            check_same_features(cache, one.about, one.folder)

    def answer(self, clips: FeatureStore, watch: AttentionWatch | None = None) -> Answer:
        """The models' mean answer to all clips; `watch` sees the first one's."""
        rows = torch.arange(len(clips.ids), device=clips.device)
        found = [
            one.answer(clips, rows, watch if one is self.models[0] else None) for one in self.models
        ]
        return Answer.mean(found)


def load_run(folder: str | Path | None = None) -> TrainedRun:
    """A run, or a folder of seeds, by its folder (default: the newest under `runs/`).

    Nothing in its files is executed. Raises ConfigError or CheckpointError where it is damaged,
    or where its models were trained for different things and can't answer together.
    """
    place = folders.newest_run() if folder is None else Path(folder)
    models = [TrainedModel.load(one) for one in folders.members(place)]
    _check_alike(models)
    return TrainedRun(place, models)


def _check_alike(models: Sequence[TrainedModel]) -> None:
    """Raise ConfigError unless the models' answers may be averaged: same input, same classes."""
    first, *others = models
    for one in others:
        for what, ours, theirs in (
            ("classes", first.about.classes, one.about.classes),
            ("streams", first.about.config.modality, one.about.config.modality),
            ("input shapes", first.about.shapes, one.about.shapes),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"{one.folder}: trained with other {what} than {first.folder}: they are no "
                    "seeds of one training, and can't answer together; name one of them"
                )
