"""A place for what numba compiles, where neither librosa's folder nor the user's can be written."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path


def settle() -> None:
    """Point NUMBA_CACHE_DIR to a temporary folder if numba would find none; before it is imported.

    librosa's functions ask numba to keep what it compiles, beside librosa or in the user's cache
    folder; with neither, importing them fails. Processes started from here use the same folder,
    which goes when this process ends.
    """
    if "NUMBA_CACHE_DIR" in os.environ or "numba" in sys.modules:
        return
    librosa = find_spec("librosa")
    places = [Path(librosa.origin).parent / "__pycache__"] if librosa and librosa.origin else []
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    if not any(map(_writable, [*places, Path(home, "numba")])):
        with contextlib.suppress(OSError):  # not even there: importing librosa tells
            os.environ["NUMBA_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="numba-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made too, as numba does."""
    with contextlib.suppress(OSError, RuntimeError):  # the latter: nobody's home
        folder = folder.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    return False
