"""Files that are there whole or not at all: temporary name, flush to the disk, rename."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from cache.common.errors import CacheError

TEMPORARY = ".writing-"
_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "your quota is used up; make room",
    errno.EFBIG: "a limit on file size (ulimit -f) stopped it; lift the limit",
    errno.ELOOP: "a link stands where a plain file belongs; remove it",
    errno.ENOENT: "the folder that it belongs in is not there; make it",
    errno.ENOTDIR: "a part of that path is a file, expected a folder; name another",
    errno.EEXIST: "a file stands where a folder belongs; remove it, or name another folder",
    errno.EISDIR: "a folder stands where a file belongs; remove it, or name another file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EROFS: "the file system is read-only; use a folder that can be written",
    errno.EACCES: "you have no permission to write there; ask its owner or use another folder",
    errno.EPERM: "you have no permission to write there; ask its owner or use another folder",
}


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file or nothing; raises CacheError with what to do when it can't be."""
    with replacing(path) as file:
        file.write(data)


def create_file(path: Path, data: bytes) -> bool:
    """Write a whole file where nothing is; False, and nothing written, where something is.

    Of several that try at once one succeeds, on network file systems too. CacheError as of
    `replace_file`.
    """
    with writing(path), unfinished(path) as temporary:
        with open(temporary, "r+b", opener=_no_link) as file:
            file.write(data)
        sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        sync(path.parent)
    return True


@contextlib.contextmanager
def replacing(path: Path, name: str = "") -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and is gone otherwise.

    The one way in which files are written: an exclusive temporary name beside it, no link
    followed, flushed to the disk, renamed. `name` is the temporary one, where that matters to
    others. Raises CacheError where that can't be done.
    """
    with writing(path), unfinished(path, name) as temporary:
        with open(temporary, "r+b", opener=_no_link) as file:
            yield file
        publish(temporary, path)


@contextlib.contextmanager
def unfinished(path: Path, name: str = "") -> Iterator[Path]:
    """A new, empty temporary file beside `path`, gone afterwards unless it was published.

    For what is written by name; `replacing` is for all else. Its permissions are what the umask
    and the folder say. `name` is how it is called, where that matters to others.
    """
    name = name or f"{TEMPORARY}{secrets.token_hex(8)}{path.suffix[:16]}"
    temporary = path.with_name(name)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to the disk and give it its name."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def append_line(path: Path, line: str) -> int:
    """Add a line to a text file, flushed to the disk; returns how many lines it has now.

    Half a line that a killed writer left is a line of its own. Raises CacheError for links and
    anything else that is no plain file.
    """
    with writing(path), _opened_to_append(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + line.encode() + b"\n")
        os.fsync(file.fileno())
        file.seek(0)
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@contextlib.contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """A text file to write at the end of, line by line; CacheError as of `append_line`."""
    with writing(path):
        file = _opened_to_append(path)
    with io.TextIOWrapper(file, "utf-8", "replace", write_through=True) as text:
        yield text


def _opened_to_append(path: Path) -> io.FileIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.fdopen(os.open(path, flags, 0o666), "r+b", 0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CacheError(f"{path}: expected a plain file, found something else; refused")
    return file


@contextlib.contextmanager
def noted(path: Path) -> Iterator[Callable[[str], None]]:
    """A function that writes a line into a file of its own, over the one before.

    It tells those who come after a kill what went on, so it is not flushed to the disk, and gone
    after a good end.
    """
    with writing(path):
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        yield lambda text: rewrite(path, descriptor, text)
    finally:
        os.close(descriptor)
    path.unlink(missing_ok=True)


def rewrite(path: Path, descriptor: int, text: str) -> None:
    """Put a short text in place of what an open file holds; `path` is for messages."""
    with writing(path):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("utf-8", "surrogateescape"), 0)


def plain_folder(path: Path) -> Path:
    """Make a folder where there is none; CacheError where a link or a file stands in its place.

    Of the folders above it those that exist are taken as they are, links too.
    """
    if path.is_symlink():
        raise CacheError(f"{path}: a link, expected a folder; refused: it may lead anywhere")
    for folder in reversed([path, *path.parents]):
        with writing(folder):
            if not folder.is_dir():
                _make_folder(folder)
    return path


def _make_folder(folder: Path) -> None:
    """Make one folder as the umask says; in a folder that is its group's, for the group too.

    That is one with the setgid bit that its group may write, unless the umask keeps the group
    from reading.
    """
    folder.mkdir(exist_ok=True)
    above, mode = folder.parent.stat().st_mode, folder.lstat().st_mode
    if above & stat.S_ISGID and above & mode & stat.S_IRGRP and above & stat.S_IWGRP:
        with contextlib.suppress(PermissionError):  # somebody else made it just now
            folder.chmod(stat.S_IMODE(mode) | stat.S_IWGRP)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


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
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems can't flush a folder; the rename has happened all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of writers that were killed. Call with the lock held.

    What can't be deleted, as another user's in a folder with the sticky bit, is in nobody's way.
    """
    for place in (folder, folder / "shards"):
        if place.is_dir() and not place.is_symlink():
            for path in place.iterdir():
                if path.name.startswith(TEMPORARY):
                    with contextlib.suppress(OSError):
                        path.unlink()
