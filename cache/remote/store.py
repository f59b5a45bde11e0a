"""A cache at the other end of an fsspec URL: a mounted drive, ssh, http, an object store.

Files appear there whole or not at all. Where the other end can rename, a file is written under a
temporary name, read back, and renamed; object stores show a file only when its upload has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec

from cache.common.atomic import plain_folder, replacing, writing
from cache.common.cli import say
from cache.common.errors import CacheError
from cache.common.plain import open_plain
from cache.common.progress import counted
from cache.common.url import LOCAL, SSH, WEB, Address, parse_address, shown
from cache.format.index import is_shard_name
from cache.format.rows import Range
from cache.format.schema import SHARD_FOLDER
from cache.format.shard import shard_name
from cache.remote.connection import Interrupted, connection_options, explained
from cache.remote.leftovers import is_leftover, temporary_name
from cache.remote.web import UNDECLARED_BYTES, WebFile, WebRules, client_options, web_ranges

BLOCK_BYTES = 1 << 20
OnBytes = Callable[[int], object]
T = TypeVar("T")
_RENAMING = LOCAL | SSH | {"smb", "memory"}
_SEEKING = LOCAL | SSH | {"memory"}


class Remote:
    """The folder at a URL. Every error is a CacheError that names the URL and says what to do."""

    def __init__(self, url: str, rules: WebRules = WebRules()) -> None:  # noqa: B008 - frozen
        address = parse_address(url)
        self.url, self._rules, self._query = address.shown, rules, address.query
        with explained(self.url):
            self._fs, self._root = _file_system(address, rules)
        self._shown_root = shown(self._root) if address.protocol in WEB else self.url
        named = self._fs.protocol
        self._protocols = {named} if isinstance(named, str) else set(named)

    def where(self, name: str) -> str:
        """A file's URL, for messages."""
        return f"{self._shown_root}/{name}"

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, nor folders listed."""
        return bool(self._protocols & WEB)

    @property
    def folder(self) -> Path | None:
        """The folder itself, where it is on this machine or mounted."""
        return Path(self._root) if self._protocols & LOCAL else None

    def read(self, name: str, limit_bytes: int) -> bytes | None:
        """A small file's bytes, or None where there is none."""
        with explained(self.where(name)):
            try:
                return self._read(name, limit_bytes)
            except FileNotFoundError:
                return None

    def _read(self, name: str, limit_bytes: int) -> bytes:
        if not self._protocols & (_SEEKING | WEB):
            # One request: an object may be replaced between two.
            data: bytes = self._fs.cat_file(self._path(name), start=0, end=limit_bytes + 1)
            self._check_size(name, len(data), limit_bytes)
            return data
        found = bytearray()
        with self._open(name) as file:
            if isinstance(file, WebFile):
                self._check_size(name, file.size or 0, limit_bytes)
                limit_bytes = min(limit_bytes, file.size or UNDECLARED_BYTES)
            while block := file.read(BLOCK_BYTES):
                found += block
                self._check_size(name, len(found), limit_bytes)
        return bytes(found)

    def _check_size(self, name: str, size: int, limit_bytes: int) -> None:
        if size > limit_bytes:
            raise CacheError(f"{self.where(name)}: larger than {limit_bytes:,} bytes; refused")

    def shards(self) -> dict[str, int] | None:
        """Name and size of every shard there; None where folders can't be listed (http)."""
        if self.read_only:
            return None
        with explained(self.where(SHARD_FOLDER)):
            found = self._list(SHARD_FOLDER)
        sizes = {_last(entry): int(entry["size"] or 0) for entry in found}
        return {name: sizes[name] for name in sorted(sizes) if is_shard_name(name)}

    def remove_leftovers(self) -> None:
        """Delete what pushes that were killed left half-written, as far as that is certain."""
        if not self._protocols & _RENAMING:
            return
        for place in ("", SHARD_FOLDER):
            with contextlib.suppress(CacheError), explained(self.where(place)):
                for entry in self._list(place):
                    if is_leftover(_last(entry), entry.get("mtime")):
                        with contextlib.suppress(OSError):  # another user's
                            self._fs.rm_file(entry["name"])

    def refuse_link(self) -> None:
        """Raise CacheError where the folder of shards is a link, as far as that can be seen."""
        if not self._protocols & (LOCAL | SSH):
            return
        with explained(self.url):
            for entry in self._list(""):
                linked = entry.get("islink") or entry["type"] == "link"
                if linked and _last(entry) == SHARD_FOLDER:
                    raise CacheError(
                        f"{self.where(SHARD_FOLDER)}: a link, expected a folder; refused: it may "
                        "lead anywhere"
                    )

    def get_shard(self, name: str, size: int, folder: Path, on_bytes: OnBytes) -> None:
        """Copy a whole shard into a cache folder; there only once its bytes proved its name."""
        self._again(f"{SHARD_FOLDER}/{name}", lambda: self._get(name, size, folder, on_bytes))

    def _get(self, name: str, size: int, folder: Path, on_bytes: OnBytes) -> None:
        target, where = folder / SHARD_FOLDER / name, self.where(f"{SHARD_FOLDER}/{name}")
        digest, count = hashlib.sha256(), 0
        plain_folder(target.parent)
        with replacing(target) as file, explained(where), counted(on_bytes) as add:
            for block in self._blocks(f"{SHARD_FOLDER}/{name}", size):
                digest.update(block)
                count += len(block)
                with writing(target):
                    file.write(block)
                add(len(block))
            if count != size or shard_name(digest.hexdigest()) != name:
                raise CacheError(
                    f"{where}: arrived with {count:,} bytes that don't match its name (expected "
                    f"{size:,}): it is damaged there, or was changed on the way; have its owner "
                    "run `python -m cache verify`. What else arrived is kept"
                )

    def ranges(self, shard: str, spans: Sequence[Range]) -> Sequence[bytes]:
        """Parts of a shard, [start, stop) each."""
        place = f"{SHARD_FOLDER}/{shard}"
        parts = self._again(place, lambda: self._fetch(place, spans))
        for part, (start, stop) in zip(parts, spans, strict=True):
            if len(part) != stop - start:
                raise CacheError(
                    f"{self.where(place)}: asked for bytes {start} to {stop}, got {len(part)}: the "
                    "file is shorter than its index says, or the server ignores ranges; pull the "
                    "whole cache instead (without --only and --ids)"
                )
        return parts

    def _fetch(self, place: str, spans: Sequence[Range]) -> Sequence[bytes]:
        path = self._path(place)
        with explained(self.where(place)):
            if self._protocols & _SEEKING:
                with self._open_seeking(place) as file:
                    return [_read_span(file, *span) for span in spans]
            if self.read_only:
                return web_ranges(self._fs, path, spans, self._rules)
            starts, stops = [start for start, _ in spans], [stop for _, stop in spans]
            found: list[bytes] = self._fs.cat_ranges(
                [path] * len(spans), starts, stops, on_error="raise"
            )
            return found

    def put(self, name: str, data: bytes, on_bytes: OnBytes, read_back: bool = True) -> None:
        """Write a file there: whole or not at all, and read back before it gets its name.

        Object stores show a file at once; there only shards are read back, which nobody replaces.
        """
        with explained(self.where(name)), counted(on_bytes) as add:
            if self.folder:
                self._put_here(self.folder / name, data, add, read_back)
                return
            if self._protocols & _RENAMING:
                self._put_renaming(name, data, add, read_back)
                return
            self._fs.pipe_file(self._path(name), data)
            self._fs.invalidate_cache()
            if read_back and name.startswith(SHARD_FOLDER) and not self._holds(name, data):
                self._fs.rm_file(self._path(name))
                raise self._damaged(name)
            add(len(data))

    def _put_here(self, path: Path, data: bytes, add: OnBytes, read_back: bool) -> None:
        assert self.folder
        plain_folder(self.folder / SHARD_FOLDER)
        with replacing(path, temporary_name(path.name)) as file:
            for begin in range(0, len(data), BLOCK_BYTES):
                add(file.write(data[begin : begin + BLOCK_BYTES]))
            file.flush()
            temporary = str(Path(file.name).relative_to(self.folder))
            if read_back and not self._holds(temporary, data):
                raise self._damaged(str(path.relative_to(self.folder)))

    def _put_renaming(self, name: str, data: bytes, add: OnBytes, read_back: bool) -> None:
        folder, _, last = name.rpartition("/")
        temporary = f"{folder}/{temporary_name(last)}".lstrip("/")
        path = self._path(temporary)
        self._fs.makedirs(self._path(folder).rstrip("/"), exist_ok=True)
        try:
            with self._fs.open(path, "wb") as file:
                for begin in range(0, len(data), BLOCK_BYTES):
                    block = data[begin : begin + BLOCK_BYTES]
                    file.write(block)
                    add(len(block))
            if read_back and not self._holds(temporary, data):
                raise self._damaged(name)
            self._fs.mv(path, self._path(name))
        except BaseException:
            with contextlib.suppress(Exception):
                self._fs.rm_file(path)
            raise

    def _damaged(self, name: str) -> CacheError:
        return CacheError(f"{self.where(name)}: arrived damaged and was removed; push again")

    def _holds(self, name: str, data: bytes) -> bool:
        view, done = memoryview(data), 0
        for block in self._blocks(name, len(data)):
            if view[done : done + len(block)] != block:
                return False
            done += len(block)
        return done == len(data)

    def _again(self, place: str, task: Callable[[], T]) -> T:
        """Try a second time what a connection that was cut spoiled."""
        try:
            return task()
        except Interrupted:
            if self._protocols & SSH:  # its one connection is gone for all that runs here
                raise
            note = f"note      {self.where(place)}: the connection was cut; trying once more"
            say(note, error=True)
            return task()

    def _blocks(self, name: str, size: int) -> Iterator[bytes]:
        """A file's bytes in blocks; stops one block after `size`, whatever the server sends."""
        done = 0
        with self._open(name) as file:
            while done <= size and (block := file.read(BLOCK_BYTES)):
                done += len(block)
                yield block

    def _list(self, folder: str) -> list[dict[str, Any]]:
        self._fs.invalidate_cache()
        try:
            found: list[dict[str, Any]] = self._fs.ls(
                self._path(folder).rstrip("/") or "/", detail=True
            )
        except FileNotFoundError:
            return []
        return found

    def _open(self, name: str) -> IO[bytes] | WebFile:
        if self.read_only:
            return WebFile(self._fs, self._path(name), self._rules)
        return self._open_seeking(name)

    def _open_seeking(self, name: str) -> IO[bytes]:
        if self.folder:
            return os.fdopen(open_plain(self.folder / name), "rb")
        opened: IO[bytes] = self._fs.open(self._path(name), "rb")
        return opened

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}{self._query}"


def _file_system(address: Address, rules: WebRules) -> tuple[Any, str]:
    """What fsspec has for an address, and what comes before the names of files there."""
    kind = fsspec.get_filesystem_class(address.protocol)
    if address.protocol in WEB:
        options = {"client_kwargs": client_options(rules), "skip_instance_cache": True}
        return kind(**options), str(address.root)
    at = address.url
    if address.protocol in SSH and address.root:
        at = at[: -len(address.root)]  # a "?" or "#" in it is one of the path
    options = {} if address.protocol in LOCAL else kind._get_kwargs_from_urls(at)
    root = address.root if address.root is not None else kind._strip_protocol(address.url)
    return kind(**options, **connection_options(address.protocol)), root.rstrip("/")


def _read_span(file: IO[bytes], start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def _last(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]
