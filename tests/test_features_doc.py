"""The blocks of docs/features.md, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic_cache import make_cache

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    make_cache(tmp_path / "features", clips=60)
    (tmp_path / "clap_arrays").mkdir()
    for number in range(58):
        array = np.random.default_rng(number).standard_normal((10, 16)).astype(np.float32)
        np.save(tmp_path / "clap_arrays" / f"clip{number:05d}.npy", array)
    python = f'python() {{ "{sys.executable}" "$@"; }}\n'
    told = ""
    commands = [["bash", "-c", f"set -e\n{python}{block}"] for block in blocks("sh")]
    commands += [[sys.executable, "-c", block] for block in blocks("python")]
    for command in commands:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told += done.stdout
    assert "finished  58 of 58 clips in clap" in told
    assert "2 clip(s) left out that" in told
    assert "(4, 10, 1) (4, 8, 576, 7, 7)" in told
