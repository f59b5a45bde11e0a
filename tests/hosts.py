"""Two hosts on one machine: network namespaces with names of their own, joined by a cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

CABLE = "cable"


@dataclass(frozen=True)
class Host:
    """Where a command may run.

    Attributes
    ----------
    address: under which the other host finds it.
    enter: what to put before a command so that it runs there.
    device: the network device that has the address.
    """

    address: str
    enter: tuple[str, ...] = ()
    device: str = "lo"

    def unplug(self) -> None:
        """Take the cable out: no message goes either way, and nobody is told."""
        inside = [*self.enter, "ip", "link", "set", CABLE, "down"]
        subprocess.run(inside, check=True, capture_output=True)


LOOPBACK = Host("127.0.0.1")


ADDRESSES = {"near": "10.213.77.1", "far": "10.213.77.2"}


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """The hosts `near` and `far`, which know each other's names; skips where that may not be."""
    ip, unshare = shutil.which("ip"), shutil.which("unshare")
    if ip is None or unshare is None:
        pytest.skip("needs the programs ip and unshare")
    names = folder / "hosts"
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in ADDRESSES.items()))
    spaces = {name: f"avel-{name}-{os.getpid()}" for name in ADDRESSES}
    settle = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'

    def host(name: str) -> Host:
        inside = (ip, "netns", "exec", spaces[name], unshare, "--uts", "--mount")
        return Host(ADDRESSES[name], (*inside, "sh", "-c", settle, "sh", name, str(names)), CABLE)

    def run(*words: str) -> None:
        done = subprocess.run([str(ip), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"may not make network namespaces here: {done.stderr.strip()}")

    try:
        for space in spaces.values():
            run("netns", "add", space)
        run(
            *f"link add {CABLE} netns {spaces['near']} type veth".split(),
            *f"peer name {CABLE} netns {spaces['far']}".split(),
        )
        for name, space in spaces.items():
            run("-n", space, "addr", "add", f"{ADDRESSES[name]}/24", "dev", CABLE)
            for device in ("lo", CABLE):
                run("-n", space, "link", "set", device, "up")
        yield host("near"), host("far")
    finally:
        for space in spaces.values():
            subprocess.run([ip, "netns", "delete", space], capture_output=True, check=False)
