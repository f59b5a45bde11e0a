"""Weights as safetensors: tensors behind a header of JSON, in which nothing can be run.

The format: https://huggingface.co/docs/safetensors. A file may come from a stranger: its header is
compared with the bytes that it has before any array is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from cache.common.atomic import replace_file
from cache.common.errors import AvelError, CacheError
from cache.common.plain import read_plain
from cache.common.settings import Settings
from cache.common.strict_json import loads
from cache.common.torch_file import MAX_FILE_BYTES

Array = npt.NDArray[np.float32]
_COUNT = 8  # bytes of the header's length
_MAX_HEADER_BYTES = 1 << 24
_PARTS_OF_64 = 24  # a header's entry has 13 parts in some 80 bytes
_Whole = Annotated[int, Field(ge=0, le=MAX_FILE_BYTES, strict=True)]


class _Entry(Settings):
    """A tensor in the header."""

    dtype: Literal["F32"]
    shape: list[_Whole] = Field(max_length=16)
    data_offsets: tuple[_Whole, _Whole]


def write_safetensors(
    path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]
) -> None:
    """Write float32 arrays and texts, whole or not at all."""
    from safetensors.numpy import save

    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    replace_file(path, save(whole, dict(metadata)))


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, and the texts in its header.

    Raises CacheError for links, for anything but float32, and unless the arrays fill the file, each
    byte once; FileNotFoundError and other errors of the system pass.
    """
    data = read_plain(path, MAX_FILE_BYTES)
    try:
        return _read(data)
    except (AvelError, ValueError, TypeError) as error:
        told = str(error).strip().splitlines()[0][:200]
        raise CacheError(f"{path}: not a safetensors file of float32 weights ({told})") from None


def _read(data: bytes) -> tuple[dict[str, Array], dict[str, str]]:
    length = int.from_bytes(data[:_COUNT], "little")
    if len(data) < _COUNT or not 0 < length <= min(_MAX_HEADER_BYTES, len(data) - _COUNT):
        raise ValueError(f"its header claims {length:,} bytes of {len(data):,}")
    header = loads(data[_COUNT : _COUNT + length], _PARTS_OF_64)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    texts = header.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(one, str) for one in texts.values()):
        raise ValueError("the metadata in its header is no object of texts")
    body = memoryview(data)[_COUNT + length :]
    entries = {name: _Entry.parse(entry, name[:80]) for name, entry in header.items()}
    _check_places(entries, len(body))
    arrays = {name: _array(entry, body) for name, entry in entries.items()}
    return arrays, texts


def _check_places(entries: Mapping[str, _Entry], size: int) -> None:
    """Raise ValueError unless the arrays stand one behind another, from the first byte to the last.

    So what they claim together is what the file has.
    """
    at = 0
    for name, entry in sorted(entries.items(), key=lambda pair: pair[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != at or end - begin != 4 * math.prod(entry.shape):
            raise ValueError(f"{name[:80]} claims other bytes than its shape {entry.shape} has")
        at = end
    if at != size:
        raise ValueError(f"its arrays have {at:,} bytes, the file has {size:,}")


def _array(entry: _Entry, body: memoryview) -> Array:
    begin, end = entry.data_offsets
    values: Any = np.frombuffer(body[begin:end], "<f4").reshape(entry.shape)
    return np.array(values, np.float32)
