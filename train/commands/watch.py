"""`python -m train watch`: how far a training is, in a terminal, while it goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cache.common.cli import say, say_over
from cache.common.errors import AvelError, ConfigError
from cache.format.lock import writer_of
from train.runs import folders
from train.runs.progress import Progress
from train.runs.tree import Place, places

_EVERY_S = 1.0
_WIDTH, _SHORT = 40, 16
_BARS = "▁▂▃▄▅▆▇█"


def watch(run: Path | None, once: bool) -> None:
    """Show how far a run is (default: the newest that trains, else the newest).

    On a terminal until the training ends, unless `once`; else one time.
    """
    place = newest() if run is None else _named(run)
    live, lines = sys.stdout.isatty() and not once, 0
    while True:
        text, going_on = described(place)
        if not live:
            return say(text)
        lines = say_over(text, lines)
        if not going_on:
            return None
        time.sleep(_EVERY_S)


def newest() -> Place:
    """The run under `runs/` in which somebody trains just now, or else in which last."""
    found = places(folders.ROOT)
    if not found:
        raise ConfigError(
            f"no run under {folders.ROOT}/; train one with `python -m train fit --cache CACHE`, or "
            "name one"
        )
    return max(found, key=lambda one: (any(map(writer_of, one.models)), one.moved))


def _named(run: Path) -> Place:
    found = places(run) if run.is_dir() else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError(f"{run}: no run here, finished or begun; see `python -m train runs`")
    return Place(run, tuple(model for one in found for model in one.models))


def described(place: Place) -> tuple[str, bool]:
    """How far a run's models are, in lines, and whether any goes on."""
    if place.models == (place.folder,):
        try:
            progress = Progress.of(place.folder)
        except AvelError as error:
            return f"{place.folder}: {error}", False
        return _one(progress), progress.state in ("trains", "starts")
    lines, going_on, by = [], False, ""
    names = [str(model.relative_to(place.folder)) for model in place.models]
    wide = max(map(len, names))
    for name, model in zip(names, place.models, strict=True):
        try:
            progress = Progress.of(model)
        except AvelError as error:
            lines.append(f"{name:<{wide}}  {error}")
            continue
        lines.append(f"{name:<{wide}}  {_short(progress)}")
        by = by or (progress.criterion or "").removeprefix("val_")
        going_on |= progress.state in ("trains", "starts")
    told = f"{place.folder}: {len(names)} models" + (f", by {by} on val" if by else "")
    return "\n".join([told, *lines]), going_on


def _one(progress: Progress) -> str:
    """A model in a few lines."""
    lines = [f"{progress.folder}  {progress.told}"]
    history = progress.history
    if history:
        rows = {"train_loss": "loss", progress.criterion or "val_class_loss": "val"}
        for key, label in rows.items():
            values = [entry[key] for entry in history if key in entry]
            lines.append(f"{label:<5} {values[0]:.3f} {sparkline(values)} {values[-1]:.3f}")
        if progress.best is not None and progress.criterion is not None:
            epoch, score = progress.best
            name = progress.criterion.removeprefix("val_")
            lines.append(f"best  {score:.3f} {name} on val, at epoch {epoch}")
        pace = progress.epoch_seconds
        took = "" if pace is None else f", {pace:.2f} s an epoch"
        when = "now" if progress.state in ("trains", "starts") else "last"
        lines.append(f"{when:<5} learning rate {history[-1]['learning_rate']:.1e}{took}")
    return "\n".join(lines)


def _short(progress: Progress) -> str:
    """A model of several in a line."""
    key = progress.criterion
    values = [entry[key] for entry in progress.history if key in entry] if key else []
    best = "" if progress.best is None else f"best {progress.best[1]:.3f} "
    return f"{sparkline(values, _SHORT):<{_SHORT}} {best} {progress.told}"


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """A curve in one line of text: values (n,) as bars, the mean of those that share one."""
    if not values:
        return ""
    size = -(-len(values) // width)
    parts = [values[at : at + size] for at in range(0, len(values), size)]
    means = [sum(part) / len(part) for part in parts]
    low, span = min(means), max(means) - min(means)
    last = len(_BARS) - 1
    return "".join(_BARS[round((one - low) / span * last) if span else 0] for one in means)
