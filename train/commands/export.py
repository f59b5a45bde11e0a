"""`python -m train export`: a run, or a folder of seeds, as a folder to hand over."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache import Cache
from cache.common.atomic import replace_file
from cache.common.cli import say
from cache.common.errors import AvelError, CacheError, ConfigError
from cache.common.strict_json import read_json
from cache.format.identity import Identity
from cache.joined import JOINED, open_caches
from train.commands.report import TEXT, compare, rendered
from train.config import SCORED
from train.export import card, folder
from train.export.card import Card
from train.export.onnx_file import Checked, missing_packages, write_onnx
from train.export.sample import made_up
from train.report.tables import comparison
from train.runs import folders
from train.runs.trained import TrainedRun, load_run
from train.score.named import MODEL

_SPLITS = ("val", "test")


def export(
    run: Path | None,
    out: Path,
    *,
    onnx: bool | None = None,
    cache_path: Path | None = None,
    licence: str = card.NOT_STATED,
    without_ids: bool = False,
) -> Path:
    """Write weights, settings, record, card and, where it can be made, ONNX; returns the folder.

    run: None takes the newest. onnx: None makes it where its packages are installed, True insists.
    cache_path: a cache of the run's features, on whose clips ONNX is checked; without one on
    made-up clips. The folder must be empty; everything but the card and ONNX is read by `load_run`.
    """
    trained = load_run(run)
    for text in trained.cautions():
        say(f"warning: {text}", error=True)
    features = _identity(trained)
    if onnx and (missing := missing_packages()):
        raise ConfigError(
            f"--onnx: {', '.join(missing)} is not installed; "
            "`pip install 'avel-two-stage[onnx]'` brings it"
        )
    with folder.appearing(out) as place:
        folder.write_models(trained, place, without_ids)
        found = _onnx(trained, features, place, onnx, cache_path)
        text = Card(
            run=trained,
            features=features,
            name=out.name,
            scores=_scores(trained),
            looks=folder.test_looks(trained),
            licence=licence,
            onnx=found,
            record_left_out=without_ids,
        ).render()
        replace_file(place / card.FILE, text.encode("utf-8", "replace"))
    _tell(trained, out, found)
    return out


def _identity(run: TrainedRun) -> Identity | None:
    """What its features were; None of joined caches, of which the run knows the settings alone."""
    path = run.models[0].folder / folders.FEATURES_FILE
    found = Identity.parse(read_json(path, "copy the run's folder again"), str(path))
    return None if JOINED in found.config else found


def _onnx(
    run: TrainedRun, features: Identity | None, out: Path, wanted: bool | None, cache: Path | None
) -> Checked | str:
    """The files, or why there are none."""
    if wanted is False:
        return "none was asked for"
    try:
        with _clips(run, features, cache) as (clips, real):
            if not missing_packages():
                say("making ONNX files: some half a minute for each model (--no-onnx leaves them)")
            return write_onnx(run, clips, out, real)
    except AvelError as error:
        if wanted:
            raise
        return str(error).removeprefix("ONNX: ")


@contextmanager
def _clips(
    run: TrainedRun, features: Identity | None, path: Path | None
) -> Iterator[tuple[Cache, bool]]:
    """Clips of the run's features, and whether they are real."""
    if path is not None:
        cache = open_caches(path)
        run.check_features(cache)
        if not cache.ids:
            raise CacheError(f"{cache.path}: no clip in this cache; nothing to check ONNX on")
        yield cache, True
    elif features is None:
        raise ConfigError(
            "a run of several caches; name them with --cache, so that a graph of their fields can "
            "be made"
        )
    else:
        with tempfile.TemporaryDirectory() as scratch:
            model = run.models[0].model
            yield made_up(Path(scratch) / "clips", features.declaration, model), False


def _scores(run: TrainedRun) -> dict[str, str | None]:
    """The tables of val and test, or of all folds together, with the baselines."""
    if (run.folder / folders.FOLDS_FILE).exists():
        scored = (run.folder / f"metrics_{SCORED}.json").exists()
        return {"all folds": rendered(compare([run.folder], SCORED), TEXT) if scored else None}
    return {split: _table(run, split) for split in _SPLITS}


def _table(run: TrainedRun, split: str) -> str | None:
    """The scores that matter, of seeds and their ensemble; None where it was not evaluated."""
    places = [one.folder for one in run.models]
    if not all((place / f"metrics_{split}.json").exists() for place in places):
        return None
    seeds = [folders.read_result(place, split) for place in places]
    together = folders.read_ensemble(run.folder, split, len(seeds))
    return comparison({MODEL: (seeds, together)}, brief=True)


def _tell(run: TrainedRun, out: Path, onnx: Checked | str) -> None:
    size = sum(path.lstat().st_size for path in out.rglob("*") if path.is_file())
    say(f"{run.folder}: {len(run.models)} model(s) → {out} ({size / 1e6:.2f} MB)")
    if isinstance(onnx, str):
        say(f"no ONNX file: {onnx}")
    else:
        sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in onnx.sizes.items())
        kind = "real" if onnx.real else "made-up"
        say(
            f"ONNX: {sizes}; at most {onnx.apart:.1g} from torch on {onnx.clips} {kind} clips, "
            f"{onnx.clip_ms:.1f} ms a clip on {onnx.threads} thread(s)"
        )
    say(f"card: {out / card.FILE}; read it before you hand the folder on")
