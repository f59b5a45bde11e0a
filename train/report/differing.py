"""Settings in few words: what differs from the defaults, and what differs among runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.config import PRESETS, TrainConfig

Config = Mapping[str, Any]
_FOLLOWS = ("num_classes", "num_frames", "events", "device", "memory_gb")
"""What the cache or the machine decides."""
NAMES = [name for name in TrainConfig.model_fields if name not in _FOLLOWS]
"""What a person chooses."""
_DEFAULTS = {
    name: config.model_dump(mode="json") for name, config in {"": TrainConfig(), **PRESETS}.items()
}


def beside_default(config: Config, seeds: int = 1, init: str = "") -> str:
    """What differs from the defaults, or from the preset that is nearest, name by name.

    seeds: of how many seeds these settings are; one's own seed is a setting, several are not.
    """
    names = [name for name in NAMES if name != "seed" or seeds == 1]
    return ", ".join([*_words(config, names), *([f"init {init}"] * bool(init))])


def that_differ(configs: Mapping[str, Config]) -> dict[str, str]:
    """The same of each run by name, of those settings alone that not all have in common.

    "the defaults" where that is nothing; "" for all where they differ in nothing (but the seed).
    """
    every = list(configs.values())
    names = [
        name
        for name in NAMES
        if name != "seed" and any(one.get(name) != every[0].get(name) for one in every)
    ]
    if not names:
        return dict.fromkeys(configs, "")
    return {
        run: ", ".join(_words(config, names)) or "the defaults" for run, config in configs.items()
    }


def _words(config: Config, names: Sequence[str]) -> list[str]:
    """What of these differs, in few words: first the preset, if one is nearer than the defaults."""
    found = {
        preset: {
            name: config[name] for name in names if name in config and config[name] != default[name]
        }
        for preset, default in _DEFAULTS.items()
    }
    preset, others = min(found.items(), key=lambda pair: len(pair[1]) + bool(pair[0]))
    return [*([preset] * bool(preset)), *(f"{name} {shown(v)}" for name, v in others.items())]


def shown(value: Any) -> str:
    """A value as a person would write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)[:60]
