"""Settings in few words: what differs from the defaults, and what differs among runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.config import PRESETS, TrainConfig

Config = Mapping[str, Any]
_FOLLOWS = ("num_classes", "num_frames", "events", "device", "memory_gb")
"""What the cache or the machine decides."""
_DEFAULTS = {
    name: config.model_dump(mode="json") for name, config in {"": TrainConfig(), **PRESETS}.items()
}


def beside_default(config: Config, seeds: int = 1, init: str = "") -> str:
    """What differs from the defaults, or from the preset that is nearest, name by name.

    seeds: of how many seeds these settings are; one's own seed is a setting, several are not.
    """
    left_out = (*_FOLLOWS, "seed") if seeds > 1 else _FOLLOWS
    found = {
        preset: {
            name: config[name]
            for name, value in default.items()
            if name in config and name not in left_out and config[name] != value
        }
        for preset, default in _DEFAULTS.items()
    }
    preset, others = min(found.items(), key=lambda pair: len(pair[1]) + bool(pair[0]))
    words = [*([preset] * bool(preset)), *(f"{name} {shown(v)}" for name, v in others.items())]
    return ", ".join([*words, *([f"init {init}"] * bool(init))])


def that_differ(configs: Mapping[str, Config]) -> dict[str, str]:
    """Of each run by name, the settings in which not all are alike, in words; "" of one alone."""
    names = [
        name
        for name in TrainConfig.model_fields
        if name not in (*_FOLLOWS, "seed")
        and any(
            one.get(name) != other.get(name)
            for one in configs.values()
            for other in configs.values()
        )
    ]
    return {
        run: ", ".join(f"{name} {shown(config.get(name))}" for name in names)
        for run, config in configs.items()
    }


def shown(value: Any) -> str:
    """A value as a person would write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)[:60]
