"""The blocks of docs/api.md, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from api_folder import make_folder
from made_once import made_once

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = made_once(tmp_path_factory, "api", make_folder)
    folder = tmp_path / "mine"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("set", "runs"))
    told = ""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    for number, block in enumerate(blocks):
        program = folder / f"block{number}.py"
        program.write_text(block)
        done = subprocess.run(
            [sys.executable, program.name],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        told += done.stdout
    assert "12 clips of a cache" in told
    assert "runs/one ['Church bell', 'Male speech']" in told
    assert "['clip0', 'clip1', 'clip2', 'clip3']" in told
