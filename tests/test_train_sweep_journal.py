"""A sweep's journal: many writers, half lines, full disks, links; and whose turn it is."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Any, cast

import pytest
from optuna.trial import TrialState

from cache.common.atomic import plain_folder
from cache.common.errors import CacheError
from cache.format.lock import writer_lock
from train.commands import sweep as sweeping
from train.sweep.journal import Journal, alone
from train.sweep.space import Range, Space, suggest
from train.sweep.study import Sweep, counts
from train.sweep.trial import Search


def lines(path: Path) -> list[dict[str, Any]]:
    return [*Journal(path).read_logs(0)]


def test_lines_are_read_on_from_where_they_were(tmp_path: Path) -> None:
    journal, other = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    assert not [*journal.read_logs(0)]
    other.append_logs([{"a": 1}, {"a": 2}])
    assert [*journal.read_logs(0)] == [{"a": 1}, {"a": 2}]
    journal.append_logs([{"a": 3}])
    assert [*journal.read_logs(2)] == [{"a": 3}]
    assert [*journal.read_logs(1)] == [{"a": 2}, {"a": 3}]


def test_half_a_line_is_not_read_and_taken_off_by_whoever_writes_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append_logs([{"a": 1}])
    with (tmp_path / "j").open("a") as file:
        file.write('{"a": "' + "x" * 200_000)
    assert lines(tmp_path / "j") == [{"a": 1}]
    journal.append_logs([{"a": 2}])
    assert lines(tmp_path / "j") == [{"a": 1}, {"a": 2}]


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, original = Journal(tmp_path / "j"), os.pwrite
    journal.append_logs([{"a": 1}])

    def full(descriptor: int, data: bytes, place: int) -> int:
        if len(data) < 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, data[:4], place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(CacheError, match=r"j: can't be written .*make room"):
            journal.append_logs([{"a": 2}])
    assert (tmp_path / "j").read_text() == '{"a":1}\n'


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "j"
    if kind == "link":
        path.symlink_to("elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(CacheError, match="j: "):
        lines(path)
    with pytest.raises(CacheError, match="j: "):
        Journal(path).append_logs([{}])


def test_a_lock_that_a_killed_process_left_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "journal.log.lock").symlink_to("sweeps/journal.log")
    study = Sweep(tmp_path, {}).study()
    study.tell(study.ask(), 0.5)
    assert len(Sweep(tmp_path, {}).study().trials) == 1


def test_one_alone_at_a_time(tmp_path: Path) -> None:
    with (
        alone(tmp_path / "lock"),
        (tmp_path / "lock").open() as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


class TestTurns:
    def test_two_that_begin_at_once_try_the_default_once(self, tmp_path: Path) -> None:
        first, second = Sweep(tmp_path, {}), Sweep(tmp_path, {})
        studies = first.study(), second.study()
        first.begin(studies[0], {"dropout": 0.1})
        second.begin(studies[1], {"dropout": 0.1})
        assert counts(first.study())["waiting"] == 1

    def test_no_more_trials_than_were_asked_for(self, tmp_path: Path) -> None:
        space: Space = {"dropout": Range(low=0.1, high=0.5)}
        with Sweep(tmp_path, {}).claimed() as first, Sweep(tmp_path, {}).claimed() as second:
            studies = first.study(), second.study()
            taken = [first.ask(studies[0], 3), second.ask(studies[1], 3), first.ask(studies[0], 3)]
            assert [one.number for one in taken if one] == [0, 1, 2]
            assert second.ask(studies[1], 3) is None
            drawn = [suggest(one, space) for one in taken[:2] if one]
            assert drawn[0] != drawn[1]

    def test_whoever_goes_on_does_the_trials_of_one_that_was_killed(self, tmp_path: Path) -> None:
        with Sweep(tmp_path, {}).claimed() as mine:
            study = mine.study()
            study.ask().set_user_attr("worker", f"worker-{0:016x}")
            trial = mine.ask(study, 1)
            assert trial is not None
            assert trial.number == 1
            assert counts(study) == {"stopped": 1, "running": 1}

    def test_a_worker_is_never_seen_without_its_lock(self, tmp_path: Path) -> None:
        with Sweep(tmp_path, {}).claimed() as mine:
            assert [path.name for path in tmp_path.glob("*worker-*")] == [mine.worker]
            Sweep(tmp_path, {}).begin(mine.study(), None)
            assert (tmp_path / mine.worker).exists()
        assert not [*tmp_path.glob("*worker-*")]

    def test_a_trial_that_others_took_for_dead_is_told(self, tmp_path: Path) -> None:
        mine = Sweep(tmp_path, {})
        study = mine.study()
        trial = study.ask()
        study.tell(trial.number, state=TrialState.FAIL)
        told = mine._one(study, trial, cast(Search, _Always()))
        assert "lost: another process took this one for dead" in told

    def test_one_trains_the_best_again(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rerun = plain_folder(tmp_path / "rerun")
        with contextlib.ExitStack() as held:
            with writer_lock(rerun, "sweep"):
                assert not sweeping._alone(held, rerun)
            assert "trains the best again" in capsys.readouterr().out
            assert sweeping._alone(held, rerun)


class _Always:
    """A search whose trials have one score."""

    def score(self, settings: object, report: object) -> float:
        return 0.5
