"""How many cores this process may use: those it is bound to, and a container's share of time."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cores() -> int:
    """Cores that this process may use, at least 1.

    A container's quota of processor time counts too (cgroup v2's cpu.max, v1's CFS quota): more
    workers than it allows would only wait for each other.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min([bound or 1, *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """Every limit on this process's time, in cores: its groups' and those above them."""
    for group in _groups():
        parts = _words(group / "cpu.max") or [
            *_words(group / "cpu.cfs_quota_us"),
            *_words(group / "cpu.cfs_period_us"),
        ]
        if len(parts) == 2 and all(part.isdecimal() and int(part) for part in parts):
            yield int(parts[0]) / int(parts[1])


def _groups() -> Iterator[Path]:
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", "0:cpu:/"]:
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if not names or "cpu" in names.split(","):
            base = GROUPS / names
            group = base / path.strip("/")
            yield from (place for place in (group, *group.parents) if place.is_relative_to(base))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return []
