"""The blocks of docs/api.md, run as they stand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from api_folder import make_folder
from doc_blocks import blocks, page, run
from made_once import made_once


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = made_once(tmp_path_factory, "api", make_folder)
    folder = tmp_path / "mine"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("set", "runs"))
    found = blocks(page("api"), "python")
    assert len(found) == 5
    told = "".join(run(*one, folder) for one in found)
    assert "12 clips of a cache" in told
    assert "runs/one ['Church bell', 'Male speech']" in told
    assert "['clip0', 'clip1', 'clip2', 'clip3']" in told
