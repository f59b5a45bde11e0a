"""One training a folder: claims, what a stopped or failed run leaves, how it begins again."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, tiny_labels

from cache import CacheError
from cache.labels.store import write_labels
from train import __main__ as cli
from train.commands import fit as fitting
from train.data.dataset import Dataset, load_dataset
from train.runs import folders as runs
from train.runs.folders import BEST, LAST
from train.training import loop


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("made") / "cache", labels=tiny_labels(15), **TINY)


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "cache"))


def fit(cache: Path, run: Path, *more: str) -> int:
    return cli.main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS, *more])


def again(cache: Path, run: Path, *more: str) -> int:
    words = ["fit", "--cache", str(cache), "--run", str(run), "--resume", "--pictures", "0"]
    return cli.main([*words, *more])


HERE = re.compile(rf"another process is writing this run: process {os.getpid()} on \S+ since \d+")


@pytest.mark.parametrize("more", [[], ["--seeds", "2"], ["--ablations"]])
def test_a_folder_that_somebody_trains_in_is_refused_with_who_and_since_when(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    run = tmp_path / "run"
    with runs.claimed_run(run, ["."], False):
        assert fit(cache, run, *more) == 2
        assert HERE.search(capsys.readouterr().err)
        assert {path.name for path in run.iterdir()} == {".lock"}
    assert not run.exists(), "nothing was trained"


def test_a_live_run_is_not_resumed_and_a_part_of_one_is_not_trained_in(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    run, original = tmp_path / "run", load_dataset

    def meanwhile(*words: Any, **more: Any) -> Dataset:
        monkeypatch.setattr(fitting, "load_dataset", original)
        codes.extend([again(cache, run), fit(cache, run / "seed-1"), fit(cache, run)])
        return original(*words, **more)

    monkeypatch.setattr(fitting, "load_dataset", meanwhile)
    assert fit(cache, run, "--seeds", "2") == 0
    assert codes == [2, 2, 2]
    assert len(HERE.findall(capsys.readouterr().err)) == 3
    assert fit(cache, run / "seed-1") == 2
    assert "holds a run already" in capsys.readouterr().err
    assert again(cache, run / "seed-1", "--epochs", "2") == 0, "the claim ended with its run"


def test_two_runs_of_one_second_get_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "new_run", lambda: runs.ROOT / "20260101-000000")
    with (
        runs.claimed_run(None, ["."], False) as one,
        runs.claimed_run(None, ["seed-0"], False) as other,
    ):
        assert one != other
        assert one.is_dir()
        assert (other / "seed-0").is_dir()
        (other / "seed-0" / LAST).touch()
    assert list(runs.ROOT.iterdir()) == [other], "the one that left nothing is gone"


def test_a_run_does_not_stand_beside_or_inside_another(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(cache, tmp_path / "one") == 0
    assert fit(cache, tmp_path / "one", "--seeds", "2") == 2
    assert "would stand beside" in capsys.readouterr().err
    assert fit(cache, tmp_path / "seeds", "--seeds", "1") == 0
    assert fit(cache, tmp_path / "seeds") == 2
    assert "would stand inside" in capsys.readouterr().err


def test_what_fails_before_training_leaves_no_folder(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "run"
    assert fit(tmp_path / "none", run) == 2
    labels = tiny_labels(15)
    labels.split[labels.split == 1] = 0
    write_labels(cache, labels)
    assert fit(cache, run) == 2
    assert "the split 'val' has no rows" in capsys.readouterr().err
    write_labels(cache, tiny_labels(15))
    assert fit(cache, run, "--memory-gb", "1e-9") == 2
    assert fit(cache, run, "--memory-gb", "1e-9", "--seeds", "2") == 2
    assert not run.exists()

    def lost(*_: object) -> NoReturn:
        raise CacheError("shards/x.h5: gone")

    monkeypatch.setattr(fitting, "load_dataset", lost)
    assert fit(cache, run, "--ablations") == 2
    assert not run.exists()
    run.mkdir()
    (run / "notes.txt").touch()
    assert fit(cache, run) == 2
    assert (run / "notes.txt").exists()
    monkeypatch.undo()
    assert fit(cache, run) == 0


@pytest.mark.parametrize("how", [fit, again])
def test_a_run_that_was_stopped_in_its_first_epoch_begins_again(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: Callable[..., int],
) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop.Trainer, "train_step", stop)
    assert fit(cache, tmp_path / "run") == 130
    monkeypatch.undo()
    assert not (tmp_path / "run" / BEST).exists()
    capsys.readouterr()
    assert how(cache, tmp_path / "run") == 0
    assert (tmp_path / "run" / LAST).exists()
    begun = "no epoch was finished here; training begins anew" in capsys.readouterr().err
    assert begun == (how is again)
    assert fit(cache, tmp_path / "run") == 2, "now it holds a run"


def test_a_run_that_was_killed_while_it_read_begins_again(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").write_text("process 1 on nowhere since 2026-01-01 00:00:00\n")
    assert again(cache, run, *FLAGS) == 0


def test_a_link_is_not_trained_in(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    assert fit(cache, tmp_path / "run") == 2
    assert "a link" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "other" / ".lock").symlink_to(tmp_path / "victim")
    assert fit(cache, tmp_path / "other") == 2
    assert (tmp_path / "victim").read_text() == "mine"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_relabelled_and_then_trained(cache: Path, tmp_path: Path) -> None:
    """No val at first, then labels that have some: the folder is as good as new."""
    labels = tiny_labels(15)
    write_labels(cache, type(labels)(**{**vars(labels), "split": np.zeros(15, np.int8)}))
    assert fit(cache, tmp_path / "run") == 2
    write_labels(cache, labels)
    assert fit(cache, tmp_path / "run") == 0
    assert again(cache, tmp_path / "run") == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seeds", "3", "1", "3"], "a seed is named twice"),
        (["--seeds", "1 1"], "a seed is named twice"),
        (["--pictures", "-3"], "expected a whole number, 0 or more"),
    ],
)
def test_a_seed_twice_and_less_than_no_pictures_are_refused(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    run = tmp_path / "run"
    code: str | int | None
    try:
        code = cli.main(["fit", "--cache", str(cache), "--run", str(run), *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert told in capsys.readouterr().err
    assert not run.exists()


def test_a_cache_is_no_folder_for_a_run(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(cache.rglob("*"))
    assert cli.main(["fit", "--cache", str(cache), "--run", str(cache)]) == 2
    assert "a feature cache; pass another --run" in capsys.readouterr().err
    assert sorted(cache.rglob("*")) == before


def test_a_folder_of_seeds_is_not_resumed_as_one_run(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "seed-0").mkdir(parents=True)
    (run / "seed-0" / BEST).write_bytes(b"")
    assert again(cache, run) == 2
    assert "a folder of seeds; resume it with the --seeds it has" in capsys.readouterr().err
