"""The scripts of docs/export.md, run as they stand: they say what `predict` says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from api_folder import inside, make_folder
from made_once import made_once

import train
from cache.__main__ import main as cache_main
from train.commands.export import export

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


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
    numpy_alone, from_video = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert not re.search(r"import (cache|train|extract|torch)|from (cache|train)", numpy_alone)
    lines = run(numpy_alone, folder).splitlines()
    assert len(lines) == 8
    answers = {answer["id"]: answer for answer in told}
    for line in lines:  # in the order of the packed file
        clip_id, category, start_s, end_s = line.split("\t")
        answer = answers[clip_id]
        assert category == answer["predicted"]
        assert start_s == f"{answer['predicted_start_s']:.2f}"
        assert end_s == f"{answer['predicted_end_s']:.2f}"
    last = run(from_video, folder).splitlines()[-1]
    assert last.startswith(f"{of_clip['predicted']} ")
    confidence, start, end = map(float, last.rsplit(" ", 3)[1:])
    assert confidence == pytest.approx(of_clip["confidence"], abs=1e-4)
    assert start == pytest.approx(of_clip["predicted_start_s"], abs=1e-4)
    assert end == pytest.approx(of_clip["predicted_end_s"], abs=1e-4)


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
