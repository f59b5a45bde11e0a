"""Looking at a training from outside: its state, the time it takes, which run is meant."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_train_tell
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, tiny_labels

from cache.common import cli as terminal
from cache.common.errors import CacheError, ConfigError
from cache.format.lock import writer_lock, writer_of
from train import __main__ as cli
from train.commands import watch
from train.runs import folders
from train.runs.folders import BEST
from train.runs.progress import METRICS_FILE, Progress
from train.runs.tree import places
from train.training.state import History

ROOT = Path(__file__).parent.parent


def begun(
    run: Path,
    history: History,
    epochs: int | None = 9,
    ended: str | None = None,
    why: str | None = None,
) -> Path:
    """The folder of a training as it stands after some epochs."""
    run.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(one)}\n" for one in history)
    (run / METRICS_FILE).write_text(lines)
    session: dict[str, object] = {
        **{"started": "2026-01-01T00:00:00+00:00", "ended": ended, "command": [], "device": "cpu"},
        **{"processes": 1, "version": "1", "commit": None, "dirty": None, "code": {}},
        **{"libraries": {}, "epochs": epochs, "ended_because": why},
    }
    folders.write_json(run / folders.RECORD_FILE, {"sessions": [session], "init": None})
    return run


SOME = test_train_tell.entries(0.1, 0.4, 0.3)


def test_who_writes_is_seen_and_no_one_is_disturbed(tmp_path: Path) -> None:
    assert writer_of(tmp_path) == ""
    with writer_lock(tmp_path, "run"):
        assert writer_of(tmp_path).startswith(f"process {os.getpid()} on ")
        with pytest.raises(CacheError, match="another process"), writer_lock(tmp_path, "run"):
            pass
    assert writer_of(tmp_path) == ""
    (tmp_path / ".lock").write_text("process 1 on elsewhere since long ago\n")  # killed
    assert writer_of(tmp_path) == ""
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").symlink_to(tmp_path)
    assert writer_of(tmp_path) == ""


def test_a_run_that_trains_stops_and_ends(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", SOME)
    with writer_lock(run, "run"):
        found = Progress.of(run)
        assert (found.state, found.epochs, found.best) == ("trains", 9, (2, 0.4))
        assert found.seconds_left == pytest.approx(6 * 2.0)
        text, going_on = watch.described(places(run)[0])
        assert going_on
        assert "trains, epoch 3 of 9, about 12 s left" in text
        assert "val   0.100 ▁█▆ 0.300" in text
        assert "best  0.400 localized_iou on val, at epoch 2" in text
        os.utime(run / METRICS_FILE, (time.time() - 600,) * 2)
        assert "no epoch for 10 min" in watch.described(places(run)[0])[0]
    text, going_on = watch.described(places(run)[0])
    assert "\nlast  learning rate" in text
    assert "stopped at epoch 3 of 9: nobody trains in it" in text
    assert not going_on
    begun(run, SOME, why="epoch 4: the loss is not finite")
    assert "stopped at epoch 3 of 9: epoch 4: the loss is" in watch.described(places(run)[0])[0]
    begun(run, SOME, ended="2026-01-01T00:01:00+00:00", why="early stopping at epoch 3, best 2")
    assert "ended: early stopping at epoch 3, best 2" in watch.described(places(run)[0])[0]


def test_what_came_before_and_what_has_not_begun(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / BEST).touch()
    folders.write_json(old / folders.HISTORY_FILE, SOME)
    found = Progress.of(old)
    assert (found.state, found.epochs, found.history) == ("ended", None, SOME)
    assert "ended: epoch 3" in watch.described(places(old)[0])[0]
    record = begun(tmp_path / "earlier", SOME) / folders.RECORD_FILE
    session = json.loads(record.read_text())["sessions"][0]
    del session["epochs"], session["ended_because"]
    folders.write_json(record, {"sessions": [session], "init": None})
    assert Progress.of(record.parent).epochs is None
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    with writer_lock(fresh, "run"):
        (place,) = places(fresh)
        assert "not begun" in watch.described(place)[0]


def test_seeds_have_a_line_each_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    for seed in (10, 2):
        begun(tmp_path / "run" / f"seed-{seed}", SOME, ended="2026-01-01T00:01:00+00:00")
    begun(tmp_path / "run" / "seed-3", SOME)
    (tmp_path / "run" / "seed-3" / METRICS_FILE).write_text("no\x1b[2J json\n")
    (place,) = places(tmp_path)
    lines = watch.described(place)[0].splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["seed-2", "seed-3", "seed-10"]
    assert "line 1: this is not JSON" in lines[2]
    assert "best 0.400" in lines[1]
    assert lines[0].endswith(": 3 models, by localized_iou on val")
    assert len({line.index("best") for line in lines if "best" in line}) == 1


def test_the_newest_is_the_one_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["watch"]) == 2
    assert "no folder of runs here" in capsys.readouterr().err
    Path("runs").mkdir()
    assert cli.main(["watch"]) == 2
    assert "no run under runs/" in capsys.readouterr().err
    first = begun(Path("runs/first"), SOME)
    second = begun(Path("runs/sweep/trial-1/seed-0"), SOME).parent
    os.utime(first / METRICS_FILE, (1000, 1000))
    assert watch.newest().folder == second
    with writer_lock(first, "run"):
        assert watch.newest().folder == first
        assert cli.main(["watch"]) == 0  # no terminal: once
    assert "runs/first  trains, epoch 3 of 9" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nowhere: no run here, finished or begun"):
        watch.watch(Path("nowhere"), once=True)


def test_a_terminal_follows_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, history = tmp_path / "run", test_train_tell.entries(0.1, 0.2, 0.3)
    begun(run, history[:1])
    steps = iter([2, 3])

    def sleep(seconds: float) -> None:
        done = next(steps)
        ended = "2026-01-01T00:01:00+00:00" if done == 3 else None
        begun(run, history[:done], ended=ended, why="all 3 epochs" if ended else None)

    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("train.commands.watch.time.sleep", sleep)
    with writer_lock(run, "run"):
        watch.watch(run, once=False)
    shown = capsys.readouterr().out.split("\x1b[J")[1:]
    assert [text.splitlines()[0].split("  ")[1] for text in shown] == [
        "trains, epoch 1 of 9, about 16 s left",
        "trains, epoch 2 of 9, about 14 s left",
        "ended: all 3 epochs",
    ]


def test_links_are_not_followed(tmp_path: Path) -> None:
    begun(tmp_path / "elsewhere" / "run", SOME)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "elsewhere")
    assert places(tmp_path / "runs") == []


def test_lines_are_written_over_those_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")
    assert terminal.say_over("a\x1b[31m\n" + "b" * 50) == 2
    assert terminal.say_over("1\n2\n3\n4\n5", before=2) == 3
    shown = capsys.readouterr().out
    assert shown == f"\x1b[Ja?[31m\n{'b' * 18}…\n\x1b[2F\x1b[J1\n2\n3\n"


@pytest.mark.parametrize(
    ("values", "drawn"),
    [([], ""), ([1.0], "▁"), ([1.0, 1.0], "▁▁"), ([0.0, 1.0], "▁█"), ([0, 0, 7, 7], "▁█")],
)
def test_a_sparkline(values: list[float], drawn: str) -> None:
    assert watch.sparkline(values, 2) == drawn


@pytest.mark.system
def test_a_killed_run_is_seen_to_have_stopped(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", clips=30, labels=tiny_labels(), **TINY)
    run = tmp_path / "run"
    command = ["fit", "--cache", str(cache), "--run", str(run), *FLAGS, "--epochs", "100000"]
    training = subprocess.Popen(
        [sys.executable, "-m", "train", *command], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        while not (run / METRICS_FILE).exists() or len(Progress.of(run).history) < 2:
            assert training.poll() is None
            time.sleep(0.05)
        assert Progress.of(run).state == "trains"
    finally:
        training.kill()
        training.wait()
    found = Progress.of(run)
    assert (found.state, found.epochs) == ("stopped", 100000)
