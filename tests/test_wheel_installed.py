"""The wheel in an empty environment, elsewhere: its three commands, from a demo set to answers."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from test_wheel import BUILD, PACKAGES, ROOT

SMALL = ["--epochs", "1", "--pictures", "1", "--device", "cpu"]


def call(python: Path, folder: Path, *words: str, most: int = 0) -> str:
    """What a command prints far from the checkout; its exit code is `most` at most."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python.parent / words[0]) if "-" in words[0] else str(python), *words[1:]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert 0 <= done.returncode <= most, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the wheel, and beside it what the wheel needs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "wheel").mkdir()
    subprocess.run([sys.executable, "-c", BUILD], cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "wheel").glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    inside = folder / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    install = [sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python")]
    subprocess.run([*install, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    # The path of a .pth file: what lies there is found, its own .pth files are not followed, so
    # that an editable install of this project isn't.
    (inside / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    shutil.rmtree(source)
    return folder / "venv" / "bin" / "python"


@pytest.mark.system
def test_the_commands_and_packages_are_the_wheel_s(python: Path, tmp_path: Path) -> None:
    for name in PACKAGES:
        assert "python -m" in call(python, tmp_path, f"avel-{name}", "--help")
        where = call(python, tmp_path, "python", "-c", f"import {name}; print({name}.__file__)")
        assert where.startswith(str(python.parents[1] / "lib"))


@pytest.mark.system
def test_a_demo_set_becomes_answers_far_from_the_checkout(python: Path, tmp_path: Path) -> None:
    call(python, tmp_path, "python", "-m", "extract.demo", "data", "--clips", "24", "--jobs", "1")
    words = ["--data", "data", "--cache", "features", "--weights", "random:0", "--jobs", "1"]
    call(python, tmp_path, "avel-extract", *words, "--max-failures", "1")
    words = ["--cache", "features", "--run", "run"]
    call(python, tmp_path, "avel-train", "fit", *words, *SMALL)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    call(python, tmp_path, "avel-train", "predict", *words, "--pictures", "0")
    answers = json.loads((tmp_path / "run" / "predictions" / "predictions.json").read_text())
    assert len(answers) >= 20
    call(python, tmp_path, "avel-train", "export", "--run", "run", "--out", "model", "--no-onnx")
    assert "Not evaluated" in (tmp_path / "model" / "README.md").read_text()
    words = ["--run", "model", "--cache", "features", "--out", "found"]
    call(python, tmp_path, "avel-train", "annotate", *words, most=1)  # one demo clip is broken
    assert list((tmp_path / "found").glob("*/timeline.html"))


def test_nobody_else_here_has_the_packages_names() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        assert set(owners.get(name, [])) <= {"avel-two-stage"}
