"""Several tasks at a time, until the first error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def side_by_side(jobs: int, tasks: Iterable[Callable[[], T]]) -> list[T]:
    """Run tasks in `jobs` threads; after the first error no other begins."""
    stop = threading.Event()

    def run(task: Callable[[], T]) -> list[T]:
        if stop.is_set():
            return []
        try:
            return [task()]
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return [value for values in pool.map(run, tasks) for value in values]
        finally:
            stop.set()  # Ctrl-C reaches this thread alone
