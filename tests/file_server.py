"""A read-only HTTP server with range requests that misbehaves when told: file_server.py STATE PORT.

The fixture `http_server` runs it. It serves STATE/files, logs each request as a line of
STATE/requests.jsonl, and obeys STATE/how.json (see `HttpServer.behaving`).
"""

from __future__ import annotations

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
        how = _how(state / "how.json", obeyed) if request.method == "GET" else {}
        if "status" in how:
            return web.Response(status=how["status"])
        if "ignore_range" in how:
            return web.Response(body=path.read_bytes())
        if "cut_after" in how:
            return await _cut(request, path.read_bytes(), how["cut_after"])
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


def _entry(request: web.Request, response: web.StreamResponse) -> dict[str, Any]:
    size = int(response.headers.get("Content-Length", 0)) if request.method == "GET" else 0
    return {
        "method": request.method,
        "path": request.path,
        "range": request.headers.get("Range"),
        "status": response.status,
        "bytes": min(size, request.get("cut_after", size)),
    }


def _how(path: Path, obeyed: Counter[str]) -> dict[str, int]:
    """Give how to misbehave now, and count it; the file's "id" tells one order from the next."""
    try:
        order = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    obeyed[order["id"]] += 1
    how: dict[str, int] = order["how"]
    return how if obeyed[order["id"]] <= order["times"] else {}


if __name__ == "__main__":
    serve_files(Path(sys.argv[1]), int(sys.argv[2]))
