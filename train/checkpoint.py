"""Checkpoints: tensors and JSON text only, written whole or not at all, read with suspicion."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

from cache.errors import AvelError
from cache.settings import Settings
from train.batch import Shapes
from train.config import TrainConfig
from train.model import FusionModel

BEST, LAST = "best_model_with_attention.pth", "last.pth"
FORMAT, FORMAT_VERSION = "avel-model", 1


class CheckpointError(AvelError):
    """A checkpoint is missing, damaged, foreign, or made by code of another version."""


class About(Settings):
    """What a checkpoint knows of itself, beside its tensors."""

    model_config = ConfigDict(arbitrary_types_allowed=False)

    config: TrainConfig
    """The resolved settings of the run."""
    classes: list[str]
    """Class names; place in the list is the class number."""
    shapes: dict[str, float]
    """The fields of `train.batch.Shapes`."""
    fingerprint: str
    """Fingerprint of the cache that it was trained on."""
    features: dict[str, Any]
    """The cache's resolved extraction settings."""
    epoch: int = 0
    """Epochs trained when this was saved."""
    score: float | None = None
    """Validation score when this was saved."""
    decoding: Literal["gate", "interval"] = "interval"
    """How start and end are read off: what scored higher on validation when this was saved."""

    def model_shapes(self) -> Shapes:
        """The shapes as the model takes them."""
        whole = {name: int(value) for name, value in self.shapes.items() if name != "clip_seconds"}
        return Shapes(**whole, clip_seconds=float(self.shapes["clip_seconds"]))


def shapes_as_json(shapes: Shapes) -> dict[str, float]:
    """The fields of Shapes as plain numbers."""
    return dict(asdict(shapes))


def save(path: Path, model: FusionModel, about: About, **more: Any) -> None:
    """Write a checkpoint under a temporary name in the same folder, flush it, rename it.

    `more` holds tensors, numbers and texts in dicts and lists (an optimizer's state).
    """
    payload = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "about": about.model_dump_json(),
        "model": {name: value.cpu() for name, value in model.state_dict().items()},
        **more,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        with temporary.open("wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> tuple[FusionModel, About, Mapping[str, Any]]:
    """A model in evaluation mode on the CPU, what it knows of itself, and the whole payload.

    Raises CheckpointError for anything but a sound checkpoint of this program. Nothing in the
    file is executed, and no memory is taken for shapes that its tensors don't have.
    """
    payload = _payload(path)
    try:
        about = About.parse(json.loads(payload["about"]), f"{path}: about")
        shapes = about.model_shapes()
        # On "meta" nothing is allocated: a foreign file's claimed sizes are checked first.
        with torch.device("meta"):
            model = FusionModel(shapes, about.config)
        state = _tensors(path, payload["model"])
        _check_fit(path, model, state)
        model.load_state_dict(state, strict=True, assign=True)
    except AvelError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: its tensors don't fit its settings ({_first_line(error)}); it was made by "
            "another version of this program, or edited"
        ) from None
    if len(about.classes) != shapes.classes:
        raise CheckpointError(
            f"{path}: {len(about.classes)} class names for {shapes.classes} classes"
        )
    return model.eval(), about, payload


def _payload(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            # torch warns of odd pickles before it refuses them; one sentence is enough.
            warnings.simplefilter("ignore", UserWarning)
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no checkpoint here; expected a run folder made by `python -m train fit`"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint of weights and text; it was not opened any further, since "
            f"such files can run code ({_first_line(error)})"
        ) from None
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this program")
    if payload.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint version {payload.get('version')!r}, this program reads "
            f"{FORMAT_VERSION}"
        )
    return payload


def _tensors(path: Path, state: Mapping[str, Any]) -> dict[str, Tensor]:
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise CheckpointError(f"{path}: {name} is not a float32 tensor")
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
    return dict(state)


def _check_fit(path: Path, model: FusionModel, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError, naming the first few, where tensors are not those of the model."""
    wanted = model.state_dict()
    shaped = {
        f"{name} {list(state[name].shape)}, expected {list(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    }
    kinds = {
        "missing": wanted.keys() - state.keys(),
        "not known here": state.keys() - wanted.keys(),
        "of another shape": shaped,
    }
    parts = [
        f"{len(names)} {kind}: {', '.join(name[:120] for name in sorted(names)[:3])}"
        + (", …" if len(names) > 3 else "")
        for kind, names in kinds.items()
        if names
    ]
    if parts:
        raise CheckpointError(
            f"{path}: its tensors don't fit this program ({'; '.join(parts)}); it was made by "
            "another version, which record.json beside it names, or edited"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
