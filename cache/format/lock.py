"""One writer a cache: who it is, since when, and what happens when it dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from cache.common.atomic import cannot_write, remove_leftovers, rewrite, writing
from cache.common.cli import printable, say
from cache.common.errors import CacheError
from cache.format.identity import Identity, claim

LOCK_FILE = ".lock"
_GLANCES, _GLANCE_S = 5, 0.02
"""How often, and after how long, a writer tries again to get by one who just looks."""


@contextlib.contextmanager
def claimed(folder: Path, identity: Identity, shared: bool = False) -> Iterator[Identity]:
    """Create the cache or check that it was made with these settings, and be its only writer.

    With `shared`, be one of several that write parts of it; see `part_lock`.
    """
    claim(folder, identity)
    with part_lock(folder) if shared else writer_lock(folder):
        yield claim(folder, identity)  # once more: two may have created it at the same time


@contextlib.contextmanager
def writer_lock(folder: Path, what: str = "cache") -> Iterator[None]:
    """Be the only writer of a cache (or of a run), or raise CacheError: who is, and since when.

    The lock is the kernel's (flock): it goes with its process, however that ends, so one that a
    dead process left is simply free. The file's text is for people; it is empty after a clean end.
    Leftovers of a writer that was killed are removed.
    """
    path = folder / LOCK_FILE
    with lock_file(path) as descriptor:
        _take(folder, descriptor, fcntl.LOCK_EX, what)
        last = _holder(descriptor)
        if last:
            say(f"note      {last} ended before it was done; going on from there", error=True)
        _write(path, descriptor, _myself())
        try:
            remove_leftovers(folder)
            yield
        finally:
            _write(path, descriptor, "")


@contextlib.contextmanager
def part_lock(folder: Path) -> Iterator[None]:
    """Be one of several writers of parts of a cache, which keep the single writer out.

    Nothing that may be another's is touched. Raises CacheError while somebody is the only writer.
    """
    path = folder / LOCK_FILE
    with lock_file(path) as descriptor:
        _take(folder, descriptor, fcntl.LOCK_SH)
        _write(path, descriptor, f"a part's {_myself()}")
        yield
        with contextlib.suppress(CacheError):  # the last to end leaves no name
            _take(folder, descriptor, fcntl.LOCK_EX)
            _write(path, descriptor, "")


def writer_of(folder: Path) -> str:
    """Who is writing in a folder just now, in words for people; "" where nobody is.

    A dead writer's lock is free, whatever the file says. To see that it is taken for an instant,
    shared, which writers wait out. Where it can't be looked at, nobody is said to write.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor) or "name unknown"
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


@contextlib.contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """The descriptor of a file to lock, made where there is none; CacheError for links and such."""
    with writing(path):
        descriptor = _open(path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise CacheError(f"{path}: expected a plain file, found something else; refused")
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """The lock file, made where there is none; for reading alone where it is another user's.

    In a folder that a group shares the group may write it. Nothing here follows a link, so that a
    foreign folder can't have another file changed.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            # Without O_CREAT: Linux refuses that for others' files in a folder with the sticky bit.
            return os.open(path, os.O_RDWR | flags)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # another writer came first
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, 0o666)
                group = stat.S_IRGRP | stat.S_IWGRP
                shared = path.parent.stat().st_mode & group
                if shared == group:
                    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) | group)
                return descriptor
        except PermissionError:
            if not os.access(path.parent, os.W_OK):
                raise  # a cache that only others may write
            return os.open(path, os.O_RDONLY | flags)  # it can be locked all the same


def _myself() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}\n"


def _take(folder: Path, descriptor: int, kind: int, what: str = "cache") -> None:
    try:
        _flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        who = _holder(descriptor) or "name unknown"
        raise CacheError(
            f"{folder}: another process is writing this {what}: {who}. "
            "Wait for it to end, or stop it; what it finished is kept."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
            raise CacheError(cannot_write(folder / LOCK_FILE, error)) from None
        raise CacheError(
            f"{folder}: its file system has no file locks ({error.strerror}), so two writers could "
            "not see each other. Mount it with locks (Lustre: -o flock), or write the cache on a "
            "local disk and bring it here with `python -m cache push LOCAL THIS_FOLDER`, which "
            "needs no lock"
        ) from None


def _flock(descriptor: int, kind: int) -> None:
    """Lock; what keeps it for an instant alone, as `writer_of` does, is waited out."""
    for _ in range(_GLANCES):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, kind)
        time.sleep(_GLANCE_S)
    return fcntl.flock(descriptor, kind)


def _holder(descriptor: int) -> str:
    return str(printable(os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()))


def _write(path: Path, descriptor: int, text: str) -> None:
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return  # another user's file, which says nothing of us
    rewrite(path, descriptor, text)
