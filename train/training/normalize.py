"""The statistics that the model normalizes its inputs with, of the training split alone."""

from __future__ import annotations

import torch
from torch import Tensor

from train.data.dataset import Samples
from train.data.features import FeatureStore
from train.distributed import SINGLE_PROCESS, ProcessGroup
from train.model.fusion import FusionModel

_ROWS = 32


class _Sums:
    """Sums and sums of squares of columns in float64, over all processes."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.values = torch.zeros(2, width, dtype=torch.float64, device=device)
        self.count = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Add rows (n, width) float32; products with ones are several times faster than sums."""
        for some in torch.split(rows, 4096):
            ones = torch.ones(1, len(some), device=rows.device)
            self.values[0] += (ones @ some)[0]
            self.values[1] += (ones @ some.square())[0]
        self.count += len(rows)

    def mean_and_std(self, group: ProcessGroup) -> tuple[Tensor, Tensor]:
        """Of each column, float64."""
        mean, square = group.all_reduce(self.values) / group.all_reduce(self.count)
        return mean, (square - mean.square()).clamp_min(0).sqrt()


@torch.no_grad()
def normalize(
    model: FusionModel, clips: FeatureStore, train: Samples, group: ProcessGroup = SINGLE_PROCESS
) -> None:
    """Store the mean and standard deviation of each feature over the training rows in the model."""
    sound = _Sums(clips.shapes.sound_features, clips.device)
    width = clips.shapes.map_channels
    maps, beside = (_Sums(n, clips.device) for n in (width, clips.shapes.beside))
    for _, batch in clips.batches(group.share(torch.unique(train.clip)), _ROWS):
        if batch.sound is not None:
            sound.add(batch.sound.features[batch.sound.valid])
        if batch.frames is not None:
            maps.add(batch.frames.cells().flatten(0, 1).float())
            beside.add(batch.frames.means()[..., width:].flatten(0, 1))
    if model.audio is not None:
        _store(model.audio, *sound.mean_and_std(group))
    if model.video is not None:
        mean, std = maps.mean_and_std(group)
        # A channel that hardly ever fires is not blown up into noise.
        std = std.clamp_min(0.1 * std.median())
        more = beside.mean_and_std(group)
        _store(model.video, torch.cat([mean, more[0]]), torch.cat([std, more[1]]))


def _store(encoder: torch.nn.Module, mean: Tensor, std: Tensor) -> None:
    encoder.get_buffer("mean").copy_(mean)
    encoder.get_buffer("deviation").copy_(std.clamp_min(1e-5))
