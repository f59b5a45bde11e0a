"""Checkpoints: tensors and JSON text only, written whole or not at all, read with suspicion."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from cache import Cache
from cache.common.atomic import replacing
from cache.common.errors import AvelError, CacheError, ConfigError
from cache.common.settings import Settings
from cache.common.strict_json import parse_json
from cache.common.torch_file import read_torch_file
from train.config import TrainConfig
from train.data.batch import Shapes
from train.data.dataset import Dataset
from train.model.fusion import FusionModel
from train.runs.folders import HANDED
from train.runs.safetensors_file import read_safetensors, write_safetensors
from train.score.calibrate import Calibration
from train.score.read_off import ReadOff

FORMAT, FORMAT_VERSION = "avel-model", 1
_ABOUT = ("format", "version", "about")
_AGAIN = "train again, or get the file anew from who made it"


class CheckpointError(AvelError):
    """A checkpoint is missing, damaged, foreign, or made by code of another version."""


class _Shapes(Settings):
    """The ranges of `train.data.batch.Shapes` in a checkpoint."""

    audio_features: int = Field(ge=0, le=1 << 20)
    map_channels: int = Field(ge=0, le=1 << 20)
    cells: int = Field(ge=0, le=1 << 10)
    columns: int | None = Field(default=None, ge=0, le=1 << 10)
    beside: int = Field(default=0, ge=0, le=1 << 20)
    class_only: int = Field(default=0, ge=0, le=1 << 20)
    classes: int = Field(ge=1, le=1 << 20)
    clip_seconds: float = Field(gt=0, le=3600)


class About(Settings):
    """What a checkpoint knows of itself, beside its tensors."""

    model_config = ConfigDict(arbitrary_types_allowed=False)

    config: TrainConfig
    """The resolved settings of the run."""
    classes: list[str]
    """Class names; place in the list is the class number."""
    shapes: dict[str, float | None]
    """The fields of `train.data.batch.Shapes`."""
    fingerprint: str
    """Fingerprint of the cache that it was trained on."""
    features: dict[str, Any]
    """The cache's resolved extraction settings."""
    feature_version: int | None = None
    """Version of the code that computed its features; None in runs of earlier releases."""
    epoch: int = Field(default=0, ge=0)
    """Epochs trained when this was saved."""
    score: float | None = None
    """Validation score when this was saved."""
    decoding: Literal["gate", "interval"] = "interval"
    """How start and end are read off: what scored higher on validation when this was saved."""
    event_threshold: float | None = Field(default=None, ge=0, le=1)
    """Confidence from which on a clip has an event, chosen on validation; None where no clips
    without an event were seen there."""
    calibration: Calibration = Calibration()
    """What corrects the answers, as validation had it when this was saved."""
    read_off: ReadOff | None = None
    """How timelines of recordings become lists of events, as chosen on validation; None in runs of
    earlier releases."""

    def model_shapes(self) -> Shapes:
        """The shapes as the model takes them; ConfigError where they can't be a model's."""
        found = _Shapes.parse(self.shapes, "shapes")
        return Shapes(
            audio_features=found.audio_features,
            map_channels=found.map_channels,
            cells=found.cells,
            columns=found.columns,
            beside=found.beside,
            class_only=found.class_only,
            classes=found.classes,
            clip_seconds=found.clip_seconds,
        )

    @classmethod
    def of(cls, config: TrainConfig, dataset: Dataset, cache: Cache) -> About:
        """What is known of a model before it is trained."""
        return cls(
            config=config,
            classes=dataset.classes,
            shapes=asdict(dataset.clips.shapes),
            fingerprint=cache.fingerprint,
            features=cache.config,
            feature_version=cache.identity.feature_version,
        )


def save(path: Path, model: FusionModel, about: About, **more: Any) -> None:
    """Write a checkpoint, whole or not at all; CheckpointError that says why where it can't be.

    `more` holds tensors, numbers and texts in dicts and lists (an optimizer's state).
    """
    payload = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "about": about.model_dump_json(),
        "model": {name: value.cpu() for name, value in model.state_dict().items()},
        **more,
    }
    # In memory first: torch hides what the disk says of itself (that it is full) from its caller.
    data = io.BytesIO()
    torch.save(payload, data)
    try:
        with replacing(path) as file:
            file.write(data.getbuffer())
    except CacheError as error:
        raise CheckpointError(
            f"{error}: a training goes on with `--resume --run {path.parent}`"
        ) from None


def hand_over(path: Path, model: FusionModel, about: About) -> None:
    """Write weights and what is known of them as safetensors, which `load` reads as well."""
    facts = dict(zip(_ABOUT, (FORMAT, str(FORMAT_VERSION), about.model_dump_json()), strict=True))
    tensors = {name: value.cpu().numpy() for name, value in model.state_dict().items()}
    write_safetensors(path, tensors, facts)


def load(path: Path) -> tuple[FusionModel, About, Mapping[str, Any]]:
    """A model in evaluation mode on the CPU, what it knows of itself, and the whole payload.

    Raises CheckpointError for anything but a sound checkpoint of this program. Nothing in the
    file is executed, and no memory is taken for shapes that its tensors don't have.
    """
    payload = _handed(path) if path.name == HANDED else _payload(path)
    about, shapes = _about(path, payload.get("about"))
    if len(about.classes) != shapes.classes or len(set(about.classes)) != shapes.classes:
        raise CheckpointError(
            f"{path}: {len(about.classes)} class names, {len(set(about.classes))} of them "
            f"different, for {shapes.classes} classes; {_AGAIN}"
        )
    if about.read_off is not None and len(about.read_off.threshold) != shapes.classes:
        raise CheckpointError(
            f"{path}: {len(about.read_off.threshold)} thresholds for {shapes.classes} classes; "
            f"{_AGAIN}"
        )
    # On "meta" nothing is allocated: a foreign file's claimed sizes are checked first.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of layers without weights
        model = FusionModel(shapes, about.config)
    state = tensors_like(path, payload.get("model"), model.state_dict(), "model")
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval(), about, payload


def tensors_like(
    path: Path, found: object, wanted: Mapping[str, Tensor], what: str
) -> dict[str, Tensor]:
    """`found` as dense, finite float32 tensors with the names and shapes of `wanted`.

    Raises CheckpointError that names what doesn't fit.
    """
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{path}: {what} holds no tensors; {_AGAIN}")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise CheckpointError(f"{path}: {what}: {name[:80]} is not a float32 tensor; {_AGAIN}")
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{path}: {what}: {name[:80]} holds numbers that are not finite; {_AGAIN}"
            )
    _check_fit(path, found, wanted, what)
    return dict(found)


def _check_fit(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str
) -> None:
    """Raise CheckpointError, naming the first few, where tensors are not those of the model."""
    kinds = {
        "missing": wanted.keys() - found.keys(),
        "not known here": found.keys() - wanted.keys(),
        "of another shape": {
            f"{name} {list(found[name].shape)}, expected {list(value.shape)}"
            for name, value in wanted.items()
            if name in found and found[name].shape != value.shape
        },
    }
    parts = [
        f"{len(names)} {kind}: {', '.join(name[:120] for name in sorted(names)[:3])}"
        + (", …" if len(names) > 3 else "")
        for kind, names in kinds.items()
        if names
    ]
    if parts:
        raise CheckpointError(
            f"{path}: {what}: its tensors don't fit this program and its settings "
            f"({'; '.join(parts)}); it was made by another "
            "version, which record.json beside it names, or edited"
        )


def _payload(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            # torch warns of odd pickles before it refuses them; one sentence is enough.
            warnings.simplefilter("ignore", UserWarning)
            payload = torch.load(read_torch_file(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no checkpoint here; expected a run folder made by `python -m train fit`"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AvelError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of weights and text; it was not opened any further, since "
            f"such files can run code ({_first_line(error)})"
        ) from None
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path}: not a checkpoint of this program")
    _check_format(path, payload.get("format"), payload.get("version"))
    return payload


def _check_format(path: Path, found: object, version: object) -> None:
    if found != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this program")
    if type(version) is not int or version != FORMAT_VERSION:
        shown = version if type(version) is int else type(version).__name__
        raise CheckpointError(
            f"{path}: checkpoint version {shown}, this program reads {FORMAT_VERSION}"
        )


def _handed(path: Path) -> Mapping[str, Any]:
    """The same of weights that were handed over."""
    try:
        arrays, facts = read_safetensors(path)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from None
    except CacheError as error:
        raise CheckpointError(f"{error}; {_AGAIN}") from None
    version = facts.get("version", "")[:20]
    _check_format(path, facts.get("format"), int(version) if version.isdecimal() else None)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return {"about": facts.get("about"), "model": tensors}


def _about(path: Path, text: object) -> tuple[About, Shapes]:
    if not isinstance(text, str):
        raise CheckpointError(f"{path}: says nothing of itself; {_AGAIN}")
    try:
        about = About.parse(parse_json(text, "about", _AGAIN), "about")
        return about, about.model_shapes()
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
