"""The public face of `cache`: light to import, and its example is true."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from synthetic_cache import make_cache

import cache


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys; import cache; "
        "print([n for n in ('h5py', 'numpy', 'pydantic', 'tqdm', 'fsspec') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_public_name_is_that_of_its_room() -> None:
    assert set(cache.__all__) == set(cache._ROOMS) <= set(dir(cache))
    for name, room in cache._ROOMS.items():
        assert getattr(cache, name) is getattr(import_module(room), name)
    with pytest.raises(AttributeError, match="no attribute 'open_cash'"):
        _ = cache.open_cash  # type: ignore[attr-defined]


def test_example_of_the_docstring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path / "features", clips=12)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(cache)
    assert found.attempted >= 6
    assert not found.failed
