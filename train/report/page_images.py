"""The small images of report.html, as the text of data URLs."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from train.report.drawing import opened
from train.score.metrics import Array

_FRAME_PX = 112
_MAGMA = (matplotlib.colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)


def palette(values: Array) -> str:
    """An image of values in [0, 1] (rows, columns) in the colours of magma, as PNG."""
    image = Image.fromarray((values * 255).astype(np.uint8)).convert("P")
    image.putpalette(_MAGMA.tobytes())
    return _encode(image, "PNG", optimize=False)


def heatmap(weights: Array) -> str:
    """Attention over a frame's cells as a small PNG, faint where the model doesn't look."""
    share = (weights - weights.min()) / max(float(np.ptp(weights)), 1e-9)
    colour = _MAGMA[(255 * np.sqrt(share)).astype(np.uint8)]
    alpha = (255 * 0.6 * np.sqrt(share)).astype(np.uint8)
    small = Image.fromarray(np.dstack([colour, alpha]))
    return _encode(small.resize((14, 14), Image.Resampling.BICUBIC), "PNG")


def thumbnail(jpeg: bytes, name: str) -> str:
    """A frame of the clip `name` as a small JPEG: decoded and encoded anew."""
    picture = opened(jpeg, _FRAME_PX, name)
    small = picture.resize((_FRAME_PX, _FRAME_PX), Image.Resampling.BILINEAR)
    return _encode(small, "JPEG", quality=70)


def _encode(image: Image.Image, kind: str, **how: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return base64_text(buffer.getvalue())


def base64_text(data: bytes) -> str:
    """Bytes as a data URL holds them."""
    return base64.b64encode(data).decode("ascii")
