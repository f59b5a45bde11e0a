"""The search for settings: what is tried, kept, stopped, gone on with, trained again and told."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.storages.journal import JournalFileBackend
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, tiny_labels

from cache import open_cache
from cache.common.atomic import plain_folder
from cache.common.errors import AvelError, CacheError, ConfigError
from train import __main__ as cli
from train.commands import sweep as sweeping
from train.config import TrainConfig
from train.data import dataset, features
from train.runs.trained import load_run
from train.score.intervals import Estimate
from train.score.predict import TrainingError
from train.sweep.compare import Again, best_of
from train.sweep.outputs import changed
from train.sweep.space import (
    DEFAULT,
    Range,
    Space,
    parse_space,
    read_space,
    settings_of,
    suggest,
    values_of,
)
from train.sweep.study import JOURNAL, Sweep, counts, finished
from train.sweep.trial import Search

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [word for word in FLAGS if word not in ("--pictures", "0")]
SPACE = {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}, "batch_size": [4, 8]}
QUICK = ["--trial-seeds", "2", "--again", "1", "--fresh-seeds", "2", "--trial-epochs", "2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "cache"
    return make_cache(folder, labels=tiny_labels(30), **TINY)


def search(cache: Path, out: Path, trials: int, *more: str) -> int:
    space = out.parent / "space.json"
    space.write_text(json.dumps(SPACE))
    words = ["sweep", "--cache", str(cache), "--out", str(out), "--trials", str(trials)]
    return cli.main([*words, "--space", str(space), *QUICK, *SETTINGS, *more])


def table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "trials.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def swept(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four trials, two at a time, and the ids of the clips that were read for it."""
    out, read = tmp_path_factory.mktemp("swept") / "sweeps" / "one", set[str]()
    plain_folder(out.parent)
    with pytest.MonkeyPatch.context() as patch:
        original = features.load_features

        def spy(cache: Any, config: TrainConfig, ids: Sequence[str], classes: int) -> Any:
            read.update(ids)
            return original(cache, config, ids, classes)

        patch.setattr(dataset, "load_features", spy)
        patch.setattr(sweeping, "most_at_once", lambda _: 2)
        assert search(cache, out, 4, "--jobs", "2") == 0
    (out.parent / "read.json").write_text(json.dumps(sorted(read)))
    return out


class TestSpace:
    def test_the_default_holds_the_default_settings(self) -> None:
        values = values_of(TrainConfig(), read_space(None, TrainConfig()))
        assert values is not None
        assert values.keys() == DEFAULT.keys()
        assert TrainConfig().revised(**settings_of(values)) == TrainConfig()

    def test_values_and_ranges(self) -> None:
        space = parse_space({"dim": [16, 32], "dropout": {"low": 0, "high": 0.5}}, "x")
        assert space == {"dim": (16, 32), "dropout": Range(low=0.0, high=0.5)}
        assert settings_of({"dim": 16}) == {"audio_feat_dim": 16, "video_feat_dim": 16}
        assert values_of(TrainConfig(), space) is None, "64 is not among them"
        whole = parse_space({"batch_size": {"low": 8, "high": 64}}, "x")
        assert values_of(TrainConfig(), whole) == {"batch_size": 32}

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            ([], "expected an object"),
            ({}, "at least one setting"),
            ({"learning_rat": [1]}, "did you mean 'learning_rate'"),
            ({"colour": [1]}, "unknown setting 'colour'; known: dim, batch_size"),
            ({"fields": ["audio/mel"]}, "set it for all trials with --fields"),
            ({"epochs": [3]}, "can't be searched"),
            ({"dropout": {"low": 0.5, "high": 0.1}}, "expected low < high"),
            ({"dropout": {"low": 0, "high": 0.1, "log": True}}, "log needs low > 0"),
            ({"dropout": {"low": 0, "hihg": 0.1}}, "did you mean 'high'"),
            ({"dropout": {"low": 0, "high": 1.5}}, "dropout: settings: dropout: Input should be"),
            ({"dropout": []}, "a list of 1 to 100"),
            ({"dropout": [0.1, 0.1]}, "different values"),
            ({"dropout": [[0.1]]}, "different values"),
            ({"dropout": 0.1}, "expected a list"),
            ({"batch_size": {"low": 0.5, "high": 8}}, "batch_size"),
            ({"dim": [18]}, "must be even and divisible"),
            ({"dim": [16], "audio_feat_dim": [16]}, "dim sets audio_feat_dim as well"),
        ],
    )
    def test_what_cannot_be_tried_is_refused(
        self, found: object, words: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "space.json"
        path.write_text(json.dumps(found))
        with pytest.raises(ConfigError, match=r"space\.json") as refused:
            read_space(path, TrainConfig())
        assert words in str(refused.value)


class TestSweep:
    def test_the_trials_are_told(self, swept: Path) -> None:
        found = table(swept)
        assert len(found) == 4
        assert {row["state"] for row in found} <= {"complete", "pruned"}
        first = found[0]
        assert (float(first["learning_rate"]), first["batch_size"]) == (1e-3, "8"), "the default"
        assert not list(swept.glob("worker-*"))
        page = (swept / "sweep.html").read_text()
        assert "fresh seeds" in page
        assert "mIoU, wrong class = 0" in page
        assert "://" not in page, "nothing from a network; pictures as text have no colon"

    def test_test_is_never_read(self, swept: Path, cache: Path) -> None:
        labels = open_cache(cache).labels
        hidden = {labels.ids[row] for row in labels.rows("test")}
        read = set(json.loads((swept.parent / "read.json").read_text()))
        assert hidden
        assert read
        assert not hidden & read
        assert not list(swept.rglob("*test*"))

    def test_the_best_again_are_ordinary_runs(self, swept: Path) -> None:
        places = sorted((swept / "rerun").glob("[a-z]*"))
        assert len(places) == 2
        for place in places:
            seeds = [one.about.config.seed for one in load_run(place).models]
            assert seeds == [1000, 1001]

    def test_best_json_is_what_fit_takes(self, swept: Path, cache: Path, tmp_path: Path) -> None:
        best = json.loads((swept / "best.json").read_text())
        assert best.keys() <= TrainConfig.model_fields.keys()
        words = ["fit", "--cache", str(cache), "--config", str(swept / "best.json")]
        run = tmp_path / "run"
        assert cli.main([*words, "--run", str(run), "--epochs", "1", "--pictures", "0"]) == 0
        config = load_run(run).about.config
        assert config.epochs == 1, "flags win"
        expected = {name: value for name, value in best.items() if name != "epochs"}
        assert {name: getattr(config, name) for name in expected} == expected

    def test_the_same_command_goes_on(
        self, swept: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = [row["score"] for row in table(swept)]
        monkeypatch.setattr(sweeping, "most_at_once", lambda _: 1)
        assert search(cache, swept, 5) == 0
        after = table(swept)
        assert [row["score"] for row in after[:4]] == before
        assert len(after) == 5

    def test_another_search_is_refused(
        self, swept: Path, cache: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert search(cache, swept, 5, "--dropout", "0.1") == 2
        assert "holds a sweep with other settings (dropout differ" in capsys.readouterr().err
        assert search(cache, swept, 5, "--epochs", "9") == 2
        assert "(epochs differ" in capsys.readouterr().err, "of what is trained again"

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            (["--fresh-seeds", "1"], "expected 2 or more"),
            (["--trials", "0"], "expected 1 or more"),
            (["--trial-seeds", "2000"], "expected up to 1000"),
        ],
    )
    def test_numbers_that_make_no_sense(
        self, cache: Path, tmp_path: Path, more: list[str], words: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        assert search(cache, tmp_path / "out", 4, *more) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_without_optuna_it_says_what_to_install(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setitem(sys.modules, "optuna", None)
        assert search(cache, tmp_path / "out", 4) == 2
        assert "pip install 'avel-two-stage[sweep]'" in capsys.readouterr().err


class TestTrials:
    def test_one_that_diverges_is_kept_with_its_reason(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Search.score

        def diverge(self: Search, settings: Mapping[str, object], report: Any) -> float | None:
            if settings["batch_size"] == 4:
                raise TrainingError("the loss is not finite")
            return original(self, settings, report)

        monkeypatch.setattr(sweeping, "most_at_once", lambda _: 1)
        monkeypatch.setattr(Search, "score", diverge)
        assert search(cache, tmp_path / "out", 5) == 0
        found = table(tmp_path / "out")
        assert len(found) == 5
        wrong = [row for row in found if row["batch_size"] == "4"]
        assert all(
            (row["state"], row["reason"]) == ("failed", "the loss is not finite") for row in wrong
        )

    def test_where_all_fail_it_says_so(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        def diverge(*_: object) -> float:
            raise TrainingError("the loss is not finite")

        monkeypatch.setattr(sweeping, "most_at_once", lambda _: 1)
        monkeypatch.setattr(Search, "score", diverge)
        assert search(cache, tmp_path / "out", 2) == 2
        assert "no trial came to its end (2 failed)" in capsys.readouterr().err

    def test_what_fails_when_the_best_are_trained_again_is_no_end_of_the_sweep(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        def full(*_: object, **__: object) -> None:
            raise CacheError("the disk is full")

        monkeypatch.setattr(sweeping, "most_at_once", lambda _: 1)
        monkeypatch.setattr(Search, "score", lambda *_: 0.5)
        monkeypatch.setattr(sweeping, "fit", full)
        assert search(cache, tmp_path / "out", 1) == 2
        told = capsys.readouterr().err
        assert "default: not trained to its end; mend what follows, then the same sweep" in told
        assert told.rstrip().endswith("the disk is full")

    def test_a_stopped_one_does_not_count(
        self, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, done = Search.score, list[int]()

        def stop(self: Search, settings: Mapping[str, object], report: Any) -> float | None:
            done.append(1)
            if len(done) == 2:
                raise KeyboardInterrupt
            return original(self, settings, report)

        monkeypatch.setattr(sweeping, "most_at_once", lambda _: 1)
        monkeypatch.setattr(Search, "score", stop)
        assert search(cache, tmp_path / "out", 3) == 130
        assert search(cache, tmp_path / "out", 3) == 0
        states = [row["state"] for row in table(tmp_path / "out")]
        assert states.count("stopped") == 1
        assert len(states) == 4

    def test_hopeless_ones_are_stopped_on_the_way(self, cache: Path, tmp_path: Path) -> None:
        looks = list[tuple[int, float]]()

        def hopeless(look: int, score: float) -> bool:
            looks.append((look, score))
            return look == 1

        config = TrainConfig(
            device="cpu", audio_feat_dim=16, video_feat_dim=16, num_heads=2, epochs=10
        )
        opened = open_cache(cache)
        config = dataset.resolve(config, opened, opened.labels.classes).revised(events="single")
        rows = dataset.choose_rows(opened, config)
        one = Search.of(opened, config, rows, (0, 1))
        assert one.score({}, hopeless) is None
        assert [look for look, _ in looks] == [1]
        assert one.score({}, lambda *_: False) == one.score({}, lambda *_: False)

    def test_those_of_dead_processes_are_given_up(self, tmp_path: Path) -> None:
        code = f"""
import os, signal
from pathlib import Path
from train.sweep.study import Sweep
with Sweep(Path({str(tmp_path)!r}), {{}}).claimed() as mine:
    study = mine.study()
    study.ask().set_user_attr("worker", mine.worker)
    os.kill(os.getpid(), signal.SIGKILL)
"""
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL
        with Sweep(tmp_path, {}).claimed() as alive, Sweep(tmp_path, {}).claimed() as mine:
            study = mine.study()
            study.ask().set_user_attr("worker", alive.worker)
            assert counts(study)["running"] == 2
            assert mine.begin(study, None) == 1
            found = counts(study)
            assert (found["running"], found["stopped"], finished(found)) == (1, 1, 0)
            assert len(list(tmp_path.glob("worker-*"))) == 2, "that of the dead one is gone"


class TestJournal:
    def test_half_a_line_of_a_killed_writer_is_taken_off(self, tmp_path: Path) -> None:
        study = Sweep(tmp_path, {}).study()
        study.tell(study.ask(), 0.5)
        with (tmp_path / JOURNAL).open("a") as file:
            file.write('{"op_code": 4, "wor')
        again = Sweep(tmp_path, {}).study()
        again.tell(again.ask(), 0.6)
        assert [one.value for one in Sweep(tmp_path, {}).study().trials] == [0.5, 0.6]

    @pytest.mark.parametrize("text", ["nonsense\n", "[]\n", '{"op_code": 99}\n', '{"a": 1}\n'])
    def test_what_is_none_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / JOURNAL).write_text(text)
        with pytest.raises(AvelError, match="journal"):
            Sweep(tmp_path, {}).study()

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ('"values":[0.5]', '"values":["high"]'),
            ('"values":[0.5]', '"values":[NaN]'),
            ('"values":[0.5]', '"values":[0.5,0.5]'),
            ('"values":[0.5]', '"values":null'),
            ('"param_name":"dropout"', '"param_name":"$\\\\frac{<script>"'),
            ('"param_value_internal":', '"param_value_internal":7'),
            ('{"op_code":5', "[" * 100_000),
        ],
    )
    def test_trials_that_no_sweep_makes_are_refused(
        self, tmp_path: Path, before: str, after: str
    ) -> None:
        space: Space = {"dropout": Range(low=0.1, high=0.5)}
        study = Sweep(tmp_path, space).study()
        trial = study.ask()
        suggest(trial, space)
        study.tell(trial, 0.5)
        assert len(Sweep(tmp_path, space).study().trials) == 1
        text = (tmp_path / JOURNAL).read_text()
        assert before in text
        (tmp_path / JOURNAL).write_text(text.replace(before, after))
        with pytest.raises(CacheError, match="no journal of a sweep"):
            Sweep(tmp_path, space).study()

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").touch()
        (tmp_path / JOURNAL).symlink_to("elsewhere")
        with pytest.raises(AvelError, match="a link"):
            Sweep(tmp_path, {}).study()

    def test_nothing_in_it_is_executed(self) -> None:
        """Optuna unpickles snapshots alone, which files have none of."""
        assert not hasattr(JournalFileBackend, "load_snapshot")


class TestCompared:
    def again(self, name: str, scores: list[float], low: float) -> Again:
        gain = Estimate(low + 0.1, low, low + 0.2, 40, 40)
        return Again(name, {}, scores, [0.5, 0.6], None if name == "default" else gain)

    def test_a_find_is_better_with_each_seed_and_beyond_the_interval(self) -> None:
        normal = self.again("default", [0.5, 0.6], 0.0)
        find = self.again("trial-1", [0.6, 0.7], 0.01)
        assert best_of([normal, find]) is find
        assert best_of([normal, self.again("trial-1", [0.9, 0.6], 0.01)]) is normal
        assert best_of([normal, self.again("trial-1", [0.6, 0.7], -0.01)]) is normal
        assert np.isclose(find.mean, 0.65)

    def test_best_json_leaves_out_where_it_runs(self) -> None:
        config = TrainConfig(epochs=7, device="cpu", threads=2, events="single")
        assert changed(config, {"dropout": 0.1}) == {"epochs": 7, "dropout": 0.1}
        assert changed(TrainConfig(), {}) == {}
