"""The blocks of a page of docs, and running them as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def page(name: str) -> str:
    """The text of docs/NAME.md."""
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, *kinds: str) -> list[tuple[str, str]]:
    """The kind and the text of each block of these kinds, in order."""
    found = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    return [(kind, block) for kind, block in found if kind in kinds]


def of_kind(text: str, kind: str) -> list[str]:
    """The text of each block of a kind, in order."""
    return [block for _, block in blocks(text, kind)]


def run(kind: str, block: str, folder: Path) -> str:
    """What a block of shell ("sh") or Python prints, run in a folder; it must end well."""
    if kind == "sh":
        python = f'python() {{ "{sys.executable}" "$@"; }}\n'
        command = ["bash", "-c", f"set -e\n{python}{block}"]
    else:  # from a file, as a DataLoader's workers read it again
        program = folder / "block.py"
        program.write_text(block, encoding="utf-8")
        command = [sys.executable, program.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
