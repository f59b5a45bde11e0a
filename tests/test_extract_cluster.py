"""Extraction on a Dask cluster of separate processes on loopback, and in parts."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from dask_cluster import Cluster
from held_extract import Held
from hosts import LOOPBACK, Host, two_hosts
from small_media import SMALL_FLAGS, assert_same_rows, write_set
from test_cache_lock import in_own_mounts

from cache import Cache, open_cache
from cache.check.verify import verify
from cache.common.errors import CacheError, ConfigError
from cache.format.index_file import load_index
from cache.format.lock import part_lock, writer_lock
from cache.format.shard import Clip, Written
from extract.__main__ import main
from extract.features.extractor import Extractor
from extract.parallel.cluster import _result, _results, _watch_workers
from extract.parallel.guard import Patience
from extract.parallel.job import Done, Workers
from extract.plan import ids_of_part, parse_part
from extract.sources import MediaSource

ROOT = Path(__file__).parent.parent
CLIPS = 24
LARGE = ("--resize-px", "256", "--frame-size-px", "224", "--num-frames", "8")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster") / "set"
    write_set(folder, CLIPS, mp4=2)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path) -> Cache:
    """The set, extracted by one process without interruption."""
    cache = data.parent / "whole"
    assert main(arguments(data, cache, "--jobs", "1")) == 0
    return open_cache(cache)


def arguments(data: Path, cache: Path, *more: str) -> list[str]:
    where = ["--data", str(data), "--cache", str(cache)]
    return [*where, "--weights", "random:0", *SMALL_FLAGS, *LARGE, *more]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    made = Cluster(tmp_path / "dask")
    yield made
    made.stop()


def start(
    data: Path, cache: Path, *more: str, host: Host = LOOPBACK, held: Held | None = None
) -> subprocess.Popen[str]:
    program = held.program if held else ("-m", "extract")
    return subprocess.Popen(
        [*host.enter, sys.executable, *program, *arguments(data, cache, *more)],
        cwd=ROOT,
        env=held.environment if held else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not condition():
        time.sleep(0.01)


def shards(cache: Path) -> int:
    return len(list((cache / "shards").glob("[0-9a-f]*.h5")))


def children(process: subprocess.Popen[bytes]) -> list[int]:
    command = ["ps", "-o", "pid=,args=", "--ppid", str(process.pid)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(pid) for pid, text in lines if "spawn" in text and "tracker" not in text]


HOLDING = """
import os, time
import extract.features.extractor
works = extract.features.extractor.Extractor.__call__
def held(self, source, works=works):
    while source.id == "clip 20" and os.path.exists({gate!r}):
        time.sleep(0.02)
    return works(self, source)
if works.__name__ != "held":  # it is loaded by the nanny's process and again by the worker's
    extract.features.extractor.Extractor.__call__ = held
"""


class Gate:
    """Workers started with `flags` wait at one of the last clips until the gate is opened.

    No extraction ends before that, however fast it is.
    """

    def __init__(self, folder: Path) -> None:
        self._gate, preload = folder / "gate", folder / "holding.py"
        self._gate.touch()
        preload.write_text(HOLDING.format(gate=str(self._gate)))
        self.flags = ("--nthreads", "1", "--preload", str(preload))

    def open(self) -> None:
        self._gate.unlink()


@pytest.mark.system
def test_a_cluster_makes_the_same_rows_though_a_worker_and_the_scheduler_die(
    cluster: Cluster, data: Path, whole: Cache, tmp_path: Path
) -> None:
    cache, gate = tmp_path / "cache", Gate(tmp_path)
    cluster.add_workers(2, *gate.flags)
    process = start(data, cache, "--dask", cluster.address)
    wait_for(lambda: shards(cache) >= 1, process)
    [victim] = children(cluster.workers[0])
    os.kill(victim, signal.SIGKILL)  # its nanny starts another
    wait_for(lambda: shards(cache) >= 3, process)
    cluster.scheduler.kill()
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 2, output
    assert "the scheduler is gone; what is finished is kept" in output
    assert "Traceback" not in output
    done = len(open_cache(cache))
    assert 0 < done < CLIPS
    assert verify(cache).problems == []
    gate.open()
    cluster.stop()
    second = Cluster(tmp_path / "another")
    try:
        second.add_workers(3)
        output, _ = start(data, cache, "--dask", second.address).communicate(timeout=1200)
    finally:
        second.stop()
    assert f"finished  {CLIPS} of {CLIPS} clips" in output
    assert_same_rows(open_cache(cache), whole)
    assert verify(cache).problems == []
    left = [path.name for path in cache.rglob(".*") if path.name != ".lock"]
    assert left == []


@pytest.mark.system
def test_a_host_that_is_cut_off_costs_its_shard(
    data: Path, whole: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker lives, but nobody hears of it any more; another does what it was at."""
    pytest.importorskip("distributed")
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP", "11s")
    cache, gate = tmp_path / "cache", Gate(tmp_path)
    with two_hosts(tmp_path) as (near, far):
        cluster = Cluster(tmp_path / "dask", near)
        try:
            cluster.add_workers(1, *gate.flags, host=far)
            process = start(data, cache, "--dask", cluster.address, host=near)
            wait_for(lambda: shards(cache) >= 2, process)
            far.unplug()
            cluster.add_workers(1, host=near)
            output, _ = process.communicate(timeout=1200)
        finally:
            gate.open()
            cluster.stop()
    assert process.returncode == 0, output
    assert_same_rows(open_cache(cache), whole)
    assert verify(cache).problems == []


FATAL = """
import os, signal
import extract.features.extractor
works = extract.features.extractor.Extractor.__call__
def fatal(self, source, works=works):
    if source.id == "clip 4":
        os.kill(os.getpid(), signal.SIGKILL)
    return works(self, source)
if works.__name__ != "fatal":  # it is loaded by the nanny's process and again by the worker's
    extract.features.extractor.Extractor.__call__ = fatal
"""


@pytest.mark.system
def test_a_clip_that_kills_every_worker_is_a_failure(
    cluster: Cluster, data: Path, whole: Cache, tmp_path: Path
) -> None:
    """One worker, whose shards go to a URL: what it shares with the command is the media alone."""
    preload = tmp_path / "fatal.py"
    preload.write_text(FATAL)
    cluster.add_workers(1, "--nthreads", "1", "--preload", str(preload))
    cache, store = tmp_path / "cache", tmp_path / "store"
    more = ("--dask", cluster.address, "--store", f"file://{store}")
    output, _ = start(data, cache, *more).communicate(timeout=1200)
    assert "the process died while it worked on this clip" in output
    assert f"finished  {CLIPS - 1} of {CLIPS} clips" in output
    found = open_cache(cache)
    assert set(whole.ids) - set(found.ids) == {"clip 4"} == set(found.index.failures)
    assert_same_rows(open_cache(store), found)
    assert open_cache(store).labels.equals(found.labels)
    shutil.rmtree(cache)  # a command that was killed before it fetched anything
    assert main(arguments(data, cache, *more)) == 1
    assert_same_rows(open_cache(cache), found)


@dataclass(frozen=True)
class Named:
    """In place of a job: gives a shard that is named after its clips."""

    workers: Workers

    def __call__(self, sources: Sequence[MediaSource]) -> Done:
        return Done(Written(sources[0].id, len(sources), 0, 0), "", 0.0)


def test_the_scheduler_holds_a_bounded_number_of_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("extract.parallel.cluster.QUEUED_SHARDS", 3)
    job = Named(Workers("random:0", dask="inproc"))
    groups = deque([MediaSource(f"clip {number}")] for number in range(10))
    local = {"processes": False, "n_workers": 1, "threads_per_worker": 1}
    with distributed.Client(dashboard_address=":0", set_as_default=False, **local) as client:
        submit, submitted = client.submit, list[str]()

        def counted(*args: object, key: str, **kwargs: object) -> object:
            submitted.append(key)
            return submit(*args, key=key, **kwargs)

        monkeypatch.setattr(client, "submit", counted)
        names = []
        for group, done in _results(job, groups, client):  # type: ignore[arg-type]
            assert done is not None
            assert done.written.name == group[0].id
            names.append(done.written.name)
            assert len(submitted) <= len(names) - 1 + 3
    assert sorted(names) == [f"clip {number}" for number in range(10)]
    assert len(set(submitted)) == 10


@pytest.mark.parametrize("status", ["running", "closed"])
def test_a_line_that_closes_while_a_result_is_fetched_is_a_scheduler_that_is_gone(
    status: str,
) -> None:
    core = pytest.importorskip("distributed.comm.core")

    class Lost:
        def result(self) -> None:
            raise core.CommClosedError("in <TCP (closed) …>: Stream is closed")

    class Client:
        def __init__(self) -> None:
            self.status = status

    with pytest.raises(CacheError, match="the scheduler is gone; what is finished is kept"):
        _result(Lost(), "tcp://a", Client())


def test_it_is_told_each_time_that_the_last_worker_goes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.parallel.cluster.CHECK_S", 0)
    ended, counts = threading.Event(), iter([2, 0, 0, 1, 0])

    class Client:
        status = "running"

        def scheduler_info(self, n_workers: int) -> dict[str, list[int]]:
            left = next(counts, None)
            if left is None:
                ended.set()
            return {"workers": [0] * (left or 0)}

    _watch_workers(Client(), "tcp://a", ended)
    assert capsys.readouterr().err == 2 * "note      tcp://a: no workers now; waiting\n"


class TestRefusals:
    def test_no_scheduler(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setattr("extract.parallel.cluster.CONNECT_S", 1)
        assert main(arguments(data, tmp_path / "cache", "--dask", "tcp://127.0.0.1:9")) == 2
        assert "no scheduler answers there" in capsys.readouterr().err

    @pytest.mark.system
    def test_workers_with_several_threads(
        self, cluster: Cluster, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cluster.add_workers(1, "--nthreads", "2")
        assert main(arguments(data, tmp_path / "cache", "--dask", cluster.address)) == 2
        assert "start workers with `dask worker --nthreads 1" in capsys.readouterr().err

    @pytest.mark.parametrize("part", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/4"])
    def test_parts_that_are_none(
        self, part: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(ConfigError, match="expected K/N"):
            parse_part(part)
        code = main(arguments(data, tmp_path / "cache", f"--part={part}"))
        assert code == 2
        assert "expected K/N" in capsys.readouterr().err

    def test_a_store_without_a_cluster(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments(data, tmp_path / "cache", "--store", "memory://x")) == 2
        assert "it goes with --dask" in capsys.readouterr().err


class TestParts:
    def test_are_disjoint_and_complete(self) -> None:
        ids = [f"clip {n}" for n in range(100)]
        parts = [ids_of_part(reversed(ids), f"{k}/7") for k in range(1, 8)]
        assert sum(map(len, parts)) == 100
        assert frozenset().union(*parts) == set(ids)
        assert {len(part) for part in parts} == {14, 15}
        assert ids_of_part(ids, "1/1") == set(ids)

    @pytest.mark.system
    def test_run_at_the_same_time_and_join(
        self, data: Path, whole: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cache = tmp_path / "cache"
        order = ["3/3", "1/3", "2/3"]
        parts = [start(data, cache, "--part", k, "--jobs", "1") for k in order]
        outputs = [part.communicate(timeout=1200)[0] for part in parts]
        assert [part.returncode for part in parts] == [0, 0, 0], outputs
        assert all("finished  8 of 8 clips" in text for text in outputs)
        assert_same_rows(open_cache(cache), whole)
        assert main(arguments(data, cache)) == 0
        assert f"done {CLIPS}, failed before 0, to do 0" in capsys.readouterr().out
        assert not load_index(cache, whole.identity).stale
        assert (cache / ".lock").read_text() == ""

    @pytest.mark.system
    def test_a_part_that_is_killed_costs_nobody_else_anything(
        self, data: Path, whole: Cache, tmp_path: Path
    ) -> None:
        cache, held = tmp_path / "cache", Held(tmp_path, max(ids_of_part(whole.ids, "1/2")))
        more = ("--jobs", "2")
        parts = [start(data, cache, "--part", k, *more, held=held) for k in ("1/2", "2/2")]
        wait_for(lambda: shards(cache) >= 2 and held.reached(cache), parts[0])
        parts[0].kill()
        parts[0].communicate(timeout=1200)
        held.let_go()
        output, _ = parts[1].communicate(timeout=1200)
        assert parts[1].returncode == 0, output
        again, _ = start(data, cache, "--part", "1/2", "--jobs", "1").communicate(timeout=1200)
        assert "finished  12 of 12 clips" in again
        assert main(arguments(data, cache)) == 0
        assert_same_rows(open_cache(cache), whole)
        left = [path.name for path in cache.rglob(".*") if path.name != ".lock"]
        assert left == []

    def test_and_the_single_writer_keep_each_other_out(self, whole: Cache, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(whole.path, tmp_path / "cache"))
        with part_lock(folder):
            with part_lock(folder):
                pass
            with pytest.raises(CacheError, match="a part's process"), writer_lock(folder):
                pass
        with writer_lock(folder), pytest.raises(CacheError, match="another process is writing"):
            part_lock(folder).__enter__()


FULL = """
"$@" & started=$!
until ls {disk}/cache/shards/*.h5 >/dev/null 2>&1; do sleep 0.02; done
cat /dev/zero >{disk}/fill 2>/dev/null
rm {held.gate}
wait $started; echo "on the full disk $?"
rm {disk}/fill; "$@"; echo "with room again $?"
cp -r {disk}/cache {out}
"""


@pytest.mark.system
def test_a_disk_that_fills_up_costs_what_was_under_way(
    data: Path, whole: Cache, tmp_path: Path
) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    held = Held(tmp_path, "clip 20")
    prefix = in_own_mounts(f"mount -t tmpfs -o size=40m none {disk}")
    script = FULL.format(disk=disk, out=out, held=held)
    command = [sys.executable, *held.program, *arguments(data, disk / "cache", "--jobs", "2")]
    done = subprocess.run(
        [*prefix, "bash", "-c", script, "bash", *command],
        cwd=ROOT,
        env=held.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "on the full disk 2" in done.stdout, done.stderr
    assert "No space left on device): make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert "with room again 0" in done.stdout
    assert_same_rows(open_cache(out), whole)
    assert verify(out).problems == []


def test_a_clip_that_hangs_is_a_failure_and_the_others_finish(
    data: Path,
    whole: Cache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has little patience with the one that waits, and all the time for the others."""
    answers, works, call = threading.Event(), Extractor.__call__, Patience.call

    def hanging(self: Extractor, source: MediaSource) -> Clip:
        if source.id == "clip 5":
            answers.wait()
        return works(self, source)

    def patient(self: Patience, action: functools.partial[Clip]) -> Clip:
        self.limit_s = 0.5 if action.args[0].id == "clip 5" else 600
        return call(self, action)

    monkeypatch.setattr(Extractor, "__call__", hanging)
    monkeypatch.setattr(Patience, "call", patient)
    cache = tmp_path / "cache"
    assert main([*arguments(data, cache, "--jobs", "1"), "--max-failures", "1"]) == 0
    captured = capsys.readouterr()
    assert "failed    clip 5 (stalled)" in captured.err
    assert "took longer than 0.5 s" in captured.err
    found = open_cache(cache)
    assert set(whole.ids) - set(found.ids) == {"clip 5"} == set(found.index.failures)
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "clips":
            thread.join()
