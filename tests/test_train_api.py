"""Training and asking from Python: the docstrings' examples, and what is refused."""

from __future__ import annotations

import doctest
import importlib
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from api_folder import CLASSES, inside, make_folder
from made_once import made_once

import train
from cache import open_cache
from cache.common.errors import CacheError, ConfigError
from train.__main__ import main
from train.api import media
from train.commands.export import export

MODULES = ["train", "train.api.model", "train.api.training"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "api", make_folder)


@pytest.mark.system
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstrings_are_true(name: str, folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(folder, mine, ignore=shutil.ignore_patterns("set"))
    module: ModuleType = importlib.import_module(name)
    with inside(mine):
        found = doctest.testmod(module, extraglobs={"train": train})
    assert found.attempted >= 1
    assert not found.failed


@pytest.mark.system
def test_a_file_is_answered_as_make_predict_answers_it(folder: Path, tmp_path: Path) -> None:
    model = train.load(folder / "runs" / "one")
    (answer,) = model.predict(folder / "clip.mp4")
    like = tmp_path / "like.json"
    words = ["--run", str(model.folder)]
    assert main(["features", *words, "--out", str(like)]) == 0
    media.extracted(model.folder, [folder / "clip.mp4"], tmp_path, tmp_path / "cache")
    out = tmp_path / "out"
    words += ["--cache", str(tmp_path / "cache"), "--out", str(out), "--pictures", "0"]
    assert main(["predict", *words]) == 0
    assert json.loads((out / "predictions.json").read_text()) == [answer]
    assert answer["seen"] == "no"
    (longer,) = model.predict([str(folder / "recording.mp4")])
    assert longer["not_looked_at_s"] == pytest.approx(3, abs=0.1)


def test_caches_and_paths_of_caches_are_answered_alike(folder: Path) -> None:
    model = train.load(folder / "runs" / "one")
    told = model.predict(folder / "features")
    assert model.predict(open_cache(folder / "features")) == told
    assert len(told) == 12
    assert {one["predicted"] for one in told} <= set(CLASSES)


@pytest.mark.system
def test_a_recording_is_answered_window_by_window(folder: Path, tmp_path: Path) -> None:
    model = train.load(folder / "runs" / "one")
    found = model.annotate(folder / "recording.mp4", hop_s=0.5, out=tmp_path / "out")
    assert (tmp_path / "out" / "recording" / "timeline.html").exists()
    stored = json.loads((tmp_path / "out" / "recording" / "events.json").read_text())["events"]
    assert [one["category"] for one in found] == [one["category"] for one in stored]
    assert len(open_cache(tmp_path / "out" / "cache")) == 7
    assert model.annotate(tmp_path / "out" / "cache") == found


@pytest.mark.system
def test_what_was_handed_over_is_loaded_like_a_run(folder: Path, tmp_path: Path) -> None:
    export(folder / "runs" / "one", tmp_path / "model", onnx=False)
    handed, run = train.load(tmp_path / "model"), train.load(folder / "runs" / "one")
    assert handed.predict(folder / "clip.mp4") == run.predict(folder / "clip.mp4")
    with pytest.raises(ConfigError, match="has not been scored on val"):
        handed.scores()


@pytest.mark.system
def test_media_that_cannot_be_read_are_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = train.load(folder / "runs" / "one")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film")
    with pytest.raises(ConfigError, match=r"^no features of .*broken.mp4: (?!.*broken)"):
        model.predict(broken)
    with pytest.raises(ConfigError, match="no such file"):
        model.predict(tmp_path / "absent.mp4")
    with pytest.raises(ConfigError, match="no media file"):
        model.predict([])
    (answer,) = model.predict([broken, folder / "clip.mp4"])
    assert answer["id"] == "clip"
    assert "warning: no features: " in capsys.readouterr().err


def test_where_stage_1_is_not_installed_it_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'av'\" >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))
    with pytest.raises(ConfigError, match=r"stage 1 needs.*No module named 'av'.*give the cache"):
        train.load(folder / "runs" / "one").predict(folder / "clip.mp4")


@pytest.mark.system
def test_folders_here_are_no_modules(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "extract.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert train.load(folder / "runs" / "one").predict(folder / "clip.mp4")


def test_several_runs_side_by_side_get_folders_of_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"epochs": 1, "device": "cpu", "seeds": 1}
    first, second = (train.fit(folder / "features", **settings) for _ in range(2))
    assert first.folder != second.folder
    assert [one.folder.name for one in first.run.models] == ["seed-0"], "a number says how many"
    assert train.load().folder == second.folder
    assert first.scores() == second.scores()


def test_settings_that_are_not_known_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'epoch'; did you mean 'epochs'"):
        train.fit(folder / "features", tmp_path / "run", epoch=1)
    with pytest.raises(CacheError, match="no feature cache here"):
        train.fit(tmp_path, tmp_path / "run", epochs=1)
    with pytest.raises(ConfigError, match="no cache was named"):
        train.fit([], tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


def test_the_face_has_its_names_and_no_other() -> None:
    assert {name for name in train.__all__ if not hasattr(train, name)} == set()
    with pytest.raises(AttributeError, match="has no attribute 'anything'"):
        train.anything  # type: ignore[attr-defined]  # noqa: B018
