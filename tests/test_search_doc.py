"""Every command of docs/search.md, run as it stands but for a tiny set and few trials."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from doc_blocks import of_kind, page, run
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, tiny_labels

from train.config import TrainConfig
from train.sweep.space import DEFAULT, Range, parse_space

PAGE = page("search")


@pytest.mark.system
def test_the_page_runs_as_written(tmp_path: Path) -> None:
    make_cache(tmp_path / "features", labels=tiny_labels(30), **TINY)
    (space,) = of_kind(PAGE, "json")
    (tmp_path / "space.json").write_text(space.replace("64, 96", "16, 32"))
    tiny = " ".join(word for word in FLAGS if word not in ("--pictures", "0"))
    few = f"--trials 2 --again 1 --fresh-seeds 2 --trial-epochs 1 {tiny}"
    shell = "\n".join(of_kind(PAGE, "sh"))
    shell = shell.replace("--trials 60", few).replace("--seeds 5", "--seeds 2 --pictures 0")
    run("sh", shell, tmp_path)
    for sweep in ("first", "second"):
        folder = tmp_path / "runs" / sweep
        for name in ("sweep.html", "best.json", "trials.csv", "rerun", "journal.log", "sweep.json"):
            assert (folder / name).exists(), name
            assert f"`{name}" in PAGE
    stored = json.loads((tmp_path / "runs" / "second" / "sweep.json").read_text())
    assert stored["config"]["average_epochs"] == 8


def test_the_page_names_the_default_space() -> None:
    (text,) = re.findall(r"^By default .*", PAGE, re.MULTILINE)
    for name, choices in DEFAULT.items():
        assert f"`{name}`" in text
        ends = (choices.low, choices.high) if isinstance(choices, Range) else choices
        for value in ends:
            known = {f"{value:g}", f"{value:.0e}".replace("e-0", "e-")}
            assert any(one in text for one in known), (name, value)


def test_its_own_space_is_one() -> None:
    (space,) = of_kind(PAGE, "json")
    assert parse_space(json.loads(space), "docs/search.md").keys() <= {
        *TrainConfig.model_fields,
        "dim",
    }
