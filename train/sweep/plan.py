"""What all trials of a sweep share; the same command goes on only where that is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from cache.common.atomic import create_file
from cache.common.errors import ConfigError
from cache.common.settings import Settings
from train.config import TrainConfig
from train.runs.folders import SWEEP_FILE


class SweepPlan(Settings):
    """What all trials of a sweep share."""

    config: TrainConfig
    """Settings of what is not searched, resolved; epochs are a trial's."""
    space: dict[str, Any]
    """What is searched, as in the file of a space."""
    seeds: list[int] = Field(min_length=1, max_length=100)
    """Of each trial."""
    fingerprint: str
    """Of the cache's features."""
    epochs: int | None = None
    """Of what is trained again in full, beside each other; None in those of before."""
    rows: str
    """A digest of the rows that are trained on and validated on."""

    def store(self, folder: Path) -> None:
        """Write it into a new sweep's folder, or check that the sweep there is the same."""
        path = folder / SWEEP_FILE
        if create_file(path, self.to_json().encode()):
            return
        before = SweepPlan.from_json(path)
        old, new = before.model_dump(), self.model_dump()
        if before.epochs is None:
            old["epochs"] = self.epochs
        for name in ("device", "memory_gb", "threads"):
            old["config"].pop(name), new["config"].pop(name)
        wrong = [name for name in old if name != "config" and old[name] != new[name]]
        wrong += [name for name in old["config"] if old["config"][name] != new["config"][name]]
        if wrong:
            raise ConfigError(
                f"{folder}: holds a sweep with other settings ({', '.join(wrong)} differ, see "
                f"{SWEEP_FILE}); its trials can't stand beside new ones: pass another OUT"
            )
