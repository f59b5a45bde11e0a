"""Training from Python: what `python -m train fit` does, and the model as the answer."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.api.model import Model, Place, load
from train.commands.fit import fit
from train.config import TrainConfig
from train.runs import folders


def fit_model(
    cache: Place | Sequence[Place],
    run: Place | None = None,
    *,
    seeds: Sequence[int] = (),
    init: Place | None = None,
    pictures: int = 0,
    **settings: Any,
) -> Model:
    """Train on a cache's train split, choose and score on its val split.

    What is printed, stored and refused is that of `python -m train fit`.

    Parameters
    ----------
    cache
        A cache, or several to be joined by id, by their paths.
    run
        The folder to make; default: a new one under `runs/`.
    seeds
        Train once per seed; they answer as an ensemble.
    init
        A run whose weights to begin with.
    pictures
        How many clips of val are drawn; 0 draws nothing.
    **settings
        Any of `train.config.TrainConfig`: `epochs`, `learning_rate`, `modality`, `device`, ...

    Returns
    -------
    Model
        Its `folder` and `scores` say where it is and how good; `predict` asks it.

    Raises
    ------
    ConfigError
        For a setting that is not known, with the nearest that is, or out of its range.
    CacheError
        Where the cache can't be read.

    Examples
    --------
    >>> model = train.fit_model("features", "runs/two", epochs=1, num_heads=2)  # doctest: +ELLIPSIS
    cache features: ...
    >>> model.folder.name, sorted(path.name for path in model.folder.glob("*.json"))[:2]
    ('two', ['config.json', 'features.json'])
    """
    config = TrainConfig.parse(settings)
    places = [cache] if isinstance(cache, str | Path) else cache
    name = str(places[0]) if len(places) == 1 else shlex.join(map(str, places))
    folder = folders.unused_run() if run is None else Path(run)
    fit(
        Path(name),
        folder,
        config,
        seeds=seeds,
        init=None if init is None else Path(init),
        pictures=pictures,
    )
    return load(folder)
