"""The benchmarks' own assumptions: what they time is there, and their table holds what it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_every_module_that_is_named_exists(path: Path) -> None:
    """Also inside functions, and in the code that is handed to other processes as text."""
    source = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:from|import) ((?:cache|extract|train)(?:\.\w+)*)", source))
    files = (ROOT.joinpath(*name.split(".")) for name in named)
    gone = [file for file in files if not (file.is_dir() or file.with_suffix(".py").is_file())]
    assert not gone


@pytest.mark.usefixtures("benchmarks")
def test_every_stage_that_is_timed_exists() -> None:
    from extract_stages import WRAPPED

    for stage, place, name in WRAPPED:
        assert callable(getattr(place, name, None)), f"{stage}: {place.__name__}.{name} is gone"


@pytest.mark.usefixtures("benchmarks")
def test_the_table_says_what_was_measured() -> None:
    from bench_all import rows, table

    layout = {
        "clips_per_s": {"1": 10.0, "2": 16.0},
        "plain_clips_per_s": 2.0,
        "efficiency": 0.8,
    }
    raw: dict[str, Any] = {
        "extract": {"wav_jpeg": layout, "container": layout},
        "extract_large": {"wav_jpeg": {**layout, "clips_per_s": {"1": 5.0}}},
        "train": {"clips": 1000, "epoch_s": 2.0, "plain_epoch_s": 8.0, "load_GB_per_s": 1.4},
        "cache": {"read": {"cache_GB_per_s": 5.0, "plain_GB_per_s": 4.0, "load_GB_per_s": 1.4}},
        "bytes": {"small": 700_000.0, "large": 1_100_000.0},
    }
    found = {row.what: row for row in rows(raw)}
    extraction = found["extraction, WAV + JPEG, 2 workers"]
    assert extraction.ours == "16.0 clips/s; 4,097 clips in 4 min 16 s"
    assert found["extraction, WAV + JPEG, large backbone, 1 worker"].ours.startswith("5.0 clips/s")
    assert extraction.plain == "2.0 clips/s (34 min 8 s)"
    assert found["epoch over 3,339 clips"].ours == "6.7 s (2.00 s over 1,000, scaled)"
    assert found["epoch over 3,339 clips"].plain == "26.7 s"
    assert found["a clip in the cache, large backbone"].ours == "1,100 kB"
    lines = table(rows(raw)).splitlines()
    assert lines[0] == "| what | ours | plain | command |"
    assert len(lines) == 2 + len(found)
    failed = {**raw, "train": None}
    assert "epoch over 3,339 clips" not in {row.what for row in rows(failed)}
    assert "bench_all" in sys.modules
