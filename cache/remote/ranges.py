"""Byte ranges of a file far away: joined where that saves requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from cache.format.rows import Range

GAP_BYTES = 1 << 16  # what lies between is cheaper to fetch than to ask once more


def joined_ranges(wanted: Sequence[Range]) -> list[Range]:
    """Ranges that cover `wanted`, joined where little lies between."""
    found: list[Range] = []
    for start, stop in sorted(wanted):
        if found and start - found[-1][1] <= GAP_BYTES:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        elif stop > start:
            found.append((start, stop))
    return found


def cut(wanted: Sequence[Range], spans: Sequence[Range], parts: Sequence[bytes]) -> list[bytes]:
    """The wanted ranges out of the `parts` that `spans` gave."""
    found = []
    for start, stop in wanted:
        data = b""
        for (begin, end), part in zip(spans, parts, strict=True):
            if begin <= start and stop <= end:
                data = part[start - begin : stop - begin]
                break
        found.append(data)
    return found


def read_spans(file: IO[bytes], spans: Sequence[Range]) -> list[bytes]:
    """The bytes of each span of a file that can seek."""
    found = []
    for start, stop in spans:
        file.seek(start)
        found.append(file.read(stop - start))
    return found
