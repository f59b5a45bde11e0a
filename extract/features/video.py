"""Frames → feature maps of a frozen network, and the small pictures kept beside them.

The network is the `features` part of one of `extract.backbones`, frozen, batch norms folded into
the convolutions.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import get_model

from cache.common.errors import CacheError, ConfigError
from cache.common.torch_file import read_torch_file
from extract.backbones import NETWORKS
from extract.config import ExtractConfig
from extract.features.weights import imagenet_file

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SILU_GAIN = 2.2
"""Of random weights: SiLU lets less of small values through than ReLU, whose gain is 2. With this
one EfficientNet-B0's maps of pictures of 64 to 224 pixels have means from 0.001 to 10."""
Picture = npt.NDArray[np.uint8]
# What torch.load raises on files that are none of its own: bytes taken for pickle opcodes.
_UNREADABLE = (
    *(CacheError, OSError, RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError),
)


def preprocess(frames: list[Picture], config: ExtractConfig) -> torch.Tensor:
    """Resize the shorter side, crop the centre: (F, 3, size, size) uint8, channels last.

    torchvision's classification preset: bilinear with antialiasing on 8-bit pixels (its own
    uint8 kernel, within 1 of 255 of Pillow), sizes rounded down, crop offsets rounded. Frames
    may differ in size.
    """
    if len({frame.shape for frame in frames}) > 1:
        return torch.cat([preprocess([frame], config) for frame in frames])
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    height, width = pixels.shape[-2:]
    short, size = config.shorter_side_px, config.frame_size_px
    target = (
        (int(short * height / width), short)
        if width <= height
        else (short, int(short * width / height))
    )
    if target != (height, width):
        pixels = F.interpolate(pixels, target, mode="bilinear", antialias=True, align_corners=False)
    top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
    return pixels[:, :, top : top + size, left : left + size]


def encode_jpegs(pixels: torch.Tensor, quality: int) -> list[bytes]:
    """(F, 3, H, W) uint8 RGB → F JPEG files."""
    pictures = []
    for frame in pixels.permute(0, 2, 3, 1).numpy():
        bgr = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        pictures.append(data.tobytes())
    return pictures


class Backbone:
    """The frozen feature extractor on one device; make one with `load_backbone`."""

    def __init__(self, features: nn.Module, weights_sha256: str, device: str) -> None:
        self.weights_sha256 = weights_sha256
        self._device = device
        folded = fold_batch_norms(features.eval()).to(device)
        self._features = folded.to(memory_format=torch.channels_last)
        shape = (1, 3, 1, 1)
        self._mean = torch.tensor(IMAGENET_MEAN, device=device).view(shape) * 255
        self._sd = torch.tensor(IMAGENET_SD, device=device).view(shape) * 255

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> npt.NDArray[np.float16]:
        """(F, 3, H, W) uint8 RGB → maps (F, C, H / 32, W / 32) float16.

        One clip a call: a convolution's rounding depends on the batch it is in, and rows must
        not depend on their neighbours.
        """
        inputs = pixels.to(self._device).float().sub_(self._mean).div_(self._sd)
        maps: npt.NDArray[np.float16] = self._features(inputs).half().cpu().contiguous().numpy()
        return maps


@lru_cache(maxsize=2)
def load_backbone(variant: str, weights: str, device: str) -> Backbone:
    """Build a network's `features` with the given weights (see `extract.features.weights`).

    Raises ConfigError when the file is no matching state dict; it is loaded with
    `weights_only=True`, so nothing in it is executed.
    """
    features = get_model(NETWORKS[variant].builder, weights=None).features
    if weights.startswith("random:"):
        _randomize(features, int(weights.removeprefix("random:")))
    else:
        path = imagenet_file(variant) if weights == "imagenet" else Path(weights)
        _load_state(features, path, variant)
    return Backbone(features, weights_digest(features.state_dict()), device)


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and bytes, so that any file with these weights gives the same."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold every batch norm that follows a convolution into it, in place."""
    previous: tuple[str, nn.Conv2d] | None = None
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and previous is not None:
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norms(child)
        previous = (name, child) if isinstance(child, nn.Conv2d) else None
    return module


def _load_state(features: nn.Module, path: Path, variant: str) -> None:
    wanted = features.state_dict()
    try:
        # A link that somebody names on purpose is followed.
        file = read_torch_file(Path(os.path.realpath(path)), legacy=True)
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path}: expected a PyTorch state dict of {NETWORKS[variant].builder}, found: {first}"
        ) from None
    if not isinstance(state, Mapping):
        raise ConfigError(f"{path}: expected a state dict, found {type(state).__name__}")
    found = {
        str(name).removeprefix("features."): values
        for name, values in state.items()
        if not str(name).startswith("classifier.")
    }
    for name, values in wanted.items():
        given = found.get(name)
        if not isinstance(given, torch.Tensor) or given.shape != values.shape:
            have = tuple(given.shape) if isinstance(given, torch.Tensor) else "nothing"
            raise ConfigError(
                f"{path}: not the weights of {NETWORKS[variant].builder}: expected "
                f"features.{name} {tuple(values.shape)}, found {have}"
            )
        if not bool(given.isfinite().all()):
            raise ConfigError(
                f"{path}: features.{name} holds numbers that are not finite: the file is damaged; "
                "get it anew"
            )
    features.load_state_dict({name: found[name] for name in wanted})


def _randomize(features: nn.Module, seed: int) -> None:
    """Seeded weights whose activations neither vanish nor explode (He et al., ICCV 2015, fan in).

    torchvision's own initialization counts on batch norms in training mode; frozen and untrained
    it yields activations near 1e-7, which float16 would turn into zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    gain = _SILU_GAIN if any(isinstance(m, nn.SiLU) for m in features.modules()) else 2.0
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0.0, (gain / fan_in) ** 0.5, generator=generator)
