"""Training in several processes that `torchrun` started: who does what, and sums over all.

Each process takes its share of every batch; losses are means over the whole batch, gradients are
summed before they are clipped, so that the number of processes changes nothing but rounding and
what dropout draws. A process alone is a group of one, for which everything here does nothing.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from cache.common.errors import ConfigError

# The others wait while the first scores and draws; a process that fails is noticed by torchrun.
_PATIENCE = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class ProcessGroup:
    """One of `size` processes, counted from 0. The one with rank 0 prints, writes and draws."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """The rows (N, …) of which this process takes care: every `size`-th."""
        return rows[self.rank :: self.size]

    def share_sizes(self, count: int) -> list[int]:
        """How many of `count` rows each process takes care of."""
        return [len(range(rank, count, self.size)) for rank in range(self.size)]

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_gradients(
        self, parameters: Iterable[torch.nn.Parameter], losses: Tensor
    ) -> Tensor:
        """Sum the gradients over all processes in one transfer; returns the losses' sums (n,)."""
        if self.size == 1:
            return losses
        known = list(parameters)
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in known]
        lengths = [*map(len, flat), len(losses)]
        *sums, found = torch.split(self.all_reduce(torch.cat([*flat, losses])), lengths)
        for parameter, value in zip(known, sums, strict=True):
            parameter.grad = value.view_as(parameter)
        return found


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """The group that `torchrun` started this process in: gloo on CPUs, NCCL on GPUs, one each."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(
                f"device: torchrun started {os.environ['LOCAL_WORLD_SIZE']} processes here, "
                f"this machine has {there} GPU(s); pass --nproc_per_node {there}, or --device cpu"
            )
        torch.cuda.set_device(local)
    elif device.type != "cpu":
        raise ConfigError(f"device: several processes can't train on {device.type}; --device cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()
