"""Places to push to and pull from, and what the tests of both share; a pytest plugin."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_once import made_once
from servers import HttpServer, S3Server, Server, SshServer
from small_media import TinyCache, tiny_cache
from synthetic_cache import make_cache

import cache.share.commands
from cache import Labels, open_cache
from cache.__main__ import main
from cache.common.atomic import TEMPORARY
from cache.common.progress import Progress
from cache.format.index_file import save_index
from cache.format.shard import Failure

LABELS = Labels(
    ids=["a", "b", "c", "d", "e", "f"],
    classes=["one", "two"],
    category=np.array([0, 1, 0, 1, 0, 1]),
    start_s=np.zeros(6),
    end_s=np.ones(6),
    split=np.array([0, 1, 2, 0, 1, 2], np.int8),
    source="by hand",
)


@dataclass
class Place:
    """Somewhere to push to; `files` says what is there, name → bytes."""

    url: str
    files: Callable[[], dict[str, bytes]]


@dataclass
class Counted:
    """What the progress bars of a test were told: the total, and the sum of what was added."""

    totals: list[int] = field(default_factory=list)
    sums: list[int] = field(default_factory=list)


S3 = pytest.param("s3", marks=pytest.mark.system)  # whose server takes its time
# For what needs to be seen at each kind of server by `make check`, not by the slow tests alone.
everywhere = pytest.mark.parametrize("place", ["file", "ssh", S3], indirect=True)


@pytest.fixture
def ssh(ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """The ssh server, and an environment that is let in."""
    pytest.importorskip("sshfs")
    _set_all(monkeypatch, ssh_server)
    return ssh_server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The S3 server, and an environment with credentials."""
    _set_all(monkeypatch, s3_server)
    return s3_server


def _set_all(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)


def url_of(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """The address of a folder on this machine: its path, or its URL where `kind` is "ssh"."""
    if kind == "file":
        return str(folder)
    server: SshServer = request.getfixturevalue("ssh")
    return server.url(folder)


@pytest.fixture(params=["file", "ssh", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new, empty place at each kind of server that takes uploads."""
    if request.param == "s3":
        s3: S3Server = request.getfixturevalue("s3")
        bucket = s3.bucket(f"b{abs(hash(tmp_path)):x}")
        return Place(f"{bucket}/far/cache", lambda: objects_at(s3, f"{bucket}/far/cache"))
    far = tmp_path / "far" / "cache"
    url = f"file://{far}"
    if request.param == "ssh":
        ssh: SshServer = request.getfixturevalue("ssh")
        url = ssh.url(far)
    return Place(url, lambda: files_at(far))


@pytest.fixture
def far(tmp_path: Path) -> Place:
    """A folder to push to, for what does not depend on the kind of server."""
    folder = tmp_path / "far"
    return Place(str(folder), lambda: files_at(folder))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Listen to the progress bars."""
    found = Counted()

    class Listener(Progress):
        def __init__(self, total: int, *rest: Any, **named: Any) -> None:
            super().__init__(total, *rest, **named)
            found.totals.append(total)
            found.sums.append(0)

        def add(self, items: int, **counts: int) -> None:
            super().add(items, **counts)
            found.sums[-1] += items

    monkeypatch.setattr(cache.share.commands, "Progress", Listener)
    return found


@pytest.fixture
def home(tmp_path: Path) -> TinyCache:
    """Six clips in two shards, one failure, labels with all three splits."""
    home = tiny_cache(tmp_path / "home", LABELS)
    home.write("a", "b", "c", failures=[Failure("broken", "audio", "no sound")])
    home.write("d", "e", "f", seed=10)
    home.store_index()
    return home


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy clips of real size: ranges smaller than a shard are worth asking for."""

    def make(folder: Path) -> None:
        found = open_cache(make_cache(folder, clips=70))
        save_index(folder, found.identity, found.index)

    return made_once(tmp_path_factory, "big", make)


def served(server: HttpServer, folder: Path, unique: Path) -> str:
    """A copy of a cache on the web server; gives its URL."""
    target = server.folder / f"{abs(hash(unique)):x}"
    shutil.copytree(folder, target)
    return f"{server.url}/{target.name}"


def assert_same(folder: Path, other: Path) -> None:
    """Both hold the same, and what the second holds is whole."""
    assert main(["diff", str(folder), str(other)]) == 0
    assert main(["verify", str(other)]) == 0


def files_of(folder: Path) -> dict[str, bytes]:
    """A cache's lasting files, without notes on a run."""
    passing = {"verified.json", ".lock", "index.h5"}
    return {name: data for name, data in files_at(folder).items() if name not in passing}


def digest(folder: Path, clip_id: str) -> bytes:
    """SHA-256 of a clip's row."""
    return open_cache(folder).index.clips[clip_id].sha256


def row_size(folder: Path, clip_id: str) -> int:
    """What a clip's row takes: arrays and pictures."""
    found = open_cache(folder)
    jpegs = sum(map(len, found.jpegs(clip_id)))
    return found.declaration.row_bytes + jpegs


def bytes_told(text: str) -> int:
    """The number of bytes in what a dry run prints."""
    (line,) = [line for line in text.splitlines() if " bytes: " in line]
    return int(line.split(" bytes")[0].replace(",", ""))


def files_at(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def objects_at(server: S3Server, url: str) -> dict[str, bytes]:
    """What lies below a URL in a bucket, name → bytes."""
    import fsspec

    fs = fsspec.filesystem("s3", use_listings_cache=False, **server.options)
    root = url.removeprefix("s3://") + "/"
    found = [path for path in fs.find(root) if path.startswith(root)]  # without the folder itself
    return {path.removeprefix(root): fs.cat_file(path) for path in found}


def leftovers(folder: Path) -> list[Path]:
    """Unfinished files anywhere below."""
    return list(folder.rglob(f"{TEMPORARY}*"))


def flipped(data: bytes) -> bytes:
    """One bit in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
