"""Files on a web server: asked for once, and neither waited for nor read without end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync

import cache.remote.connection
from cache.common.errors import CacheError
from cache.common.url import shown
from cache.format.rows import Range

if TYPE_CHECKING:
    from aiohttp import ClientResponse
    from yarl import URL

WINDOW_S = 60.0  # over which a server's rate is taken
UNDECLARED_BYTES = 32 << 20  # read of a file whose size the server doesn't say
_REQUESTS = 8  # at a time, for one shard
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class WebRules:
    """What a web server may do.

    min_rate: bytes a second; one that sends fewer over a minute is given up. redirects: whether it
    may send us on to other hosts.
    """

    min_rate: int = 1000
    redirects: bool = False


def client_options(rules: WebRules) -> dict[str, Any]:
    """What aiohttp is told, for every request."""
    from aiohttp import ClientTimeout, TraceConfig
    from yarl import URL

    async def redirected(session: object, context: object, params: Any) -> None:
        answer = params.response
        to = answer.headers.get("Location") or answer.headers.get("URI") or ""
        check_redirect(answer.url, answer.url.join(URL(to)), rules.redirects)

    tracing = TraceConfig()
    tracing.on_request_redirect.append(redirected)
    wait_s = cache.remote.connection.WAIT_S
    return {
        "timeout": ClientTimeout(total=None, sock_connect=wait_s / 2, sock_read=wait_s),
        # What was packed small would be as large as it likes.
        "headers": {"Accept-Encoding": "identity"},
        "auto_decompress": False,
        "trace_configs": [tracing],
    }


def check_redirect(at: URL, to: URL, others: bool) -> None:
    """Raise CacheError for a redirect to another host, unless that is allowed, or off https."""
    where = f"{shown(str(at))}: redirects to {shown(str(to))}"
    if at.scheme == "https" and to.scheme != "https":
        raise CacheError(f"{where}, which anyone on the way can read and change; refused")
    safer = (at.scheme, to.scheme) == ("http", "https")
    if not others and (to.host != at.host or (to.port != at.port and not safer)):
        raise CacheError(
            f"{where}, another host; refused. If you trust both, --allow-redirects follows it, or "
            "name the other address yourself"
        )


class RateFloor:
    """Counts what arrives, and gives up on a server that drips."""

    def __init__(self, url: str, rules: WebRules) -> None:
        self._url, self._least = url, rules.min_rate
        self._last, self._waited_s, self._bytes = time.monotonic(), 0.0, 0

    def wait(self) -> None:
        """Begin to wait: time that was spent otherwise is not the server's."""
        self._last = time.monotonic()

    def add(self, count: int) -> None:
        """Count bytes; raises CacheError where too few came over the last minute."""
        now = time.monotonic()
        self._waited_s, self._last = self._waited_s + now - self._last, now
        self._bytes += count
        if self._waited_s < WINDOW_S:
            return
        if self._bytes < self._least * self._waited_s:
            raise CacheError(
                f"{shown(self._url)}: {self._bytes:,} bytes in {self._waited_s:.0f} s, fewer than "
                f"{self._least:,} a second: given up. What was moved before is kept; --jobs 1 "
                "leaves a slow line to one file at a time, --min-rate 0 waits however slow it is"
            )
        self._waited_s, self._bytes = 0.0, 0


class WebFile:
    """A file on a web server, read once from its beginning to its end; a context manager.

    size: as the server declares it; None where it doesn't. Raises FileNotFoundError.
    """

    def __init__(self, fs: Any, url: str, rules: WebRules) -> None:
        self._loop, self._rate = fs.loop, RateFloor(url, rules)
        self._answer: ClientResponse = sync(fs.loop, _ask, fs, url, {})
        self.size = self._answer.content_length

    def __enter__(self) -> WebFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._answer.close)

    def read(self, count: int) -> bytes:
        """Some bytes, at most `count`; none at the end."""
        self._rate.wait()
        block: bytes = sync(self._loop, self._answer.content.read, count)
        if block:
            self._rate.add(len(block))
        return block


def web_ranges(fs: Any, url: str, spans: Sequence[Range], rules: WebRules) -> list[bytes]:
    """Ranges of a file on a web server; empty where it sent something else than was asked for."""
    found: list[bytes] = sync(fs.loop, _web_ranges, fs, url, spans, RateFloor(url, rules))
    return found


async def _web_ranges(fs: Any, url: str, spans: Sequence[Range], rate: RateFloor) -> list[bytes]:
    free = asyncio.Semaphore(_REQUESTS)

    async def fetch(start: int, stop: int) -> bytes:
        data = bytearray()
        async with free, await _ask(fs, url, {"Range": f"bytes={start}-{stop - 1}"}) as answer:
            # Else it is the whole file (200), beyond the file's end (416), or another part.
            given = answer.headers.get("Content-Range", "").strip().lower()
            if answer.status == 206 and given.startswith(f"bytes {start}-"):
                async for block in answer.content.iter_chunked(_BLOCK_BYTES):
                    rate.add(len(block))
                    data += block
                    if len(data) > stop - start:
                        break
        return bytes(data)

    rate.wait()
    tasks = [asyncio.ensure_future(fetch(*span)) for span in spans]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _ask(fs: Any, url: str, headers: dict[str, str]) -> ClientResponse:
    """The answer to a request, once its head is there, which must not drip either."""
    session = await fs.set_session()
    async with asyncio.timeout(cache.remote.connection.WAIT_S):
        answer: ClientResponse = await session.get(fs.encode_url(url), headers=headers)
    try:
        if answer.status == 404:
            raise FileNotFoundError(shown(url))
        if answer.status != 416:
            answer.raise_for_status()
        packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in ("", "identity"):
            raise CacheError(
                f"{shown(url)}: the server sends it packed ({packed}), which was not asked for: it "
                "may unpack to any size; refused. Have its owner serve the files as they are"
            )
    except BaseException:
        answer.close()
        raise
    return answer
