"""The Makefile in a folder of its own, beside an environment that counts as installed."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def install_makefile(folder: Path, python: Sequence[str]) -> None:
    """Put it into `folder`; its `.venv/bin/python` runs the words of `python`, with what follows.

    The lock's files are old and empty: no target installs anything.
    """
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.txt", "pyproject.toml", "constraints.txt"):
        (folder / name).touch()
        os.utime(folder / name, (1, 1))
    program = folder / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
    program.chmod(0o755)
    (folder / ".venv" / ".installed").touch()
