"""How much memory the features may take, on a device or in the host."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_SHARE = 0.9
_GROUP = Path("/sys/fs/cgroup")


def room(device: torch.device, memory_gb: float | None) -> int:
    """Bytes that features may take: `memory_gb` × 10⁹, but at most 90 % of what is free."""
    free = torch.cuda.mem_get_info()[0] if device.type == "cuda" else free_host()
    most = int(_SHARE * free)
    return most if memory_gb is None else min(most, int(memory_gb * 1e9))


def free_host() -> int:
    """Bytes of memory that processes may still take here; a container's limit counts."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        free *= 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        most = (_GROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_GROUP / "memory.current").read_text(encoding="ascii"))
        facts = (_GROUP / "memory.stat").read_text(encoding="ascii").split()
    except OSError:
        return free
    if most == "max":
        return free
    cached = int(facts[facts.index("inactive_file") + 1])  # given back when it is needed
    return max(0, min(free, int(most) - used + cached))
