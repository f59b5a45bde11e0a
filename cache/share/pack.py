"""Write a whole cache as one sealed HDF5 file to hand over; merging it into a folder unpacks it.

A pack is laid out like one large shard, so the same code, and the same few lines of h5py, read it.
It is made for copying; caches are trained from in either form.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.common.atomic import TEMPORARY, check_room, publish, unfinished, writing
from cache.common.errors import CacheError
from cache.common.plain import encode_text
from cache.common.settings import canonical_json
from cache.format.compression import deflate
from cache.format.fields import Field
from cache.format.row_table import row_members
from cache.format.rows import jpeg_bounds
from cache.format.schema import JPEG_BYTES, JPEG_END
from cache.format.sealed import SEAL_BYTES, write_seal
from cache.format.shard import Clip, write_attributes, write_failures, write_origins
from cache.labels.store import fill_labels
from cache.pack_file import PACKED_VERSION
from cache.reader import Cache

_BLOCK_CLIPS = 32
_THREADS = 4


def pack(
    cache: Cache,
    target: Path,
    compress: bool = False,
    on_clips: Callable[[int], object] = lambda count: None,
) -> int:
    """Write every clip that counts, failures and labels of `cache` into the file `target`.

    Each row is proved against its checksum on the way; CacheError names one that is damaged. The
    file appears whole or not at all. Returns its size in bytes.
    """
    if target.exists():
        raise CacheError(f"{target}: exists already; name another file, or delete it first")
    if target.suffix != ".h5":
        raise CacheError(f"{target}: expected a name that ends in .h5")
    cache.refuse_damaged()
    lengths = _jpeg_lengths(cache)
    needed = len(cache) * cache.declaration.row_bytes + int(lengths.sum())
    need = f"about {needed / 1e9:.2f} GB needed"
    check_room(target, needed, need, " or name a file on another disk")
    mark = f"{TEMPORARY}{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}-"
    with writing(target):
        for leftover in target.parent.glob(f"{mark}*"):
            with contextlib.suppress(PermissionError):  # another user's
                leftover.unlink()
        with (
            unfinished(target, mark + secrets.token_hex(8)) as temporary,
            _Spool(temporary) as spool,
        ):
            with h5py.File(spool, "w", userblock_size=SEAL_BYTES) as file:
                _write_tables(file, cache, lengths)
                columns = _Columns(file, cache, compress, int(lengths.sum()))
                for clips in columns.write():
                    spool.check()
                    on_clips(clips)
            spool.check()
            write_seal(temporary)
            publish(temporary, target)
    return target.stat().st_size


class _Spool:
    """A temporary file that HDF5 writes into.

    After a write that failed HDF5 tries again on closing and at exit, and can end the process. So
    it never learns of one: the error is kept for `check`, and what is written after it dropped.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        self._error: OSError | None = None

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def check(self) -> None:
        """Raise the first error that a write met."""
        if self._error:
            raise self._error

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def read(self, size: int) -> bytes:
        return os.read(self._descriptor, size)

    def write(self, data: memoryview) -> int:
        rest = memoryview(data).cast("B")
        try:
            while rest and not self._error:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            self._error = error
        return len(data)

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._descriptor, size)
        except OSError as error:
            self._error = self._error or error

    def flush(self) -> None:
        """Nothing is kept back."""


def _write_tables(file: h5py.File, cache: Cache, lengths: npt.NDArray[np.int64]) -> None:
    """Everything but the features: identity, ids, labels, failures, where rows came from."""
    live = cache.index.live
    rows = np.concatenate([rows for _, rows in live.by_file()] or [live.rows])
    origins, failed = cache.row_origins, cache.failure_origins
    by_row = [origins[live.place(value.decode())] for value in rows["id"].tolist()]
    by_failure = list(failed.values())
    nothing = 0, canonical_json(cache.provenance)
    write_attributes(file, cache.identity, max([*by_row, *by_failure], default=nothing))
    write_origins(file, by_row, by_failure)
    file.attrs["packed"] = PACKED_VERSION
    file["cache_json"] = np.frombuffer(cache.identity.render(), np.uint8)
    file["rows/id"] = encode_text(value.decode() for value in rows["id"].tolist())
    file["rows/sha256"] = np.ascontiguousarray(rows["sha256"])
    if lengths.shape[1]:
        file[JPEG_END] = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
    write_failures(file, [cache.index.failures[clip_id] for clip_id in failed])
    labels = cache.stored_labels()
    if labels is not None:
        fill_labels(file.create_group("labels"), labels, cache.label_history())


class _Columns:
    """The stacked datasets of a pack while they are filled, block after block."""

    def __init__(self, file: h5py.File, cache: Cache, compress: bool, jpeg_bytes: int) -> None:
        self._file, self._cache, self._count = file, cache, len(cache)
        self._fields = [
            spec
            for name, spec in cache.declaration.row_layout.items()
            if name not in {"rows/sha256", JPEG_END}
        ]
        self._packed = {
            spec.name for spec in self._fields if compress and spec.name in cache.fields
        }
        self._places = {name: np.zeros((self._count, 2), np.int64) for name in self._packed}
        for spec in self._fields:
            self._create(spec)
        self._jpeg_at = 0
        if cache.declaration.pictures is not None:
            file.create_dataset(JPEG_BYTES, (jpeg_bytes,), np.uint8)

    def _create(self, spec: Field) -> None:
        options: dict[str, Any] = {}
        if spec.name in self._packed and self._count:
            options = {"chunks": (1, *spec.shape), "shuffle": True, "compression": "gzip"}
        self._file.create_dataset(spec.name, (self._count, *spec.shape), spec.dtype, **options)

    def write(self) -> Iterator[int]:
        """Copy all rows, in the order of the source's files; yields how many, block by block."""
        place = 0
        with ThreadPoolExecutor(_THREADS) as threads:
            for clips in _blocks(self._cache):
                for spec in self._fields:
                    name = spec.name.removeprefix("rows/")
                    if spec.name == "rows/media_sha256":
                        block = [np.frombuffer(clip.media_sha256, np.uint8) for clip in clips]
                    elif spec.name.startswith("rows/"):
                        block = [np.asarray(getattr(clip, name), spec.dtype) for clip in clips]
                    else:
                        block = [np.asarray(clip.features[spec.name]) for clip in clips]
                    if spec.name in self._packed:
                        self._write_chunks(spec, place, list(threads.map(deflate, block)))
                    else:
                        self._file[spec.name][place : place + len(clips)] = np.stack(block)
                self._write_jpegs(clips)
                place += len(clips)
                yield len(clips)
        for name, places in self._places.items():
            self._file[f"chunks/{name}"] = places

    def _write_chunks(self, spec: Field, place: int, chunks: list[bytes]) -> None:
        dataset = self._file[spec.name].id
        for row, data in enumerate(chunks, place):
            at = (row, *(0 for _ in spec.shape))
            dataset.write_direct_chunk(at, data)
            info = dataset.get_chunk_info_by_coord(at)
            self._places[spec.name][row] = info.byte_offset, info.size

    def _write_jpegs(self, clips: list[Clip]) -> None:
        data = b"".join(picture for clip in clips for picture in clip.jpegs)
        if data:
            end = self._jpeg_at + len(data)
            self._file[JPEG_BYTES][self._jpeg_at : end] = np.frombuffer(data, np.uint8)
            self._jpeg_at = end


def _blocks(cache: Cache) -> Iterator[list[Clip]]:
    """All clips, proved, a few at a time, in the order of the files and rows they come from."""
    for name, rows in cache.index.live.by_file():
        members = row_members(rows)
        for begin in range(0, len(members), _BLOCK_CLIPS):
            yield cache.read_members(name, members[begin : begin + _BLOCK_CLIPS])


def _jpeg_lengths(cache: Cache) -> npt.NDArray[np.int64]:
    """Bytes of each picture, clips in the order of the pack: (N, F), or (N, 0) without pictures."""
    if cache.declaration.pictures is None:
        return np.zeros((len(cache), 0), np.int64)
    found = [np.zeros((0, cache.declaration.pictures.count), np.int64)]
    for name, rows in cache.index.live.by_file():
        with cache.open_rows(name) as file:
            inside = rows["row"].astype(np.int64)
            bounds = jpeg_bounds(file.fetch, file.layout, inside, str(file.path))
        found.append(np.diff(bounds, axis=1))
    return np.concatenate(found)
