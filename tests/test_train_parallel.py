"""Trainings side by side: the same numbers as one by one, and processes that end with the first."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, tiny_labels

from cache.common.errors import ConfigError
from train import __main__ as cli
from train.commands import fit as fitting
from train.config import TrainConfig
from train.parallel import ProcessError, cpu_threads, most_at_once, side_by_side
from train.runs.folders import BEST, LAST
from train.training import loop

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel") / "cache"
    return make_cache(folder, labels=tiny_labels(30), **TINY)


def fit(cache: Path, run: Path, *more: str) -> int:
    return cli.main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS, *more])


def numbers(run: Path) -> object:
    """All that a training decides, without what the clock and the folder say."""
    scores = json.loads((run / "metrics_val.json").read_text())
    history = json.loads((run / "history.json").read_text())
    for epoch in history:
        del epoch["seconds"]
    weights = torch.load(run / BEST, weights_only=True)["model"]
    answers = (run / "predictions_val.json").read_text()
    return history, scores, answers, {name: value.tolist() for name, value in weights.items()}


def at_once(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(fitting, "most_at_once", lambda _: count)


def say(text: str) -> str:
    print(text)
    print(f"{text} went wrong", file=sys.stderr)
    return f"{text} {os.getpid()}"


def test_results_come_in_order_and_lines_whole(capsys: pytest.CaptureFixture[str]) -> None:
    found = side_by_side({name: partial(say, name) for name in "abc"}, 2)
    assert [text[0] for text in found.values()] == ["a", "b", "c"]
    assert len({text[2:] for text in found.values()} | {str(os.getpid())}) == 4
    shown = capsys.readouterr()
    assert sorted(shown.out.splitlines()) == ["a: a", "b: b", "c: c"]
    assert sorted(shown.err.splitlines()) == [f"{n}: {n} went wrong" for n in "abc"]


def fail() -> None:
    raise ConfigError("no such thing")


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [
        (fail, ConfigError, "no such thing"),
        (interrupt, KeyboardInterrupt, None),
        (die, ProcessError, r"one: its process was killed \(SIGKILL\); was there memory"),
    ],
)
def test_the_first_that_fails_stops_the_others(
    task: Callable[[], None], error: type[BaseException], words: str | None, tmp_path: Path
) -> None:
    def wait() -> None:
        (tmp_path / "waiting").touch()
        try:
            time.sleep(600)
        finally:
            (tmp_path / "cleared").touch()

    def one() -> None:
        while not (tmp_path / "waiting").exists():
            time.sleep(0.01)
        task()

    with pytest.raises(error, match=words):
        side_by_side({"one": one, "other": wait}, 2)
    assert (tmp_path / "cleared").exists()


def test_no_process_outlives_the_first(tmp_path: Path) -> None:
    """Killed for good, with no time to tell the others."""
    code = f"""
import os, time
from functools import partial
from pathlib import Path
from train.parallel import side_by_side
def wait():
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(600)
side_by_side(dict(a=wait, b=wait), 2)
"""
    first = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while len(list(tmp_path.iterdir())) < 2:
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    for one in tmp_path.iterdir():
        while Path("/proc", one.name).exists():
            if Path("/proc", one.name, "stat").read_text().split(") ")[1][0] == "Z":
                break  # ended; nobody has asked for its code yet
            time.sleep(0.02)


def test_as_many_at_once_as_cores_bear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.parallel.cores", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (most_at_once(5), most_at_once(20)) == (5, 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert most_at_once(5) == 1
    monkeypatch.setattr("train.parallel.cores", lambda: 1)
    assert most_at_once(5) == 1


def test_small_trainings_have_one_thread() -> None:
    assert TrainConfig().threads_over(1000) == 1
    assert TrainConfig().threads_over(1001) is None
    assert TrainConfig(threads=2).threads_over(10) == TrainConfig(threads=2).threads_over(5000) == 2
    before = torch.get_num_threads()
    with cpu_threads(3):
        assert torch.get_num_threads() == 3
        with cpu_threads(None):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


def test_seeds_at_once_give_what_single_runs_give_to_the_digit(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once(monkeypatch, 3)
    assert fit(cache, tmp_path / "all", "--seeds", "3", "--epochs", "2") == 0
    shown = capsys.readouterr()
    assert "3 trainings, 3 at a time, a thread each" in shown.out
    assert "seed-2: epoch   2/2" in shown.err
    for seed in "02":
        with cpu_threads(2):  # whatever torch would take
            assert fit(cache, tmp_path / seed, "--seed", seed, "--epochs", "2") == 0
        assert numbers(tmp_path / "all" / f"seed-{seed}") == numbers(tmp_path / seed)
    at_once(monkeypatch, 1)
    assert fit(cache, tmp_path / "one", "--seeds", "3", "--epochs", "2") == 0
    names = ("metrics_val.json", "predictions_val.json")
    for name in names:
        assert (tmp_path / "one" / name).read_text() == (tmp_path / "all" / name).read_text()


def test_stopped_seeds_go_on_as_if_never_stopped(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, 2)
    assert fit(cache, tmp_path / "whole", "--seeds", "2", "--epochs", "3") == 0
    original = loop.Trainer.train_epoch
    run = tmp_path / "stopped"

    def killed(trainer: loop.Trainer, epoch: int) -> list[float]:
        if trainer.config.seed == 1 and epoch == 2:
            while not (run / "seed-0" / LAST).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(trainer, epoch)

    monkeypatch.setattr(loop.Trainer, "train_epoch", killed)
    assert fit(cache, run, "--seeds", "2", "--epochs", "3") == 2
    monkeypatch.setattr(loop.Trainer, "train_epoch", original)
    assert fit(cache, run, "--seeds", "2", "--epochs", "3", "--resume") == 0
    for seed in ("seed-0", "seed-1"):
        assert numbers(run / seed) == numbers(tmp_path / "whole" / seed)
