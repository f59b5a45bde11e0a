"""The blocks of docs/daily.md, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_cache import make_cache
from tiny_runs import TINY, tiny_labels

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "daily.md").read_text(encoding="utf-8")


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    make_cache(tmp_path / "features", clips=60, labels=tiny_labels(clips=60), **TINY)
    python = f'python() {{ "{sys.executable}" "$@"; }}\n'
    told = ""
    for kind, block in re.findall(r"```(sh|python)\n(.*?)```", PAGE, re.DOTALL):
        bash = ["bash", "-c", f"set -e\n{python}{block}"]
        done = subprocess.run(
            bash if kind == "sh" else [sys.executable, "-c", block],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told += done.stdout
    assert "runs/plain  ended: all 4 epochs, weights averaged" in told
    assert "4 epochs, best" in told
    assert "dropout 0.1" in told
    assert "narrow (2 seeds) minus plain" in told
    assert (tmp_path / "table.tex").read_text().startswith("% needs")
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 4
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 5
    assert (tmp_path / "compare.html").read_text().startswith("<!doctype html>")
