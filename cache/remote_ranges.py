"""Byte ranges of a file far away: joined where that saves requests, fetched side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fsspec.asyn import sync

from cache.rows import Range

GAP_BYTES = 1 << 16  # what lies between is cheaper to fetch than to ask once more
_REQUESTS = 8  # at a time, for one shard
_BLOCK_BYTES = 1 << 20


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


def web_ranges(fs: Any, url: str, spans: Sequence[Range]) -> list[bytes]:
    """Ranges of a file on a web server. fsspec's own would read an answer of any length."""
    found: list[bytes] = sync(fs.loop, _web_ranges, fs, url, spans)
    return found


async def _web_ranges(fs: Any, url: str, spans: Sequence[Range]) -> list[bytes]:
    session = await fs.set_session()
    free = asyncio.Semaphore(_REQUESTS)

    async def fetch(start: int, stop: int) -> bytes:
        headers = {**fs.kwargs.get("headers", {}), "Range": f"bytes={start}-{stop - 1}"}
        options = {**fs.kwargs, "headers": headers}
        data = bytearray()
        async with free, session.get(fs.encode_url(url), **options) as answer:
            if answer.status != 416:  # the file ends before the range begins
                answer.raise_for_status()
            if answer.status != 206:
                return b""  # the whole file, or an error page: not what was asked for
            async for block in answer.content.iter_chunked(_BLOCK_BYTES):
                data += block
                if len(data) > stop - start:
                    break
        return bytes(data)

    tasks = [asyncio.ensure_future(fetch(*span)) for span in spans]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
