"""One writer and any number of readers; full disks, read-only folders, killed writers."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_media import TinyCache, random_row, tiny_cache

from cache import CacheError, open_cache
from cache.check.verify import verify
from cache.common.atomic import TEMPORARY
from cache.format.lock import LOCK_FILE, claimed, writer_lock
from cache.format.shard import write_shard

TESTS = Path(__file__).parent
HEAD = """
import sys
from pathlib import Path
from small_media import TinyCache, random_row, tiny_cache
from cache import CacheError
from cache.format.identity import read_identity
from cache.format.index_file import load_index, save_index
from cache.format.lock import writer_lock
from cache import open_cache
from cache.format.shard import write_shard

folder = Path(sys.argv[1])
"""


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    return tiny_cache(tmp_path / "cache")


def start(script: str, *arguments: object, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Another process, which imports what tests import."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", HEAD + textwrap.dedent(script), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


HOLD = """
with writer_lock(folder):
    (folder / ".writing-half").write_text("half a file")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tiny: TinyCache) -> Iterator[subprocess.Popen[str]]:
    process = start(HOLD, tiny.folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


class TestWriters:
    def test_the_second_is_told_who_and_since_when(
        self, tiny: TinyCache, holder: subprocess.Popen[str]
    ) -> None:
        with (
            pytest.raises(CacheError, match=r"another process is writing this cache") as caught,
            writer_lock(tiny.folder),
        ):
            pass
        found = re.search(
            r"process (\d+) on (\S+) since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.", str(caught.value)
        )
        assert found is not None
        assert int(found[1]) == holder.pid
        assert found[2] == os.uname().nodename
        assert (tiny.folder / ".writing-half").exists()  # not ours to tidy

    def test_a_killed_one_is_noted_and_its_leftovers_removed(
        self,
        tiny: TinyCache,
        holder: subprocess.Popen[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
        with writer_lock(tiny.folder):
            note = capsys.readouterr().err
            assert not (tiny.folder / ".writing-half").exists()
            assert str(os.getpid()) in (tiny.folder / LOCK_FILE).read_text()
        assert f"note      process {holder.pid} on " in note
        assert "ended before it was done; going on from there" in note
        with writer_lock(tiny.folder):
            assert capsys.readouterr().err == ""  # said once
        assert (tiny.folder / LOCK_FILE).read_text() == ""

    def test_the_lock_goes_with_an_exception(self, tiny: TinyCache) -> None:
        with pytest.raises(ZeroDivisionError), writer_lock(tiny.folder):
            _ = 1 / 0
        with writer_lock(tiny.folder):
            pass

    def test_other_settings_are_refused_before_the_lock(self, tiny: TinyCache) -> None:
        other = dataclasses.replace(tiny.identity, feature_version=9)
        with pytest.raises(CacheError, match="other settings"), claimed(tiny.folder, other):
            pass
        assert not (tiny.folder / LOCK_FILE).exists()


class TestOddLockFiles:
    def test_a_link_is_not_followed(self, tiny: TinyCache, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("precious")
        (tiny.folder / LOCK_FILE).symlink_to(tmp_path / "precious")
        with pytest.raises(CacheError, match=r"\.lock: .*a link"), writer_lock(tiny.folder):
            pass
        assert (tmp_path / "precious").read_text() == "precious"

    @pytest.mark.parametrize("kind", ["pipe", "folder"])
    def test_what_is_no_file_is_refused(self, tiny: TinyCache, kind: str) -> None:
        path = tiny.folder / LOCK_FILE
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
        with pytest.raises(CacheError, match=r"\.lock"), writer_lock(tiny.folder):
            pass

    def test_its_text_cannot_command_the_terminal(
        self, tiny: TinyCache, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tiny.folder / LOCK_FILE).write_bytes(b"\x1b[2J\xff evil\n" + b"x" * 10_000)
        with writer_lock(tiny.folder):
            text = capsys.readouterr().err
        assert "?[2J" in text
        assert text.removesuffix("\n").isprintable()
        assert len(text) < 400


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks(
    tiny: TinyCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(CacheError, match="has no file locks") as caught, writer_lock(tiny.folder):
        pass
    assert "python -m cache push" in str(caught.value)
    assert os.strerror(number) in str(caught.value)


def test_another_fault_of_the_lock_is_told_too(
    tiny: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(CacheError, match=r"\.lock: can't be written \(Input"),
        writer_lock(tiny.folder),
    ):
        pass


class TestReadOnly:
    def test_the_system_says_so(self, tiny: TinyCache, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny.write("a")
        really = os.open

        def refuse(path: Any, flags: int, *more: Any, **how: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                raise OSError(errno.EROFS, "Read-only file system", path)
            return really(path, flags, *more, **how)

        monkeypatch.setattr(os, "open", refuse)
        for write in (
            lambda: writer_lock(tiny.folder).__enter__(),
            lambda: tiny.write("b"),
            tiny.store_index,
        ):
            with pytest.raises(CacheError, match=r"Read-only file system.*can be written"):
                write()
        found = open_cache(tiny.folder)
        assert found.ids == ["a"]
        assert found.read("audio/mel").shape[0] == 1
        assert verify(tiny.folder).problems == []

    def test_on_a_real_one(self, tiny: TinyCache) -> None:
        tiny.write("a")
        script = """
        try:
            writer_lock(folder).__enter__()
        except CacheError as error:
            print(error)
        try:
            tiny_cache(folder / "new")
        except CacheError as error:
            print(error)
        cache = open_cache(folder)
        print(cache.ids, cache.read("audio/mel").shape)
        """
        mount = (
            f"mount --bind {tiny.folder} {tiny.folder} && mount -o remount,ro,bind {tiny.folder}"
        )
        lines = finish(start(script, tiny.folder, prefix=in_own_mounts(mount))).splitlines()
        assert ".lock: can't be written (Read-only file system)" in lines[0]
        assert "new: can't be written (Read-only file system)" in lines[1]
        assert lines[2] == "['a'] (1, 44, 8)"


def in_own_mounts(commands: str) -> tuple[str, ...]:
    """What to put before a command so that it runs after mounts that only it sees."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs the program unshare")
    for rights in (("--mount",), ("--user", "--map-root-user", "--mount")):
        prefix = (unshare, *rights, "sh", "-c", f'{commands} && exec "$@"', "sh")
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    pytest.skip("may not mount here")


FILL = """
import numpy
from cache import Labels
from cache.labels.store import read_labels, write_labels
from cache.check.verify import verify

def labels(count):
    return Labels([f"clip{n}" for n in range(count)], ["x"], *numpy.zeros((4, count), int), "s")

def tried(what):
    try:
        what()
    except CacheError as error:
        print(type(error).__name__, error)
        return False
    return True

tiny = tiny_cache(folder)
limit = sys.argv[2] if len(sys.argv) > 2 else ""
with writer_lock(folder):
    write_labels(folder, labels(3))
    tiny.write("a", "b")
    tiny.store_index()
    if limit:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit),) * 2)
    many = [f"c{n}" for n in range(400)]
    print("shard", tried(lambda: tiny.write(*many)))
    print("labels", tried(lambda: write_labels(folder, labels(50_000))))
    room = []
    while tried(lambda: room.append(tiny.write(f"d{len(room)}"))) and len(room) < 40:
        pass
    tried(tiny.store_index)
report = verify(folder)
print("report", report.problems, sorted(set(open_cache(folder).ids) - set(many)), len(room))
print("labels now", len(read_labels(folder)))
names = sorted(path.name for path in folder.rglob("*") if path.is_file())
print("names", [n for n in names if not n[0] in "0123456789abcdef" or len(n) != 35])
"""


class TestFullDisk:
    def check(self, output: str, reason: str) -> None:
        lines = output.splitlines()
        refusals = [line for line in lines if line.startswith("CacheError")]
        assert len(refusals) >= 2
        assert all(reason in line for line in refusals), refusals
        assert all("everything finished before is kept" in line for line in refusals)
        assert "shard False" in lines
        assert "labels False" in lines
        (report,) = [line for line in lines if line.startswith("report")]
        assert report.startswith("report [] ['a', 'b'")
        assert "labels now 3" in lines
        names = "names ['.lock', 'cache.json', 'index.h5', 'labels.h5']"
        assert lines[-1] == names

    def test_a_limit_on_file_size(self, tmp_path: Path) -> None:
        """(The system's signal for it, SIGXFSZ, is ignored by Python.)"""
        output = finish(start(FILL, tmp_path / "cache", 200_000))
        self.check(output, "a limit on file size (ulimit -f) stopped it")

    def test_a_tiny_file_system(self, tmp_path: Path) -> None:
        mount = f"mount -t tmpfs -o size=400k none {tmp_path}"
        output = finish(start(FILL, tmp_path / "cache", prefix=in_own_mounts(mount)))
        self.check(output, "No space left on device): make room")

    def test_the_lock_on_a_full_disk(self, tmp_path: Path) -> None:
        script = """
        tiny = tiny_cache(folder)
        (folder.parent / "fill").touch()
        with (folder.parent / "fill").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1024)):
                    pass
            except OSError:
                pass
        try:
            writer_lock(folder).__enter__()
        except CacheError as error:
            print(error)
        """
        mount = f"mount -t tmpfs -o size=200k none {tmp_path}"
        output = finish(start(script, tmp_path / "cache", prefix=in_own_mounts(mount)))
        assert ".lock: can't be written (No space left on device): make room" in output


GROUP = 61_230
TEAMMATE = """
import os, json
import h5py, numpy
from cache import Labels
from cache.labels.store import read_labels, write_labels
from cache.format.lock import claimed
from cache.check.verify import verify, write_record

me, name, umask, fails = int(sys.argv[2]), sys.argv[3], int(sys.argv[4], 8), sys.argv[5:]
assert not verify(tiny_cache(folder.parent / f"mine{me}").folder).problems  # all is imported
os.setgroups([61230])
os.setgid(me)
os.setuid(me)
os.umask(umask)
tiny = tiny_cache(folder)
with claimed(folder, tiny.identity):
    tiny.write(name)
    tiny.store_index()
    write_labels(folder, Labels([name], ["x"], *numpy.zeros((4, 1), int), name))
write_record(folder, verify(folder))
found = open_cache(folder)
print(json.dumps([found.ids, read_labels(folder).source, verify(folder).problems]))
"""


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder that a group shares, where its members get at it (not pytest's own)."""
    if os.geteuid():
        pytest.skip("needs root, to become two users")
    above = Path(tempfile.mkdtemp(prefix="group-"))
    above.chmod(0o755)
    folder = above / "lab"
    folder.mkdir()
    os.chown(folder, 61_000, GROUP)
    folder.chmod(0o2775)
    yield folder
    shutil.rmtree(above)


class TestAGroup:
    """Two users of one group, in a folder that is the group's: 2775."""

    def test_takes_turns_in_writing(self, shared: Path) -> None:
        cache = shared / "ave"
        first = finish(start(TEAMMATE, cache, 61_001, "a", "022"))
        assert first == '[["a"], "a", []]\n'
        assert stat.S_IMODE((cache / "shards").stat().st_mode) == 0o2775
        assert (cache / ".lock").stat().st_mode & 0o060 == 0o060
        assert finish(start(TEAMMATE, cache, 61_002, "b", "022")) == '[["a", "b"], "b", []]\n'
        assert finish(start(TEAMMATE, cache, 61_001, "c", "022")) == '[["a", "b", "c"], "c", []]\n'

    def test_a_lock_that_only_its_owner_may_write_locks_all_the_same(self, shared: Path) -> None:
        cache = shared / "ave"
        finish(start(TEAMMATE, cache, 61_001, "a", "022"))
        (cache / ".lock").chmod(0o644)
        with writer_lock(cache):
            late = start(TEAMMATE, cache, 61_002, "b", "022")
            assert "another process is writing this cache" in late.communicate(timeout=300)[1]
        (cache / ".lock").chmod(0o644)
        assert finish(start(TEAMMATE, cache, 61_002, "b", "022")) == '[["a", "b"], "b", []]\n'
        assert (cache / ".lock").read_text() == ""

    def test_leftovers_that_are_another_users_stop_nobody(self, shared: Path) -> None:
        """With the sticky bit only the owner may delete a file."""
        cache = shared / "ave"
        finish(start(TEAMMATE, cache, 61_001, "a", "022"))
        (cache / "labels.h5").unlink()
        (cache / "index.h5").unlink()
        (cache / "verified.json").unlink()
        for path in (cache / f"{TEMPORARY}x", cache / "shards" / f"{TEMPORARY}x.h5"):
            path.write_text("half")
            (path.parent / f"{TEMPORARY}folder").mkdir()
            path.parent.chmod(0o3775)
        assert finish(start(TEAMMATE, cache, 61_002, "b", "022")) == '[["a", "b"], "b", []]\n'
        assert (cache / f"{TEMPORARY}x").exists()

    def test_a_cache_that_others_may_not_write_is_told(self, shared: Path) -> None:
        cache = shared / "ave"
        finish(start(TEAMMATE, cache, 61_001, "a", "077"))
        late = start(TEAMMATE, cache, 61_002, "b", "022")
        assert "you have no permission" in late.communicate(timeout=300)[1].splitlines()[-1]


READ = """
import json
seen, last = [], False
print("ready", flush=True)
while not last:
    last = (folder / "done").exists()
    cache = open_cache(folder)
    assert not cache.index.damaged, cache.index.damaged
    mel = cache.read("audio/mel")
    assert mel.shape[0] == len(cache.ids)
    for row, clip_id in enumerate(cache.ids):
        wanted = random_row(clip_id, int(clip_id[1:])).features["audio/mel"]
        assert mel[row].tobytes() == wanted.tobytes()
        assert len(cache.jpegs(clip_id)) == 2
    seen.append(len(cache))
print(json.dumps(seen))
"""


def test_readers_beside_a_writer_see_whole_shards_and_no_error(tiny: TinyCache) -> None:
    """Whole shards only: two clips at a time, each with its own bytes, whatever the moment."""
    readers = [start(READ, tiny.folder) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    with writer_lock(tiny.folder):
        for number in range(20):
            clips = [random_row(f"x{n:03d}", n) for n in (2 * number, 2 * number + 1)]
            write_shard(tiny.folder, tiny.identity, clips)
            if number % 3 == 0:
                tiny.store_index()
        tiny.store_index()
    (tiny.folder / "done").touch()
    for reader in readers:
        seen = [int(n) for n in finish(reader).strip("[]\n").split(",")]
        assert seen[-1] == 40
        assert all(count % 2 == 0 for count in seen)
        assert seen == sorted(seen)


def test_a_reader_beside_a_repair_that_sets_a_shard_aside(
    tiny: TinyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes between listing and looking takes no other with it."""
    tiny.write("a")
    gone = tiny.path(tiny.write("b"))
    scan = os.scandir

    class Scan:
        def __init__(self, path: Path) -> None:
            self.entries = list(scan(path))
            gone.unlink()

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Scan)
    assert open_cache(tiny.folder).ids == ["a"]


def test_threads_of_one_process_exclude_each_other(tiny: TinyCache) -> None:
    refused: list[str] = []

    def try_it() -> None:
        try:
            with writer_lock(tiny.folder):
                pass
        except CacheError as error:
            refused.append(str(error))

    with writer_lock(tiny.folder):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on" in refused[0]


def test_leftovers_of_labels_go_too(tiny: TinyCache) -> None:
    leftover = tiny.folder / f"{TEMPORARY}x.h5"
    leftover.write_text("half")
    with writer_lock(tiny.folder):
        assert not leftover.exists()
