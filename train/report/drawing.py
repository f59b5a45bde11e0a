"""What all pictures share: colours, names and frames from strangers' data, figures as PNG."""

from __future__ import annotations

import hashlib
import io
import re
import warnings

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from cache import CacheError
from cache.common.cli import printable

# Okabe and Ito's colours: told apart with every common colour blindness.
TRUE, PREDICTED, GREY = "#0072B2", "#E69F00", "#777777"
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
