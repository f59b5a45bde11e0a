"""HDF5 files that carry the SHA-256 of their own bytes, so that any flipped bit shows.

The first 512 bytes are an HDF5 user block, which HDF5 itself skips: a line that says what this is
and the digest of everything after it. Shards need none of this: their name is their digest.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import h5py

from cache.common.errors import CacheError
from cache.common.plain import open_plain

SEAL_BYTES = 512
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HEAD = b"avel-cache sealed file, version 1\nsha256 of what follows byte 512:\n"


def sealed_image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of a sealed file with the content that `fill` writes."""
    image = hdf5_image(fill)
    return _seal(hashlib.sha256(image)) + image


def hdf5_image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of an HDF5 file, made in memory.

    On a full disk HDF5 itself can fail long after the write, and again on closing; bytes in
    memory are written by one plain call that fails at once and in one place.
    """
    name = secrets.token_hex(16)  # of no file: HDF5 wants open files to have different names
    with h5py.File(name, "w", driver="core", backing_store=False, block_size=1 << 22) as file:
        fill(file)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def write_seal(path: Path) -> None:
    """Seal a file that was written with a user block of `SEAL_BYTES`."""
    with path.open("r+b") as file:
        file.seek(SEAL_BYTES)
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        file.seek(0)
        file.write(_seal(digest))


def is_sealed(path: Path) -> bool:
    """Whether a file is meant to have a seal: a bare HDF5 file, which begins otherwise, has none.

    (Not by the seal's own text: then a flipped bit in it would switch the check off.)
    """
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read(len(_HDF5)) != _HDF5


def check_seal(path: Path, on_bytes: Callable[[int], object] = lambda count: None) -> None:
    """Raise CacheError unless every byte of a sealed file is as it was written.

    `on_bytes` is called with the number of bytes read since the last call.
    """
    try:
        with os.fdopen(open_plain(path), "rb", buffering=0) as file:
            seal = file.read(SEAL_BYTES)
            on_bytes(len(seal))
            digest = hashlib.sha256()
            while block := file.read(1 << 22):
                digest.update(block)
                on_bytes(len(block))
    except OSError as error:
        raise CacheError(f"{path}: can't be read ({error.strerror})") from None
    if seal != _seal(digest):
        raise CacheError(f"{path}: its bytes don't match its checksum: it was edited or damaged")


def _seal(digest: hashlib._Hash) -> bytes:
    return (_HEAD + digest.hexdigest().encode() + b"\n").ljust(SEAL_BYTES, b"\n")
