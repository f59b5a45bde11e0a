"""A run's models into a folder that reads like a run, and holds what is handed over alone."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.common.atomic import TEMPORARY, plain_folder, replace_file, writing
from cache.common.errors import ConfigError
from cache.common.plain import read_plain
from cache.common.strict_json import MAX_JSON_BYTES, read_json
from cache.common.torch_file import MAX_FILE_BYTES
from cache.format.identity import Identity
from cache.joined import JOINED
from train.runs import checkpoint, folders
from train.runs.folders import HANDED
from train.runs.looks import TEST_RECORD
from train.runs.making import Making
from train.runs.record import EARLIER_FILE, ROWS_FILE
from train.runs.trained import TrainedModel, TrainedRun


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A folder that is `out` when the block ends well, and is gone otherwise.

    ConfigError where something is in `out`; CacheError where it can't be made.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out}: expected an empty folder, or none; name another --out")
    if inside := sorted(path.name for path in out.iterdir()) if out.exists() else []:
        raise ConfigError(
            f"{out}: expected an empty folder, or none, found {inside[0]} in it; name another --out"
        )
    here = out.resolve()
    if here.is_mount() or here == Path.cwd():
        raise ConfigError(
            f"{out}: {'a mounted disk' if here.is_mount() else 'the current folder'}, which "
            f"another can't take the place of; name a folder in it: --out {out / 'model'}"
        )
    plain_folder(out.parent)
    with writing(out):
        scratch = tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=out.parent)
    with scratch as name:
        place = plain_folder(Path(name) / "model")
        yield place
        with writing(out):
            place.replace(out)


def write_models(run: TrainedRun, out: Path, without_ids: bool) -> None:
    """Each model of a run, at its place in it.

    without_ids: leave out which clips it has seen, which are named by their ids.
    """
    for one in run.models:
        place = plain_folder(out / one.folder.relative_to(run.folder))
        checkpoint.hand_over(place / HANDED, one.model, one.about)
        for name in (folders.CONFIG_FILE, TEST_RECORD):
            _copy(one.folder / name, place)
        _features(one.folder, place)
        if not without_ids:
            _record(one, place)
    if len(run.models) > 1:
        _copy(run.folder / TEST_RECORD, out)


def test_looks(run: TrainedRun) -> int:
    """How often any of the models, or all together, were scored on test."""
    places = {run.folder, *(one.folder for one in run.models)}
    files = [place / TEST_RECORD for place in places]
    counts = [read_plain(path, MAX_FILE_BYTES).count(b"\n") for path in files if path.exists()]
    return max(counts, default=0)


def _features(folder: Path, place: Path) -> None:
    """How the features were made; of a file of weights its name, not where it lay."""
    path = folder / folders.FEATURES_FILE
    found = Identity.parse(read_json(path, "copy the run's folder again"), str(path)).record()
    made_by = found["provenance"]
    for one in made_by.get(JOINED, [made_by]):
        if isinstance(one, dict) and isinstance(one.get("weights"), str):
            one["weights"] = Path(one["weights"]).name
    folders.write_json(place / folders.FEATURES_FILE, found)


def _record(one: TrainedModel, place: Path) -> None:
    """What a run keeps of its making, but for what names folders: command lines, and errors."""
    if one.record is None or one.record.making is None:
        return
    making = one.record.making
    sessions = [
        one.revised(command=[], ended_because=one.ended_because if one.ended else None)
        for one in making.sessions
    ]
    told = Making(sessions=sessions, init=making.init)
    for name in (ROWS_FILE, EARLIER_FILE):
        _copy(one.folder / name, place)
    folders.write_json(place / folders.RECORD_FILE, told.model_dump(mode="json"))


def _copy(path: Path, place: Path) -> None:
    """A plain file into another folder, where there is one."""
    if path.exists():
        limit = MAX_JSON_BYTES if path.suffix == ".json" else MAX_FILE_BYTES
        replace_file(place / path.name, read_plain(path, limit))
