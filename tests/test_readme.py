"""The pages for people are true: commands run, links lead somewhere, the README stays short."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installed import install_makefile
from small_media import write_set

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
# What the README's commands need here: no network, and minutes instead of hours.
QUICKLY = {
    "features": ["WEIGHTS=random:0"],
    "train": ["ARGS=--epochs 2 --pictures 0"],
    "sweep": ["TRIALS=2", "ARGS=--epochs 2 --trial-epochs 1 --again 1 --fresh-seeds 2"],
}


def blocks(page: Path, kind: str = "sh") -> list[str]:
    """The page's code blocks of a kind, in order."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [text for its_kind, text in found if its_kind == kind]


def commands(block: str) -> list[list[str]]:
    """The words of each line, comments aside."""
    return [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def test_the_readme_is_short_and_opens_with_what_sets_all_up() -> None:
    assert len(README.read_text(encoding="utf-8").split()) < 900
    assert commands(blocks(README)[0]) == [["make", "demo"], ["make", "test"]]
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "make test" in run
    assert any(line.startswith("make demo") for line in run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
        file = page.parent / target
        assert file.exists(), f"{page.name}: {target}"
        assert file.suffix not in {".png", ".jpg"} or file.stat().st_size < 150_000
    for name in re.findall(r"`((?:benchmarks|tests|cache|extract|train)/[\w/]+\.\w+)`", text):
        assert page.name == "CHANGELOG.md" or (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_s_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.M))
    assert named <= set(re.findall(r"^([a-z]+):", makefile, re.M))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with an environment that is installed, the data and the clip of the README."""
    install_makefile(tmp_path, [sys.executable])
    ids = write_set(tmp_path / "AVE_Dataset", 9, mp4=9)
    shutil.copy(tmp_path / "AVE_Dataset" / f"{ids[0]}.mp4", tmp_path / "clip.mp4")
    (tmp_path / "recordings").mkdir()
    shutil.copy(tmp_path / "clip.mp4", tmp_path / "recordings" / "walk.mp4")
    return tmp_path


@pytest.mark.system
def test_the_readme_s_commands_run_as_written(project: Path) -> None:
    environment = {n: v for n, v in os.environ.items() if not n.startswith("MAKE")}
    environment["PYTHONPATH"] = str(ROOT)
    told = ""
    lines = commands(blocks(README)[1])
    told_of = "features train sweep runs evaluate predict annotate export"
    assert [words[1] for words in lines] == told_of.split()
    for words in lines:
        done = subprocess.run(
            [*words, *QUICKLY.get(words[1], [])],
            cwd=project,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}"
        told += done.stdout
    assert "finished  9 of 9 clips in features" in told
    assert list(project.glob("runs/*/best_model_with_attention.pth"))
    assert (project / "annotations" / "walk" / "timeline.html").exists()
    assert (project / "model" / "model.safetensors").exists()
    assert list(project.glob("runs/*/predictions/attention_visualization/*.png"))
    shown = [line.split()[0] for line in blocks(README, "")[0].splitlines()]
    assert set(shown[:-1]) <= {line.split()[0] for line in told.splitlines() if line.strip()}
