"""A run scored on other caches: classes by name, any of the splits, looks that count."""

import dataclasses
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pytest
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, copied, score, tiny_labels

from cache import Labels
from cache.common.errors import AvelError, CacheError
from cache.labels.store import write_labels
from train import __main__ as cli
from train.commands.evaluate import evaluate_run
from train.commands.report import report
from train.report.drawing import FOLDER
from train.runs import folders


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_cache(folder / "cache", labels=tiny_labels(), **TINY)
    words = ["fit", "--cache", str(folder / "cache"), "--run", str(folder / "run"), *FLAGS]
    assert cli.main(words) == 0
    evaluate_run(folder / "run", folder / "cache", "test", pictures=0)
    return folder


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return copied(made / "cache", tmp_path)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made / "run", tmp_path)


def stored(run: Path, name: str = "metrics_test.json") -> Any:
    return json.loads((run / name).read_text())


def looks(run: Path) -> int:
    return len((run / "test_evaluations.jsonl").read_text().splitlines())


def renumbered(order: list[int]) -> Labels:
    """The same label rows with the classes in another order."""
    labels = tiny_labels()
    place = np.argsort(order)
    names = [labels.classes[number] for number in order]
    return dataclasses.replace(labels, classes=names, category=place[labels.category])


def test_classes_in_another_order_are_scored_alike(run: Path, cache: Path) -> None:
    before = stored(run)
    write_labels(cache, renumbered([2, 0, 1]))
    result = score(run, cache)
    for name in ("scores", "per_class", "confusion", "classes", "scored_rows", "training_rows"):
        assert result[name] == before[name], name
    assert result["other_cache"] is None, "the rows are the very same"
    assert [row["category"] for row in stored(run, "predictions_test.json")] == [
        tiny_labels().classes[tiny_labels().category[row]] for row in tiny_labels().rows("test")
    ]


def test_names_are_matched_however_their_accents_are_written(cache: Path, tmp_path: Path) -> None:
    labels, form = tiny_labels(), unicodedata.normalize

    def written(how: Literal["NFC", "NFD"]) -> Labels:
        ids = [form(how, f"é{clip_id}") for clip_id in labels.ids]
        classes = [form(how, f"café {name}") for name in labels.classes]
        return dataclasses.replace(labels, ids=ids, classes=classes)

    one = make_cache(tmp_path / "one", labels=written("NFD"), **TINY)
    assert cli.main(["fit", "--cache", str(one), "--run", str(tmp_path / "r"), *FLAGS]) == 0
    moved = written("NFC")
    moved.split[:] = 2 - moved.split
    other = make_cache(tmp_path / "other", labels=moved, **TINY)
    result = score(tmp_path / "r", other)
    assert result["unknown_classes"] == {}
    assert len(result["seen"]["train"]) == result["events"] == 18


def only_split(labels: Labels, split: str, **changes: Any) -> Labels:
    """Labels that hold one split alone, as a person is handed them."""
    rows = labels.rows(split)
    found = dataclasses.replace(
        labels,
        ids=[labels.ids[row] for row in rows],
        **{name: getattr(labels, name)[rows] for name in ("category", "start_s", "end_s", "split")},
    )
    return dataclasses.replace(found, **changes)


def test_a_test_set_alone_is_scored_beside_the_runs_own_baselines(run: Path, cache: Path) -> None:
    before = stored(run)
    write_labels(cache, only_split(tiny_labels(), "test"))
    result = score(run, cache, pictures=1)
    assert result["scores"] == before["scores"]
    assert result["training_rows"] == before["training_rows"]
    assert result["other_cache"] == "cache"
    assert stored(run) == before
    (other,) = run.glob("on-*")
    assert stored(other) == result
    assert (other / "predictions_test.json").exists()
    assert (other / "report.html").exists()
    assert "test_looks" in result
    with pytest.raises(CacheError, match="no label row of val"):
        score(run, cache, "val")


def test_classes_that_are_all_unknown_are_told_as_the_reason(run: Path, cache: Path) -> None:
    write_labels(cache, dataclasses.replace(tiny_labels(), classes=["Drum", "Gong", "Harp"]))
    words = "no label row of test has features and a class that the run knows; .* Drum, Gong, Harp"
    with pytest.raises(CacheError, match=words):
        score(run, cache)


def test_a_subset_of_the_classes_is_matched_by_name(run: Path, cache: Path) -> None:
    labels = only_split(tiny_labels(), "test")
    names = labels.classes
    kept = np.flatnonzero(labels.category != 0)
    some = dataclasses.replace(
        labels,
        ids=[labels.ids[row] for row in kept],
        classes=[names[2], names[1]],
        category=np.where(labels.category[kept] == 2, 0, 1),
        **{name: getattr(labels, name)[kept] for name in ("start_s", "end_s", "split")},
    )
    write_labels(cache, some)
    result = score(run, cache)
    assert result["events"] == 4
    assert result["classes"] == names
    own = {row["id"]: row for row in stored(run, "predictions_test.json")}
    (other,) = run.glob("on-*")
    for row in stored(other, "predictions_test.json"):
        assert row["category"] == own[row["id"]]["category"]
        assert row["predicted"] == own[row["id"]]["predicted"]
    top1 = np.mean([own[i]["predicted"] == own[i]["category"] for i in some.ids])
    assert result["scores"]["model"]["top1"] == pytest.approx(top1)


def test_events_of_classes_that_the_run_does_not_know_are_left_out_and_told(
    run: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tiny_labels()
    rows = labels.rows("test")
    labels.category[rows[:2]] = 3
    write_labels(cache, dataclasses.replace(labels, classes=[*labels.classes, "Drum"]))
    result = score(run, cache)
    assert result["events"] == 4
    assert result["unknown_classes"] == {"Drum": 2}
    assert "left out: 2 events of unknown classes: Drum (2)" in capsys.readouterr().out
    labels.category[rows] = 3
    write_labels(cache, dataclasses.replace(labels, classes=[*labels.classes, "Drum"]))
    with pytest.raises(CacheError, match="a class that the run knows; it doesn't know Drum"):
        score(run, cache)


def test_a_look_that_failed_is_not_counted(
    run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert looks(run) == 1

    def fails(*_: object, **__: object) -> NoReturn:
        raise CacheError("no room")

    monkeypatch.setattr(folders, "write_json", fails)
    with pytest.raises(CacheError, match="no room"):
        score(run, cache)
    monkeypatch.undo()
    write_labels(cache, only_split(tiny_labels(), "train"))
    with pytest.raises(AvelError):
        score(run, cache)
    assert looks(run) == 1
    write_labels(cache, tiny_labels())
    assert score(run, cache)["test_looks"] == looks(run) == 2


def test_report_tells_of_each_run_what_was_seen(
    made: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        shutil.copytree(made / "run", tmp_path / name)
    labels = tiny_labels()
    moved = labels.rows("test")[0]
    labels.ids[moved] = labels.ids[labels.rows("train")[0]]
    write_labels(cache, labels)
    for name in ("one", "two"):
        score(tmp_path / name, cache)
    capsys.readouterr()
    assert (
        cli.main(["report", str(tmp_path / "one"), str(tmp_path / "two"), "--split", "test"]) == 0
    )
    shown = capsys.readouterr().out
    assert "one: 1 of its clips the run was trained on (clip00000)" in shown
    assert "two: 1 of its clips" in shown
    assert "one, without 1 seen" in shown
    path = tmp_path / "one" / "metrics_test.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "code": "0" * 16}))
    report([tmp_path / "one", tmp_path / "two"], "test")
    assert "not all were scored by the same code" in capsys.readouterr().err


@pytest.mark.system
def test_pictures_of_another_cache_do_not_replace_the_runs_own(run: Path, cache: Path) -> None:
    score(run, cache, pictures=1)
    own = {path: path.stat().st_mtime_ns for path in (run / FOLDER).rglob("*")}
    page = (run / "report.html").read_bytes()
    write_labels(cache, only_split(tiny_labels(), "test"))
    score(run, cache, pictures=1)
    assert own == {path: path.stat().st_mtime_ns for path in (run / FOLDER).rglob("*")}
    assert (run / "report.html").read_bytes() == page
