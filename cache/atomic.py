"""Files that are there whole or not at all: temporary name, flush to the disk, rename."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cache.errors import CacheError

TEMPORARY = ".writing-"
_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "your quota is used up; make room",
    errno.EFBIG: "a limit on file size (ulimit -f) stopped it; lift the limit",
    errno.ELOOP: "a link stands where a plain file belongs; remove it",
    errno.EROFS: "the file system is read-only; use a folder that can be written",
    errno.EACCES: "you have no permission to write there; ask its owner or use another folder",
    errno.EPERM: "you have no permission to write there; ask its owner or use another folder",
}


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file or nothing; raises CacheError with what to do when it can't be."""
    with writing(path), unfinished(path) as temporary:
        with temporary.open("wb") as file:
            file.write(data)
        publish(temporary, path)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A new temporary file beside `path`, gone afterwards unless it was published."""
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to the disk and give it its name."""
    temporary.chmod(0o644)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says against writing `path` into a CacheError that says what to do."""
    try:
        yield
    except OSError as error:
        raise CacheError(cannot_write(path, error)) from None


def cannot_write(path: Path | str, error: OSError) -> str:
    """A sentence on a failed write: what, why, and what to do."""
    return (
        f"{path}: can't be written ({error.strerror or error}): {advice(error)}, then run the same "
        "command again; everything finished before is kept"
    )


def advice(error: OSError) -> str:
    """What to do about a full disk, a missing permission and the like."""
    return _ADVICE.get(error.errno or 0, "mend that")


def check_room(path: Path, needed_bytes: int, need: str, otherwise: str) -> None:
    """Raise CacheError unless the disk of `path` (or of its folder) has that much free.

    `need` says of what the gigabytes are, `otherwise` what helps beside making room.
    """
    with writing(path):
        free = shutil.disk_usage(path if path.is_dir() else path.parent).free
    if needed_bytes > free:
        raise CacheError(f"{path}: {need}, only {free / 1e9:.2f} GB free; make room{otherwise}")


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems can't flush a folder; the rename has happened all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of writers that were killed. Call with the lock held."""
    for place in (folder, folder / "shards"):
        if place.is_dir() and not place.is_symlink():
            for path in place.iterdir():
                if path.name.startswith(TEMPORARY):
                    path.unlink(missing_ok=True)
