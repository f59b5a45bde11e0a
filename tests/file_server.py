"""A read-only HTTP server with range requests that misbehaves when told: file_server.py STATE PORT.

The fixture `http_server` runs it. It serves STATE/files, logs each request as a line of
STATE/requests.jsonl, and obeys STATE/how.json (see `HttpServer.behaving`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

HOST = "127.0.0.1"


def serve_files(state: Path, port: int) -> None:
    """Serve until killed."""
    files = (state / "files").resolve()
    obeyed: Counter[str] = Counter()

    async def log(request: web.Request, response: web.StreamResponse) -> None:
        with (state / "requests.jsonl").open("a") as out:
            out.write(json.dumps(_entry(request, response)) + "\n")

    async def answer(request: web.Request) -> web.StreamResponse:
        path = (files / request.path.lstrip("/")).resolve()
        if not path.is_relative_to(files) or not path.is_file():
            raise web.HTTPNotFound
        how = _how(state / "how.json", obeyed, request.path) if request.method == "GET" else {}
        if "status" in how:
            return web.Response(status=int(how["status"]))
        if "redirect" in how:
            raise web.HTTPFound(str(how["redirect"]) + request.path_qs)
        if "wrong_range" in how:
            return _wrong_range(path.read_bytes())
        if "endless" in how or "drip" in how:
            return await _endless(request, how)
        if "ignore_range" in how:
            return web.Response(body=path.read_bytes())
        if "cut_after" in how:
            return await _cut(request, path.read_bytes(), int(how["cut_after"]))
        return web.FileResponse(path)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)  # and HEAD
    app.on_response_prepare.append(log)
    web.run_app(app, host=HOST, port=port, print=None, access_log=None)


async def _cut(request: web.Request, content: bytes, size: int) -> web.StreamResponse:
    """Promise all that was asked for, send `size` bytes of it and hang up."""
    request["cut_after"] = size
    response = web.StreamResponse()
    start, stop, _ = request.http_range.indices(len(content))
    if "Range" in request.headers:
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    response.content_length = stop - start
    await response.prepare(request)
    await response.write(content[start : min(stop, start + size)])
    assert request.transport is not None
    request.transport.close()
    return response


def _wrong_range(content: bytes) -> web.Response:
    """The beginning, as long as anybody asked for, whatever part that was."""
    headers = {"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}"}
    return web.Response(body=content, status=206, headers=headers)


async def _endless(request: web.Request, how: dict[str, Any]) -> web.StreamResponse:
    """Send until the other end hangs up: as fast as it goes, or a byte now and then.

    Says how long it is if told to (`says`), that it is packed if told to (`packed`). A range that
    was asked for begins as one, and only ends where it drips.
    """
    response, left = web.StreamResponse(), 1 << 60
    if "Range" in request.headers:
        first, last = map(int, request.headers["Range"].removeprefix("bytes=").split("-"))
        response.set_status(206)
        response.headers["Content-Range"] = f"bytes {first}-{last}/{1 << 60}"
        left = last + 1 - first if "drip" in how else left
    if "says" in how:
        response.content_length = how["says"]
    if "packed" in how:
        response.headers["Content-Encoding"] = "gzip"
    await response.prepare(request)
    block = b"x" if "drip" in how else bytes(1 << 20)
    with contextlib.suppress(ConnectionError):
        while left > 0:
            await response.write(block)
            left -= len(block)
            await asyncio.sleep(0.02 if "drip" in how else 0)
    return response


def _entry(request: web.Request, response: web.StreamResponse) -> dict[str, Any]:
    size = int(response.headers.get("Content-Length", 0)) if request.method == "GET" else 0
    return {
        "method": request.method,
        "path": request.path,
        "range": request.headers.get("Range"),
        "status": response.status,
        "bytes": min(size, request.get("cut_after", size)),
    }


def _how(path: Path, obeyed: Counter[str], asked: str) -> dict[str, Any]:
    """Give how to misbehave now, and count it; the file's "id" tells one order from the next."""
    try:
        order = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    if not asked.endswith(order["only"]):
        return {}
    how: dict[str, Any] = order["how"]
    counted = order["id"] + (asked if "each_path" in how else "")
    obeyed[counted] += 1
    return how if obeyed[counted] <= order["times"] else {}


if __name__ == "__main__":
    serve_files(Path(sys.argv[1]), int(sys.argv[2]))
