"""What is told of a training while it goes on: to people, to `metrics.jsonl`, to TensorBoard.

Whoever trains without any of it passes `train_model` no callbacks.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cache.common.atomic import append_line, plain_folder, replace_file
from cache.common.cli import say
from train.runs.progress import METRICS_FILE
from train.score.named import CRITERION, CRITERION_OF_SEVERAL
from train.training.state import History

TENSORBOARD = "tensorboard"
_LINES = 60


class Callback:
    """Hears of a training: once when it begins or goes on, after each epoch, once at its end."""

    def begin(self, history: History, epochs: int) -> None:
        """So many epochs are planned; `history` has those that were finished before."""

    def epoch(self, history: History, epochs: int, best: bool) -> None:
        """An epoch is finished and stored, the last of `history`; best: on val, so far."""

    def end(self) -> None:
        """Training ended, well or not."""


@contextmanager
def told(
    callbacks: Sequence[Callback], history: History, epochs: int
) -> Iterator[Callable[[bool], None]]:
    """Tell callbacks that training begins, and that it ended however it does.

    Gives what tells them of the last epoch of `history`, and whether it is the best so far.
    """

    def tell(best: bool) -> None:
        for callback in callbacks:
            callback.epoch(history, epochs, best)

    with ExitStack() as ending:
        for callback in callbacks:
            ending.callback(callback.end)
            callback.begin(history, epochs)
        yield tell


class Console(Callback):
    """A line of each epoch for people, of many short ones of some 60, and a bar on a terminal."""

    def begin(self, history: History, epochs: int) -> None:
        """Show the bar."""
        self._bar = tqdm(total=epochs, initial=len(history), unit="epoch", disable=None)

    def epoch(self, history: History, epochs: int, best: bool) -> None:
        """Write the line."""
        self._bar.update()
        number = int(history[-1]["epoch"])
        if not number % max(1, epochs // _LINES) or number in (1, epochs):
            tqdm.write(_line(history[-1], epochs, best), file=sys.stderr)

    def end(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def _line(entry: dict[str, float], epochs: int, best: bool) -> str:
    names = {"val_class_loss": "loss", f"val_{CRITERION_OF_SEVERAL}": CRITERION_OF_SEVERAL}
    if "val_top1" in entry:
        names = {"val_top1": "top-1", "val_miou": "mIoU", f"val_{CRITERION}": CRITERION}
    scores = "  ".join(
        f"{label} {entry[name]:.3f}" for name, label in names.items() if name in entry
    )
    return (
        f"epoch {int(entry['epoch']):>3}/{epochs}  loss {entry['train_loss']:.4f}  val {scores}"
        f"{' *' if best else ''}  lr {entry['learning_rate']:.1e}  {entry['seconds']:.2f} s"
    )


class MetricsFile(Callback):
    """`metrics.jsonl` in a run's folder: the history, a line an epoch, on the disk as it ends.

    What a killed run left there is written anew from the checkpoint's history, so that a resumed
    run's file is that of one that was never stopped.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / METRICS_FILE

    def begin(self, history: History, epochs: int) -> None:
        """Write the epochs before."""
        replace_file(self._path, "".join(f"{json.dumps(one)}\n" for one in history).encode())

    def epoch(self, history: History, epochs: int, best: bool) -> None:
        """Add the epoch."""
        append_line(self._path, json.dumps(history[-1], allow_nan=False))


class TensorBoard(Callback):
    """Events in the run's folder `tensorboard/`, where TensorBoard is installed; else nothing."""

    def __init__(self, run: Path) -> None:
        self._folder = run / TENSORBOARD
        self._writer: Any = None

    def begin(self, history: History, epochs: int) -> None:
        """Begin a file of events; those of epochs that are trained again count no more."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        folder = str(plain_folder(self._folder))
        self._writer = SummaryWriter(folder, purge_step=len(history) + 1)

    def epoch(self, history: History, epochs: int, best: bool) -> None:
        """Add the epoch's numbers."""
        if self._writer is None:
            return
        numbers = dict(history[-1])
        number = int(numbers.pop("epoch"))
        try:
            for name, value in numbers.items():
                part, _, rest = name.partition("_")
                self._writer.add_scalar(
                    f"{part}/{rest}" if part in ("train", "val") else name, value, number
                )
            self._writer.flush()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training goes on
            say(f"warning: {self._folder}: no more events from here on: {error}", error=True)
            self._writer = None

    def end(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
