"""Every command of docs/tutorial.md, run as it stands but for fewer epochs and trials."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from installed import install_makefile

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
# Where a command is quick enough by less of the same.
LESS = {
    "make train RUN=runs/first": 'make train RUN=runs/first ARGS="--epochs 2"',
    "--epochs 120": "--epochs 3",
    "--folds 5": "--folds 3 --pictures 0",
    "TRIALS=20": "TRIALS=2",
    "SEEDS=3": "SEEDS=2",
}
MADE = [
    "clips/labels.csv",
    "features/cache.json",
    "runs/first/report.html",
    "runs/folds/metrics_folds.json",
    "runs/sweep/sweep.html",
    "runs/found/seed-0/report.html",
    "compare.html",
    "model/README.md",
    "model/seed-0/model.safetensors",
]


def blocks() -> list[tuple[str, str]]:
    """The page's blocks, in order: what they are written in ("" for what is printed), and text."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def quickly(block: str) -> str:
    for long, short in LESS.items():
        block = re.sub(re.escape(long) + r'(?=[ "]|$)', short, block, flags=re.MULTILINE)
    return block


def test_what_is_made_less_of_is_on_the_page() -> None:
    commands = "".join(text for kind, text in blocks() if kind == "sh")
    for long in LESS:
        assert long in commands


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    install_makefile(tmp_path, [sys.executable])
    environment = {n: v for n, v in os.environ.items() if not n.startswith("MAKE")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    told = ""
    for kind, text in blocks():
        if kind not in ("sh", "python"):
            continue
        if kind == "python" and "write_mp4" in text:  # the reader saves it, the next block runs it
            (tmp_path / "make_clips.py").write_text(text)
            continue
        words = ["bash", "-c", f"set -e\n{quickly(text)}"]
        done = subprocess.run(
            words if kind == "sh" else [sys.executable, "-c", text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        told += done.stdout
    assert "finished  40 of 40 clips in features" in told
    assert "ended: all 2 epochs" in told
    for name in MADE:
        assert (tmp_path / name).exists(), name
    settings = json.loads((tmp_path / "runs" / "sweep" / "best.json").read_text())
    assert settings["epochs"] == 3
