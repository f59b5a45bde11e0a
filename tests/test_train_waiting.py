"""How the threads of a training wait for one another: soon asleep, if the user says nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WATCH = """
import importlib.abc, os, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT", "unset"))
            sys.stdout.flush()
            os._exit(0)  # torch itself takes seconds

sys.meta_path.insert(0, Watch())
"""


@pytest.mark.parametrize(
    ("way", "own", "seen"),
    [
        ("from train.commands import fit", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE unset"),
        ("from train.commands import fit", {"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE unset"),
        ("from train.model.fusion import FusionModel", {"GOMP_SPINCOUNT": "77"}, "PASSIVE 77"),
        (
            "from train.__main__ import main; main(['evaluate', '--run', 'r', '--cache', 'c'])",
            {},
            "PASSIVE 10000",
        ),
    ],
    ids=["active", "passive", "count", "unset"],
)
def test_it_is_said_before_torch_is_imported(way: str, own: dict[str, str], seen: str) -> None:
    """OpenMP reads its variables once, when torch loads it."""
    others = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_W", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", WATCH + way],
        cwd=Path(__file__).parent.parent,
        env={**others, **own},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[:1] == [seen], done.stderr
