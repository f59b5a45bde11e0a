"""A comparison of runs as Markdown, CSV and LaTeX: what is bold, what is escaped, what is told."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, copied, tiny_labels

from train import __main__ as cli
from train.commands.report import compare, report
from train.report.papers import FORMATS
from train.runs.stored import AGAIN

GOOD, BAD = "good", "b_a|d & $x$"


def answers(right: int, events: int = 40) -> list[dict[str, Any]]:
    """Events of which the first `right` are answered well, the others badly."""
    return [
        {
            "id": f"clip{number:05d}",
            "category": "dog",
            "start_s": 0.0,
            "end_s": 1.0,
            "predicted": "dog" if number < right else "cat",
            "predicted_start_s": 0.0 if number < right else 1.0,
            "predicted_end_s": 1.0 if number < right else 2.0,
            "segment_accuracy": float(number < right),
        }
        for number in range(events)
    ]


def scored(run: Path, right: int, ahead: float = 0.2) -> None:
    """Write over the scores of a run so that they are plain to see."""
    path = run / "metrics_val.json"
    result = json.loads(path.read_text())
    value = right / 40
    for key in ("segment_accuracy", "top1", "miou", "localized_iou", "short_miou"):
        result["scores"]["model"][key] = value
        estimate = {
            "mean": ahead,
            "low": ahead - 0.1,
            "high": ahead + 0.1,
            "clips": 40,
            "events": 40,
        }
        for name in result["scores"]:
            if not name.startswith("model"):
                result["differences"].setdefault(name, {})[key] = estimate
    path.write_text(json.dumps(result))
    (run / "predictions_val.json").write_text(json.dumps(answers(right)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("papers")
    cache = make_cache(top / "cache", clips=30, labels=tiny_labels(), **TINY)
    for name, more in (("plain", []), ("seeds", ["--seeds", "2", "--dropout", "0.1"])):
        argv = ["fit", "--cache", str(cache), "--run", str(top / name), *FLAGS, *more]
        assert cli.main(argv) == 0
    return top


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> list[Path]:
    """A run that is better than another beyond doubt."""
    places = [copied(made / "plain", tmp_path).rename(tmp_path / name) for name in (GOOD, BAD)]
    for place, right in zip(places, (36, 10), strict=True):
        scored(place, right)
    return places


def test_bold_is_what_beats_every_other(runs: list[Path]) -> None:
    text = report(runs, "val", "markdown")
    assert text.count("**") == 2 * 5
    good, bad = text.splitlines()[2:4]
    assert good.startswith("| good | **0.900**")
    assert "**" not in bad
    scored(runs[1], 35)
    assert "**" not in report(runs, "val", "markdown"), "by one clip: too few to tell"
    scored(runs[1], 10)
    scored(runs[0], 36, ahead=0.05)
    assert "**" not in report(runs, "val", "markdown"), "not beyond the baselines"


def test_a_run_called_as_a_baseline_stands_beside_it(runs: list[Path]) -> None:
    name = "majority class, whole clip"
    named = runs[0].rename(runs[0].with_name(name))
    lines = report([named, runs[1]], "val", "markdown").splitlines()
    (own,) = [line for line in lines if line.startswith(f"| run {name} |")]
    (trivial,) = [line for line in lines if line.startswith(f"| {name} |")]
    assert own.count("**") == 2 * 5
    assert "**" not in trivial
    header = next(line for line in report([named, runs[1]], "val").splitlines() if name in line)
    assert f"run {name}" in header
    assert header.replace(f"run {name}", "").count(name) == 1


def test_no_bold_without_pairs(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (runs[1] / "predictions_val.json").write_text("[]")
    text = report(runs, "val", "markdown")
    assert "**" not in text
    assert "bold" not in text
    assert AGAIN in capsys.readouterr().err


def test_names_are_no_markup(runs: list[Path]) -> None:
    text = report(runs, "val", "markdown")
    assert r"| b\_a\|d \& \$x\$ |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    text = report(runs, "val", "latex")
    assert r"b\_a\textbar{}d \& \$x\$ & " in text
    assert (
        len({len(re.findall(r"(?<!\\)&", row)) for row in text.splitlines() if r" \\" in row}) == 1
    )
    assert text.count("{") == text.count("}")
    assert r"\textbf{0.900}" in text
    odd = runs[0].rename(runs[0].with_name("[x]\x1b"))
    assert "\n{}[x]? &" in report([odd, runs[1]], "val", "latex")


def test_latex_is_a_table_of_booktabs(runs: list[Path]) -> None:
    lines = report(runs, "val", "latex").splitlines()
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]
    assert lines[0] == r"% needs \usepackage{booktabs}"
    assert r"\begin{tabular}{lrrrrr}" in lines


def test_csv_has_every_score(runs: list[Path], made: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(report([runs[0], runs[1]], "val", "csv"))))
    assert [row["run"] for row in rows][:2] == [GOOD, BAD]
    assert float(rows[0]["top1"]) == 0.9
    assert rows[0]["top1_sd"] == ""
    assert {row["split"] for row in rows} == {"val"}
    assert "recall@0.5_low" in rows[0]
    (seeds, together, *_) = csv.DictReader(io.StringIO(report([made / "seeds"], "val", "csv")))
    assert seeds["run"] == "seeds (2 seeds)"
    assert float(seeds["miou_sd"]) >= 0
    assert together["run"] == "seeds, ensemble of 2"


def test_settings_stand_where_they_differ(runs: list[Path], made: Path) -> None:
    both = [made / "plain", made / "seeds"]
    for form in ("markdown", "latex", "csv"):
        assert "settings" in report(both, "val", form).split("plain")[0]
    assert "seeds, ensemble of 2 | dropout 0.1 |" in report(both, "val", "markdown")
    text = report(both, "val")
    assert text.endswith("settings that differ:\n  plain: the defaults\n  seeds: dropout 0.1")
    assert "settings" not in report(runs, "val", "markdown")
    assert "settings" not in report(runs, "val")


def test_a_table_goes_to_a_file(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.tex"
    argv = ["report", *map(str, runs), "--format", "latex", "--out", str(out)]
    assert cli.main(argv) == 0
    assert out.read_text() == report(runs, "val", "latex") + "\n"
    assert str(out) in capsys.readouterr().out
    assert cli.main([*argv[:-1], str(tmp_path / "nowhere" / "x.tex")]) == 2
    assert "make it" in capsys.readouterr().err


def test_a_damaged_run_is_named(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    (runs[1] / "metrics_val.json").write_text("{}")
    for form in FORMATS:
        assert cli.main(["report", *map(str, runs), "--format", form]) == 2
        assert "metrics_val.json" in capsys.readouterr().err


def test_folds_have_tables_too(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "divided"
    argv = ["fit", "--cache", str(made / "cache"), "--run", str(run), *FLAGS, "--folds", "3"]
    assert cli.main(argv) == 0
    assert compare([run], "val").split == "folds"
    other = copied(run, tmp_path / "again")
    assert "| divided |" in report([run], "val", "markdown")
    text = report([run, other.rename(tmp_path / "twin")], "val")
    assert "twin minus divided" in text
