"""The blocks of docs/features.md, run as they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doc_blocks import blocks, page, run
from synthetic_cache import make_cache


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    make_cache(tmp_path / "features", clips=60)
    (tmp_path / "clap_arrays").mkdir()
    for number in range(58):
        array = np.random.default_rng(number).standard_normal((10, 16)).astype(np.float32)
        np.save(tmp_path / "clap_arrays" / f"clip{number:05d}.npy", array)
    text = page("features")
    told = "".join(run(*one, tmp_path) for one in [*blocks(text, "sh"), *blocks(text, "python")])
    assert "finished  58 of 58 clips in clap" in told
    assert "2 clip(s) left out that" in told
    assert "(4, 10, 1) (4, 8, 576, 7, 7)" in told
