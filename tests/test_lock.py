"""constraints.txt pins one version of each requirement for every Python, within its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def requirements(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    stated = (line.partition("#")[0].strip() for line in lines)
    return [Requirement(line) for line in stated if line]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_one_version_for_each_python(python: str) -> None:
    pins: dict[str, str] = {}
    for pin in requirements("constraints.txt"):
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name, (exact,) = pin.name.lower(), pin.specifier
            assert name not in pins, f"{name} is pinned twice"
            assert exact.operator == "=="
            pins[name] = exact.version
    for needed in requirements("requirements.txt"):
        assert pins[needed.name.lower()] in needed.specifier, needed
