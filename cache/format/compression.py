"""One row of a compressed pack: HDF5's shuffle and deflate, done by ourselves."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.format.fields import Field

Array = npt.NDArray[Any]


def deflate(row: Array) -> bytes:
    """One row compressed as HDF5's shuffle and deflate filters store it.

    The bytes of equal significance are put side by side, then coded by Huffman alone: on these
    features the search for repetitions costs time and even size (docs/sharing.md has the table).
    """
    planes = np.frombuffer(row.tobytes(), np.uint8).reshape(-1, row.itemsize).T
    coder = zlib.compressobj(
        6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_HUFFMAN_ONLY
    )
    return coder.compress(planes.tobytes()) + coder.flush()


def inflate(data: bytes, spec: Field) -> bytes:
    """The bytes of one row; never more than a row, whatever a stranger's file claims.

    HDF5's own filter grows its memory for as long as the stream goes on.
    """
    size, width = spec.bytes_per_clip, np.dtype(spec.dtype).itemsize
    decoder = zlib.decompressobj()
    try:
        found = decoder.decompress(data, size + 1)
    except zlib.error as error:
        raise CacheError(f"{spec.name}: a compressed row is damaged ({error})") from None
    if len(found) != size or not decoder.eof:
        raise CacheError(f"{spec.name}: a compressed row doesn't give {size:,} bytes; refused")
    out = np.empty((size // width, width), np.uint8)
    for place, plane in enumerate(np.frombuffer(found, np.uint8).reshape(width, -1)):
        out[:, place] = plane  # plane by plane: eight times faster than by the transpose
    return out.tobytes()
