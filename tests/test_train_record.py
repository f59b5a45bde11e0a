"""What a run keeps of its making: seen clips, changed code, resume on other rows."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, copied, score, tiny_labels
from torch import Tensor

from cache import Labels
from cache.common.errors import ConfigError
from cache.labels.store import write_labels
from train import __main__ as cli
from train.commands import fit as fitting
from train.commands.evaluate import evaluate_run
from train.commands.predict import predict_cache
from train.config import TrainConfig
from train.runs import code, record
from train.runs.checkpoint import load
from train.runs.evaluate import training_events
from train.runs.folders import BEST, HANDED, RECORD_FILE
from train.runs.making import Session
from train.runs.trained import TrainedRun
from train.score.metrics import Array
from train.training import loop

CONFIG = TrainConfig(
    device="cpu",
    audio_feat_dim=16,
    video_feat_dim=16,
    num_heads=2,
    map_channels=8,
    batch_size=8,
    epochs=1,
)


def ids_of(labels: Labels, split: str) -> list[str]:
    return sorted({labels.ids[row] for row in labels.rows(split)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache and a run of one epoch on it; tests copy both."""
    folder = tmp_path_factory.mktemp("made")
    make_cache(folder / "cache", labels=tiny_labels(), **TINY)
    fitting.fit(folder / "cache", folder / "run", CONFIG, pictures=0)
    return folder


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return copied(made / "cache", tmp_path)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made / "run", tmp_path)


def relabelled(cache: Path, **changes: Any) -> Labels:
    labels = dataclasses.replace(tiny_labels(), **changes)
    write_labels(cache, labels)
    return labels


def recorded(run: Path) -> record.Record:
    found = record.read(run, load(run / BEST)[1])
    assert found is not None
    return found


def sessions_of(run: Path) -> list[Session]:
    making = recorded(run).making
    assert making is not None
    return making.sessions


def test_the_record_says_what_when_and_by_which_code(run: Path) -> None:
    found = recorded(run)
    labels = tiny_labels()
    for split in ("train", "val"):
        assert found.ids(split) == set(ids_of(labels, split))
    assert not found.ids("test")
    (session,) = sessions_of(run)
    assert session.ended is not None
    assert session.started < session.ended, "to the millisecond"
    assert session.command == sys.argv
    assert session.device.startswith("cpu: ")
    assert session.libraries["torch"] == torch.__version__
    assert session.code == code.digests()
    assert (session.commit, session.dirty) == code.commit()


def test_the_baselines_know_the_training_rows_alone(run: Path) -> None:
    ids, known = training_events(recorded(run).rows)
    assert sorted(ids) == ids_of(tiny_labels(), "train")
    assert len(known) == len(ids)


@pytest.mark.system
def test_train_and_test_swapped_are_told_and_the_own_scores_stay(
    run: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = score(run, cache, pictures=1)
    assert own["seen"] == {"train": [], "val": []}
    swapped = relabelled(cache, split=2 - tiny_labels().split)
    capsys.readouterr()
    result = score(run, cache, pictures=1)
    assert result["leaks"] == {}
    assert result["seen"] == {"train": ids_of(swapped, "test"), "val": []}
    assert "18 of its clips the run was trained on (clip00000, " in capsys.readouterr().out
    assert not any("without" in name for name in result["scores"])
    (other,) = run.glob("on-*")
    assert json.loads((other / "metrics_test.json").read_text()) == result
    kept = json.loads((run / "metrics_test.json").read_text())
    assert kept["scores"] == own["scores"]
    assert "18 of its clips" in (other / "report.html").read_text()
    assert "18 of its clips" not in (run / "report.html").read_text()


def test_clips_that_were_selected_on_count_as_seen_on_test(run: Path, cache: Path) -> None:
    split = np.array([{0: 0, 1: 2, 2: 1}[n] for n in tiny_labels().split.tolist()], np.int8)
    labels = relabelled(cache, split=split)
    assert score(run, cache)["seen"] == {"train": [], "val": ids_of(labels, "test")}
    assert score(run, cache, "val")["seen"] == {"train": []}


def test_a_split_that_is_partly_seen_is_scored_without_those_too(run: Path, cache: Path) -> None:
    labels = tiny_labels()
    own = score(run, cache)["scores"]
    moved = labels.rows("train")[:4]
    labels.split[moved] = 2
    write_labels(cache, labels)
    result = score(run, cache)
    assert result["events"] == 10
    assert result["seen"]["train"] == sorted(labels.ids[row] for row in moved)
    assert result["scores"]["model, without 4 seen"] == pytest.approx(own["model"], rel=1e-4)
    assert result["scores"]["majority class, whole clip"]["top1"] is not None


def test_predict_says_which_clips_were_seen(
    run: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tiny_labels()
    found = {row["id"]: row["seen"] for row in predict_cache(run, cache, pictures=0)}
    for split, word in (("train", "train"), ("val", "val"), ("test", "no")):
        assert {found[clip_id] for clip_id in ids_of(labels, split)} == {word}
    assert "18 of 30 clips are such as the run was trained on" in capsys.readouterr().out


def test_an_ensemble_has_seen_what_any_member_has(
    made: Path, cache: Path, run: Path, tmp_path: Path
) -> None:
    labels = tiny_labels()
    seeds = tmp_path / "seeds"
    for name in ("seed-0", "seed-1"):
        shutil.copytree(run, seeds / name)
    more = dataclasses.replace(labels, split=np.where(labels.split == 2, 0, labels.split))
    (seeds / "seed-1" / RECORD_FILE).unlink()
    record.start(seeds / "seed-1", more, torch.device("cpu"), 1, 1)
    evaluate_run(seeds, cache, "test", pictures=0)
    (written,) = seeds.glob("metrics_test.json")
    assert json.loads(written.read_text())["seen"]["train"] == ids_of(labels, "test")
    found = predict_cache(seeds, cache, pictures=0)
    assert {row["id"] for row in found if row["seen"] == "train"} == {
        *ids_of(labels, "train"),
        *ids_of(labels, "test"),
    }


def without_record(run: Path) -> None:
    for name in (RECORD_FILE, record.ROWS_FILE):
        (run / name).unlink()


def test_a_run_of_an_older_version_is_scored_with_a_note(
    run: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_record(run)
    labels = tiny_labels()
    labels.ids[labels.rows("test")[0]] = labels.ids[labels.rows("train")[0]]
    write_labels(cache, labels)
    result = score(run, cache)
    shown = capsys.readouterr()
    assert "kept no record" in shown.err
    assert "which clips the run has seen is not known" in shown.out
    assert not result["seen_known"]
    assert "model, without 1 seen" in result["scores"], "the cache's own leak still counts"
    found = predict_cache(run, cache, pictures=0)
    assert {row["seen"] for row in found} == {"unknown"}
    split = np.where(labels.split == 2, 2, -1).astype(np.int8)
    write_labels(cache, dataclasses.replace(tiny_labels(), split=split))
    alone = score(run, cache)["scores"]
    assert not any("majority" in name for name in alone), "nothing is known to make baselines of"


def test_damaged_records_are_refused_with_a_sentence(run: Path, cache: Path) -> None:
    path = run / record.ROWS_FILE
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"{record.ROWS_FILE}.*copy the run's folder again"):
        score(run, cache)
    path.unlink()
    with pytest.raises(ConfigError, match="its other half is there"):
        score(run, cache)
    shutil.copy(run / "config.json", run / RECORD_FILE)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"record\.json: sessions"):
        score(run, cache)


def test_only_what_code_does_changes_its_digest() -> None:
    plain = 'def f(x):\n    return g(x, True, None, a="b")\n'
    same = (
        '"""Module."""\n# why\ndef f(x):\n    """What."""\n\n    return g(\n        x,\n'
        "        True, None,  # all\n        a='b',\n    )\n"
    )
    assert code.source_digest(plain) == code.source_digest(same)
    for old, new in [("True", "1"), ("None", "0"), ('"b"', '"c"'), ("g(", "h("), ("x,", "")]:
        assert code.source_digest(plain) != code.source_digest(plain.replace(old, new))
    assert set(code.digests()) == set(code.DECIDING)


def test_every_module_of_the_rooms_that_decide_counts() -> None:
    rooms = ("data", "training", "model", "score")
    found = {f"{room}/{path.stem}" for room in rooms for path in (code.FOLDER / room).glob("*.py")}
    bare = {f"{room}/__init__" for room in rooms}
    assert found - set(code.DECIDING) == {*bare, "data/memory", "training/resume", "training/tell"}


@pytest.fixture
def changed_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This package's source with another activation in the model, and a comment elsewhere."""
    folder = Path(shutil.copytree(code.FOLDER, tmp_path / "train"))
    path = folder / "model" / "fusion.py"
    path.write_text(path.read_text().replace("nn.GELU()", "nn.ReLU()"))
    other = folder / "data" / "reader.py"
    other.write_text(other.read_text() + "\n# a remark\n")
    monkeypatch.setattr(code, "FOLDER", folder)


def test_changed_code_is_told_and_earlier_scores_are_kept(
    run: Path,
    cache: Path,
    changed_code: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as before:
        before.setattr(code, "FOLDER", Path(code.__file__).parents[1])
        own = score(run, cache)
        score(run, cache)
    assert own["code_differs"] == []
    assert len(list(run.glob("metrics_test*"))) == 1
    capsys.readouterr()
    result = score(run, cache)
    shown = capsys.readouterr()
    assert result["code_differs"] == ["model/fusion"]
    assert "warning: " in shown.err
    assert "changed since it was trained, in model/fusion.py: " in shown.err
    assert "by other code than it was trained by (model/fusion.py changed)" in shown.out
    new, old = sorted(run.glob("metrics_test*.json"), key=lambda path: -len(path.name))[::-1]
    assert json.loads(old.read_text())["code"] == own["code"] != result["code"]
    assert json.loads(new.read_text()) == result
    assert str(old) in shown.err
    assert old.with_name(old.name.replace("metrics", "predictions")).exists()
    predict_cache(run, cache, pictures=0)
    assert "model/fusion.py" in capsys.readouterr().err


def resumed(run: Path, cache: Path, epochs: int = 2) -> int:
    words = ["fit", "--cache", str(cache), "--run", str(run), "--resume", "--epochs", str(epochs)]
    return cli.main([*words, "--pictures", "0"])


def test_a_resumed_run_notes_both_sessions_and_other_code(
    run: Path, cache: Path, changed_code: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resumed(run, cache) == 0
    told = capsys.readouterr().err
    assert "in model/fusion.py: " in told
    assert f"warning: {run}: the code has changed" in told
    sessions = sessions_of(run)
    assert len(sessions) == 2
    assert all(session.ended for session in sessions)
    assert len(json.loads((run / "history.json").read_text())) == 2


def changes_of_labels() -> dict[str, tuple[dict[str, Any], str | None]]:
    labels = tiny_labels()
    order = labels.classes[::-1]
    row = {split: int(labels.rows(split)[0]) for split in ("train", "val", "test")}

    def later(split: str) -> dict[str, Array]:
        end = labels.end_s.copy()
        end[row[split]] = 2.0 if end[row[split]] < 2 else 1.9
        return {"end_s": end}

    swapped = labels.split.copy()
    swapped[[row["train"], row["test"]]] = (2, 0)
    return {
        "classes": ({"classes": order, "category": 2 - labels.category}, "its classes are 0: "),
        "names": ({"classes": ["x", *labels.classes[1:]]}, "the cache has 0: x"),
        "more": ({"classes": [*labels.classes, "y"]}, "the cache has 3: y"),
        "train": (later("train"), "the rows of train .* 1 row.s. gone .clip00000: Class 0"),
        "val": (later("val"), "the rows of val .* 1 row.s. new"),
        "split": ({"split": swapped}, "the rows of train"),
        "test": (later("test"), None),
    }


@pytest.mark.parametrize("name", changes_of_labels())
def test_resume_refuses_other_classes_and_rows(
    run: Path, cache: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, words = changes_of_labels()[name]
    relabelled(cache, **changes)
    before = {path: path.read_bytes() for path in run.iterdir() if path.suffix == ".pth"}
    if words is None:
        assert resumed(run, cache) == 0, "rows that a run does not use may change"
        return
    assert resumed(run, cache) == 2
    shown = capsys.readouterr().err
    assert re.search(words, shown), shown
    assert "Traceback" not in shown
    assert all(path.read_bytes() == data for path, data in before.items())


def test_a_run_of_an_older_version_resumes_on_its_classes_alone(
    run: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_record(run)
    assert resumed(run, cache) == 0
    assert "kept no record" in capsys.readouterr().err
    assert not (run / RECORD_FILE).exists()
    relabelled(cache, classes=tiny_labels().classes[::-1])
    assert resumed(run, cache, 3) == 2
    assert "its classes are" in capsys.readouterr().err


def test_what_was_not_extracted_then_is_a_new_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tiny_labels()
    missing = labels.ids[labels.rows("train")[2]]
    cache = make_cache(tmp_path / "cache", labels=labels, missing=[missing], **TINY)
    fitting.fit(cache, tmp_path / "run", CONFIG, pictures=0)
    shutil.rmtree(cache)
    make_cache(cache, labels=labels, **TINY)
    assert resumed(tmp_path / "run", cache) == 2
    assert f"1 row(s) new ({missing}" in capsys.readouterr().err
    assert score(tmp_path / "run", cache)["other_cache"] is None, "its rows are all still there"


def test_an_interrupted_session_has_no_end(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = loop.Trainer.train_step, []

    def stop_later(self: loop.Trainer, *arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) > 3:  # three steps an epoch
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "train_step", stop_later)
    words = ["fit", "--cache", str(cache), "--run", str(tmp_path / "r"), *FLAGS, "--epochs", "2"]
    assert cli.main(words) == 130
    monkeypatch.undo()
    assert resumed(tmp_path / "r", cache) == 0
    first, second = sessions_of(tmp_path / "r")
    assert first.ended is None
    assert second.ended is not None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_of_a_checkout_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(code.FOLDER, tmp_path / "train"))
    monkeypatch.setattr(code, "FOLDER", folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    commit = code.commit.__wrapped__
    assert commit() == (None, None)
    who = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "train/model/fusion.py"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert commit() == (None, None), "a checkout of something else around an installed package"
    for words in (["add", "train"], [*who, "commit", "-qm", "y"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    found, dirty = commit()
    assert found is not None
    assert len(found) == 40
    assert not dirty
    (folder / "model" / "fusion.py").write_text("")
    assert commit() == (found, True)
    monkeypatch.setenv("PATH", os.devnull)
    assert commit() == (None, None)


def test_what_holds_for_all_seeds_is_said_once(tmp_path: Path) -> None:
    seeds = [SimpleNamespace(folder=tmp_path / f"seed-{n}", record=None) for n in range(3)]
    handed = seeds[0].folder / HANDED
    (told,) = TrainedRun(tmp_path, seeds).cautions()  # type: ignore[arg-type]
    assert told.startswith(f"{tmp_path}: made by an older version")
    handed.parent.mkdir()
    handed.touch()
    first, others = TrainedRun(tmp_path, seeds).cautions()  # type: ignore[arg-type]
    assert first.startswith(f"{seeds[0].folder}: handed over")
    assert others.startswith(f"{seeds[1].folder}, {seeds[2].folder}: made by an older version")
