"""A sweep's journal on the disk: a line of JSON for each thing that happened, of many writers.

In place of Optuna's own file, whose lock is a link: one that a killed process leaves behind keeps
all others waiting, for ever where OUT is a relative path, and half a line of a full disk makes all
that follow unreadable.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.common.atomic import writing
from cache.common.errors import CacheError
from cache.common.plain import open_plain
from cache.format.lock import lock_file

_MAX_BYTES = 1 << 28


class Journal:
    """What Optuna's `JournalStorage` reads from and appends to; nothing of it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begins = [0]
        """Of each line that was read, and of the next, in bytes."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from a number on, without half a line at the end; CacheError for a link."""
        if not self.path.exists() and not self.path.is_symlink():
            return
        begin = self._begins[log_number_from]
        try:
            with os.fdopen(open_plain(self.path), "rb") as file:
                file.seek(begin)
                data = file.read(_MAX_BYTES + 1 - begin)
        except OSError as error:
            raise CacheError(f"{self.path}: can't be read ({error.strerror})") from None
        if begin + len(data) > _MAX_BYTES:
            raise CacheError(f"{self.path}: larger than {_MAX_BYTES:,} bytes, which no journal is")
        del self._begins[log_number_from + 1 :]
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self._begins.append(self._begins[-1] + len(line))
            yield json.loads(line)

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        """Add lines, flushed to the disk, all or none; CacheError where that can't be done.

        Half a line that a killed writer left is taken off first.
        """
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        with writing(self.path), alone(self.path) as descriptor:
            end = _whole_bytes(descriptor)
            try:
                os.ftruncate(descriptor, end)
                _write(descriptor, "".join(lines).encode(), end)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise


@contextlib.contextmanager
def alone(path: Path) -> Iterator[int]:
    """A file's descriptor, made where there is none, and nobody else's while the block runs.

    Waits for its turn. The lock is the kernel's: it goes with its process. CacheError for links.
    """
    with lock_file(path) as descriptor:
        with writing(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor


def _whole_bytes(descriptor: int) -> int:
    """How many bytes the whole lines of a file take."""
    end = os.fstat(descriptor).st_size
    while end:
        begin = max(0, end - (1 << 16))
        if (found := os.pread(descriptor, end - begin, begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        end = begin
    return 0


def _write(descriptor: int, data: bytes, place: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, place)
        data, place = data[count:], place + count
