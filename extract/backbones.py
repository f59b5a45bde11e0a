"""The networks that frames can go through: a backbone more is two lines here, and none elsewhere.

Each is torchvision's, of which the `features` part is taken: MobileNetV3 (Howard et al., ICCV 2019)
and, outside of what this system is tuned for, EfficientNet-B0 (Tan and Le, ICML 2019). Light: it
imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Backbone = Literal["small", "large", "efficientnet_b0"]


class Network(NamedTuple):
    """What is to be known of a network.

    Attributes
    ----------
    builder: torchvision's name for it.
    channels: of its maps, which have a cell for 32 pixels.
    imagenet_file: its ImageNet weights, as torchvision calls the file; eight digits of its
        SHA-256 are in the name.
    shorter_side_px: of a picture before the crop, in torchvision's preset for these weights.
    """

    builder: str
    channels: int
    imagenet_file: str
    shorter_side_px: int = 256


NETWORKS: Mapping[str, Network] = {
    "small": Network("mobilenet_v3_small", 576, "mobilenet_v3_small-047dcff4.pth"),
    "large": Network("mobilenet_v3_large", 960, "mobilenet_v3_large-5c1a4163.pth", 232),
    "efficientnet_b0": Network("efficientnet_b0", 1280, "efficientnet_b0_rwightman-7f5810bc.pth"),
}
