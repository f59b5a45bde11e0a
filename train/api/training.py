"""Training from Python: what `python -m train fit` does, and the model as the answer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.common.errors import ConfigError
from train.api.model import Model, Place, load
from train.commands.fit import fit as fit_and_score
from train.config import TrainConfig
from train.runs import folders


def fit(
    cache: Place | Sequence[Place],
    run: Place | None = None,
    *,
    seeds: int | Sequence[int] = (),
    init: Place | None = None,
    pictures: int = 0,
    **settings: Any,
) -> Model:
    """Train on a cache's train split, choose and score on val: what `python -m train fit` does.

    Parameters
    ----------
    cache: its path, or those of several to be joined by id.
    run: the folder to make; default: a new one under `runs/`.
    seeds: train once per seed; they answer as an ensemble. A number says how many: 5 is 0 to 4.
    init: a run whose weights to begin with.
    pictures: how many clips of val are drawn; 0 draws nothing.
    **settings: any of `train.config.TrainConfig`: `epochs`, `learning_rate`, `modality`, ...

    Returns
    -------
    Model: its `folder` and `scores` say where it is and how good; `predict` asks it.

    Raises
    ------
    ConfigError, CacheError: for a setting that is not known, a cache that can't be read, and such.

    Examples
    --------
    >>> model = train.fit("features", "runs/two", epochs=1)  # doctest: +ELLIPSIS
    cache features: ...
    """
    config = TrainConfig.parse(settings)
    folder = folders.unused_run() if run is None else Path(run)
    begin = None if init is None else Path(init)
    chosen = range(seeds) if isinstance(seeds, int) else seeds
    fit_and_score(_one_name(cache), folder, config, seeds=chosen, init=begin, pictures=pictures)
    return load(folder)


def _one_name(cache: Place | Sequence[Place]) -> Path:
    """Several caches as one path, as commands take them."""
    places = [cache] if isinstance(cache, str | Path) else cache
    if not places:
        raise ConfigError("no cache was named")
    return Path(str(places[0]) if len(places) == 1 else shlex.join(map(str, places)))
