"""push and pull that are cut, killed, hindered, or meet damage: nothing half-done, nothing lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from made_once import made_once
from remote_places import (
    Counted,
    Place,
    assert_same,
    everywhere,
    leftovers,
    objects_at,
    served,
    url_of,
)
from servers import HttpServer, S3Server, SshServer
from small_media import TinyCache, tiny_cache
from synthetic_cache import make_cache

import cache.remote.cache
import cache.share.pull
from cache import open_cache
from cache.__main__ import main
from cache.check.examine import matches_name
from cache.common.atomic import TEMPORARY
from cache.common.side_by_side import side_by_side
from cache.format.index import is_shard_name
from cache.remote.cache import RemoteCache
from cache.remote.leftovers import is_leftover, remove_dead_scratch, scratch_prefix, temporary_name
from cache.remote.store import Remote
from cache.share.push import PushOptions, plan_push, push

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve shards of 6 MB, which travel in several blocks each."""
    make = partial(make_cache, clips=384, distinct=32, modalities="audio")
    return made_once(tmp_path_factory, "many", make)


def test_http_cut_once_is_tried_again(
    big: Path, tmp_path: Path, http_server: HttpServer, counted: Counted, capsys: Capture
) -> None:
    url = served(http_server, big, tmp_path)
    with http_server.behaving(times=1, cut_after=3_000_000, each_path=1):
        assert main(["pull", url, str(tmp_path / "back")]) == 0
    shards = sum(path.stat().st_size > 3_000_000 for path in (big / "shards").iterdir())
    told = capsys.readouterr().err.count("the connection was cut; trying once more")
    assert told == shards == 3
    assert counted.sums == counted.totals
    assert_same(big, tmp_path / "back")


def test_http_range_cut_once_is_tried_again(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, counted: Counted, capsys: Capture
) -> None:
    url = served(http_server, home.folder, tmp_path)
    folder = tmp_path / "back"
    options = cache.share.pull.PullOptions(only=("train",))
    with RemoteCache(Remote(url)) as there:
        move = cache.share.pull.plan_pull(folder, there, options)
        with http_server.cut_after(10, times=1):
            cache.share.pull.pull(folder, there, move, options)
    assert "trying once more" in capsys.readouterr().err
    assert open_cache(folder).ids == ["a", "d"]
    assert main(["verify", str(folder)]) == 0


def test_http_cut_again_and_again_keeps_what_arrived(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: Capture
) -> None:
    others, seed = min(shards_in(home.folder)), 90
    while (small := home.write("z", seed=seed)).name > others:  # it is to be fetched first
        home.path(small).unlink()
        seed += 1
    home.store_index()
    url, back = served(http_server, home.folder, tmp_path), tmp_path / "back"
    with http_server.cut_after(small.bytes):
        assert main(["pull", url, str(back), "--jobs", "1"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"shards/[0-9a-f]{32}\.h5: the connection was cut", error)
    assert "run the same command again" in error
    arrived = assert_whole_shards_only(back)
    assert not leftovers(back)
    begin = len(http_server.requests())
    assert main(["pull", url, str(back)]) == 0
    again = {entry["path"].rpartition("/")[2] for entry in http_server.requests()[begin:]}
    assert not arrived & again
    assert_same(home.folder, back)


@pytest.mark.system
@pytest.mark.parametrize("kind", ["file", "ssh"])
def test_push_killed_shows_no_cache_and_goes_on(
    kind: str, many: Path, tmp_path: Path, request: pytest.FixtureRequest, counted: Counted
) -> None:
    far = tmp_path / "far"
    url = url_of(kind, far, request)
    process = held("put", ["push", str(many), url, "--jobs", "2"])
    kill(process)
    assert not (far / "cache.json").exists()
    arrived = assert_whole_shards_only(far)
    assert main(["pull", url, str(tmp_path / "back")]) == 2
    assert main(["push", str(many), url]) == 0
    assert counted.sums == counted.totals
    sizes = {path.name: path.stat().st_size for path in many.glob("shards/*.h5")}
    assert counted.sums == [sum(sizes.values()) - sum(sizes[name] for name in arrived)]
    assert not leftovers(far)
    assert_same(many, far)


@pytest.mark.system
def test_pull_killed_goes_on(
    many: Path, tmp_path: Path, request: pytest.FixtureRequest, counted: Counted
) -> None:
    back = tmp_path / "back"
    assert main(["push", str(many), str(tmp_path / "far")]) == 0
    url = url_of("ssh", tmp_path / "far", request)
    process = held("get_shard", ["pull", url, str(back), "--jobs", "2"])
    kill(process)
    arrived = assert_whole_shards_only(back)
    assert main(["pull", url, str(back)]) == 0
    sizes = {path.name: path.stat().st_size for path in many.glob("shards/*.h5")}
    assert counted.sums[1:] == [sum(sizes.values()) - sum(sizes[name] for name in arrived)]
    assert not leftovers(back)
    assert_same(many, back)


def test_ssh_session_lost_in_a_push(
    many: Path, tmp_path: Path, ssh_server: SshServer, request: pytest.FixtureRequest
) -> None:
    far = tmp_path / "far"
    url = url_of("ssh", far, request)
    process = held("put", ["push", str(many), url, "--jobs", "2"])
    ssh_server.hang_up()
    _, error = process.communicate("go on\n", timeout=300)
    assert process.returncode == 2, error
    assert_one_line(error)
    assert "the connection was lost" in error
    assert assert_whole_shards_only(far) < shards_in(many)
    assert main(["push", str(many), url]) == 0
    assert not leftovers(far)
    assert_same(many, far)


def test_a_cut_push_leaves_the_old_cache_to_readers(
    place: Place, home: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    main(["push", str(home.folder), place.url])
    before, put = place.files(), Remote.put
    home.write("g", "h", seed=20)

    def fail(self: Remote, name: str, *rest: Any, **named: Any) -> None:
        if name == "index.h5":
            raise KeyboardInterrupt
        put(self, name, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "put", fail)
        assert main(["push", str(home.folder), place.url]) == 130
    assert {name: place.files()[name] for name in before} == before
    capsys.readouterr()
    assert main(["pull", place.url, str(tmp_path / "early")]) == 0
    assert open_cache(tmp_path / "early").ids[:6] == ["a", "b", "c", "d", "e", "f"]
    assert main(["verify", str(tmp_path / "early")]) == 0
    assert main(["push", str(home.folder), place.url]) == 0
    assert main(["pull", place.url, str(tmp_path / "back")]) == 0
    assert_same(home.folder, tmp_path / "back")


def test_leftovers_are_known_by_machine_process_and_age() -> None:
    mine = temporary_name("x.h5")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = mine.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    foreign = re.sub("[0-9a-f]{8}", "0" * 8, dead, count=1)
    now = time.time()
    assert not is_leftover(mine, now)
    assert is_leftover(dead, now)
    assert not is_leftover(foreign, now - 3600)
    assert is_leftover(foreign, now - 90_000)
    assert not is_leftover(foreign, None)
    assert not is_leftover("0" * 32 + ".h5", now - 90_000)


@pytest.mark.parametrize("kind", ["file", "ssh"])
def test_leftovers_are_removed_by_the_next_push(
    kind: str, home: TinyCache, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    far = tmp_path / "far"
    url = url_of(kind, far, request)
    (far / "shards").mkdir(parents=True)
    for place in (far, far / "shards"):
        for name, age_s in (("old", 90_000), ("new", 3600)):
            path = place / f"{TEMPORARY}00000000-1-0123456789abcdef-{name}"
            path.write_bytes(b"half")
            os.utime(path, (time.time() - age_s,) * 2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary_name("x.h5").replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    (far / "shards" / mine).write_bytes(b"half")
    assert main(["push", str(home.folder), url, "--dry-run"]) == 0
    assert len(leftovers(far)) == 5
    assert main(["push", str(home.folder), url]) == 0
    assert [path.name[-3:] for path in leftovers(far)] == ["new", "new"]


def test_shards_travel_side_by_side(
    home: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, both = Remote.get_shard, threading.Barrier(2)

    def together(self: Remote, *rest: Any) -> None:
        both.wait(300)
        get(self, *rest)

    monkeypatch.setattr(Remote, "get_shard", together)
    assert main(["pull", str(home.folder), str(tmp_path / "back"), "--jobs", "2"]) == 0
    assert_same(home.folder, tmp_path / "back")


def test_after_an_error_nothing_else_begins() -> None:
    begun: list[int] = []

    def task(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise OSError("no")
        return number

    with pytest.raises(OSError, match="no"):
        side_by_side(1, [partial(task, number) for number in range(5)])
    assert begun == [0, 1]
    assert side_by_side(3, [partial(task, number) for number in (7, 8, 9)]) == [7, 8, 9]


@pytest.mark.slow
def test_push_to_s3_killed_shows_no_cache_and_goes_on(
    many: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3.bucket("killed")
    kill(held("put", ["push", str(many), f"{bucket}/far", "--jobs", "2"]))
    found = objects_at(s3, f"{bucket}/far")
    assert "cache.json" not in found
    whole = {f"shards/{path.name}": path.read_bytes() for path in many.glob("shards/*.h5")}
    assert all(whole[name] == data for name, data in found.items())
    assert len(found) < len(whole)
    assert main(["push", str(many), f"{bucket}/far"]) == 0
    assert main(["pull", f"{bucket}/far", str(tmp_path / "back")]) == 0
    assert_same(many, tmp_path / "back")


@everywhere
def test_two_pushes_at_once_are_both_listed(place: Place, tmp_path: Path) -> None:
    homes = []
    for number, names in enumerate(["ab", "cd"]):
        homes.append(tiny_cache(tmp_path / f"home{number}"))
        for name in names:
            homes[-1].write(name, seed=10 * number + ord(name))
    ready = threading.Barrier(2)
    errors: list[BaseException] = []

    def run(folder: Path, url: str) -> None:
        try:
            with RemoteCache(Remote(url)) as there:
                found, options = open_cache(folder), PushOptions()
                move = plan_push(found, there, options)
                ready.wait(300)
                push(found, there, move, options)
        except BaseException as error:  # noqa: BLE001 - told below
            errors.append(error)

    for attempt in range(5 if place.url.startswith("file") else 1):
        url = f"{place.url}{attempt}"
        threads = [threading.Thread(target=run, args=(home.folder, url)) for home in homes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        with RemoteCache(Remote(url)) as there:
            assert there.cache is not None
            assert there.cache.ids == ["a", "b", "c", "d"]
            assert len(there.listed) == 4


def test_a_push_between_the_steps_of_another_is_listed(
    home: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_cache(tmp_path / "other")
    other.write("x", "y", seed=60)
    begun: list[str] = []
    far, put = tmp_path / "far", Remote.put

    def late(self: Remote, name: str, *rest: Any, **named: Any) -> None:
        if name == "index.h5" and not begun:
            begun.append(name)
            assert main(["push", str(other.folder), str(far)]) == 0
        put(self, name, *rest, **named)

    monkeypatch.setattr(Remote, "put", late)
    assert main(["push", str(home.folder), str(far)]) == 0
    with RemoteCache(Remote(str(far))) as there:
        assert len(there.listed) == len(list(far.glob("shards/*.h5")))
        assert there.listed >= set(open_cache(other.folder).index.shards)


def test_a_first_push_sends_the_identity_last(
    home: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, names = Remote.put, []

    def noted(self: Remote, name: str, *rest: Any, **named: Any) -> None:
        put(self, name, *rest, **named)
        names.append(name)

    monkeypatch.setattr(Remote, "put", noted)
    assert main(["push", str(home.folder), str(tmp_path / "far")]) == 0
    assert names[-2:] == ["index.h5", "cache.json"], "before, nobody takes it for a cache"


def test_first_pushes_of_different_settings_do_not_mix(
    home: TinyCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    other = tiny_cache(tmp_path / "other", resize_px=40)
    other.write("x", seed=60)
    begun: list[str] = []
    far, put = tmp_path / "far", Remote.put

    def late(self: Remote, name: str, *rest: Any, **named: Any) -> None:
        put(self, name, *rest, **named)
        if name == "labels.h5" and not begun:
            begun.append(name)
            assert main(["push", str(other.folder), str(far)]) == 0

    monkeypatch.setattr(Remote, "put", late)
    assert main(["push", str(home.folder), str(far)]) == 2
    assert "resize_px" in capsys.readouterr().err
    assert open_cache(far).ids == ["x"]


HELD = """
import sys, threading
from cache.__main__ import main
from cache.remote.store import Remote

name, going, calls, lock = sys.argv[1], threading.Event(), [], threading.Lock()
really = getattr(Remote, name)

def called(self, *rest, **named):
    with lock:
        calls.append(rest)
        late = len(calls) > 4
    if not late:
        return really(self, *rest, **named)
    def wait(count):
        with lock:
            if not going.is_set():
                print("held", flush=True)
                sys.stdin.readline()
                going.set()
    really(self, *(wait if callable(part) else part for part in rest), **named)

setattr(Remote, name, called)
sys.exit(main(sys.argv[2:]))
"""


def held(name: str, arguments: list[str]) -> subprocess.Popen[str]:
    """Run the command line in a process of its own until its fifth file has begun to travel.

    At least three have arrived then. It goes on with a line on its stdin, if ever. An S3 upload,
    which tells of its bytes at the end, is held there.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, name, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "held\n":
            return process
    raise AssertionError(process.communicate())


def kill(process: subprocess.Popen[str]) -> None:
    """End it at once, as the system would."""
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def shards_in(folder: Path) -> set[str]:
    """The names of the shards, without unfinished files (which `*` matches)."""
    return {path.name for path in folder.glob("shards/*") if is_shard_name(path.name)}


def assert_whole_shards_only(folder: Path) -> set[str]:
    """Some shards have arrived, and all are whole; gives their names."""
    names = shards_in(folder)
    assert names
    for name in names:
        assert matches_name(folder / "shards" / name), name
    return names


def assert_one_line(error: str) -> None:
    """An error that a person reads: no traceback, one line."""
    lines = [line for line in error.splitlines() if not line.startswith("push:")]
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")


def test_folders_of_killed_processes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import tempfile; from cache.remote.leftovers import scratch_prefix; "
    code += "print(tempfile.mkdtemp(prefix=scratch_prefix()))"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    made = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    dead = Path(made.stdout.strip())
    (dead / "index.h5").write_bytes(b"x")
    alive = tmp_path / f"{scratch_prefix()}mine"
    foreign = tmp_path / "avel-remote-00000000-1-of-another-machine"
    for folder in (alive, foreign):
        folder.mkdir()
    remove_dead_scratch()
    assert (dead.exists(), alive.exists(), foreign.exists()) == (False, True, True)
