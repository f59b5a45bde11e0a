"""Progress that suits its reader: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from cache.common.cli import say

LOG_EVERY_S = 10.0


class Progress:
    """Counts finished items of a known total, from any thread; use as a context manager.

    Shows items, rate, time left and any named counts, on stderr. Bytes (unit "B") are shown in
    powers of 1,000. Work that ends within `quiet_s` seconds shows nothing.
    """

    def __init__(self, total: int, unit: str, title: str, quiet_s: float = 0.0) -> None:
        self._live = sys.stderr.isatty()
        self._scale = unit == "B"
        self._bar = tqdm(
            total=total,
            unit=unit,
            unit_scale=self._scale,
            desc=title,
            disable=not self._live,
            dynamic_ncols=True,
            delay=quiet_s,
        )
        self._total, self._unit, self._title = total, unit, title
        self._quiet_s, self._lock = quiet_s, threading.Lock()
        self._done, self._counts = 0, dict[str, int]()
        self._start = self._logged = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if not self._live and self._total and time.monotonic() - self._start >= self._quiet_s:
            self._log()

    def add(self, items: int, **counts: int) -> None:
        """Count finished items, and add to the named counts."""
        with self._lock:
            self._done += items
            for name, count in counts.items():
                self._counts[name] = self._counts.get(name, 0) + count
            if self._live:
                self._bar.set_postfix(self._counts, refresh=False)
                self._bar.update(items)
            elif time.monotonic() - self._logged >= LOG_EVERY_S:
                self._log()

    def _log(self) -> None:
        self._logged = time.monotonic()
        elapsed = self._logged - self._start
        meter = tqdm.format_meter(
            self._done,
            self._total,
            elapsed,
            ncols=0,
            unit=self._unit,
            unit_scale=self._scale,
            prefix=self._title,
        )
        counts = "".join(f", {name} {count}" for name, count in self._counts.items())
        say(meter + counts, error=True)


@contextlib.contextmanager
def counted(on_bytes: Callable[[int], object]) -> Iterator[Callable[[int], object]]:
    """Count bytes towards a whole; takes them back when it fails, so that the sum stays true."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        on_bytes(count)

    try:
        yield add
    except BaseException:
        on_bytes(-done)
        raise
