"""How sure scores are: stored, printed, on the page; runs compared in pairs; strangers' answers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, copied, tiny_labels

from cache.common.errors import ConfigError
from train import __main__ as cli
from train.report import estimates, page
from train.report.tables import comparison, table
from train.runs.paired import paired_scores
from train.runs.stored import read_answers, read_scores
from train.score.metrics import tiou

HEADLINE = {"top1", "segment_accuracy", "miou", "localized_iou"}
TRIVIAL = ["majority class, whole clip", "majority class, mean interval"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with 15 clips in val, and two seeds trained on it."""
    folder = tmp_path_factory.mktemp("sure")
    cache = make_cache(folder / "cache", labels=tiny_labels(80), **TINY)
    argv = ["fit", "--cache", str(cache), "--run", str(folder / "seeds"), *FLAGS, "--seeds", "2"]
    assert cli.main(argv) == 0
    return folder


@pytest.fixture
def seeds(made: Path, tmp_path: Path) -> Path:
    return copied(made / "seeds", tmp_path)


def result_of(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "metrics_val.json").read_text())
    return found


def overlaps(place: Path) -> np.ndarray[Any, Any]:
    """tIoU of each stored answer."""
    rows = json.loads((place / "predictions_val.json").read_text())
    names = ("start_s", "end_s", "predicted_start_s", "predicted_end_s")
    return tiou(*(np.array([row[name] for row in rows]) for name in names))


def test_each_predictor_s_scores_are_stored_with_interval_and_n(seeds: Path) -> None:
    result = result_of(seeds / "seed-0")
    assert set(result["intervals"]) == set(result["scores"])
    assert set(result["differences"]) == set(TRIVIAL)
    for name, found in result["intervals"].items():
        assert set(found) >= HEADLINE
        for key, one in found.items():
            assert one["mean"] == pytest.approx(result["scores"][name][key])
            assert one["low"] is None or one["low"] <= one["mean"] <= one["high"]
    whole = result["differences"][TRIVIAL[0]]["miou"]
    gap = result["scores"]["model"]["miou"] - result["scores"][TRIVIAL[0]]["miou"]
    assert whole["mean"] == pytest.approx(gap)
    assert (whole["clips"], whole["events"]) == (15, 15)
    rows = json.loads((seeds / "seed-0" / "predictions_val.json").read_text())
    mean = np.mean([row["segment_accuracy"] for row in rows])
    assert mean == pytest.approx(result["scores"]["model"]["segment_accuracy"])


def test_the_seeds_mean_and_the_ensemble_have_intervals_of_their_own(seeds: Path) -> None:
    together = result_of(seeds)
    found = together["of_seeds"]["intervals"]["model"]["miou"]
    means = [result_of(seeds / f"seed-{n}")["scores"]["model"]["miou"] for n in (0, 1)]
    assert found["mean"] == pytest.approx(np.mean(means))
    mean = (overlaps(seeds / "seed-0") + overlaps(seeds / "seed-1")) / 2
    rng = np.random.default_rng(8)
    loop = [mean[rng.integers(0, 15, 15)].mean() for _ in range(8000)]
    expected = np.quantile(loop, [0.025, 0.975])
    assert [found["low"], found["high"]] == pytest.approx(expected, abs=0.02)
    own = together["intervals"]["model"]["miou"]
    assert own["mean"] == pytest.approx(together["scores"]["model"]["miou"])


def test_the_tables_show_them(seeds: Path) -> None:
    first, second, together = (result_of(seeds / n) for n in ("seed-0", "seed-1", "."))
    lines = table(first).splitlines()
    miou = next(line for line in lines if line.startswith("mIoU "))
    assert re.search(r"^mIoU +0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", miou)
    assert "top-3" in table(first)
    assert re.search(r"^top-3 accuracy +[\d.]+ +[\d.]+ ", table(first), re.MULTILINE)
    (brackets,) = [line for line in lines if line.startswith("in brackets")]
    assert "95 % interval over 15 clips with 15 events" in brackets
    assert f"model minus {TRIVIAL[0]}" in table(first)
    shown = comparison({"model": ([first, second], together)})
    assert re.search(r"^mIoU +\d\.\d{3} ± 0\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", shown, re.MULTILINE)
    assert f"model minus {TRIVIAL[1]}" in shown
    alone = {**together, "of_seeds": {}}
    assert "±" in comparison({"model": ([first, second], alone)}), "of an older version"
    assert "±" in comparison({"model": ([first, second], None)})


def test_what_is_too_little_is_said_in_words() -> None:
    def one(mean: float, low: float | None, high: float | None, clips: int = 40) -> dict[str, Any]:
        return {"mean": mean, "low": low, "high": high, "clips": clips, "events": clips}

    assert estimates.bracket(one(0.9, 0.8, 0.95)) == "[0.800, 0.950]"
    assert estimates.bracket(one(0.9, None, None, 9)) == "[too few to tell]"
    assert estimates.bracket(one(1.0, None, None)) == "[all alike]"
    assert estimates.difference(one(0.1, 0.05, 0.2)) == "+0.100 [+0.050, +0.200]"
    assert estimates.difference(one(-0.1, -0.2, -0.05)) == "-0.100 [-0.200, -0.050]"
    told = "+0.010 [-0.010, +0.030] too few to tell (40 clips)"
    assert estimates.difference(one(0.01, -0.01, 0.03)) == told
    assert estimates.difference(one(0.1, None, None, 7)) == "+0.100 too few to tell (7 clips)"
    shown = estimates.beside({"miou": "0.207", "top1": "–"}, {"miou": one(0.2065, 0.1, 0.3)})
    assert shown == {"miou": "0.207 [0.100, 0.300]", "top1": "–"}
    assert estimates.beside({"miou": "0.5"}, {"miou": one(0.2, 0.1, 0.3)}) == {"miou": "0.5"}
    assert estimates.legend({}) == ""


def test_report_sets_runs_against_the_first_in_pairs(
    seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(seeds / "seed-0"), str(seeds / "seed-1"), str(seeds)]
    assert cli.main(["report", *names]) == 0
    shown = capsys.readouterr()
    heading = next(line for line in shown.out.splitlines() if "minus seed-0" in line)
    assert re.findall(r"\S.*? minus seed-0", heading) == [
        "seed-1 minus seed-0",
        "seeds (2 seeds) minus seed-0",
        "seeds, ensemble of 2 minus seed-0",
    ]
    gain = (overlaps(seeds / "seed-1") - overlaps(seeds / "seed-0")).mean()
    below = shown.out[shown.out.index(heading) :]
    assert re.search(rf"^mIoU +{re.escape(f'{gain:+.3f}')} ", below, re.MULTILINE)
    assert not shown.err
    assert cli.main(["report", names[0]]) == 0
    assert f"model minus {TRIVIAL[0]}" in capsys.readouterr().out


def test_report_of_one_run_twice_finds_no_difference(seeds: Path, tmp_path: Path) -> None:
    other = shutil.copytree(seeds / "seed-0", tmp_path / "copy")
    found = paired_scores({"a": [seeds / "seed-0"], "b": [other]}, "val", 2.0)
    for one in (found["b"] - found["a"]).estimates().values():
        assert (one.mean, one.low) == (0.0, None)


def mangled(rows: list[dict[str, Any]], how: str) -> object:
    if how == "old":
        return [{k: v for k, v in row.items() if k != "segment_accuracy"} for row in rows]
    if how == "others":
        return [{**row, "id": f"{row['id']}x"} for row in rows]
    if how == "fewer":
        return rows[:-1]
    if how == "none":
        return []
    if how == "number":
        return [{**row, "id": 7} for row in rows]
    if how == "text":
        return [{**row, "end_s": "3"} for row in rows]
    return {"large": [{**row, "predicted_end_s": 1e300} for row in rows]}.get(how, {})


@pytest.mark.parametrize(
    "how", ["old", "others", "fewer", "none", "number", "text", "large", "object"]
)
def test_answers_that_make_no_pairs_are_told_and_the_scores_still_shown(
    seeds: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = seeds / "seed-1" / "predictions_val.json"
    path.write_text(json.dumps(mangled(json.loads(path.read_text()), how)))
    assert cli.main(["report", str(seeds / "seed-0"), str(seeds / "seed-1")]) == 0
    shown = capsys.readouterr()
    assert "no differences between the runs" in shown.err
    assert str(path) in shown.err
    assert "mIoU" in shown.out
    assert "minus" not in shown.out


def test_a_link_or_nothing_in_place_of_answers_is_refused(seeds: Path, tmp_path: Path) -> None:
    path = seeds / "predictions_val.json"
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="predictions_val"):
        read_answers(path)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="link"):
        read_answers(path)


def test_scores_of_an_older_version_are_compared_without_differences(
    seeds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of(seeds / "seed-1")
    for key in ("intervals", "differences", "clip_seconds"):
        del result[key]
    (seeds / "seed-1" / "metrics_val.json").write_text(json.dumps(result))
    assert cli.main(["report", str(seeds / "seed-1"), str(seeds / "seed-0")]) == 0
    shown = capsys.readouterr()
    assert "older version" in shown.err
    assert "in brackets" not in shown.out
    assert cli.main(["report", str(seeds / "seed-1")]) == 0
    assert "in brackets" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "odd",
    [
        {"mean": 1e300, "low": 0.0, "high": 1.0, "clips": 3, "events": 3},
        {"mean": 0.5, "low": None, "high": 1.0, "clips": 3, "events": 3},
        {"mean": 0.5, "low": "0", "high": 1.0, "clips": 3, "events": 3},
        {"mean": 0.5, "low": 0.0, "high": 1.0, "clips": -3, "events": 3},
        {"mean": 0.5},
    ],
)
@pytest.mark.parametrize("where", ["intervals", "differences", "of_seeds"])
def test_odd_intervals_are_refused(seeds: Path, odd: dict[str, Any], where: str) -> None:
    path = seeds / "metrics_val.json"
    wrong: dict[str, Any] = {"model": {"miou": odd}}
    result = {**result_of(seeds), where: {"intervals": wrong} if where == "of_seeds" else wrong}
    path.write_text(json.dumps(result))
    with pytest.raises(ConfigError, match=where):
        read_scores(path)


@pytest.mark.system
def test_the_page_shows_them(seeds: Path, made: Path) -> None:
    argv = ["evaluate", "--run", str(seeds / "seed-0"), "--cache", str(made / "cache")]
    assert cli.main([*argv, "--pictures", "1"]) == 0
    text = (seeds / "seed-0" / page.FILE).read_text()
    one = result_of(seeds / "seed-0")["intervals"]["model"]["miou"]
    assert text.count(f"[{one['low']:.3f}, {one['high']:.3f}]") >= 2, "at the top and in the table"
    assert "How sure they are" in text
    assert "a dot each with its interval" in text
    assert f"model minus {TRIVIAL[0]}" in text
