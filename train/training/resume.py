"""What last.pth holds beside the weights: enough to go on as if training had never stopped.

It may come from a stranger. So each value is compared with what this run expects, and only what
was compared is taken: no dict of the file replaces the attributes of an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from cache.common.errors import ConfigError
from cache.common.settings import Settings
from train.runs.checkpoint import About, CheckpointError, load, tensors_like
from train.runs.stored import parse_history
from train.training.state import TrainState

_MOMENTS = ("exp_avg", "exp_avg_sq")


class _Numbers(Settings):
    """The plain numbers of a stopped training; the scheduler's other settings are the run's."""

    model_config = ConfigDict(extra="ignore", strict=True)

    average_steps: Annotated[float, Field(ge=0, le=1e15)]
    learning_rate: Annotated[float, Field(ge=0)]
    best: float = 0.0
    num_bad_epochs: Annotated[int, Field(ge=0, le=1 << 40)] = 0
    last_epoch: Annotated[int, Field(ge=0, le=1 << 40)] = 0


def stored(state: TrainState) -> dict[str, Any]:
    """What `checkpoint.save` stores beside the weights."""
    return {
        "optimizer": state.optimizer.state_dict(),
        "scheduler": {} if state.scheduler is None else state.scheduler.state_dict(),
        "average": state.ema.weights(),
        "average_steps": float(state.ema.steps),
        "history": json.dumps(state.history),
    }


def restore(path: Path, state: TrainState, about: About) -> None:
    """Put what `stored` gave, in a checkpoint of the same run, where training goes on from.

    Raises CheckpointError where anything doesn't fit; then a part may have been put.
    """
    _, known, payload = load(path)
    if known.fingerprint != about.fingerprint:
        raise CheckpointError(f"{path}: was trained on another cache ({known.fingerprint[:16]}…)")
    model, optimizer, scheduler = state.model, state.optimizer, state.scheduler
    model.load_state_dict(tensors_like(path, payload["model"], model.state_dict(), "model"))
    weights = tensors_like(path, payload.get("average"), dict(model.named_parameters()), "average")
    try:
        adam = payload["optimizer"]
        plateau = {} if scheduler is None else payload["scheduler"]
        first = adam["param_groups"][0]
        numbers = _Numbers.parse(
            {**plateau, "learning_rate": first["lr"], "average_steps": payload["average_steps"]}
        )
        moments = _moments(path, adam["state"], optimizer)
        history = parse_history(payload["history"], "history")
        if len(history) != known.epoch:
            raise ConfigError(f"it has {len(history)} epochs in its history, {known.epoch} trained")
    except (LookupError, TypeError, ValueError, AttributeError, ConfigError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(
            f"{path}: holds no training to go on with ({told}); train anew without --resume"
        ) from None
    state.ema.load(weights, numbers.average_steps)
    groups = optimizer.state_dict()["param_groups"]
    rates = [{**group, "lr": numbers.learning_rate} for group in groups]
    optimizer.load_state_dict({"state": moments, "param_groups": rates})
    if scheduler is not None:
        scheduler.load_state_dict(
            {
                **scheduler.state_dict(),
                **numbers.model_dump(include={"best", "num_bad_epochs", "last_epoch"}),
                "_last_lr": [numbers.learning_rate] * len(groups),
            }
        )
    state.history[:] = history


def _moments(
    path: Path, state: Mapping[int, Mapping[str, Tensor]], optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """AdamW's moments by the number of the parameter, of the parameters' shapes."""
    wanted: dict[str, Tensor] = {}
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for number, parameter in enumerate(parameters):
        wanted[f"{number} step"] = torch.zeros(())
        wanted.update({f"{number} {name}": parameter for name in _MOMENTS})
    found = {
        f"{number} {name}": value for number, one in state.items() for name, value in one.items()
    }
    checked = tensors_like(path, found, wanted, "optimizer")
    return {
        number: {name: checked[f"{number} {name}"] for name in ("step", *_MOMENTS)}
        for number in range(len(parameters))
    }
