"""The feature maps of many frames: fetched frame by frame where a model looks at them.

A map is most of what a clip weighs, and its mean is most of what it tells. So the means are kept
beside the maps, and maps are fetched of those frames alone in which a model looks around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from train.data.batch import Shapes


class FrameMaps:
    """The maps of the frames of many clips, and the mean of each.

    Attributes
    ----------
    cells: (M, F, S, C) float16 or float32, channels last.
    means: (M, F, C + E) float32, over the S cells, and what else is seen beside each frame.
    """

    def __init__(self, cells: Tensor, means: Tensor | None = None) -> None:
        """Of maps; their means are computed unless they are given."""
        self.cells = cells
        self.means = cells.mean(dim=2, dtype=torch.float32) if means is None else means
        self._half = self._single = torch.empty(0, 0, 0)

    @classmethod
    def allocate(cls, clips: int, frames: int, shapes: Shapes, like: Tensor) -> FrameMaps:
        """Room for so many clips, for maps of the dtype and on the device of `like`."""
        rows, columns = shapes.grid
        maps = like.new_empty((clips, frames, rows * columns, shapes.map_channels))
        width = shapes.map_channels + shapes.beside
        return cls(maps, maps.new_empty((clips, frames, width), dtype=torch.float32))

    def put(self, at: Tensor | slice, maps: Tensor, beside: Tensor) -> None:
        """Store clips, (n, F, C, H, W) and (n, F, E) on the device, at (n,) places."""
        flat = maps.flatten(3)
        means = torch.cat([flat.mean(dim=3, dtype=torch.float32), beside], dim=2)
        self.cells[at], self.means[at] = flat.transpose(2, 3), means

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
