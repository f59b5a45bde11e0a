"""The scripts of docs/export.md, run as they stand: they say what `predict` says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from api_folder import inside, make_folder
from doc_blocks import of_kind, page, run
from made_once import made_once

import train
from cache.__main__ import main as cache_main
from train.commands.export import export


@pytest.mark.system
def test_the_scripts_say_what_predict_says(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = made_once(tmp_path_factory, "api", make_folder)
    folder = tmp_path / "mine"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("set"))
    with inside(folder):
        export(Path("runs/one"), Path("model"), onnx=True)
        assert cache_main(["pack", "features", "features.h5"]) == 0
        told = train.load("model").predict("features")
        (of_clip,) = train.load("model").predict("clip.mp4")
    numpy_alone, from_video = of_kind(page("export"), "python")
    assert not re.search(r"import (cache|train|extract|torch)|from (cache|train)", numpy_alone)
    lines = run("python", numpy_alone, folder).splitlines()
    assert len(lines) == 8
    answers = {answer["id"]: answer for answer in told}
    for line in lines:  # in the order of the packed file
        clip_id, category, start_s, end_s = line.split("\t")
        answer = answers[clip_id]
        assert category == answer["predicted"]
        assert start_s == f"{answer['predicted_start_s']:.2f}"
        assert end_s == f"{answer['predicted_end_s']:.2f}"
    last = run("python", from_video, folder).splitlines()[-1]
    assert last.startswith(f"{of_clip['predicted']} ")
    confidence, start, end = map(float, last.rsplit(" ", 3)[1:])
    assert confidence == pytest.approx(of_clip["confidence"], abs=1e-4)
    assert start == pytest.approx(of_clip["predicted_start_s"], abs=1e-4)
    assert end == pytest.approx(of_clip["predicted_end_s"], abs=1e-4)
