"""A training step as a CUDA graph: its hundreds of small kernels launched as one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, int], Tensor]
"""Sample numbers (n,) on the device, how many the batch has in all → losses on the device."""


class StepGraph:
    """A step that is captured on a full batch and replayed: launching it costs more than running.

    The last, smaller batch of an epoch and the first steps (which let libraries set themselves up)
    run as they are.
    """

    _WARM_UP = 3

    def __init__(
        self, step: Step, optimizer: torch.optim.Optimizer, size: int, device: torch.device
    ) -> None:
        """Of a step with this optimizer on batches of `size`."""
        self._step, self._optimizer = step, optimizer
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured_rate = 0.0
        self._chosen = torch.zeros(size, dtype=torch.int64, device=device)
        self._losses = torch.zeros((), device=device)
        self._eager_steps = 0

    def __call__(self, chosen: Tensor, count: int) -> Tensor:
        """The step's losses; they are overwritten by the next step."""
        if len(chosen) != len(self._chosen):
            return self._step(chosen, count)
        if self._graph is None and self._eager_steps < self._WARM_UP:
            self._eager_steps += 1
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                losses = self._step(chosen, count)
            torch.cuda.current_stream().wait_stream(side)
            return losses
        self._chosen.copy_(chosen)
        rate = self._optimizer.param_groups[0]["lr"]
        if self._graph is None or rate != self._captured_rate:  # a graph holds its rate for good
            self._graph, self._captured_rate = torch.cuda.CUDAGraph(), rate
            with torch.cuda.graph(self._graph):
                self._losses = self._step(self._chosen, count)
        self._graph.replay()
        return self._losses
