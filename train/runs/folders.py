"""Run folders: what is stored, how a run is found again, and that its cache still fits.

config.json                     resolved settings (portable)
features.json                   the cache's fingerprint, extraction settings and provenance
record.json, trained_on.h5      by which code and when it was trained, on which label rows;
                                seen_before.h5: with --init, the clips that those weights have seen
metrics.jsonl                   a line for each epoch, written when it ends
history.json                    the same as one list, written when the training ended
best_model_with_attention.pth   the selected weights; last.pth: to go on from
metrics_val.json, metrics_test.json, predictions_val.json, test_evaluations.jsonl
retrieval_val.json              with `train retrieve`: which picture a sound belongs to
report.html                     scores and clips, to look at
attention_visualization/        pictures
tensorboard/                    events for TensorBoard, where that is installed
model.safetensors               in place of the weights, where `python -m train export` made it
seed-0/ seed-1/ …               with --seeds: one such folder each, and the ensemble's scores
both/ audio/ video/             with --ablations: one such run each
fold-1/ fold-2/ …               with --folds: one such run each, which may be a folder of seeds;
                                folds.json (how the clips are divided), and metrics_folds.json,
                                predictions_folds.json: each clip by the fold that hasn't seen it
on-1a2b3c4d/                    scores and pictures of other labels than the run's own
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.common.atomic import plain_folder, replace_file, writing
from cache.common.errors import CacheError, ConfigError
from cache.common.plain import read_plain
from cache.common.strict_json import loads
from cache.format.identity import IDENTITY_FILE
from cache.format.lock import LOCK_FILE, writer_lock
from train.runs.stored import read_scores

ROOT = Path("runs")
BEST, LAST, HANDED = "best_model_with_attention.pth", "last.pth", "model.safetensors"
_KINDS: tuple[tuple[str, ...], ...] = ((), ("seed",), ("fold",), ("fold", "seed"))
"""How models may stand in a run's folder."""
_SAME = {
    "fingerprint": "the features (fingerprints)",
    "split": "the splits",
    "classes": "the classes",
    "clips_without_features": "the clips without features",
    "scored_rows": "the labels of the scored rows (their digests)",
    "training_rows": "the labels of the training rows (their digests)",
}
CONFIG_FILE, FEATURES_FILE, HISTORY_FILE = "config.json", "features.json", "history.json"
FOLDS_FILE = "folds.json"
SWEEP_FILE, RERUN = "sweep.json", "rerun"
"""What tells a sweep's folder, and the folder in it with what it trained again."""
RECORD_FILE, _RECORD_BYTES = "record.json", 1 << 20


def new_run() -> Path:
    """A folder name made of the time, under `runs/`."""
    return ROOT / datetime.datetime.now().strftime("%Y%m%d-%H%M%S")


def unused_run() -> Path:
    """The same, of a folder that isn't there."""
    name = new_run()
    names = itertools.chain(
        [name], (name.with_name(f"{name.name}-{n}") for n in itertools.count(2))
    )
    return next(path for path in names if not path.exists())


def newest_run() -> Path:
    """The run under `runs/` that was trained last: the one rule of every command and of make.

    Of ablations it is the model of both streams, of seeds and of folds their folder. What has no
    model yet doesn't count.
    """
    places = ("*", "*/seed-*", "*/both", "*/both/seed-*", "*/fold-*", "*/fold-*/seed-*")
    found = [path for place in places for path in ROOT.glob(f"{place}/{BEST}")]
    if not found:
        raise ConfigError(
            f"no run under {ROOT}/; train one with `python -m train fit --cache CACHE`, or name "
            "one with --run"
        )
    newest = max(found, key=lambda model: (trained_at(model), model.stat().st_mtime)).parent
    for kind in ("seed", "fold"):
        newest = newest.parent if newest.name.startswith(f"{kind}-") else newest
    return newest


def weights_file(folder: Path) -> Path:
    """Where a model's selected weights are: a run's, or those of one that was handed over."""
    handed = folder / HANDED
    return handed if handed.exists() and not (folder / BEST).exists() else folder / BEST


def trained_at(model: Path) -> float:
    """When a model was trained, in s since 1970: by the run's record, which outlives copying.

    By the file's time where the run has none.
    """
    try:
        record = loads(read_plain(model.parent / RECORD_FILE, _RECORD_BYTES))
        last = record["sessions"][-1]
        return datetime.datetime.fromisoformat(last["ended"] or last["started"]).timestamp()
    except (CacheError, OSError, ValueError, LookupError, TypeError, OverflowError):
        return model.stat().st_mtime


def members(run: Path) -> list[Path]:
    """The run itself, or the models in it where it is a folder of seeds or of folds."""
    if weights_file(run).exists():
        return [run]
    found = next((some for kind in _KINDS[1:] if (some := _of_kind(run, kind))), [])
    if not found:
        places = ["/".join(("*", *(f"{word}-*" for word in kind))) for kind in _KINDS]
        inside = {
            path for at in places for name in (BEST, HANDED) for path in run.glob(f"{at}/{name}")
        }
        names = sorted({str(run / path.relative_to(run).parts[0]) for path in inside})
        hint = f"; there are runs in it, name one: {', '.join(names)}" if names else ""
        raise ConfigError(
            f"{run}: no trained run here; expected {BEST} or {HANDED} in it or in its seed-* or "
            f"fold-* folders{hint}"
        )
    for model in found:
        for place in (model, *model.parents):
            if place != run and place.is_relative_to(run) and place.is_symlink():
                raise ConfigError(
                    f"{place}: a link, expected a folder; refused: it may lead anywhere"
                )
    return found


def _of_kind(run: Path, kind: tuple[str, ...]) -> list[Path]:
    """The models in a run's folder whose places are of a kind, in the order of their numbers."""
    places = "/".join(f"{word}-*" for word in kind) or "."
    found = {path.parent for name in (BEST, HANDED) for path in run.glob(f"{places}/{name}")}
    return sorted(
        found,
        key=lambda path: [(len(part), part) for part in path.relative_to(run).parts],
    )


def kind_of(place: Path) -> tuple[str, ...]:
    """The words of a model's place in its run: of `fold-1/seed-0` "fold" and "seed"."""
    return tuple(part.split("-")[0] for part in place.parts)


@contextlib.contextmanager
def claimed_run(run: Path | None, members: Sequence[str], resume: bool) -> Iterator[Path]:
    """Be the only one that trains in a run's folder while the block runs; make it where needed.

    members: the folders inside it ("." for itself) that get a model each. Without `run` a new
    folder is made under `runs/`. Raises ConfigError where one holds a run already, or nothing to
    resume; CacheError, saying who and since when, where somebody trains in it. A folder that the
    block leaves empty is removed.
    """
    made = [] if run is not None else [_fresh()]
    run = run or made[0]
    places = [run / member for member in members]
    inside = (folder for place in places for folder in (place, *place.parents))
    folders = sorted({folder for folder in inside if folder.is_relative_to(run)})
    _check_free(run, places, resume)
    with contextlib.ExitStack() as held:
        try:
            for folder in folders:
                if not folder.exists():
                    made.append(plain_folder(folder))
                held.enter_context(writer_lock(plain_folder(folder), "run"))
            _check_free(run, places, resume)  # once more: another may have ended just now
            yield run
        finally:
            for folder in reversed(made):
                if {path.name for path in folder.iterdir()} <= {LOCK_FILE}:
                    (folder / LOCK_FILE).unlink(missing_ok=True)
                    folder.rmdir()


def _fresh() -> Path:
    """A new folder under `runs/`, nobody else's even if they ask within the same second."""
    name = new_run()
    plain_folder(ROOT)
    for number in itertools.count(1):
        path = name if number == 1 else name.with_name(f"{name.name}-{number}")
        with writing(path):
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue
    return path


def _check_free(run: Path, places: Sequence[Path], resume: bool) -> None:
    """Refuse to write over a run, or into a cache. A run without a checkpoint may begin anew."""
    if (run / IDENTITY_FILE).exists():
        raise ConfigError(f"{run}: a feature cache; pass another --run, a folder for the run alone")
    for place in places:
        if (place / HANDED).exists() and not (place / LAST).exists():
            raise ConfigError(
                f"{place}: a model that was handed over, which is not trained on; begin from its "
                "weights with --init, in another --run"
            )
        if not resume and any((place / name).exists() for name in (LAST, BEST, HANDED)):
            raise ConfigError(
                f"{place}: holds a run already; pass --resume to go on, or another --run"
            )
    kinds = {kind_of(place.relative_to(run)) for place in places}
    if (run / FOLDS_FILE).exists() and not any("fold" in kind for kind in kinds):
        raise ConfigError(
            f"{run}: a folder of folds; "
            + ("resume it with the --folds it has" if resume else "pass another --run")
        )
    others = [path for kind in _KINDS if kind not in kinds for path in _of_kind(run, kind)]
    for path in others:
        if resume and () in kinds:
            raise ConfigError(f"{run}: a folder of seeds; resume it with the --seeds it has")
        raise ConfigError(
            f"{path}: holds a run already, which would stand "
            f"{'inside' if () in kinds else 'beside'} the new one; pass another --run"
        )


def write_json(path: Path, value: object) -> None:
    """Readable JSON of finite numbers, replaced whole."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    replace_file(path, text.encode("utf-8", "replace"))


def read_result(place: Path, split: str) -> dict[str, Any]:
    """The stored result of one model on a split; ConfigError where it must be made first."""
    path = place / f"metrics_{split}.json"
    if not path.exists():
        raise ConfigError(
            f"{path}: this run has not been scored on {split}; do it with `python -m train "
            f"evaluate --run {place} --cache CACHE --split {split}`"
        )
    found = read_scores(path)
    if any(key not in found for key in (*_SAME, "scores")):
        raise ConfigError(
            f"{path}: was written by an older version and lacks what a comparison needs; "
            "evaluate the run again"
        )
    return found


def read_ensemble(run: Path, split: str, seeds: int) -> dict[str, Any] | None:
    """The stored result of the ensemble of a folder of seeds, where there is one."""
    if seeds < 2 or not (run / f"metrics_{split}.json").exists():
        return None
    return read_result(run, split)


def data_of(result: Mapping[str, Any]) -> str:
    """What it was trained and scored on, as one text: equal for results that can be compared."""
    return json.dumps([result[key] for key in _SAME])


def check_same_data(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Raise ConfigError unless all were trained and scored on the same rows and features."""
    first_name, first = next((name, seeds[0]) for name, seeds in results.items())
    for name, seeds in results.items():
        for result in seeds:
            for key, what in _SAME.items():
                if result[key] != first[key]:
                    raise ConfigError(
                        f"{name} and {first_name} can't be compared: {what} differ "
                        f"({str(result[key])[:60]} and {str(first[key])[:60]})"
                    )
