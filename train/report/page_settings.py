"""A run's settings as a table that shows what differs from the default and from the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.config import PRESETS, TrainConfig
from train.report.differing import NAMES


@dataclass(frozen=True)
class SettingsTable:
    """What the page shows of settings.

    Attributes
    ----------
    summary: what differs from the default, in words. columns: the default and the presets, by name.
    rows: name, the run's value, whether it differs from the default, the columns' values.
    """

    summary: str
    columns: list[str]
    rows: list[tuple[str, str, bool, list[str]]]


def settings(config: Mapping[str, Any]) -> SettingsTable:
    """The settings of a run as its results hold them; those that differ come first."""
    others = {"default": TrainConfig(), **PRESETS}
    known = {name: one.model_dump(mode="json") for name, one in others.items()}
    changed = [
        name for name in NAMES if config.get(name, known["default"][name]) != known["default"][name]
    ]
    order = [*changed, *(name for name in config if name not in changed)]
    rows = [
        (name, _text(config[name]), name in changed, [_text(k.get(name)) for k in known.values()])
        for name in order
    ]
    told = ", ".join(f"{name} {_text(config[name])}" for name in changed)
    summary = f"other than by default: {told}" if told else "all as by default"
    return SettingsTable(summary, list(known), rows)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
