"""The list of runs: what stands in a line, what stands together, what is wrong with one."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from synthetic_cache import make_cache
from test_train_tell import entries
from test_train_watch import begun
from tiny_runs import FLAGS, TINY, copied, tiny_labels

from cache.common.errors import ConfigError
from cache.format.lock import writer_lock
from train import __main__ as cli
from train.commands.export import export
from train.commands.runs import parsed
from train.commands.watch import described
from train.config import PRESETS, TrainConfig
from train.report.differing import beside_default, that_differ
from train.report.listing import ordered, text
from train.runs.folders import BEST
from train.runs.listing import listed
from train.runs.looks import count_looks
from train.runs.tree import places


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, one of two seeds, one of a sweep; the second on other labels."""
    top = tmp_path_factory.mktemp("list")
    cache = make_cache(top / "cache", clips=30, labels=tiny_labels(), **TINY)
    other = make_cache(top / "other", clips=30, labels=tiny_labels(classes=2), **TINY)
    for name, where, more in (
        ("plain", cache, []),
        ("seeds", cache, ["--seeds", "2", "--dropout", "0.25"]),
        ("sweep/trial-7", cache, ["--learning-rate", "0.01", "--seed", "7"]),
        ("apart", other, ["--modality", "audio"]),
    ):
        argv = ["fit", "--cache", str(where), "--run", str(top / "runs" / name), *FLAGS, *more]
        assert cli.main(argv) == 0
    return top / "runs"


def shown(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert cli.main(["runs", *map(str, argv)]) == 0
    return capsys.readouterr().out


def names(text: str) -> list[list[str]]:
    """The runs in the list, group by group."""
    return [[line.split()[0] for line in group.splitlines()[2:]] for group in text.split("\n\n")]


def test_each_run_has_a_line_beside_those_it_can_be_compared_with(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, root)
    assert names(text) == [["apart"], ["sweep/trial-7", "seeds", "plain"]]
    (line,) = [one for one in text.splitlines() if one.startswith("seeds ")]
    result = json.loads((root / "seeds" / "seed-0" / "metrics_val.json").read_text())
    assert "±" in line
    assert line.endswith(
        "      2  batch_size 8, epochs 1, audio_feat_dim 16, video_feat_dim 16, "
        "map_channels 8, num_heads 2, dropout 0.25"
    )
    assert f"features {result['fingerprint'][:8]}, training rows" in text
    assert "learning_rate 0.01" in text
    assert "seed 7" in text
    assert "modality audio" in text


def test_what_a_sweep_trained_again_stands_together(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    again = ["big/sweep/rerun/default", "big/sweep/rerun/trial-3"]
    for when, name in enumerate([again[0], "between", again[1], "other/rerun/mine", "last"]):
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        copied(root / "plain", tmp_path).rename(runs / name)
        (runs / name / "record.json").unlink()
        os.utime(runs / name / BEST, (when * 86400, when * 86400))
    (runs / "big" / "sweep" / "sweep.json").touch()
    lines = shown(capsys, runs).splitlines()
    heading = "big/sweep, trained again with fresh seeds:"
    assert [line.split("  19")[0].rstrip() for line in lines[2:]] == [
        *("last", "other/rerun/mine", heading, "  default", "  trial-3", "between")
    ]
    assert "sweep, trained again" in shown(capsys, runs / "big" / "sweep")
    ranked = shown(capsys, runs, "--sort", "miou")
    assert set(again) < set(names(ranked)[0])
    assert "trained again" not in ranked


def test_lines_fit_the_terminal(root: Path) -> None:
    groups = ordered(listed(root, "val"), "when")
    (whole,) = [line for line in text(groups).splitlines() if line.startswith("seeds ")]
    for width in (80, 100, 120):
        lines = text(groups, width=width).splitlines()
        table = [line for line in lines if not line.startswith("features")]
        assert max(map(len, table)) <= width
        (line,) = [one for one in table if one.startswith("seeds ")]
        assert line.endswith("…")
        assert line.split()[1].startswith("20") == (width == 120)
        assert line.split("  ")[-1][:-1] in whole


def test_looks_at_test_are_told_where_there_are_any(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        copied(root / "plain", tmp_path).rename(tmp_path / name)
    assert "test looks" not in text(ordered(listed(tmp_path, "val"), "when"))
    (tmp_path / "a" / "test_evaluations.jsonl").write_text("{}\n{}\n")
    assert "test looks" in text(ordered(listed(tmp_path, "val"), "when"))


def test_sorted_and_filtered(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = {one.name: one.results[0]["scores"]["model"] for one in listed(root, "val")}
    for sort, sign in (("top1", -1), ("class", -1), ("end_mae_s", 1)):
        key = {"class": "top1"}.get(sort, sort)
        group = names(shown(capsys, root, "--sort", sort))[1]
        if "seeds" in group:
            group.remove("seeds")
        assert group == sorted(group, key=lambda name: sign * scores[name][key])
    assert names(shown(capsys, root, "--where", "dropout=0.25")) == [["seeds"]]
    assert names(shown(capsys, root, "--where", "learning-rate=1e-2", "--where", "seed=7")) == [
        ["sweep/trial-7"]
    ]
    assert "no runs with learning_rate=9" in shown(capsys, root, "--where", "learning_rate=9")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--where", "learning_rat=1"], "did you mean learning_rate?"),
        (["--where", "learning_rate"], "expected NAME=VALUE"),
        (["--where", "epochs=many"], "epochs: Input should be a valid integer"),
        (["--sort", "miuo"], "did you mean miou?"),
        (["--sort", "?"], "known: when, "),
    ],
)
def test_what_is_not_known_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert cli.main(["runs", str(root), *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("learning_rate=1e-3", 1e-3),
        ("epochs=None", None),
        ("modality=audio", "audio"),
        ("weak=true", True),
        ("fields=a=b", "a=b"),
    ],
)
def test_a_value_is_read_as_its_setting_is(word: str, value: object) -> None:
    assert parsed(word) == (word.split("=")[0], value)


def test_csv_has_all_scores_and_settings(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = shown(capsys, root, "--csv", "-")
    shown(capsys, root, "--csv", tmp_path / "runs.csv")
    assert (tmp_path / "runs.csv").read_text() == printed
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(printed))}
    assert set(rows) == {"plain", "seeds", "sweep/trial-7", "apart"}
    assert rows["sweep/trial-7"]["config.learning_rate"] == "0.01"
    assert float(rows["seeds"]["miou_sd"]) >= 0
    assert rows["plain"]["miou_sd"] == ""
    assert rows["plain"]["group"] == rows["seeds"]["group"] != rows["apart"]["group"]


def test_damaged_and_unfinished_runs_say_what_they_are(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for name in ("torn", "foreign", "unscored"):
        copied(root / "plain", runs / name).rename(runs / f"{name}.run")
    (runs / "torn.run" / "metrics_val.json").write_text('{"split": "val\x1b[2J')
    (runs / "foreign.run" / "record.json").unlink()
    (runs / "foreign.run" / "record.json").symlink_to(root / "plain" / "record.json")
    (runs / "unscored.run" / "metrics_val.json").unlink()
    begun(runs / "stopped", entries(0.1))
    begun(runs / "trains", entries(0.1, 0.2))
    (runs / "nothing").mkdir()
    (runs / "nothing" / ".lock").touch()
    (runs / "loop").symlink_to(runs)
    with writer_lock(runs / "trains", "run"):
        text = shown(capsys, runs)
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "this is not JSON" in lines["torn.run"]
    assert "record.json" in lines["foreign.run"]
    assert "not scored on val: `python -m train evaluate`" in lines["unscored.run"]
    told = shown(capsys, runs, "--split", "test")
    assert "not scored on test\n" in told
    assert "train evaluate" not in told
    assert "stopped at epoch 1 of 9: nobody trains in it" in lines["stopped"]
    assert "trains, epoch 2 of 9" in lines["trains"]
    assert not {"nothing", "loop"} & set(lines)
    assert "\x1b" not in text


def test_looks_at_test_and_the_time_outlive_copying(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(root / "plain", tmp_path / "runs")
    cache = root.parent / "cache"
    for _ in range(2):
        argv = ["--run", str(run), "--cache", str(cache), "--split", "test", "--pictures", "0"]
        assert cli.main(["evaluate", *argv]) == 0
    os.utime(run / BEST, (0, 0))
    (one,) = listed(tmp_path / "runs", "test")
    (before,) = [other for other in listed(root, "val") if other.name == "plain"]
    assert (one.looks, one.when, one.told) == (2, before.when, "")
    assert shown(capsys, tmp_path / "runs", "--split", "test").splitlines()[2].split()[-3] != "0"


def test_folds_stand_apart(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = root.parent / "cache"
    run = tmp_path / "runs" / "divided"
    assert cli.main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS, "--folds", "3"]) == 0
    copied(root / "plain", tmp_path / "runs")
    assert names(shown(capsys, tmp_path / "runs")) == [["divided"], ["plain"]]
    (run / "metrics_folds.json").unlink()
    assert "not scored on folds" in shown(capsys, tmp_path / "runs")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"learning_rate": 3e-4, "seed": 3}, "learning_rate 0.0003, seed 3"),
        ({"num_classes": 9, "device": "cpu", "events": "single"}, ""),
        (PRESETS["classic"].model_dump() | {"dropout": 0.5}, "classic, dropout 0.5"),
    ],
)
def test_settings_beside_the_defaults(changes: dict[str, Any], told: str) -> None:
    config = TrainConfig().revised(**changes).model_dump(mode="json")
    assert beside_default(config) == told
    assert "seed" not in beside_default(config, seeds=2)


def test_settings_that_differ() -> None:
    plain = TrainConfig(epochs=4).model_dump(mode="json")
    assert that_differ({"a": plain, "b": {**plain, "seed": 7}}) == {"a": "", "b": ""}
    found = that_differ(
        {
            "a": plain,
            "b": {**plain, "dropout": 0.5, "seed": 7},
            "c": PRESETS["classic"].model_dump(mode="json"),
        }
    )
    assert found == {"a": "epochs 4", "b": "epochs 4, dropout 0.5", "c": "classic"}


def test_nothing_to_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no runs" in shown(capsys, tmp_path)
    with pytest.raises(ConfigError, match="no folder of runs"):
        listed(tmp_path / "nowhere", "val")
    assert count_looks(tmp_path) == 0


def test_one_that_was_handed_over_is_listed_and_watched_like_a_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root / "plain"
    export(run, tmp_path / "whole", onnx=False)
    export(run, tmp_path / "without", onnx=False, without_ids=True)
    whole, without = sorted(listed(tmp_path, "val"), key=lambda one: one.name)
    assert whole.when == listed(run, "val")[0].when, "when it was trained, not handed over"
    assert whole.told == without.told == "not scored on val: `python -m train evaluate`"
    assert "resume" not in shown(capsys, tmp_path)
    for name, words in (("whole", "ended: all 1 epochs"), ("without", "ended")):
        told, going_on = described(places(tmp_path / name)[0])
        assert words in told
        assert "epoch 0" not in told
        assert not going_on
