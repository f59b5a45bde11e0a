"""A cache at the other end of an fsspec URL: a mounted drive, ssh, http, an object store.

Files appear there whole or not at all. Where the other end can rename, a file is written under a
temporary name, read back, and renamed; object stores show a file only when its upload has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec

from cache.atomic import publish, unfinished, writing
from cache.errors import CacheError
from cache.index import is_shard_name
from cache.plain import open_plain
from cache.remote_errors import Interrupted, explained
from cache.remote_names import is_leftover, temporary_name
from cache.remote_options import SSH, WEB, connection_options
from cache.remote_ranges import cut, joined_ranges, web_ranges
from cache.rows import Range
from cache.schema import SHARD_FOLDER

BLOCK_BYTES = 1 << 20
OnBytes = Callable[[int], object]
T = TypeVar("T")
_LOCAL = {"file", "local"}
_RENAMING = _LOCAL | SSH | {"smb", "memory"}
_SEEKING = _LOCAL | SSH | {"memory"}
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")


class Remote:
    """The folder at a URL. Every error is a CacheError that names the URL and says what to do."""

    def __init__(self, url: str) -> None:
        url = url.rstrip("/") or url
        self.url = _PASSWORD.sub(r"\1:***@", url)  # it is shown
        with explained(self.url):
            self._fs, root = fsspec.core.url_to_fs(url, **connection_options(url))
        self._root = root.rstrip("/")
        named = self._fs.protocol
        self._protocols = {named} if isinstance(named, str) else set(named)

    def where(self, name: str) -> str:
        """A file's URL, for messages."""
        return f"{self.url}/{name}"

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there, nor folders listed."""
        return bool(self._protocols & WEB)

    @property
    def folder(self) -> Path | None:
        """The folder itself, where it is on this machine or mounted."""
        return Path(self._root) if self._protocols & _LOCAL else None

    def read(self, name: str, limit_bytes: int) -> bytes | None:
        """A small file's bytes, or None where there is none."""
        with explained(self.where(name)):
            try:
                data = self._read(name, limit_bytes + 1)
            except FileNotFoundError:
                return None
        if len(data) > limit_bytes:
            raise CacheError(f"{self.where(name)}: larger than {limit_bytes:,} bytes; refused")
        return data

    def _read(self, name: str, most: int) -> bytes:
        if self._protocols & (_SEEKING | WEB):
            return b"".join(self._blocks(name, most - 1))
        # One request: an object may be replaced between two.
        data: bytes = self._fs.cat_file(self._path(name), start=0, end=most)
        return data

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
                        self._fs.rm_file(entry["name"])

    def get_shard(self, name: str, size: int, folder: Path, on_bytes: OnBytes) -> None:
        """Copy a whole shard into a cache folder; there only once its bytes proved its name."""
        self._again(f"{SHARD_FOLDER}/{name}", lambda: self._get(name, size, folder, on_bytes))

    def _get(self, name: str, size: int, folder: Path, on_bytes: OnBytes) -> None:
        target, where = folder / SHARD_FOLDER / name, self.where(f"{SHARD_FOLDER}/{name}")
        digest, count = hashlib.sha256(), 0
        with explained(where), writing_into(target) as temporary, counted(on_bytes) as add:
            with temporary.open("wb") as file:
                for block in self._blocks(f"{SHARD_FOLDER}/{name}", size):
                    digest.update(block)
                    count += len(block)
                    with writing(target):
                        file.write(block)
                    add(len(block))
            if count != size or f"{digest.hexdigest()[:32]}.h5" != name:
                raise CacheError(
                    f"{where}: arrived with {count:,} bytes that don't match its name (expected "
                    f"{size:,}): it is damaged there, or was changed on the way; have its owner "
                    "run `python -m cache verify`. What else arrived is kept"
                )
            with writing(target):
                publish(temporary, target)

    def ranges(self, name: str, wanted: Sequence[Range]) -> list[bytes]:
        """Parts of a shard, [start, stop) each; neighbours travel together."""
        place = f"{SHARD_FOLDER}/{name}"
        spans = joined_ranges(wanted)
        parts = self._again(place, lambda: self._fetch(place, spans))
        for part, (start, stop) in zip(parts, spans, strict=True):
            if len(part) != stop - start:
                raise CacheError(
                    f"{self.where(place)}: asked for bytes {start} to {stop}, got {len(part)}: the "
                    "file is shorter than its index says, or the server ignores ranges; pull the "
                    "whole cache instead (without --only and --ids)"
                )
        return cut(wanted, spans, parts)

    def _fetch(self, place: str, spans: Sequence[Range]) -> Sequence[bytes]:
        path = self._path(place)
        with explained(self.where(place)):
            if self._protocols & _SEEKING:
                with self._open(place) as file:
                    return [_read_at(file, *span) for span in spans]
            if self.read_only:
                return web_ranges(self._fs, path, spans)
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
            if self._protocols & _RENAMING:
                self._put_renaming(name, data, add, read_back)
                return
            self._fs.pipe_file(self._path(name), data)
            self._fs.invalidate_cache()
            if read_back and name.startswith(SHARD_FOLDER) and not self._holds(name, data):
                self._fs.rm_file(self._path(name))
                raise self._damaged(name)
            add(len(data))

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
            if self.folder:
                publish(Path(path), self.folder / name)  # flushed to the disk before
            else:
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
            print(note, file=sys.stderr)
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
            found: list[dict[str, Any]] = self._fs.ls(self._path(folder).rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        return found

    def _open(self, name: str) -> IO[bytes]:
        if self.folder:
            return os.fdopen(open_plain(self.folder / name), "rb")
        # One request for all of a web file, which servers without ranges understand as well;
        # a size saves asking for it.
        streamed = {"block_size": 0, "size": 1} if self.read_only else {}
        opened: IO[bytes] = self._fs.open(self._path(name), "rb", **streamed)
        return opened

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextlib.contextmanager
def writing_into(target: Path) -> Iterator[Path]:
    """A temporary file for `target`; a folder that can't be written is told as such."""
    with contextlib.ExitStack() as stack:
        with writing(target):
            temporary = stack.enter_context(unfinished(target))
        yield temporary


@contextlib.contextmanager
def counted(on_bytes: OnBytes) -> Iterator[OnBytes]:
    """Count bytes towards a whole; takes them back when it fails, so that the sum stays true."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        on_bytes(count)

    try:
        yield add
    except BaseException:
        on_bytes(-done)
        raise


def _read_at(file: IO[bytes], start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def _last(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rpartition("/")[2]
