"""The blocks of docs/daily.md, run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import blocks, page, run
from synthetic_cache import make_cache
from tiny_runs import TINY, tiny_labels


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    make_cache(tmp_path / "features", clips=60, labels=tiny_labels(clips=60), **TINY)
    told = "".join(run(*one, tmp_path) for one in blocks(page("daily"), "sh", "python"))
    assert "runs/plain  ended: all 4 epochs, weights averaged" in told
    assert "4 epochs, best" in told
    assert "dropout 0.1" in told
    assert "narrow (2 seeds) minus plain" in told
    assert (tmp_path / "table.tex").read_text().startswith("% needs")
    assert len((tmp_path / "runs.csv").read_text().splitlines()) == 4
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 5
    assert (tmp_path / "compare.html").read_text().startswith("<!doctype html>")
