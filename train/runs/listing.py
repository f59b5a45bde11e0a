"""All runs under a folder with what is known of each, to be told apart at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.common.errors import AvelError, ConfigError
from cache.common.strict_json import read_json
from cache.joined import JOINED
from train.config import SCORED
from train.runs import folders
from train.runs.folders import weights_file
from train.runs.looks import count_looks
from train.runs.making import Making
from train.runs.progress import Progress
from train.runs.tree import Place, places

Config = Mapping[str, Any]
_ORDER = ("trains", "stopped", "starts")


@dataclass(frozen=True)
class Listed:
    """A run as lists show it.

    Attributes
    ----------
    name: its folder's, in the folder that is listed.
    when: when it was trained, or when something happened last, in s since 1970.
    models: how many models it has (seeds, folds), finished or not.
    results: the stored scores of those that have some; of folds the one over all.
    configs: the settings of each result, or of a run without any.
    init: the name of the run whose weights it began with, "" of none.
    looks: how often it was scored on a test split.
    told: what is wrong with it, or how far its training is; "" where all is well and done.
    """

    place: Place
    name: str
    when: float
    models: int
    results: Sequence[Mapping[str, Any]] = ()
    configs: Sequence[Config] = ()
    init: str = ""
    looks: int = 0
    told: str = ""

    @property
    def sweep(self) -> str:
        """The sweep that trained it again, by its name in the folder that is listed; "" of none."""
        folder = self.place.folder.parent
        if folder.name != folders.RERUN or not (folder.parent / folders.SWEEP_FILE).exists():
            return ""
        above = Path(self.name).parent.parent
        return folder.parent.name if above == Path() else str(above)

    @property
    def data(self) -> str:
        """What its scores are of: equal for runs that can be compared; "" without scores."""
        return folders.data_of(self.results[0]) if self.results else ""

    def matches(self, wanted: Config) -> bool:
        """Whether one of its models has these settings."""
        return any(
            all(config.get(name, ...) == value for name, value in wanted.items())
            for config in self.configs
        )


def listed(root: Path, split: str) -> list[Listed]:
    """All runs under a folder; a damaged one says what is wrong, and stops none."""
    found = []
    for place in places(root):
        name = str(place.folder.relative_to(root)) if place.folder != root else root.name
        try:
            one = _listed(place, name, split)
        except (AvelError, OSError) as error:
            one = Listed(place, name, place.moved, len(place.models), told=str(error))
        if one is not None:
            found.append(one)
    return found


def _listed(place: Place, name: str, split: str) -> Listed | None:
    """One run; None for a folder in which nothing was begun and nobody is at work."""
    first, folds = place.models[0], (place.folder / folders.FOLDS_FILE).exists()
    scored = (place.folder,) if folds else place.models
    split = SCORED if folds else split
    done = [one for one in scored if (one / f"metrics_{split}.json").exists()]
    told = "" if len(done) == len(scored) else _told(place, len(done), split)
    if told is None:
        return None
    results = [folders.read_result(one, split) for one in done]
    if len(results) > 1:
        folders.check_same_data(
            {f"{name}/{one.name}": [r] for one, r in zip(done, results, strict=True)}
        )
    configs = [one["config"] for one in results if isinstance(one.get("config"), dict)]
    making, model = Making.of(first), weights_file(first)
    return Listed(
        place,
        name,
        folders.trained_at(model) if model.exists() else place.moved,
        len(place.models),
        results,
        configs or [_config(first)],
        "" if making is None or making.init is None else making.init.run,
        max(map(count_looks, {place.folder, *place.models})),
        told,
    )


def _told(place: Place, done: int, split: str) -> str | None:
    """Why some of a run's models have no scores; None where nothing was begun."""
    going = [Progress.of(model) for model in place.models]
    waiting = [one for one in going if one.state != "ended"]
    if not waiting:
        hint = ": `python -m train evaluate`" if split == "val" else ""  # test: the chosen one's
        told = f"not scored on {split}{hint}"
    elif all(one.state == "stopped" and not _begun(one.folder) for one in going):
        return None
    else:
        told = min(waiting, key=lambda one: _ORDER.index(one.state)).told
    return told if len(going) == 1 else f"{done} of {len(going)} scored; {told}"


def _begun(model: Path) -> bool:
    places = (model / folders.RECORD_FILE, model / folders.CONFIG_FILE, weights_file(model))
    return any(path.exists() for path in places)


def _config(model: Path) -> Config:
    path = model / folders.CONFIG_FILE
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected the settings of a run, found another thing")
    return found


def joined_of(model: Path) -> list[str]:
    """The fingerprints of the caches that were joined for a model; [] where it was one."""
    path = model / folders.FEATURES_FILE
    if not path.exists():
        return []
    try:
        parts = read_json(path)["config"][JOINED]
        return [str(part["fingerprint"]) for part in parts]
    except (ConfigError, LookupError, TypeError):
        return []
