"""Who extracts: processes of this machine, or the workers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from cache.common.cores import cores
from cache.common.errors import ConfigError
from extract.config import ExtractConfig


@dataclass(frozen=True)
class Workers:
    """Who extracts, and with what.

    Attributes
    ----------
    weights: imagenet, a path, or random:SEED.
    device: auto, cpu or cuda.
    jobs: processes on this machine.
    stall_s: seconds after which a clip is given up.
    dask: address of a Dask scheduler whose workers are used instead; "" for none.
    store: URL that their shards go to, where they share no folder with this machine; "" for none.
    """

    weights: str
    device: str = "cpu"
    jobs: int = 1
    stall_s: float = 300.0
    dask: str = ""
    store: str = ""

    @property
    def described(self) -> str:
        """For people."""
        if self.dask:
            return f"the workers of {self.dask}"
        return f"{self.jobs} worker{'s' if self.jobs > 1 else ''}"


def pick_device(device: str, config: ExtractConfig) -> str:
    """The device that this machine's network runs on, cpu or cuda; auto takes a GPU if any."""
    if config.modalities == "audio":
        return "cpu"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: no CUDA device here; use auto or cpu")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def jobs_here(wanted: int | None) -> int:
    """Worker processes on this machine: as many as wanted, else one for each core."""
    return wanted or cores()
