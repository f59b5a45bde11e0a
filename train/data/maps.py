"""The feature maps of many frames: fetched frame by frame where a model looks at them.

A map is most of what a clip weighs, and its mean is most of what it tells. So the means are kept
beside the maps, and maps are fetched of those frames alone in which a model looks around.
"""

from __future__ import annotations

import torch
from torch import Tensor


class FrameMaps:
    """The maps of the frames of many clips, and the mean of each.

    Attributes
    ----------
    cells: (M, F, S, C) float16 or float32, channels last.
    means: (M, F, C) float32, over the S cells.
    """

    def __init__(self, cells: Tensor, means: Tensor | None = None) -> None:
        """Of maps; their means are computed unless they are given."""
        self.cells = cells
        self.means = cells.mean(dim=2, dtype=torch.float32) if means is None else means
        self._half = self._single = torch.empty(0, 0, 0)

    @classmethod
    def allocate(
        cls, clips: int, frames: int, cells: int, channels: int, device: torch.device
    ) -> FrameMaps:
        """Room for the float16 maps of so many clips."""
        maps = torch.empty(clips, frames, cells, channels, dtype=torch.float16, device=device)
        return cls(maps, torch.empty(clips, frames, channels, device=device))

    def put(self, at: Tensor | slice, maps: Tensor) -> None:
        """Store the maps of clips, (n, F, C, √S, √S) on the device, at (n,) places."""
        flat = maps.flatten(3)
        self.cells[at], self.means[at] = flat.transpose(2, 3), flat.mean(dim=3, dtype=torch.float32)

    def rows(self, clips: Tensor) -> Tensor:
        """The numbers of the frames of clips (N,): (N, F) int64."""
        count = self.cells.shape[1]
        return clips[:, None] * count + torch.arange(count, device=clips.device)

    def of(self, rows: Tensor) -> Tensor:
        """The maps of the frames numbered `rows` (n,): (n, S, C), float32 on the CPU.

        There they stand in one buffer that the next call writes over: use them up before.
        """
        cells = self.cells.flatten(0, 1)
        if cells.dtype == torch.float32 or cells.device.type == "cuda":
            return cells[rows]  # autocast turns halves into bfloat16 where they are used
        # Fresh buffers of tens of megabytes cost more in page faults than the conversion itself.
        count, shape = len(rows), cells.shape[1:]
        if len(self._half) < count:
            with torch.inference_mode(False):  # training must be able to use them as well
                self._half = cells.new_empty((count, *shape))
                self._single = cells.new_empty((count, *shape), dtype=torch.float32)
        torch.index_select(cells, 0, rows, out=self._half[:count])
        return self._single[:count].copy_(self._half[:count])
