"""The cache at a URL as a `Cache`: its identity, labels and index are fetched, its rows stay there.

The index at the other end is what counts: it is written last, so it names only what has arrived.
Shards that it lacks although they are there (of another push under way, or a cut one) are noticed
where folders can be listed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.check.examine import matches_name
from cache.common.atomic import replace_file
from cache.common.errors import CacheError
from cache.format.identity import IDENTITY_FILE, IDENTITY_LIMIT_BYTES, Identity, parse_identity
from cache.format.index import Index, joined, summarize
from cache.format.index_file import INDEX_FILE, parse_index
from cache.format.row_table import RowPlace
from cache.format.rows import Range, proved_clips
from cache.format.schema import SHARD_FOLDER
from cache.format.shard import Clip
from cache.labels.store import LABELS_FILE
from cache.reader import Cache
from cache.remote.connection import Interrupted
from cache.remote.leftovers import remove_dead_scratch, scratch_prefix
from cache.remote.store import Remote

TABLE_LIMIT_BYTES = 1 << 28  # an index of a million clips
_GAP_BYTES = 1 << 16  # what lies between is cheaper to fetch than to ask once more


@dataclass
class RemoteCache:
    """What is at a URL; use as a context manager, which removes the fetched tables.

    Attributes
    ----------
    cache: identity, index and labels of the cache there; None where there is none yet.
    labels_file: the bytes of `labels.h5` there, or None.
    listed: the shards that its `index.h5` names.
    unlisted: shards that are there but not in `cache`, with their sizes.
    index_problem: why its index can't be used, where that is so.
    """

    remote: Remote
    cache: Cache | None = None
    labels_file: bytes | None = None
    listed: set[str] = field(default_factory=set)
    unlisted: dict[str, int] = field(default_factory=dict)
    index_problem: str | None = None
    _folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix=scratch_prefix())
    )

    def __post_init__(self) -> None:
        remove_dead_scratch()
        try:
            with self.named():
                self._fetch()
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> RemoteCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @property
    def scratch(self) -> Path:
        """A folder for files on their way; gone in the end."""
        return Path(self._folder.name)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Let errors name the URL, not the folder that its tables were fetched into."""
        try:
            yield
        except CacheError as error:
            text = str(error).replace(f"{self.scratch}/", self.remote.where(""))
            text = text.replace(str(self.scratch), self.remote.url)
            raise type(error)(text) from None

    def _fetch(self) -> None:
        remote = self.remote
        data = remote.read(IDENTITY_FILE, IDENTITY_LIMIT_BYTES)
        if data is None:
            self.unlisted = remote.shards() or {}
            return
        identity = parse_identity(data, remote.where(IDENTITY_FILE))
        index = self._fetch_index(identity)
        there = remote.shards()  # after the index, so that all it names is found
        self.listed = set(index.shards)
        if there is not None:
            index = index.restricted({n for n, f in index.shards.items() if there.get(n) == f.size})
            self.unlisted = {n: size for n, size in there.items() if n not in index.shards}
        self.labels_file = remote.read(LABELS_FILE, TABLE_LIMIT_BYTES)
        if self.labels_file is not None:
            replace_file(self.scratch / LABELS_FILE, self.labels_file)
        self.cache = Cache(self.scratch, identity, index)
        if remote.folder:  # as near as any reader is: nothing needs to be left out
            self.cache = self.completed(identity, index)
            found = self.cache.index.shards
            self.unlisted = {n: size for n, size in self.unlisted.items() if n not in found}

    def _fetch_index(self, identity: Identity) -> Index:
        where, path = self.remote.where(INDEX_FILE), self.scratch / INDEX_FILE
        data = self.remote.read(INDEX_FILE, TABLE_LIMIT_BYTES)
        try:
            if data is None:
                raise CacheError(f"{path}: not there")
            replace_file(path, data)
            return parse_index(path, identity)
        except CacheError as error:
            self.index_problem = str(error).replace(str(path), where)
        if self.remote.read_only:
            raise CacheError(
                f"{self.index_problem}; this server does not list folders, so the index is needed: "
                "have its owner run `python -m cache repair`, which writes it anew"
            )
        return Index(identity.declaration)

    def completed(self, identity: Identity, known: Index) -> Cache:
        """The cache there with its unlisted shards; those that `known` lacks are looked into."""
        listed = self.cache.index if self.cache is not None else Index(identity.declaration)
        ours = {n for n, size in self.unlisted.items() if _has(known, n, size)}
        parts = [listed, known.restricted(ours)]
        for name in sorted(set(self.unlisted) - ours):
            try:
                parts.append(self._look_into(name, identity))
            except Interrupted:
                raise
            except CacheError:
                continue  # half an upload of someone's, damaged or foreign: not ours to list
        return Cache(self.scratch, identity, joined(identity.declaration, parts))

    def _look_into(self, name: str, identity: Identity) -> Index:
        folder = self.remote.folder
        if folder is not None:
            if not matches_name(folder / SHARD_FOLDER / name):
                raise CacheError(f"{self.remote.where(name)}: damaged")
            return summarize(folder / SHARD_FOLDER / name, identity)
        copy = self.scratch / SHARD_FOLDER / name
        self.remote.get_shard(name, self.unlisted[name], self.scratch, lambda count: None)
        try:
            return summarize(copy, identity)
        finally:
            copy.unlink()

    def read_members(self, shard: str, members: Sequence[RowPlace]) -> list[Clip]:
        """Whole rows of a shard there, by ranges, each proved against its checksum."""
        assert self.cache is not None
        layout = self.cache.index.layout(shard)

        def fetch(wanted: Sequence[Range]) -> list[bytes]:
            spans = _joined(wanted)
            return _cut(wanted, spans, self.remote.ranges(shard, spans))

        where = self.remote.where(f"{SHARD_FOLDER}/{shard}")
        return proved_clips(fetch, layout, members, where)


def _has(index: Index, name: str, size: int) -> bool:
    return name in index.shards and index.shards[name].size == size


def _joined(wanted: Sequence[Range]) -> list[Range]:
    """Ranges that cover `wanted`, joined where little lies between."""
    found: list[Range] = []
    for start, stop in sorted(wanted):
        if found and start - found[-1][1] <= _GAP_BYTES:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        elif stop > start:
            found.append((start, stop))
    return found


def _cut(wanted: Sequence[Range], spans: Sequence[Range], parts: Sequence[bytes]) -> list[bytes]:
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
