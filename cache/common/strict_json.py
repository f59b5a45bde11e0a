"""JSON from strangers: finite numbers, plain texts, bounded in size and depth."""

from __future__ import annotations

import json
import math
import re
from itertools import islice
from pathlib import Path
from typing import Any

from cache.common.errors import AvelError, ConfigError

MAX_JSON_BYTES = 1 << 24
"""Of a file that is read whole: JSON takes up to some twenty times its size in memory."""
_MAX_DEPTH = 32
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def read_json(path: Path, advice: str = "restore it from a copy, or make it anew") -> Any:
    """The content of a JSON file; ConfigError where it is none, or no plain file, or too large.

    `advice` ends the sentence: what to do about it.
    """
    from cache.common.plain import (
        read_plain,  # h5py comes with it, which a help text can do without
    )

    try:
        data = read_plain(path, MAX_JSON_BYTES)
    except AvelError as error:
        raise ConfigError(f"{error}; {advice}") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); {advice}") from None
    return parse_json(data, str(path), advice)


def parse_json(text: bytes | str, where: str, advice: str) -> Any:
    """The value of a JSON text, see `loads`; else ConfigError, which `advice` ends."""
    try:
        return loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: this is not JSON ({error}); {advice}") from None


def loads(text: bytes | str, parts_of_64: int = 12) -> Any:
    """The value of a JSON text; ValueError for what no program of ours writes.

    That is NaN, infinity, numbers beyond float64 or int64, NUL and halves of characters in texts,
    depth beyond 32, and what would take many times its own size in memory: a list of empty lists
    takes thirty times its text, so the parts are counted first (without those in texts, as an id
    may be made of commas): at most `parts_of_64` in 64 bytes.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    parts = _parts(data)
    if _too_many(parts, data, parts_of_64):
        parts -= _parts_in_texts(data)
    if _too_many(parts, data, parts_of_64):
        raise ValueError(f"{len(data):,} bytes of JSON in {parts:,} parts, more than texts have")
    try:
        value = json.loads(data, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
        _check(value, 0)
    except RecursionError:
        raise ValueError("too deep") from None
    return value


def _parts(data: bytes) -> int:
    return sum(map(data.count, (b",", b":", b"[", b"{")))


def _parts_in_texts(data: bytes) -> int:
    texts, parts = (text[0] for text in _TEXT.finditer(data)), 0
    while some := b"".join(islice(texts, 4096)):  # counted together: there may be millions
        parts += _parts(some)
    return parts


def _too_many(parts: int, data: bytes, of_64: int) -> bool:
    return 64 * parts > of_64 * len(data) + (1 << 14)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text[:40])


def _whole(text: str) -> int:
    value = int(text) if len(text) <= 20 else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{text[:40]} is beyond 64 bits")
    return value


def _check(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        for name, part in value.items():
            _check(name, depth)
            _check(part, depth + 1)
    elif isinstance(value, list):
        for part in value:
            _check(part, depth + 1)
    elif isinstance(value, str):
        value.encode()
        if "\0" in value:
            raise ValueError("a text holds NUL")
