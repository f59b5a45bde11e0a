"""A trained run in Python: what it is, how good it is, and what it says of clips and recordings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cache import Cache
from cache.common.atomic import plain_folder
from cache.common.cli import say
from cache.common.errors import ConfigError
from cache.format.identity import IDENTITY_FILE
from cache.joined import open_caches
from train.api.media import extracted
from train.runs import answers, folders
from train.runs.answers import ClipAnswer, found_events
from train.runs.timelines import timelines
from train.runs.trained import TrainedRun, load_run
from train.score.named import MODEL

Place = str | Path
_PACKED = {".h5", ".hdf5"}


@dataclass(frozen=True)
class Model:
    """A trained run, a folder of seeds that answer together, or a model that was handed over.

    Made by `train.load` and `train.fit`.

    Attributes
    ----------
    run: the models with their weights, settings and records, for who wants more than answers.
    """

    run: TrainedRun

    @property
    def folder(self) -> Path:
        """Where it is stored."""
        return self.run.folder

    @property
    def classes(self) -> list[str]:
        """The classes' names; place in the list is the class number."""
        return self.run.about.classes

    def scores(self, split: str = "val") -> Mapping[str, float | None]:
        """Its stored scores on a split, of an ensemble those of all together.

        Parameters
        ----------
        split: "val", or "test" where `python -m train evaluate` has scored that.

        Returns
        -------
        Scores by name; None where one has nothing to be of. Baselines and intervals stand beside
        them in `metrics_<split>.json`.

        Raises
        ------
        ConfigError: where it was not scored on the split.

        Examples
        --------
        >>> 0 <= train.load("runs/one").scores("val")["segment_accuracy"] <= 1
        True
        """
        found: Mapping[str, float | None]
        models = self.run.models
        place = models[0].folder if len(models) == 1 else self.folder  # one seed's are its own
        found = folders.read_result(place, split)["scores"][MODEL]
        return found

    def predict(
        self,
        what: Cache | Place | Sequence[Place],
        *,
        weights: str | None = None,
        device: str | None = None,
    ) -> list[ClipAnswer]:
        """Class, confidence, start and end of clips.

        Parameters
        ----------
        what: media files, whose features stage 1 makes in a process of its own; or a cache, or its
            path. Of a longer file its first seconds are looked at; `annotate` looks at all of it.
        weights: where the weights of the features' network are now; default: where they were.
        device: "cpu", "cuda" or "mps"; default: the run's.

        Returns
        -------
        A record for each clip, by id: `id`, `predicted`, `confidence`, `predicted_start_s`,
        `predicted_end_s`, `event` (whether there is one, None where that isn't decided),
        `event_confidence`, `not_looked_at_s`, `seen` (whether it was trained on that clip). Of a
        run of several events, and in a cache of windows, those of `annotate`.

        Raises
        ------
        ConfigError, CacheError: where media can't be read, or a cache has other features.

        Examples
        --------
        >>> (answer,) = train.load("runs/one").predict("clip.mp4")
        >>> answer["id"], answer["predicted"] in train.load("runs/one").classes
        ('clip', True)
        """
        with self._features(what, None, weights) as cache:
            return answers.predict(self.run, cache, device)

    def annotate(
        self,
        what: Cache | Place | Sequence[Place],
        *,
        hop_s: float | None = None,
        out: Place | None = None,
        weights: str | None = None,
        device: str | None = None,
    ) -> list[ClipAnswer]:
        """The events of whole recordings.

        Parameters
        ----------
        what: media files, folders of them, or a cache of their windows (`make features HOP=5`).
        hop_s: seconds from window to window; default: half of one, 5 s of AVE's 10 s.
        out: a folder for what `make annotate` writes, lists for other programs and a page that
            plays each recording; the features stay in it, so that another call does what is new.
        weights, device: as in `predict`.

        Returns
        -------
        A record for each event, by recording and time: `recording`, `category`, `start_s`, `end_s`,
        `confidence`, `seen`. A recording in which nothing is found has none.

        Raises
        ------
        ConfigError, CacheError: as in `predict`.

        Examples
        --------
        >>> for event in train.load("runs/one").annotate("recording.mp4"):
        ...     assert 0 <= event["start_s"] <= event["end_s"]
        """
        place = None if out is None else plain_folder(Path(out))
        hop_s = round(self.run.about.model_shapes().clip_seconds / 2, 3) if hop_s is None else hop_s
        with self._features(what, hop_s, weights, place) as cache:
            if place is not None:
                _write(self.run, cache, place, device)
            return found_events(self.run, cache, timelines(self.run, cache, device=device))

    @contextmanager
    def _features(
        self,
        what: Cache | Place | Sequence[Place],
        hop_s: float | None,
        weights: str | None,
        out: Path | None = None,
    ) -> Iterator[Cache]:
        """The features of what is asked about, for as long as the block runs."""
        if isinstance(what, Cache):
            yield what
            return
        places = [what] if isinstance(what, str | Path) else list(what)
        if not places:
            raise ConfigError("no media file, and no cache, was named")
        paths = [Path(one) for one in places]
        if len(paths) == 1 and _is_cache(paths[0]):
            yield open_caches(paths[0])
            return
        with tempfile.TemporaryDirectory() as scratch:
            cache = (Path(scratch) if out is None else out) / "cache"
            yield extracted(self.run.folder, paths, Path(scratch), cache, hop_s, weights)


def load(folder: Place | None = None) -> Model:
    """A trained run, a folder of seeds, or a model that was handed over.

    Parameters
    ----------
    folder: default: the newest run under `runs/`. Nothing in its files is executed.

    Returns
    -------
    Model: which answers, and says how good it is.

    Raises
    ------
    ConfigError, CheckpointError: where there is none, where it is damaged, or where its models were
        trained for different things and can't answer together.

    Examples
    --------
    >>> train.load("runs/one").classes
    ['Church bell', 'Male speech']
    """
    model = Model(load_run(folder))
    for text in model.run.cautions():
        say(f"warning: {text}", error=True)
    return model


def _is_cache(path: Path) -> bool:
    return (path / IDENTITY_FILE).exists() or (path.is_file() and path.suffix.lower() in _PACKED)


def _write(run: TrainedRun, cache: Cache, out: Path, device: str | None) -> None:
    """What `python -m train annotate` writes of all recordings of a cache."""
    from train.commands.annotate import annotate

    annotate(run.folder, cache.path, out, device=device)
