"""Cross-validation: how clips are divided, what each fold saw, what is scored, how it goes on."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, copied, tiny_labels

from cache import Labels, open_cache
from cache.common.errors import ConfigError
from cache.common.strict_json import read_json
from cache.labels.store import write_labels
from train import __main__ as cli
from train.commands import fit as fitting
from train.config import SCORED, TrainConfig
from train.data import dataset, features
from train.data.dataset import Rows, choose_rows
from train.data.folds import Division, divide
from train.runs import folders as runs
from train.runs import record
from train.runs.checkpoint import load
from train.runs.evaluate import training_events
from train.runs.folders import BEST, LAST
from train.runs.trained import load_run
from train.score.metrics import Events
from train.score.summary import baselines, score
from train.training import loop

NAMES = st.text("abcé", min_size=1, max_size=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache and a run of three folds on it; tests that change them copy both."""
    top = tmp_path_factory.mktemp("made")
    make_cache(top / "cache", labels=tiny_labels(), **TINY)
    assert fit(top / "cache", top / "run", "--folds", "3") == 0
    return top


def fit(cache: Path, run: Path, *more: str) -> int:
    return cli.main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS, *more])


def again(cache: Path, run: Path, *more: str) -> int:
    words = ["fit", "--cache", str(cache), "--run", str(run), "--resume", "--pictures", "0"]
    return cli.main([*words, *more])


def parts_of(cache: Path, **division: Any) -> dict[str, Rows]:
    found = open_cache(cache)
    settings = Division.parse({"folds": 3, "seed": 0, **division})
    return settings.parts(choose_rows(found, TrainConfig()), found)


@given(
    rows=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=40),
    folds=st.integers(3, 7),
    seed=st.integers(0, 9),
    order=st.randoms(),
)
def test_each_id_is_in_one_part_whatever_the_order_and_parts_are_as_large(
    rows: list[tuple[str, str]], folds: int, seed: int, order: Any
) -> None:
    part = divide([i for i, _ in rows], [k for _, k in rows], folds, seed)
    assert set(part) == {i for i, _ in rows}
    sizes = [list(part.values()).count(n) for n in range(folds)]
    assert max(sizes) - min(sizes) <= 1
    order.shuffle(rows)
    assert divide([i for i, _ in rows], [k for _, k in rows], folds, seed) == part


def test_classes_are_spread_as_far_as_their_number_allows() -> None:
    kinds = ["a"] * 50 + ["b"] * 7 + ["c"] * 2 + ["d"]
    part = divide([f"id{n}" for n in range(60)], kinds, 5, 1)
    for kind in "abcd":
        count = Counter(part[f"id{n}"] for n in range(60) if kinds[n] == kind)
        each = [count[n] for n in range(5)]
        assert max(each) - min(each) <= 1
    assert divide([f"id{n}" for n in range(60)], kinds, 5, 2) != part


def test_each_clip_is_scored_once_by_a_fold_that_has_not_seen_it(made: Path) -> None:
    parts, labels = parts_of(made / "cache"), tiny_labels()
    assert list(parts) == ["fold-1", "fold-2", "fold-3"]
    scored = [row for rows in parts.values() for row in rows.kept[SCORED].tolist()]
    assert sorted(scored) == sorted(np.flatnonzero(labels.split < 2))
    for rows in parts.values():
        sets = [{labels.ids[row] for row in some} for some in rows.kept.values()]
        assert sum(map(len, sets)) == len(set().union(*sets)) == 24
        assert {rows.labels.split[row] for row in rows.kept["val"]} == {1}
        assert len(rows.used()) == 16
    following = list(parts.values())[1]
    assert set(parts["fold-1"].kept["val"]) == set(following.kept[SCORED])


def test_rows_of_one_id_stay_together(tmp_path: Path) -> None:
    labels = tiny_labels()
    ids = [*labels.ids]
    ids[9] = ids[20] = ids[3]  # three classes, and two splits
    cache = make_cache(tmp_path / "c", labels=dataclasses.replace(labels, ids=ids), **TINY)
    for rows in parts_of(cache).values():
        assert len({n for n, some in rows.kept.items() for r in some if r in (3, 9, 20)}) == 1
        assert rows.leaks == {}


def test_all_takes_test_and_rows_without_a_split_as_well(made: Path, tmp_path: Path) -> None:
    cache, labels = copied(made / "cache", tmp_path), tiny_labels()
    labels.split[0] = -1
    write_labels(cache, labels)
    for of, count in (("train+val", 23), ("all", 30)):
        assert sum(len(rows.kept[SCORED]) for rows in parts_of(cache, of=of).values()) == count
    labels.split[:] = 2
    write_labels(cache, labels)
    with pytest.raises(ConfigError, match=r"0 clips.* in train and val;.* --folds-of all"):
        parts_of(cache)


def test_the_folder_holds_a_run_for_each_fold_with_a_true_record(made: Path) -> None:
    run, parts = made / "run", parts_of(made / "cache", seed=42)
    assert read_json(run / "folds.json") == {"folds": 3, "of": "train+val", "seed": 42}
    for name, rows in parts.items():
        found = record.read(run / name, load(run / name / BEST)[1])
        assert found is not None
        for split in ("train", "val"):
            assert found.ids(split) == {rows.labels.ids[row] for row in rows.kept[split]}
        assert (run / name / "metrics_val.json").exists()
        own = read_json(run / name / "metrics_folds.json")
        assert own["seen"] == {"train": [], "val": []}
        assert own["other_cache"] is None


def test_all_parts_are_scored_as_one_set_with_each_folds_own_baselines(made: Path) -> None:
    run, labels = made / "run", tiny_labels()
    result = read_json(run / "metrics_folds.json")
    rows = read_json(run / "predictions_folds.json")
    assert result["split"] == "folds"
    assert result["events"] == len(rows) == len({row["id"] for row in rows}) == 24
    assert result["seen"] == {"train": [], "val": []}
    right = [row["category"] == row["predicted"] for row in rows]
    assert result["scores"]["model"]["top1"] == pytest.approx(np.mean(right))
    guesses, truths = [], []
    for name in ("fold-1", "fold-2", "fold-3"):
        own = read_json(run / name / "predictions_folds.json")
        assert [{**row, "fold": name} for row in own] == [r for r in rows if r["fold"] == name]
        found = record.read(run / name, load(run / name / BEST)[1])
        assert found is not None
        _, trained = training_events(found.rows)
        guesses.append(baselines(trained, len(own), 3, 2.0)["majority class, mean interval"])
        truths.append(own)
    truth = Events(
        np.array([labels.classes.index(row["category"]) for own in truths for row in own]),
        np.array([row["start_s"] for own in truths for row in own]),
        np.array([row["end_s"] for own in truths for row in own]),
    )
    joined = dataclasses.replace(
        guesses[0],
        **{
            name: np.concatenate([getattr(guess, name) for guess in guesses])
            for name in ("probability", "start_s", "end_s")
        },
    )
    expected = score(truth, joined, 2.0)
    stored = result["scores"]["majority class, mean interval"]
    assert stored["miou"] == pytest.approx(expected["miou"])
    values = [fold["scores"]["model"]["miou"] for fold in result["folds"]]
    assert result["mean_and_deviation"]["miou"] == pytest.approx(
        [np.mean(values), np.std(values, ddof=1)]
    )


def test_predict_and_evaluate_answer_as_an_ensemble_of_the_folds(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, cache = copied(made / "run", tmp_path), str(made / "cache")
    assert [one.folder.name for one in load_run(run).models] == ["fold-1", "fold-2", "fold-3"]
    assert cli.main(["predict", "--run", str(run), "--cache", cache, "--pictures", "0"]) == 0
    told = capsys.readouterr().out
    assert "the ensemble of 3 models" in told
    assert "24 of 30 clips are such as the run was trained on" in told
    words = ["evaluate", "--run", str(run), "--cache", cache, "--pictures", "0"]
    assert cli.main([*words, "--split", "test"]) == 0
    told = capsys.readouterr().out
    assert "model (3 models of folds)" in told
    assert "the run was trained on" not in told, "test stayed untouched"
    assert f"{run}/fold-*" in told
    assert cli.main(["evaluate", "--run", str(run / "fold-1"), *words[3:]]) == 0
    assert "of its clips the run was trained on" in capsys.readouterr().out
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "one")
    monkeypatch.chdir(tmp_path)
    assert runs.newest_run() == Path("runs/one")


def test_report_shows_folds_and_refuses_to_mix_them_with_splits(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(made / "run", tmp_path)
    assert cli.main(["report", str(run), str(made / "run")]) == 0
    told = capsys.readouterr().out
    assert f"{run} (3 folds)" in told
    assert "majority class, whole clip" in told
    assert cli.main(["report", str(run), str(run / "fold-1")]) == 2
    assert "can't be compared" in capsys.readouterr().err
    (run / "metrics_folds.json").unlink()
    assert cli.main(["report", str(run)]) == 2
    assert "--resume --folds K" in capsys.readouterr().err


def test_a_stopped_cross_validation_goes_on_with_the_folds_that_are_left(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, cache, steps = tmp_path / "run", made / "cache", []
    original = loop.Trainer.train_epoch

    def stop_in_the_second(trainer: loop.Trainer, epoch: int) -> list[float]:
        steps.append(epoch)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return original(trainer, epoch)

    monkeypatch.setattr(fitting, "most_at_once", lambda _: 1)
    monkeypatch.setattr(loop.Trainer, "train_epoch", stop_in_the_second)
    assert fit(cache, run, "--folds", "3") == 130
    assert fit(cache, run, "--folds", "3") == 2, "it holds a fold"
    for words, told in (
        (["--folds", "4"], "pass --folds 3 --folds-of train+val"),
        (["--folds", "3", "--folds-of", "all"], "pass --folds 3 --folds-of train+val"),
        ([], "a folder of folds; resume it with the --folds it has"),
        (["--seeds", "2"], "a folder of folds"),
        (["--folds", "3", "--seeds", "2"], "stand beside"),
    ):
        assert again(cache, run, *words) == 2
        assert told in capsys.readouterr().err
    assert again(cache, run, "--folds", "3") == 0
    assert len(steps) == 4, "one epoch each, and the one that was stopped"
    ours, theirs = (read_json(top / "metrics_folds.json") for top in (run, made / "run"))
    assert ours == theirs


@pytest.mark.system
def test_seeds_in_folds_are_folders_of_seeds(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert fit(made / "cache", run, "--folds", "3", "--seeds", "3 1") == 0
    capsys.readouterr()
    models = [one.folder.relative_to(run).as_posix() for one in load_run(run).models]
    assert models == [f"fold-{k}/seed-{s}" for k in (1, 2, 3) for s in (1, 3)]
    assert read_json(run / "folds.json")["seed"] == 3
    assert read_json(run / "fold-2" / "metrics_folds.json")["seeds"] == [3, 1]
    assert len(load_run(run / "fold-2").models) == 2
    (run / "fold-1" / "seed-3" / LAST).unlink()
    (run / "fold-1" / "seed-3" / BEST).unlink()
    assert again(made / "cache", run, "--folds", "3", "--seeds", "3 1") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--folds", "25"], "has 24 clips with labels and features in train and val"),
        (["--folds", "2"], "expected 3 to 1000"),
        (["--folds-of", "all"], "pass --folds as well"),
        (["--folds", "3", "--ablations"], "one at a time"),
    ],
)
def test_what_can_not_be_divided_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert fit(made / "cache", tmp_path / "run", *words) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_folds_do_not_stand_beside_or_inside_other_runs(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(made / "run", tmp_path)
    for words in ([], ["--seeds", "2"], ["--ablations"]):
        assert fit(made / "cache", run, *words) == 2
        assert "a folder of folds; pass another --run" in capsys.readouterr().err
    (run / "folds.json").unlink()
    assert fit(made / "cache", run) == 2
    assert "would stand inside" in capsys.readouterr().err
    (run / "fold-2").rename(tmp_path / "elsewhere")
    (run / "fold-2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="a link"):
        load_run(run)


def test_a_class_of_one_clip_is_named_and_scored(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, labels = copied(made / "cache", tmp_path), tiny_labels()
    rare = Labels(**{**vars(labels), "classes": [*labels.classes, "Rare"]})
    rare.category[0] = 3
    write_labels(cache, rare)
    assert fit(cache, tmp_path / "run", "--folds", "4") == 0
    assert "trained on none of them: Rare (1)" in capsys.readouterr().out
    found = read_json(tmp_path / "run" / "metrics_folds.json")
    assert found["classes_in_split"] == 4


def test_a_strangers_scores_of_folds_are_checked(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(made / "run", tmp_path)
    path = run / "metrics_folds.json"
    good = read_json(path)
    wrong: list[Any] = [[], [{"scores": {}}], [{"scores": {"model": {"top1": "x"}}}], "x", [1]]
    for bad in wrong:
        path.write_text(json.dumps({**good, "folds": bad}))
        assert cli.main(["report", str(run)]) == 2
        assert "folds" in capsys.readouterr().err


def test_features_are_read_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, original = [], features.load_features

    def counting(*words: Any) -> Any:
        read.append(words)
        return original(*words)

    monkeypatch.setattr(dataset, "load_features", counting)
    config = TrainConfig.from_json(made / "run" / "fold-1" / "config.json")
    results = fitting.fit(made / "cache", tmp_path / "run", config, folds=3, pictures=0)
    assert len(read) == 1
    assert results[0] == read_json(made / "run" / "metrics_folds.json")
    assert [result["events"] for result in results] == [24, 8, 8, 8]
