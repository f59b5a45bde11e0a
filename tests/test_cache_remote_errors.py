"""What push and pull say when the other end can't be had: one clear line, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from remote_places import assert_same, files_at, leftovers, served, url_of
from servers import HttpServer, S3Server, Server, SshServer
from small_media import TinyCache

import cache.remote.connection
import cache.share.pull
from cache.__main__ import main
from cache.remote.store import Remote

Capture = pytest.CaptureFixture[str]
Disk = Callable[[int, bool], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small file system of its own: disk(kibibytes, read_only). Only root can have one."""
    made: list[Path] = []

    def mount(size_kib: int, read_only: bool) -> Path:
        path = tmp_path / f"disk{len(made)}"
        path.mkdir()
        options = f"size={size_kib}k" + (",ro" if read_only else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a small file system")
        made.append(path)
        return path

    yield mount
    for path in made:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize(
    ("url", "wanted", "module"),
    [
        ("http://no-such.invalid/cache", "no such host", "aiohttp"),
        ("ssh://no-such.invalid/cache", "no such host", "sshfs"),
        ("http://127.0.0.1:1/cache", "nothing answers there", "aiohttp"),
        ("ssh://127.0.0.1:1/cache", "nothing answers there", "sshfs"),
        ("nope://somewhere/cache", "no such kind of address", "fsspec"),
        ("s3://no-bucket-of-mine/cache", "can't be reached", "s3fs"),
    ],
)
def test_addresses_that_lead_nowhere(
    url: str,
    wanted: str,
    module: str,
    home: TinyCache,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(module)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setattr(cache.remote.connection, "WAIT_S", 8.0)
    assert main(["pull", url, str(tmp_path / "back")]) == 2
    assert wanted in one_error(capsys)
    if not url.startswith("http"):
        assert main(["push", str(home.folder), url]) == 2
        assert wanted in one_error(capsys)
    assert not (tmp_path / "back").exists()


def test_a_password_in_the_address_is_not_shown(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("aiohttp")
    assert main(["pull", "http://me:secret@127.0.0.1:1/cache", str(tmp_path / "back")]) == 2
    error = one_error(capsys)
    assert "secret" not in error
    assert "http://me:***@127.0.0.1:1/cache" in error


def test_a_missing_package_is_named(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert main(["pull", "gs://bucket/cache", str(tmp_path / "back")]) == 2
    error = one_error(capsys)
    assert "gcsfs" in error
    assert "pip install" in error


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (401, "wants a login"),
        (403, "refuses access"),
        (404, "no feature cache there"),
        (429, "asks to slow down"),
        (500, "answered with status 500"),
    ],
)
def test_http_answers(
    status: int,
    wanted: str,
    home: TinyCache,
    tmp_path: Path,
    http_server: HttpServer,
    capsys: Capture,
) -> None:
    url = served(http_server, home.folder, tmp_path)
    with http_server.behaving(status=status):
        assert main(["pull", url, str(tmp_path / "back")]) == 2
    error = one_error(capsys)
    assert wanted in error
    assert url in error
    assert not (tmp_path / "back").exists()


def test_a_shard_that_is_gone_is_named_and_the_rest_kept(
    home: TinyCache, tmp_path: Path, http_server: HttpServer, capsys: Capture
) -> None:
    url, back = served(http_server, home.folder, tmp_path), tmp_path / "back"
    gone = min((http_server.folder / Path(url).name / "shards").iterdir())
    data = gone.read_bytes()
    gone.unlink()
    assert main(["pull", url, str(back), "--jobs", "1"]) == 2
    assert f"{gone.name}: not found there" in one_error(capsys)
    assert not leftovers(back)
    gone.write_bytes(data)
    assert main(["pull", url, str(back)]) == 0
    assert_same(home.folder, back)


def test_ssh_host_keys_are_checked(
    ssh: SshServer,
    home: TinyCache,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = ssh.url(tmp_path / "far")
    changed = copy_of_home(ssh, tmp_path / "changed")
    (name, kind, _) = (changed / ".ssh/known_hosts").read_text().split()[:3]
    other = (changed / ".ssh/id_ed25519.pub").read_text().split()[1]  # some other key
    (changed / ".ssh/known_hosts").write_text(f"{name} {kind} {other}\n")
    unknown = copy_of_home(ssh, tmp_path / "unknown")
    (unknown / ".ssh/known_hosts").unlink()
    for who in (changed, unknown):
        monkeypatch.setenv("HOME", str(who))
        assert main(["push", str(home.folder), url]) == 2
        assert "host key is not in your known_hosts, or has changed" in one_error(capsys)
    assert not (tmp_path / "far").exists()


def test_ssh_wrong_key_and_wrong_user(
    ssh: SshServer,
    home: TinyCache,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = ssh.url(tmp_path / "far")
    assert main(["push", str(home.folder), url.replace(f"//{ssh.user}@", "//nobody-here@")]) == 2
    assert "refuses the login" in one_error(capsys)
    stranger = copy_of_home(ssh, tmp_path / "stranger")
    (stranger / ".ssh/id_ed25519").unlink()
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
    subprocess.run([*command, str(stranger / ".ssh/id_ed25519")], check=True, input=b"y\n")
    monkeypatch.setenv("HOME", str(stranger))
    assert main(["push", str(home.folder), url]) == 2
    assert "check the user name and your key" in one_error(capsys)


@pytest.mark.parametrize("kind", ["file", "ssh"])
def test_a_read_only_disk_takes_no_push(
    kind: str, home: TinyCache, disk: Disk, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    far = disk(64, True) / "far"
    before = files_at(home.folder)
    assert main(["push", str(home.folder), url_of(kind, far, request)]) == 2
    error = one_error(capsys)
    assert str(far) in error
    assert "read-only" in error or "refused without a reason" in error
    assert files_at(home.folder) == before


@pytest.mark.parametrize("kind", ["file", "ssh"])
def test_no_permission_to_push(
    kind: str, home: TinyCache, tmp_path: Path, capsys: Capture, request: pytest.FixtureRequest
) -> None:
    far = tmp_path / "far"
    far.mkdir(mode=0o500)
    if os.geteuid() == 0:  # who may write everywhere else
        if subprocess.run(["chattr", "+i", far], capture_output=True, check=False).returncode:
            pytest.skip("root may write everywhere, and no folder can be made immutable here")
        request.addfinalizer(lambda: subprocess.run(["chattr", "-i", far], check=True))
    assert main(["push", str(home.folder), url_of(kind, far, request)]) == 2
    assert "no permission" in one_error(capsys)


@pytest.mark.parametrize("kind", ["file", "ssh"])
def test_a_full_disk_keeps_what_has_arrived(
    kind: str,
    home: TinyCache,
    disk: Disk,
    capsys: Capture,
    request: pytest.FixtureRequest,
) -> None:
    small = disk(44, False)  # room for one of the two shards
    url = url_of(kind, small / "far", request)
    assert main(["push", str(home.folder), url, "--jobs", "1"]) == 2
    error = one_error(capsys)
    assert "make room" in error or "its disk is full" in error
    assert len(list(small.glob("far/shards/*.h5"))) == 1
    assert not leftovers(small)
    assert not (small / "far/cache.json").exists()
    subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
    assert main(["push", str(home.folder), url]) == 0
    assert_same(home.folder, small / "far")


@pytest.mark.parametrize("checked", [True, False])
def test_a_pull_onto_a_full_disk(
    checked: bool,
    home: TinyCache,
    disk: Disk,
    tmp_path: Path,
    http_server: HttpServer,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, small = served(http_server, home.folder, tmp_path), disk(60, False)
    if not checked:  # as if the room had gone meanwhile
        monkeypatch.setattr(cache.share.pull, "check_room", lambda *_: None)
    assert main(["pull", url, str(small / "back"), "--jobs", "1"]) == 2
    assert "make room" in one_error(capsys).lower()
    assert not leftovers(small)
    subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
    assert main(["pull", url, str(small / "back")]) == 0
    assert_same(home.folder, small / "back")


def test_a_file_stands_where_a_folder_belongs(
    home: TinyCache, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").write_text("mine")
    for url in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["push", str(home.folder), str(url)]) == 2
        assert "file" in one_error(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.system
def test_s3_without_bucket_or_credentials(
    s3: S3Server, home: TinyCache, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = "s3://never-made/cache"
    assert main(["push", str(home.folder), url]) == 2
    assert "bucket does not exist" in one_error(capsys)
    assert main(["push", str(home.folder), url]) == 2  # the first has not made it
    assert "bucket does not exist" in one_error(capsys)
    assert main(["pull", url, str(tmp_path / "back")]) == 2
    assert "no feature cache there" in one_error(capsys)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3.bucket("made-before")
    assert main(["push", str(home.folder), "s3://made-before/cache"]) == 2
    assert "no credentials found" in one_error(capsys)


@pytest.mark.parametrize("kind", ["ssh", "http", pytest.param("s3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("begun", [False, True])
def test_a_server_that_stops_answering_is_given_up(
    kind: str,
    begun: bool,
    home: TinyCache,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    server: Server = request.getfixturevalue("http_server" if kind == "http" else kind)
    url = place_at(server, home, tmp_path)
    monkeypatch.setattr(cache.remote.connection, "WAIT_S", 3.0)
    get = Remote.get_shard
    with ExitStack() as stack:
        if not begun:
            stack.enter_context(server.stopped())

        def stop(self: Remote, *rest: Any) -> None:
            stack.enter_context(server.stopped())
            get(self, *rest)

        monkeypatch.setattr(Remote, "get_shard", stop)
        assert main(["pull", url, str(tmp_path / "back"), "--jobs", "1"]) == 2
    assert "the s" in one_error(capsys)
    assert not leftovers(tmp_path / "back")
    monkeypatch.setattr(cache.remote.connection, "WAIT_S", 60.0)
    monkeypatch.setattr(Remote, "get_shard", get)
    assert main(["pull", url, str(tmp_path / "back")]) == 0
    assert_same(home.folder, tmp_path / "back")


def copy_of_home(ssh: SshServer, folder: Path) -> Path:
    """A home folder whose keys can be changed."""
    shutil.copytree(ssh.home, folder)
    return folder


def place_at(server: Server, home: TinyCache, tmp_path: Path) -> str:
    """The URL of a copy of a cache at a server."""
    if isinstance(server, HttpServer):
        return served(server, home.folder, tmp_path)
    if isinstance(server, SshServer):
        return server.url(home.folder)
    assert isinstance(server, S3Server)
    url = f"{server.bucket(f'stopped{abs(hash(tmp_path)):x}')}/cache"
    assert main(["push", str(home.folder), url]) == 0
    return url


def one_error(capsys: Capture) -> str:
    """What a command said: a single line, no traceback."""
    lines = [
        line
        for line in capsys.readouterr().err.splitlines()
        if not line.startswith(("note ", "push:", "pull:"))
    ]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
