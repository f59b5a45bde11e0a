"""Which settings a sweep tries, and of which values.

A space is a JSON object: a setting's name → a list of values, or a range of numbers:

    {"learning_rate": {"low": 3e-4, "high": 5e-3, "log": true}, "batch_size": [16, 32, 64]}

`dim` stands for `audio_feat_dim` and `video_feat_dim` together.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ConfigDict, model_validator

from cache.common.errors import ConfigError
from cache.common.settings import Settings
from cache.common.strict_json import read_json
from train.config import TrainConfig

if TYPE_CHECKING:
    from optuna import Trial

Value = float | int | str | bool | None
DIM = ("audio_feat_dim", "video_feat_dim")
SEARCHED = (
    "batch_size", "learning_rate", "weight_decay", "grad_clip", "interval_weight", "gate_weight",
    "average_epochs", "reversed_share", "spliced_share", "background_share", "label_smoothing",
    "audio_feat_dim", "video_feat_dim", "map_channels", "num_heads", "dropout", "input_dropout",
)  # fmt: skip
"""Settings that may be searched: those that don't change which data are read, what is scored, how
long a training is or where it runs."""
_MOST_VALUES = 100


class Range(Settings):
    """Numbers from low to high, both among them; whole ones where the setting is whole."""

    model_config = ConfigDict(extra="forbid", strict=True)

    low: float
    high: float
    log: bool = False
    """Draw evenly over the logarithm."""

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, found {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, found {self.low:g}")
        return self


Choices = Range | tuple[Value, ...]
Space = Mapping[str, Choices]

DEFAULT: Space = {
    "learning_rate": Range(low=3e-4, high=5e-3, log=True),
    "weight_decay": Range(low=0.005, high=0.3, log=True),
    "dropout": Range(low=0.1, high=0.5),
    "input_dropout": Range(low=0.2, high=0.7),
    "label_smoothing": Range(low=0.0, high=0.2),
    "gate_weight": Range(low=0.3, high=10.0, log=True),
    "dim": (64, 96, 128),
    "batch_size": (16, 32, 64),
}
"""How fast it learns, how it is kept from learning by heart (four ways), what weighs more, class or
place, and how large it is. What else there is moved scores less than seeds do
(docs/experiments.md)."""


def read_space(path: Path | None, base: TrainConfig) -> Space:
    """The space in a JSON file, or the default; ConfigError for what can't be tried.

    base: the settings of all that is not searched. Each value, and both ends of each range, must be
    settings that it can have.
    """
    if path is None:
        space, where = DEFAULT, "the default space"
    else:
        where = str(path)
        found = read_json(path, "expected a JSON object of settings' names and values")
        space = parse_space(found, where)
    for name, choices in space.items():
        ends = (choices.low, choices.high) if isinstance(choices, Range) else choices
        for value in ends:
            try:
                base.revised(**settings_of({name: _whole(name, value)}))
            except ConfigError as error:
                raise ConfigError(f"{where}: {name}: {error}") from None
    return space


def parse_space(found: object, where: str) -> Space:
    """A space from JSON's values; see the module."""
    if not isinstance(found, dict) or not found:
        raise ConfigError(
            f"{where}: expected an object of at least one setting, such as "
            '{"learning_rate": {"low": 3e-4, "high": 5e-3, "log": true}}'
        )
    space: dict[str, Choices] = {}
    for name, value in found.items():
        _check_name(name, where)
        if isinstance(value, dict):
            space[name] = Range.parse(value, f"{where}: {name}")
            if not _is_number(name):
                raise ConfigError(f"{where}: {name}: expected a list of values, found a range")
        elif isinstance(value, list) and 1 <= len(value) <= _MOST_VALUES and _plain(value):
            space[name] = tuple(value)
        else:
            raise ConfigError(
                f"{where}: {name}: expected a list of 1 to {_MOST_VALUES} different values, or "
                f'{{"low": …, "high": …}}, found {repr(value)[:80]}'
            )
    both = [name for name in DIM if name in space]
    if "dim" in space and both:
        raise ConfigError(f"{where}: dim sets {both[0]} as well; name one of them")
    return space


def _check_name(name: str, where: str) -> None:
    if name in (*SEARCHED, "dim"):
        return
    if name in TrainConfig.model_fields:
        raise ConfigError(
            f"{where}: {name}: can't be searched: it changes the data, the score, the length or "
            f"the place of a training; set it for all trials with --{name.replace('_', '-')}. To "
            f"be searched are: dim, {', '.join(SEARCHED)}"
        )
    near = difflib.get_close_matches(name, (*SEARCHED, "dim"), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: dim, {', '.join(SEARCHED)}"
    raise ConfigError(f"{where}: unknown setting {name!r}; {hint}")


def _plain(values: list[Any]) -> bool:
    known = all(value is None or isinstance(value, float | int | str) for value in values)
    return known and len(set(values)) == len(values)


def _kinds(name: str) -> tuple[Any, ...]:
    annotation = TrainConfig.model_fields[DIM[0] if name == "dim" else name].annotation
    return get_args(annotation) or (annotation,)


def _is_number(name: str) -> bool:
    return int in _kinds(name) or float in _kinds(name)


def _whole(name: str, value: Value) -> Value:
    """A whole setting's value as one, where JSON has it with a point."""
    if int in _kinds(name) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def suggest(trial: Trial, space: Space) -> dict[str, Value]:
    """What a trial tries, by the space's names."""
    found: dict[str, Value] = {}
    for name, choices in space.items():
        if not isinstance(choices, Range):
            found[name] = trial.suggest_categorical(name, choices)
        elif int in _kinds(name):
            low, high = int(choices.low), int(choices.high)
            found[name] = trial.suggest_int(name, low, high, log=choices.log)
        else:
            found[name] = trial.suggest_float(name, choices.low, choices.high, log=choices.log)
    return found


def settings_of(values: Mapping[str, Value]) -> dict[str, Value]:
    """The settings that values by a space's names stand for."""
    found = dict(values)
    if "dim" in found:
        width = found.pop("dim")
        found |= dict.fromkeys(DIM, width)
    return found


def values_of(config: TrainConfig, space: Space) -> dict[str, Value] | None:
    """The settings' own values by the space's names; None where the space doesn't hold them."""
    found: dict[str, Value] = {}
    for name, choices in space.items():
        names = DIM if name == "dim" else (name,)
        value, *others = [getattr(config, one) for one in names]
        if any(other != value for other in others):
            return None
        if not holds(choices, value):
            return None
        found[name] = value
    return found


def holds(choices: Choices, value: object) -> bool:
    """Whether a value is one of those that are tried."""
    if isinstance(choices, Range):
        return isinstance(value, float | int) and choices.low <= value <= choices.high
    return value in choices


def stored(space: Space) -> dict[str, Any]:
    """A space as its file has it."""
    return {
        name: one.model_dump() if isinstance(one, Range) else list(one)
        for name, one in space.items()
    }
