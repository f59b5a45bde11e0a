"""How much memory the features may take, on a device or in the host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

_SHARE = 0.9
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_VERSIONS = (
    ("", _GROUPS, "memory.max", "memory.current", "inactive_file"),
    (
        "memory",
        _GROUPS / "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
"""Of both versions of control groups: the controller, its root, and three names in a group."""


def room(device: torch.device, memory_gb: float | None) -> int:
    """Bytes that features may take: `memory_gb` × 10⁹, but at most 90 % of what is free."""
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else free_host()
    most = int(_SHARE * free)
    return most if memory_gb is None else min(most, int(memory_gb * 1e9))


def free_host() -> int:
    """Bytes of memory that processes may still take here; limits of containers and jobs count."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([free * 1024, *_free_in_groups()])


def _free_in_groups() -> Iterator[int]:
    """What the control groups of this process, and those that they are in, still allow.

    A container sees its own group as the root; a cluster's job is in a group of its own.
    """
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    paths = {kinds: path for _, kinds, path in (line.split(":", 2) for line in lines)}
    for kinds, root, limit, usage, cached in _VERSIONS:
        own = root / paths.get(kinds, "/").lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(root):
                yield from _free_in(group, limit, usage, cached)


def _free_in(group: Path, limit: str, usage: str, cached: str) -> Iterator[int]:
    """Bytes that a group still allows, if it has a limit; its file cache is given back."""
    try:
        most = (group / limit).read_text(encoding="ascii").strip()
        used = int((group / usage).read_text(encoding="ascii"))
        facts = (group / "memory.stat").read_text(encoding="ascii").split()
    except OSError:
        return
    if most != "max":
        yield max(0, int(most) - used + int(facts[facts.index(cached) + 1]))
