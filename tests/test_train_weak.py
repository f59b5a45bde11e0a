"""Classes without times: which rows, which times are guessed of what, and what they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from background_runs import with_background
from synthetic_cache import labels_for, make_cache
from tiny_runs import FLAGS, TINY, copied
from torch import Tensor
from windows_cache import windows_cache

from cache import Cache, Labels, open_cache
from cache.common.errors import ConfigError
from cache.common.strict_json import read_json
from cache.labels.store import write_labels
from train.__main__ import main
from train.config import SCORED, TrainConfig
from train.data.dataset import (
    Dataset,
    Rows,
    choose_rows,
    load_dataset,
    resolve,
)
from train.data.folds import Division
from train.data.settled import settle_events, settle_weak
from train.distributed import ProcessGroup
from train.report.run_plots import curves_figure
from train.runs.checkpoint import load
from train.runs.evaluate import rows_digest, training_events
from train.runs.folders import BEST
from train.runs.record import check_same_rows, read
from train.score.intervals import EventScores
from train.score.metrics import Events, Predictions, tiou
from train.score.predict import events
from train.score.summary import baselines, score
from train.training.weak import Steps, between, class_evidence, guess_times

CLIP_S = 10.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty clips of three classes, a third of whose events fill the clip, and nine without one."""
    labels, settings = (
        with_background(labels_for(60, 3), 9),
        {**TINY, "clip_seconds": CLIP_S, "num_frames": 8, "frame_size_px": 128},
    )
    return make_cache(tmp_path_factory.mktemp("weak") / "cache", labels=labels, **settings)


@pytest.fixture
def cache(folder: Path) -> Cache:
    return open_cache(folder)


def loaded(cache: Cache, **settings: Any) -> Dataset:
    config = TrainConfig.parse({"device": "cpu", "events": "single", **settings})
    rows = settle_weak(cache, config, choose_rows(cache, config))
    return load_dataset(cache, resolve(config, cache, cache.labels.classes), rows=rows)


def vague(labels: Labels, rows: Sequence[int]) -> Labels:
    """The labels, of which some rows don't say when."""
    start_s, end_s = labels.start_s.copy(), labels.end_s.copy()
    start_s[rows] = end_s[rows] = np.nan
    return replace(labels, start_s=start_s, end_s=end_s)


def overlap(guessed: Dataset, true: Dataset, split: str) -> tuple[float, float]:
    """Mean tIoU of guessed and true intervals of a split, and what "whole clip" has."""
    a, b = (events(one.splits[split], CLIP_S) for one in (true, guessed))
    a, b = a.of(a.real), b.of(b.real)
    found = tiou(a.start_s, a.end_s, b.start_s, b.end_s).mean()
    return float(found), float((a.end_s - a.start_s).mean() / CLIP_S)


@pytest.mark.parametrize("modality", ["both", "audio", "video"])
def test_guessed_times_are_nearer_than_the_whole_clip(cache: Cache, modality: str) -> None:
    true = loaded(cache, modality=modality)
    guessed = guess_times(true.without_times())
    found, whole = overlap(guessed, true, "train")
    assert found > whole + 0.05
    interval, empty = guessed.splits["train"].interval, true.splits["train"].background
    assert not interval[empty].any(), "clips without an event keep none"
    assert (interval[~empty][:, 0] < interval[~empty][:, 1]).all()
    assert torch.allclose(interval * CLIP_S, (interval * CLIP_S).round()), "whole seconds"
    assert guessed.splits["val"].weak.any(), "what is not trained on is not guessed"


def test_what_has_times_keeps_them(cache: Cache) -> None:
    true = loaded(cache)
    assert guess_times(true) is true
    train = true.splits["train"]
    interval = train.interval.clone()
    interval[::2] = torch.where(train.background[::2, None], interval[::2], torch.nan)
    mixed = replace(true, splits={**true.splits, "train": replace(train, interval=interval)})
    found = guess_times(mixed).splits["train"].interval
    assert torch.equal(found[1::2], train.interval[1::2])
    assert not found.isnan().any()
    assert torch.equal(guess_times(mixed).splits["train"].interval, found), "the same again"


def test_a_class_that_no_other_clips_know_tells_nothing() -> None:
    torch.manual_seed(0)
    steps = Steps([torch.randn(8, 4, 5)], torch.ones(8, 4, dtype=torch.bool), torch.zeros(8, 4, 2))
    category, part = torch.tensor([0, 1] * 3 + [2, -1]), torch.arange(8) % 4
    evidence = class_evidence(steps, category, torch.ones(8, 4), part)
    assert evidence.isfinite().all()
    assert evidence[:6].any(dim=1).all()
    assert not evidence[6].any(), "no learner that wasn't fitted on it knows it"


def test_values_are_split_between_two_heaps() -> None:
    values = torch.tensor([3.0, 0.1, 2.8, 0.0, 3.1, -0.1])
    assert float(between(values)) == pytest.approx(1.45)
    assert float(between(values[:1])) == float(between(values[:0])) == 0.0


def test_padding_holds_no_event(cache: Cache) -> None:
    blind = loaded(cache, modality="audio").without_times()
    half = blind.clips.audio_valid.shape[1] // 2
    blind.clips.audio_valid[:, half:] = False
    interval = guess_times(blind).splits["train"].interval
    assert (interval[:, 1] <= 0.5).all(), "the second half of each clip has no sound"


def test_of_several_processes_the_first_guesses(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProcessGroup, "all_reduce", lambda self, values: values)
    blind = loaded(cache).without_times()
    first, second = (guess_times(blind, ProcessGroup(rank, 2)) for rank in (0, 1))
    alone = guess_times(blind).splits["train"].interval
    assert torch.equal(first.splits["train"].interval, alone)
    assert not second.splits["train"].interval.any(), "adds nothing to the sum"


class TestRowsWithoutTimes:
    @pytest.fixture
    def mixed(self, folder: Path, tmp_path: Path) -> Cache:
        """Of train every other event, of val and test one each, has a class alone."""
        place = copied(folder, tmp_path)
        labels = open_cache(place).labels
        real = [r for r in labels.rows("train") if not labels.background[r]]
        some = [*real[::2], labels.rows("val")[0], labels.rows("test")[0]]
        write_labels(place, vague(labels, some))
        return open_cache(place)

    def test_those_of_train_are_learned_from(self, mixed: Cache) -> None:
        apart = choose_rows(mixed, TrainConfig())
        assert len(apart.weak) == 18
        assert not mixed.labels.weak[np.concatenate([*apart.kept.values()])].any()
        dataset = loaded(mixed)
        assert int(dataset.splits["train"].weak.sum()) == 18
        assert not dataset.splits["val"].weak.any()
        assert not dataset.splits["test"].weak.any()
        assert dataset.rows.notes[-1].startswith(
            "20 row(s) say that there is an event, but not when: 18 of train are learned from, 2 "
        )

    @pytest.mark.parametrize("kind", ["single", "several"])
    def test_of_several_events_all_are_left_out(self, mixed: Cache, kind: str) -> None:
        config = TrainConfig.parse({"events": kind})
        rows = choose_rows(mixed, config)
        settled = settle_weak(mixed, settle_events(mixed, config, rows)[0], rows)
        assert mixed.labels.weak[settled.kept["train"]].any() == (kind == "single")
        assert ("learned from" in settled.notes[-1]) == (kind == "single")

    def test_in_folds_they_train_and_are_not_scored(self, mixed: Cache) -> None:
        rows = settle_weak(mixed, TrainConfig(events="single"), choose_rows(mixed, TrainConfig()))
        parts = Division.parse({"folds": 3, "seed": 0}).parts(rows, mixed)
        trained = set[int]()
        for one in parts.values():
            assert not mixed.labels.weak[one.kept[SCORED]].any()
            assert not mixed.labels.weak[one.kept["val"]].any()
            trained |= set(one.kept["train"].tolist())
        assert set(rows.weak.tolist()) <= trained

    def test_they_are_rows_that_a_run_remembers(self, mixed: Cache, tmp_path: Path) -> None:
        def used(cache: Cache) -> Labels:
            return settle_weak(
                cache, TrainConfig(events="single"), choose_rows(cache, TrainConfig())
            ).used()

        before, now = used(mixed), used(open_cache(mixed.path))
        check_same_rows(tmp_path, mixed.labels.classes, before, now)
        other = vague(before, [int(np.flatnonzero(~before.weak & ~before.background)[0])])
        with pytest.raises(ConfigError, match=r"1 row\(s\) gone \(clip0.*s\), 1 row\(s\) new"):
            check_same_rows(tmp_path, mixed.labels.classes, before, other)
        ids, trained = training_events(before)
        digests = {rows_digest(ids, trained, before.classes) for _ in range(2)}
        assert len(digests) == 1
        assert np.isfinite(
            baselines(trained.of(trained.real), 1, 3, CLIP_S)["majority class, mean interval"].end_s
        )

    def test_a_set_without_any_times_has_no_mean_interval(self) -> None:
        nowhere = np.full(2, np.nan)
        found = baselines(Events(np.array([0, 1]), nowhere, nowhere), 1, 2, CLIP_S)
        assert [*found] == ["majority class, whole clip"]

    def test_fitted_and_told(self, mixed: Cache, capsys: pytest.CaptureFixture[str]) -> None:
        run = mixed.path.parent / "run"
        assert fit(mixed.path, run) == 0
        told = capsys.readouterr().out
        assert "18 of train are learned from" in told
        assert "18 training events have a class alone" in told
        assert main(["fit", *words(mixed.path, run), "--resume", "--epochs", "1"]) == 0
        assert main(["evaluate", "--run", str(run), "--cache", str(mixed.path)]) == 0


class TestNoTimesAtAll:
    """Where validation, and test, name classes alone, and so does all or half of train."""

    @pytest.fixture(params=[1, 2], ids=["all", "half of train"])
    def timeless(self, folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
        place = copied(folder, tmp_path)
        labels = open_cache(place).labels
        real = np.flatnonzero(~labels.background)
        train = real[np.isin(real, labels.rows("train"))]
        others = real[~np.isin(real, train)]
        write_labels(place, vague(labels, [*train[:: request.param], *others]))
        return place

    def test_classes_select_and_what_is_used_is_told(
        self, timeless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        assert fit(timeless, run, "--selection", "best", "--epochs", "2", "--pictures", "2") == 0
        told = capsys.readouterr().out
        assert "12 of val, where none does, tell of classes alone" in told
        assert "start and end: by the gate, as no times of val are looked at" in told
        assert "the gate as it was trained" in told
        assert "12 of them say no times: their classes alone are scored" in told
        assert "no pictures: no event of val says when it is" in told
        assert "report.html" not in told
        about = load(run / BEST)[1]
        history = read_json(run / "history.json")
        assert about.score == max(entry["val_top1"] for entry in history)
        assert "val_localized_iou" not in history[0]
        result = read_json(run / "metrics_val.json")
        scores = result["scores"]["model"]
        assert result["events_without_times"] == result["events"] == 12
        assert 0 <= scores["top1"] <= 1
        assert scores["segment_accuracy"] is scores["miou"] is scores["second_ece"] is None
        assert set(result["intervals"]["model"]) == {"top1"}
        assert {row["miou"] for row in result["per_class"]} == {None}
        answers = read_json(run / "predictions_val.json")
        assert {one["start_s"] for one in answers} == {None}

    def test_it_is_evaluated_resumed_and_compared(
        self, timeless: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs = [tmp_path / name for name in ("one", "two")]
        for run in runs:
            assert fit(timeless, run) == 0
            test = ["--cache", str(timeless), "--split", "test", "--pictures", "1"]
            assert main(["evaluate", "--run", str(run), *test]) == 0
        assert main(["report", *map(str, runs), "--split", "test"]) == 0
        told = capsys.readouterr()
        assert "two minus one" in told.out
        assert "warning" not in told.err
        assert main(["fit", *words(timeless, runs[0]), "--resume", "--epochs", "2"]) == 0
        times = ["--cache", str(folder), "--pictures", "1"]
        assert main(["evaluate", "--run", str(runs[0]), *times]) == 0, "scored by times elsewhere"
        assert "mIoU" in capsys.readouterr().out

    def test_what_needs_times_says_so(
        self, timeless: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert fit(timeless, tmp_path / "run", "--also-score-test") == 2
        assert "no event of test with features and times" in capsys.readouterr().err
        assert fit(timeless, tmp_path / "run", "--events", "several") == 2
        assert (
            "have a class alone); can't train. Classes alone are enough" in capsys.readouterr().err
        )
        labels = open_cache(timeless).labels
        if not labels.timed.any():
            assert fit(timeless, tmp_path / "run", "--folds", "3") == 2
            assert "have a class alone" in capsys.readouterr().err


def test_scores_of_some_events_without_times_are_those_of_the_others(cache: Cache) -> None:
    """But for what is asked of classes alone."""
    rng = np.random.default_rng(0)
    truth = Events(np.arange(12) % 3, rng.random(12) * 5, 5 + rng.random(12) * 5)
    some = Events(truth.category, truth.start_s.copy(), truth.end_s.copy())
    some.start_s[::4] = some.end_s[::4] = np.nan
    guess = Predictions(
        rng.random((12, 3)), rng.random(12) * 5, 5 + rng.random(12) * 5, rng.random((12, 10))
    )
    mixed, timed = (
        score(some, guess, CLIP_S),
        score(some.of(some.timed), guess.of(some.timed), CLIP_S),
    )
    classes = {"top1", "top3", "top5", "precision", "recall", "f1", "map", "auc", "ece"}
    assert {name: mixed[name] for name in classes} == {
        name: score(truth, guess, CLIP_S)[name] for name in classes
    }
    assert {n: v for n, v in mixed.items() if n not in classes} == {
        n: v for n, v in timed.items() if n not in classes
    }
    estimates = EventScores.of(some, guess, CLIP_S).estimates()
    for name, one in estimates.items():
        assert one.mean == pytest.approx(mixed[name])
        assert one.events == (12 if name == "top1" else 9)


def words(cache: Path, run: Path) -> list[str]:
    return ["--cache", str(cache), "--run", str(run), *FLAGS, "--seed", "1"]


def fit(cache: Path, run: Path, *more: str) -> int:
    return main(["fit", *words(cache, run), *more])


def test_with_weak_no_time_changes_what_is_trained_or_chosen(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path)
    labels = open_cache(other).labels
    real = ~labels.background
    moved = replace(labels, start_s=np.where(real, 0.25, 0.0), end_s=np.where(real, 0.75, 0.0))
    write_labels(other, moved)
    weights: list[dict[str, Tensor]] = []
    chosen, scores = [], []
    for place in (folder, other):
        run = tmp_path / f"run-{len(weights)}"
        assert fit(place, run, "--weak") == 0
        model, about, _ = load(run / BEST)
        assert about.config.weak
        weights.append(model.state_dict())
        chosen.append((about.calibration, about.decoding, about.event_threshold, about.score))
        scores.append(read_json(run / "metrics_val.json")["scores"]["model"])
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert chosen[0] == chosen[1]
    assert scores[0]["top1"] == scores[1]["top1"]
    assert scores[0]["miou"] != scores[1]["miou"], "scored by the true times"


def test_several_events_need_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recordings = {f"r{n}": (4.0, [(n % 3, 0.0, 1.0)]) for n in range(6)}
    place = windows_cache(tmp_path / "windows", recordings)
    write_labels(
        place,
        Labels(
            ids=[*recordings],
            classes=["Class 0", "Class 1", "Class 2"],
            category=np.arange(6) % 3,
            start_s=np.zeros(6),
            end_s=np.ones(6),
            split=np.array([0, 0, 0, 1, 1, 1], np.int8),
            source="made",
        ),
    )
    assert fit(place, tmp_path / "run", "--weak") == 2
    assert "--weak needs clips with one event at most" in capsys.readouterr().err


def test_recordings_with_an_event_somewhere_are_left_out_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In none of their windows may it count as not there; all-weak sets are refused by name."""
    recordings = {f"r{n}": (6.0, [(n % 3, 1.0, 3.0)]) for n in range(9)}
    place = windows_cache(tmp_path / "windows", recordings)
    ids = [*recordings, "r0", "r6"]
    labels = Labels(
        ids=ids,
        classes=["Class 0", "Class 1", "Class 2"],
        category=np.array([*(n % 3 for n in range(9)), 1, 2]),
        start_s=np.array([1.0] * 9 + [np.nan] * 2),
        end_s=np.array([3.0] * 9 + [np.nan] * 2),
        split=np.array([0] * 6 + [1] * 3 + [0, 1], np.int8),
        source="made",
    )
    write_labels(place, labels)
    for kind in ("single", "several"):
        run = tmp_path / kind
        assert fit(place, run, "--events", kind) == 0
        told = capsys.readouterr().out
        assert (
            "2 row(s) say that there is an event, but not when: left out, and with them 2" in told
        )
        used = set(read(run, load(run / BEST)[1]).rows.ids)  # type: ignore[union-attr]
        assert used == {f"r{n}" for n in (1, 2, 3, 4, 5, 7, 8)}
        assert read_json(run / "metrics_val.json")["recordings"] == 2
    write_labels(place, vague(labels, range(11)))
    for kind in ("single", "several"):
        assert fit(place, tmp_path / "none", "--events", kind) == 2
        assert "and times (11 events of the set have a class alone)" in capsys.readouterr().err


def test_rows_are_what_they_were_where_all_have_times(cache: Cache) -> None:
    rows: Rows = choose_rows(cache, TrainConfig())
    assert not len(rows.weak)
    assert settle_weak(cache, TrainConfig(events="single"), rows) is rows


def test_the_curves_are_those_that_there_are() -> None:
    entry = {"epoch": 1.0, "learning_rate": 1e-3, "val_top1": 0.5, "val_class_loss": 1.0}
    entry |= {f"train_{name}_loss": 1.0 for name in ("class", "interval", "gate")}
    panel = curves_figure([entry], 1).axes[1]
    assert [line.get_label() for line in panel.get_lines()] == ["top-1", "kept: epoch 1"]
