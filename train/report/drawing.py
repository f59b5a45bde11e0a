"""What all pictures share: colours, names and frames from strangers' data, images as files."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")

from matplotlib import patheffects as path_effects
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from cache import CacheError
from cache.common.atomic import plain_folder, replace_file
from cache.common.cli import printable
from train.score.metrics import Array

# Okabe and Ito's colours: told apart with every common colour blindness.
TRUE, PREDICTED, GREY = "#0072B2", "#E69F00", "#777777"
FOLDER, MAPS = "attention_visualization", "magma"
EVEN = "PRGn"  # of what is more or less than even
_MAGMA = (matplotlib.colormaps[MAPS](np.arange(256))[:, :3] * 255).astype(np.uint8)
_BRIGHT = _MAGMA[np.linspace(100, 255, 256).astype(int)]  # what lies over pictures darkens none
HEAT = ListedColormap(_BRIGHT / 255)
HOTTEST = 3.0  # times even attention in a frame
_OPAQUE = 0.7  # of 1, where the model looks most, so that the frame stays visible
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,99}")
_NAME_BYTES = 100


def label(text: str, most: int = 40) -> str:
    """A name from data, fit to be drawn: printable, in one line, its middle left out if it is long.

    Draw it with `parse_math=False`: a dollar in a name begins no formula.
    """
    text = str(printable(text))
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 1]}…{text[-tail:]}"


def file_name(name: str) -> str:
    """A file's name, without suffix, for an id: safe on every file system, at most 109 bytes.

    Different ids have different names, also where upper and lower case or two forms of an accent
    are the same to the file system: an id that is not plain gets a digest, after a "~".
    """
    if _PLAIN.fullmatch(name):
        return name
    readable = "".join(c if c.isalnum() or c in "-." else "_" for c in name)
    if readable[:1] in ".-":
        readable = f"_{readable[1:]}"
    cut = readable.encode("utf-8", "replace")[:_NAME_BYTES].decode("utf-8", "ignore")
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{cut}~{digest[:8]}"


def opened(jpeg: bytes, side_px: int, name: str) -> Image.Image:
    """A frame of the clip `name` as RGB, of about `side_px` or more where it has that many.

    It is read as JPEG and as nothing else; CacheError where it is none.
    """
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            picture.draft("RGB", (side_px, side_px))
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CacheError(
            f"the clip {name!r}: a frame's picture is no JPEG that can be read ({error}); run "
            "`python -m cache verify` on the cache"
        ) from None


def png(figure: Figure, dpi: int) -> bytes:
    """A figure as PNG; it is closed. A letter that the font lacks is drawn as a box."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=dpi)
    plt.close(figure)
    return buffer.getvalue()


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write figures as `<name>.png` and close them."""
    plain_folder(folder)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        replace_file(paths[-1], png(figure, dpi=110))
    return paths


def heat(weights: Array) -> npt.NDArray[np.uint8]:
    """Attention over the cells of a clip's frames, to lay over them: (F, √S, √S) → (…, 4) RGBA.

    One scale for all clips, by the square root: nothing where there is no more than even attention,
    all of the colour from HOTTEST times that on.
    """
    more = weights * weights[0].size - 1
    share = np.sqrt(np.clip(more / (HOTTEST - 1), 0, 1))
    alpha = (255 * _OPAQUE * share).astype(np.uint8)
    return np.concatenate([_BRIGHT[(255 * share).astype(np.uint8)], alpha[..., None]], axis=-1)


def against_even(weights: Array) -> Array:
    """Attention (Q, L) on one scale for all clips: half of even attention or less is 0, twice 1."""
    ratio = np.maximum(weights * weights.shape[1], 1e-9)
    return np.asarray(np.clip(np.log2(ratio) / 2 + 0.5, 0, 1))


def edged(width: float) -> list[path_effects.AbstractPathEffect]:
    """A white edge around a line or text, which is seen on any ground."""
    return [path_effects.withStroke(linewidth=width, foreground="white")]


def image_text(image: Image.Image, kind: str = "PNG", **how: Any) -> str:
    """An image as a data URL holds it, base64."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return base64_text(buffer.getvalue())


def base64_text(data: bytes) -> str:
    """Bytes as a data URL holds them."""
    return base64.b64encode(data).decode("ascii")


def palette(values: Array) -> str:
    """An image of values in [0, 1] (rows, columns) in the colours of the maps, base64 PNG."""
    image = Image.fromarray((values * 255).astype(np.uint8)).convert("P")
    image.putpalette(_MAGMA.tobytes())
    return image_text(image)
