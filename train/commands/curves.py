"""`curves.png`, drawn anew now and then while a training goes on."""

from __future__ import annotations

import time
from pathlib import Path

from cache.common.cli import say
from train.config import TrainConfig
from train.report.drawing import FOLDER, save_figures
from train.report.run_plots import curves_figure
from train.training.choice import kept_epoch
from train.training.state import History
from train.training.tell import Callback

_FIRST_S, _EVERY_S, _PATIENCE = 15.0, 5.0, 30
"""When it is drawn first, how often at most, and how many times as long as the drawing took the
training is left alone: so it costs some 3 % of the time at most."""


class Curves(Callback):
    """Draws while there is time for it; what goes wrong with it ends the drawing alone."""

    def __init__(self, run: Path, config: TrainConfig) -> None:
        self._run, self._config, self._due = run, config, 0.0

    def begin(self, history: History, epochs: int) -> None:
        """Wait for the first epochs."""
        self._due = time.monotonic() + _FIRST_S

    def epoch(self, history: History, epochs: int, best: bool) -> None:
        """Draw, if it is time."""
        started = time.monotonic()
        if started < self._due or len(history) in (1, epochs):
            return
        try:
            draw_curves(self._run, history, kept_epoch(history, self._config))
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            say(f"warning: curves.png is not drawn from here on: {error}", error=True)
            self._due = float("inf")
            return
        now = time.monotonic()
        self._due = now + max(_EVERY_S, _PATIENCE * (now - started))


def draw_curves(run: Path, history: History, kept: int) -> None:
    """Draw losses, scores and learning rate of a training, of which epoch `kept` is kept."""
    save_figures(run / FOLDER, {"curves": curves_figure(history, kept)})
