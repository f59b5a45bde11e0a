"""A Dask cluster of separate processes, for tests."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from hosts import LOOPBACK, Host

ROOT = Path(__file__).parent.parent
DASK = [sys.executable, "-m", "dask"]


class Cluster:
    """A scheduler and its workers, each a process of its own."""

    def __init__(self, folder: Path, host: Host = LOOPBACK) -> None:
        self.folder = folder
        folder.mkdir()
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", host, "--port", "0")
        self.address = self._logged("scheduler", r"Scheduler at: *(tcp://[0-9.:]+)")

    def _start(self, kind: str, host: Host, *flags: str) -> subprocess.Popen[bytes]:
        command = [*host.enter, *DASK, kind, "--host", host.address, "--no-dashboard", *flags]
        with (self.folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def _logged(self, kind: str, pattern: str, count: int = 1) -> str:
        """Wait until a line was logged so often; gives its group of the last time."""
        until = time.monotonic() + 600
        while time.monotonic() < until:
            found = re.findall(pattern, (self.folder / f"{kind}.log").read_text())
            if len(found) >= count:
                return str(found[-1])
            time.sleep(0.05)
        raise AssertionError((self.folder / f"{kind}.log").read_text())

    def add_workers(self, count: int, *flags: str, host: Host = LOOPBACK) -> None:
        """Start workers and wait until they are known."""
        flags = (self.address, "--nworkers", "1", *(flags or ("--nthreads", "1")))
        for _ in range(count):
            self.workers.append(self._start("worker", host, *flags))
        self._logged("worker", r"(Registered to)", len(self.workers))

    def stop(self) -> None:
        """End the workers while there is a scheduler that they can take leave of; then it."""
        for processes in (self.workers, [self.scheduler]):
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()
