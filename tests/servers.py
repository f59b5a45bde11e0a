"""Real servers on the loopback, as fixtures: sshd (sftp), HTTP with range requests, S3 (moto).

Each runs in its own process with all its files below pytest's temporary folder, and is skipped
where what it needs is not installed.
"""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HOST = "127.0.0.1"
_START_S = 300.0  # moto imports for seconds on a busy machine
_SSHD_CONFIG = """\
ListenAddress {host}:{port}
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/authorized_keys"
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Server:
    """A server process. `env` is what a client process needs to find it and be let in."""

    port: int
    process: subprocess.Popen[bytes]
    env: Mapping[str, str]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let the server answer nothing meanwhile: connections stay open and hang."""
        pids = _with_children(self.process.pid)
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class SshServer(Server):
    """An sshd that lets the user who runs the tests in with a key that lies in `home`/.ssh.

    A client that checks host keys knows this one from `home`/.ssh/known_hosts.
    """

    user: str
    home: Path

    def url(self, folder: Path) -> str:
        """Give the URL of an existing or future local folder."""
        return f"ssh://{self.user}@{HOST}:{self.port}{folder}"

    def hang_up(self) -> None:
        """End every session; the server stays."""
        for pid in reversed(_with_children(self.process.pid)[1:]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @property
    def options(self) -> dict[str, Any]:
        """What `fsspec.filesystem("ssh", ...)` of sshfs needs besides the URL, without `env`."""
        ssh = self.home / ".ssh"
        keys = [str(ssh / "id_ed25519")]
        return {"known_hosts": str(ssh / "known_hosts"), "client_keys": keys, "config": None}


@dataclass(frozen=True)
class HttpServer(Server):
    """A read-only server of `folder` that understands Range and can be told to misbehave."""

    folder: Path
    state: Path

    @property
    def url(self) -> str:
        """The URL of `folder`."""
        return f"http://{HOST}:{self.port}"

    def requests(self, path: str = "/") -> list[dict[str, Any]]:
        """Give method, path, range, status and bytes of each request below `path`, in order."""
        log = self.state / "requests.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        return [entry for line in lines if (entry := json.loads(line))["path"].startswith(path)]

    @contextmanager
    def behaving(self, times: int = 1_000_000, only: str = "", **how: int | str) -> Iterator[None]:
        """Misbehave for the next `times` GET requests of paths that end in `only`: one of these.

        cut_after=n: close the connection after n bytes of the body
        ignore_range=1: answer 200 with the whole file, whatever range was asked for
        status=n: answer with this status
        redirect=url: send on to the same path there
        endless=1, drip=1: never end, fast or a byte at a time; with says=n as a file of n bytes,
            with packed=1 as a packed one
        wrong_range=1: answer every range with the file's beginning
        each_path=1 beside one of these: `times` for each path
        """
        order = self.state / "how.writing"
        order.write_text(
            json.dumps({"id": uuid.uuid4().hex, "times": times, "only": only, "how": how})
        )
        order.replace(self.state / "how.json")
        try:
            yield
        finally:
            (self.state / "how.json").unlink()

    def cut_after(self, size: int, times: int = 1_000_000) -> Any:
        """Close connections after `size` bytes of the body; use it with `with`."""
        return self.behaving(times, cut_after=size)


@dataclass(frozen=True)
class S3Server(Server):
    """Moto's S3: any key is good, and buckets are kept in memory."""

    @property
    def endpoint(self) -> str:
        """The endpoint's URL."""
        return f"http://{HOST}:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """What `fsspec.filesystem("s3", ...)` needs, without `env`."""
        return {"endpoint_url": self.endpoint, "key": "test", "secret": "test"}

    def bucket(self, name: str) -> str:
        """Make a bucket, which s3fs does not do by itself; give its URL."""
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30):
            return f"s3://{name}"


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """Run sshd with its own host key and one client key."""
    sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if sshd is None:
        pytest.skip("needs sshd: install openssh-server (tests/install_servers.sh does)")
    folder = tmp_path_factory.mktemp("sshd")
    home = folder / "home"
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    port = _free_port()
    host_key = _make_key(folder / "host_key")
    (folder / "authorized_keys").write_text(_make_key(ssh / "id_ed25519"))
    (ssh / "known_hosts").write_text(f"[{HOST}]:{port} {host_key}")
    config = folder / "sshd_config"
    config.write_text(_SSHD_CONFIG.format(host=HOST, port=port, folder=folder))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd of root refuses to start without
    env = {"HOME": str(home), "SSH_AUTH_SOCK": ""}
    with _running([sshd, "-D", "-e", "-f", str(config)], port, folder) as process:
        yield SshServer(port, process, env, getpass.getuser(), home)


@pytest.fixture(scope="session")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """Run file_server.py on an empty folder."""
    _need("aiohttp")
    state = tmp_path_factory.mktemp("http")
    folder = state / "files"
    folder.mkdir()
    port = _free_port()
    command = [sys.executable, str(Path(__file__).with_name("file_server.py")), str(state)]
    with _running([*command, str(port)], port, state) as process:
        yield HttpServer(port, process, {}, folder, state)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run moto's server without any bucket."""
    _need("moto", "flask", "flask_cors", "s3fs")
    folder = tmp_path_factory.mktemp("s3")
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    env = {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": HOST,
    }
    with _running(command, port, folder) as process:
        yield S3Server(port, process, env)


def _need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the Python package {module}: pip install -e '.[dev]'")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _make_key(path: Path) -> str:
    """Make a key pair; give the public half's line."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path.with_name(path.name + ".pub").read_text()


@contextmanager
def _running(command: Sequence[str], port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait until it accepts connections, and end it with all its children."""
    log = folder / "server.log"
    # so that no server outlives a test run that was killed
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*guard, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(process, port, log)
        yield process
    finally:
        for pid in reversed(_with_children(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args!r} does not accept connections; it said: {log.read_text()}")


def _with_children(pid: int) -> list[int]:
    """Give a process and all below it, parents first; sshd's sessions leave its process group."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            # "pid (name) state ppid ...", and the name may hold spaces and brackets
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family
