"""Test scored after each epoch: it decides nothing, is counted, and is told as no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from background_runs import with_background
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, copied, score, tiny_labels
from windows_cache import windows_cache

from cache import open_cache
from cache.common.strict_json import read_json
from cache.labels.store import write_labels
from train.__main__ import main
from train.runs.checkpoint import load
from train.runs.folders import BEST, LAST
from train.runs.looks import ON_TEST, add_look, chosen_on_test, count_looks
from train.runs.stored import read_history


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty clips of three classes, and six without an event."""
    place = tmp_path_factory.mktemp("also") / "cache"
    return make_cache(place, labels=with_background(tiny_labels(), 6), **TINY)


def fit(cache: Path, run: Path, *more: str) -> int:
    words = ["--cache", str(cache), "--run", str(run), *FLAGS, "--epochs", "3", "--seed", "1"]
    return main(["fit", *words, *more])


@pytest.mark.parametrize("settings", [[], ["--weak"], ["--selection", "best"]])
def test_it_decides_nothing(folder: Path, tmp_path: Path, settings: list[str]) -> None:
    with_it, without = tmp_path / "with", tmp_path / "without"
    assert fit(folder, with_it, "--also-score-test", *settings) == 0
    assert fit(folder, without, *settings) == 0
    for name in (BEST, LAST):
        (one, about, _), (other, other_about, _) = load(with_it / name), load(without / name)
        assert about == other_about
        ours, theirs = one.state_dict(), other.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    seen, plain = (read_history(run / "history.json") for run in (with_it, without))
    assert all(0 <= entry.pop(ON_TEST) <= 1 for entry in seen)
    assert all(entry.pop("seconds") >= 0 for entry in [*seen, *plain])
    assert seen == plain


def test_each_epoch_is_a_look_and_what_it_scores_is_what_evaluate_does(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert fit(folder, run, "--also-score-test") == 0
    assert "test (7 rows) is scored after each epoch" in capsys.readouterr().out
    assert count_looks(run) == 3
    found = chosen_on_test(run)
    assert found is not None
    assert found.epochs == 3
    result = score(run, folder)
    assert result["test_looks"] == 4
    history = read_history(run / "history.json")
    assert result["scores"]["model"]["segment_accuracy"] == history[-1][ON_TEST]
    assert main(["report", str(run), "--split", "test"]) == 0
    told = capsys.readouterr().out
    best = max(entry[ON_TEST] for entry in history)
    assert f"not a result: run has segment accuracy {best:.3f}" in told
    assert f"the epoch ({found.epoch} of 3) is chosen on test" in told
    assert main(["report", str(run)]) == 0
    assert "not a result" not in capsys.readouterr().out


def test_a_run_that_is_resumed_may_begin_or_cease_to_look(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert fit(folder, run) == 0
    assert chosen_on_test(run) is None
    assert fit(folder, run, "--resume", "--epochs", "5", "--also-score-test") == 0
    found = chosen_on_test(run)
    assert found is not None
    assert (found.epochs, count_looks(run)) == (2, 2)
    assert fit(folder, run, "--resume", "--epochs", "6") == 0
    assert chosen_on_test(run) == found
    assert read_json(run / "metrics_val.json")["epoch"] == 6


def test_of_seeds_the_mean_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert fit(folder, run, "--also-score-test", "--seeds", "2") == 0
    score(run, folder)
    capsys.readouterr()
    (run / "seed-0" / "history.json").write_text("[{}]")
    assert main(["report", str(run), "--split", "test"]) == 0
    told = capsys.readouterr()
    assert "not a result" not in told.out
    assert "seed-0/history.json" in told.err
    (run / "seed-0" / "history.json").unlink()
    assert main(["report", str(run), "--split", "test"]) == 0
    assert "not a result: run has segment accuracy" in capsys.readouterr().out


def test_the_first_of_equal_epochs_is_chosen(tmp_path: Path) -> None:
    assert chosen_on_test(tmp_path) is None
    assert count_looks(tmp_path) == 0
    add_look(tmp_path, 1, "history.json", {"segment_accuracy": 0.5})
    assert count_looks(tmp_path) == 1


class TestRefused:
    def told(self, cache: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
        assert fit(cache, cache.parent / "run", "--also-score-test", *more) == 2
        return capsys.readouterr().err

    def test_with_folds(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--folds leaves test alone" in self.told(folder, capsys, "--folds", "3")

    def test_of_several_events(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recordings = {f"r{n}": (4.0, [(n % 2, 0.0, 1.0)]) for n in range(6)}
        place = windows_cache(tmp_path / "windows", recordings)
        labels = replace(
            tiny_labels(6, 2),
            ids=[*recordings],
            start_s=np.zeros(6),
            end_s=np.ones(6),
            split=np.array([0, 0, 1, 1, 2, 2], np.int8),
        )
        write_labels(place, labels)
        assert "one event at most" in self.told(place, capsys)

    def test_without_an_event_of_test(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place = copied(folder, tmp_path)
        labels = open_cache(place).labels
        labels.split[labels.split == 2] = 0
        write_labels(place, labels)
        assert "has no event of test" in self.told(place, capsys)
