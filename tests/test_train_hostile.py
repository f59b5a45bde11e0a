"""Run folders from strangers: links, pipes, and files that say anything but what they should."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from small_media import resealed
from synthetic_cache import labels_for, make_cache
from tiny_runs import TINY

from cache import Cache, open_cache
from cache.common.atomic import replacing
from cache.common.errors import AvelError, CacheError, ConfigError
from cache.common.strict_json import MAX_JSON_BYTES, parse_json
from cache.format.identity import Identity
from cache.labels.store import write_labels
from extract.config import FEATURE_VERSION, ExtractConfig
from extract.features.declare import declare
from extract.features.weights import check_weights
from extract.one_clip import _like, _weights
from train import __main__ as cli
from train.commands import fit as fitting
from train.commands.evaluate import evaluate_run
from train.commands.predict import predict_cache
from train.commands.report import report
from train.config import TrainConfig
from train.data import reader
from train.data.dataset import Dataset, load_dataset, resolve
from train.data.features import load_features
from train.model.fusion import FusionModel
from train.report import page, page_scores, run_plots
from train.report.drawing import FOLDER
from train.runs import checkpoint, record, stored
from train.runs.checkpoint import CheckpointError, load
from train.runs.clip_features import check_same_features
from train.runs.folders import BEST, LAST, RECORD_FILE
from train.runs.paired import paired_scores
from train.score.predict import TrainingError, predict
from train.training import loop
from train.training.resume import restore

SMALL = TrainConfig(
    device="cpu", audio_feat_dim=16, video_feat_dim=16, map_channels=8, num_heads=2, epochs=2,
    batch_size=8, selection="best",
)  # fmt: skip
SPLIT = "test"


def tiny_cache(folder: Path, classes: int = 2) -> Cache:
    labels = labels_for(20, classes)
    labels.start_s[:] = np.minimum(labels.start_s / 10, 1.0)
    labels.end_s[:] = np.minimum(labels.start_s + 1, 2.0)
    return open_cache(make_cache(folder, labels=labels, **TINY))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return tiny_cache(tmp_path_factory.mktemp("hostile") / "cache")


@pytest.fixture(scope="module")
def trained(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    fitting.fit(cache.path, run, SMALL, pictures=0)
    evaluate_run(run, cache.path, SPLIT, pictures=0)
    return run


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


# Links ------------------------------------------------------------------------------------------


def test_links_in_a_run_are_replaced_or_refused_and_never_followed(
    cache: Cache, run: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    names = [f"metrics_{SPLIT}.json", f"predictions_{SPLIT}.json", ".report.html.writing"]
    names += [page.FILE, ".metrics_test.json.writing"]
    for name in names:
        (outside / name).write_text("mine")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside / name)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    evaluate_run(run, cache.path, SPLIT, pictures=1)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before
    assert not (run / page.FILE).is_symlink()
    assert json.loads((run / f"metrics_{SPLIT}.json").read_text())["split"] == SPLIT


@pytest.mark.parametrize(
    "name",
    [
        "test_evaluations.jsonl",
        FOLDER,
        f"{FOLDER}/{SPLIT}",
        "history.json",
        "metrics_val.json",
        BEST,
    ],
)
def test_links_that_would_be_read_or_added_to_are_refused(
    cache: Cache, run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, outside = run / name, tmp_path / "outside"
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.rename(outside)
    if not outside.exists():
        outside.mkdir()
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside)
    before = outside.read_bytes() if outside.is_file() else sorted(outside.iterdir())
    argv = ["evaluate", "--run", str(run), "--cache", str(cache.path), "--split", SPLIT]
    assert cli.main(argv) == 2
    shown = capsys.readouterr().err
    assert "link" in shown
    assert str(path) in shown
    assert before == (outside.read_bytes() if outside.is_file() else sorted(outside.iterdir()))


def test_a_seed_or_a_folder_of_answers_that_is_a_link_is_refused(
    cache: Cache, run: Path, tmp_path: Path
) -> None:
    seeds = tmp_path / "seeds"
    seeds.mkdir()
    (seeds / "seed-0").symlink_to(run)
    with pytest.raises(ConfigError, match="seed-0: a link"):
        evaluate_run(seeds, cache.path, "val")
    (tmp_path / "elsewhere").mkdir()
    (run / "predictions").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="predictions: a link"):
        predict_cache(run, cache.path, pictures=0)
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "names", [["config.json"], [LAST], ["record.json"], ["features.json", "history.json"]]
)
def test_a_resumed_run_follows_no_link(
    cache: Cache, run: Path, tmp_path: Path, names: list[str]
) -> None:
    for name in names:
        (run / name).rename(tmp_path / name)
        (run / name).symlink_to(tmp_path / name)
    before = [(tmp_path / name).read_bytes() for name in names]
    argv = ["fit", "--run", str(run), "--cache", str(cache.path), "--resume", "--pictures", "0"]
    assert cli.main([*argv, "--epochs", "3"]) == (0 if len(names) > 1 else 2)
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert all((run / name).is_symlink() == (len(names) == 1) for name in names)


def test_pipes_devices_and_folders_are_no_files_of_a_run(run: Path) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "config.json": TrainConfig.from_json,
        "features.json": _like,
        "history.json": stored.read_history,
        "metrics_val.json": stored.read_scores,
        BEST: load,
    }
    for name, read in readers.items():
        path = run / name
        for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
            path.unlink() if not path.is_dir() else path.rmdir()
            make(path)
            with pytest.raises(AvelError, match=name):
                read(path)
        path.unlink()
        with path.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(AvelError, match=name):
            read(path)


# JSON -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "9" * 30, '"\\u0000"', '"\\ud800"', "[" * 40
     + "]" * 40, "[" * 100_000, "", "{", "\xff", '{"a": 1}}'],
)  # fmt: skip
def test_json_that_no_program_of_ours_writes_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"here: this is not JSON .*; do this"):
        parse_json(text.encode("latin-1"), "here", "do this")


def test_json_that_our_programs_write_is_read(tmp_path: Path) -> None:
    value = {"é": [1, -2.5, None, True, "x\ny", {"deep": [[[]]]}], "large": 2**63 - 1}
    assert parse_json(json.dumps(value), "here", "") == value
    path = tmp_path / "large.json"
    path.write_bytes(b" " * (MAX_JSON_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        stored.read_history(path)


_ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 10**30, 1e300, -1e300, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800", "\x1b]0;x\7", "x" * 10_000, [], {}, [[]], {"x": {}}, [1], ["x"]),
]


def _deep() -> Any:
    value: Any = 1
    for _ in range(200):
        value = {"x": [value]}
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys or numbers."""
    found: list[tuple[Any, Any]] = []
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in inside:
        found.append((value, key))
        if isinstance(part, dict | list):
            found += _places(part)
    return found


def mutate(value: Any, rng: random.Random) -> Any:
    """The value with one thing changed, and sometimes a few."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 3))):
        places = _places(value) if isinstance(value, dict | list) else []
        if not places or rng.random() < 0.02:
            return rng.choice(_ODD)
        holder, key = rng.choice(places)
        how = rng.randrange(8)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, list):
            holder += holder * 2
        elif how == 1:
            holder[f"{key}?"] = holder[key]
        elif how == 2:
            holder[key] = _deep()
        elif how == 3:
            holder[key] = rng.choice(places)[0]
            try:
                json.dumps(value)
            except ValueError:  # a circle
                holder[key] = None
        else:
            holder[key] = rng.choice(_ODD)
    return value


def mutant(value: Any, rng: random.Random) -> bytes:
    """JSON text of a mutated value, or the text itself bent."""
    data = json.dumps(mutate(value, rng)).encode()
    if rng.random() < 0.2:
        bent = bytearray(json.dumps(value).encode())
        for _ in range(rng.choice((1, 4))):
            bent[rng.randrange(len(bent))] = rng.randrange(256)
        data = bytes(bent[: rng.choice((len(bent), len(bent) // 2))])
    return data


def fuzz(path: Path, read: Callable[[Path], object], count: int, seed: int) -> None:
    """`read` a file's mutants: it takes them, or refuses them with a sentence that names it."""
    rng, value = random.Random(seed), json.loads(path.read_text())
    told = []
    for _ in range(count):
        path.write_bytes(mutant(value, rng))
        try:
            read(path)
        except AvelError as error:
            told.append(str(error))
    assert len(told) > count / 2
    assert all(str(path.parent) in text and len(text) < 20_000 for text in told)


def as_like(path: Path) -> None:
    """All that `extract clip --like` does with the file before it extracts."""
    like = _like(path)
    ExtractConfig.of(like)
    check_weights(_weights(like, path))


def test_features_json_is_taken_or_refused(run: Path) -> None:
    fuzz(run / "features.json", as_like, 300, 1)


@pytest.mark.parametrize("version", [1, 2])
def test_features_json_that_was_sealed_anew_is_taken_or_refused(
    tmp_path: Path, version: int
) -> None:
    path, rng, taken = tmp_path / "features.json", random.Random(2), 0
    config, provenance = ExtractConfig(), {"weights": "random:0", "python": "3.11"}
    like = Identity(
        FEATURE_VERSION, config.resolved("0" * 64), declare(config), provenance, version
    ).record()
    for _ in range(400):
        odd = mutate(like, rng)
        with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
            odd = resealed(odd)
        path.write_text(json.dumps(odd))
        with contextlib.suppress(AvelError):
            as_like(path)
            taken += 1
    assert taken > 20


def test_config_json_is_taken_or_refused(run: Path) -> None:
    fuzz(run / "config.json", TrainConfig.from_json, 400, 3)


def test_scores_are_taken_or_refused(run: Path) -> None:
    def read(path: Path) -> None:
        report([path.parent], "val")
        page_scores.table(stored.read_scores(path))

    fuzz(run / "metrics_val.json", read, 400, 4)


def test_answers_are_taken_or_refused(run: Path) -> None:
    def read(path: Path) -> None:
        paired_scores({"a": [path.parent]}, SPLIT, 2.0)["a"].estimates()

    fuzz(run / f"predictions_{SPLIT}.json", read, 300, 9)


def test_a_record_is_taken_or_refused(run: Path) -> None:
    about = load(run / BEST)[1]

    def read(path: Path) -> None:
        found = record.read(path.parent, about)
        record.cautions(path.parent, found)

    fuzz(run / RECORD_FILE, read, 100, 8)


def test_history_is_taken_or_refused(run: Path) -> None:
    drawn = 0

    def read(path: Path) -> None:
        nonlocal drawn
        history = stored.read_history(path)
        if history:
            kept = len(history) // 2
            page.curves_alt(history, kept)
            drawn += 1
            if drawn % 30 == 0:
                run_plots.curves_figure(history, kept).canvas.draw()
                plt.close("all")

    fuzz(run / "history.json", read, 400, 5)


# Checkpoints ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(cache: Cache) -> Dataset:
    return load_dataset(cache, resolve(SMALL, cache, cache.labels.classes), ("train", "val"))


def resume(dataset: Dataset, run: Path) -> None:
    """Take everything out of a run's last.pth that going on with it takes."""
    about = load(run / BEST)[1]
    config = about.config
    loop.train_model(FusionModel(dataset.clips.shapes, config), dataset, about, run, True)


def test_what_a_checkpoint_says_of_itself_is_taken_or_refused(
    cache: Cache, dataset: Dataset, run: Path
) -> None:
    path, rng, told = run / BEST, random.Random(6), []
    payload = torch.load(path, weights_only=True)
    about = json.loads(payload["about"])
    for _ in range(150):
        torch.save({**payload, "about": mutant(about, rng).decode("latin-1")}, path)
        try:
            model, found, _ = load(path)
            check_same_features(cache, found, run)
            predict(model, dataset.clips, dataset.splits["val"].clip)
        except AvelError as error:
            told.append(str(error))
    assert 0 < len(told) < 150
    assert max(map(len, told)) < 20_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ["a", "a"]}, "1 of them different, for 2 classes"),
        ({"classes": [1, 2]}, "classes.0"),
        ({"classes": [f"{n}" for n in range(10**5)]}, "100000 class names"),
        ({"shapes": {"audio_features": 1e300}}, "shapes: audio_features"),
        ({"shapes": {"clip_seconds": -1}}, "clip_seconds"),
        ({"shapes": {"cells": 2.5}}, "cells"),
        ({"shapes": {"map_channels": None}}, "map_channels"),
        ({"config": {"audio_feat_dim": 4096}}, "tensors don't fit"),
        ({"config": {"audio_feat_dim": 10**9}}, "audio_feat_dim"),
        ({"config": {"num_heads": 3}}, "num_heads"),
        ({"config": {"seed": 10**18}}, "seed"),
        ({"epoch": -1}, "epoch"),
        ({"decoding": "both"}, "decoding"),
    ],
)
def test_settings_that_no_model_has_are_refused(
    run: Path, changes: dict[str, Any], words: str
) -> None:
    path = run / BEST
    payload = torch.load(path, weights_only=True)
    about = json.loads(payload["about"])
    for name, value in changes.items():
        about[name] = {**about[name], **value} if isinstance(value, dict) else value
    torch.save({**payload, "about": json.dumps(about)}, path)
    with pytest.raises(CheckpointError, match=words):
        load(path)


def test_a_model_of_other_shapes_than_the_cache_is_refused(cache: Cache, run: Path) -> None:
    path = run / BEST
    payload = torch.load(path, weights_only=True)
    about = json.loads(payload["about"])
    about["shapes"]["cells"] = 3
    torch.save({**payload, "about": json.dumps(about)}, path)
    with pytest.raises(
        CacheError, match=r"grid: the model expects \(3, 2\), the cache gives \(2, 2\)"
    ):
        predict_cache(run, cache.path, pictures=0)


_ODD_STATES: list[Any] = [
    *(None, True, -1, 10**18, 1e300, float("nan"), "x", [], {}, [[]], (1,), torch.zeros(3)),
    *(torch.zeros(2, 2), torch.tensor(float("inf")), torch.zeros(1, dtype=torch.int64), {1: 2}),
    torch.zeros(4)[::2],
]


def test_state_to_go_on_with_is_taken_or_refused(dataset: Dataset, run: Path) -> None:
    path, rng, told = run / LAST, random.Random(7), []
    whole = torch.load(path, weights_only=True)
    names = ["optimizer", "scheduler", "average", "average_steps", "history", "model"]
    for _ in range(40):
        payload = copy.deepcopy(whole)
        name = rng.choice(names)
        places = _places(payload[name]) if isinstance(payload[name], dict) else []
        holder, key = rng.choice([*places, (payload, name)] if places else [(payload, name)])
        if rng.random() < 0.3:
            del holder[key]
        elif name == "history":
            payload[name] = mutant(json.loads(whole[name]), rng).decode("latin-1")
        else:
            holder[key] = rng.choice(_ODD_STATES)
        torch.save(payload, path)
        try:
            resume(dataset, run)
        except CheckpointError as error:
            told.append(str(error))
    assert 0 < len(told) < 40
    assert all(path.name in text for text in told)


def test_a_history_of_other_epochs_than_were_trained_is_refused(
    dataset: Dataset, run: Path
) -> None:
    path = run / LAST
    payload = torch.load(path, weights_only=True)
    payload["history"] = "[]"
    torch.save(payload, path)
    with pytest.raises(CheckpointError, match="it has 0 epochs in its history, 2 trained"):
        resume(dataset, run)


def test_what_is_stored_of_an_object_does_not_replace_its_attributes(
    dataset: Dataset, run: Path
) -> None:
    path = run / LAST
    payload = torch.load(path, weights_only=True)
    payload["scheduler"].update(optimizer=1, step="x", mode="no mode", factor=5.0)
    payload["optimizer"]["param_groups"][0].update(weight_decay=1e9, betas="x", lr=0.5)
    torch.save(payload, path)
    seen = []

    def watch(*arguments: Any) -> Any:
        seen.append(arguments[1])
        return restore(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "restore", watch)
        resume(dataset, run)
    (state,) = seen
    optimizer, scheduler = state.optimizer, state.scheduler
    assert (scheduler.mode, scheduler.factor) == ("max", SMALL.scheduler_factor)
    assert callable(scheduler.step)
    assert scheduler.optimizer is optimizer
    groups = optimizer.param_groups
    assert [group["lr"] for group in groups] == [0.5, 0.5]
    assert [group["weight_decay"] for group in groups] == [SMALL.weight_decay, 0.0]


# Training ---------------------------------------------------------------------------------------


def test_a_run_that_diverges_says_so_and_can_be_scored(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.Trainer.train_epoch

    def diverging(trainer: loop.Trainer, epoch: int) -> list[float]:
        losses = original(trainer, epoch)
        if epoch == 3:  # in its last step: the epoch's losses are finite still
            with torch.no_grad():
                trainer.state.ema.model.gate.weight.fill_(torch.nan)
        return losses

    monkeypatch.setattr(loop.Trainer, "train_epoch", diverging)
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        fitting.fit(cache.path, run, SMALL.revised(epochs=5), pictures=0)
    assert str(run) in str(caught.value)
    assert "epoch 3: the model's answers are not finite" in str(caught.value)
    assert "--learning-rate" in str(caught.value)
    assert "weights of the epochs before are kept" in str(caught.value)
    assert load(run / LAST)[1].epoch == 2
    (result,) = evaluate_run(run, cache.path, "val", pictures=0)
    assert result["epoch"] in (1, 2)


@pytest.mark.parametrize("rate", [1e3, 1e10, 1e25])
def test_a_rate_that_is_far_too_high_ends_well_or_with_a_sentence(
    cache: Cache, tmp_path: Path, rate: float
) -> None:
    argv = ["fit", "--cache", str(cache.path), "--run", str(tmp_path / "run"), "--epochs", "4"]
    argv += ["--learning-rate", str(rate), "--device", "cpu", "--pictures", "0"]
    argv += ["--audio-feat-dim", "16", "--video-feat-dim", "16", "--map-channels", "8"]
    assert cli.main(argv) in (0, 2)


@pytest.mark.system
def test_one_class_alone_trains_and_is_scored_drawn_and_predicted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tiny_cache(tmp_path / "cache", classes=1)
    run = tmp_path / "run"
    (result,) = fitting.fit(cache.path, run, SMALL.revised(epochs=1), pictures=1)
    assert result["scores"]["model"]["auc"] is None
    assert result["scores"]["model"]["top1"] == 1.0
    assert "AUC" in report([run], "val")
    found = predict_cache(run, cache.path, pictures=1)
    assert {row["predicted"] for row in found} == {"Class 0"}
    assert {row["confidence"] for row in found} == {1.0}


def test_one_class_in_a_split_of_several_is_no_warning(tmp_path: Path) -> None:
    cache = tiny_cache(tmp_path / "cache")
    labels = cache.labels
    labels.category[labels.rows("val")] = 1
    write_labels(cache.path, labels)
    fitting.fit(cache.path, tmp_path / "run", SMALL.revised(epochs=1), pictures=0)


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    @contextlib.contextmanager
    def filling(path: Path) -> Any:
        with replacing(path) as file:
            calls.append(path.name)
            if calls.count(LAST) == 2:
                file.write(b"half")
                raise OSError(28, "No space left on device")
            yield file

    monkeypatch.setattr(checkpoint, "replacing", filling)
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match=rf"{LAST}: can.t be written .*make room.*--resume"):
        fitting.fit(cache.path, run, SMALL.revised(epochs=4), pictures=0)
    assert load(run / LAST)[1].epoch == 1
    assert not [path for path in run.iterdir() if path.name.startswith(".writing")]


@pytest.mark.parametrize(
    ("field", "value"),
    [("memory_gb", 1e308), ("epochs", 10**20), ("patience", 10**20), ("scheduler_patience", 1e20)],
)
def test_settings_that_no_file_or_machine_can_hold_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        SMALL.revised(**{field: value})


def test_a_rate_that_makes_too_many_steps_is_refused_before_anything_is_read(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_MAX_STEPS", 16)
    rate = 16 / cache.clip_seconds
    load_features(cache, SMALL.revised(audio_rate_hz=rate), cache.ids, 3)
    with pytest.raises(ConfigError, match=r"audio_rate_hz: .* 17 steps .* expected at most 16;"):
        load_features(cache, SMALL.revised(audio_rate_hz=17 / 16 * rate), cache.ids, 3)
