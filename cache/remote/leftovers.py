"""Names of unfinished files at the other end, and of temporary folders here: whose they are."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
import uuid
from datetime import datetime
from pathlib import Path

from cache.common.atomic import TEMPORARY

OLD_S = 86_400.0
_SCRATCH = "avel-remote-"
_OURS = re.compile(re.escape(TEMPORARY) + r"([0-9a-f]{8})-(\d{1,10})-[0-9a-f]{16}-")


def temporary_name(name: str) -> str:
    """A name for `name` while it is being written: it tells the machine and the process."""
    return f"{TEMPORARY}{_machine()}-{os.getpid()}-{secrets.token_hex(8)}-{name}"


def scratch_prefix() -> str:
    """How the name of a temporary folder of this process begins."""
    return f"{_SCRATCH}{_machine()}-{os.getpid()}-"


def remove_dead_scratch() -> None:
    """Delete temporary folders that killed processes of this machine left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{_machine()}-*"):
        pid = folder.name.removeprefix(f"{_SCRATCH}{_machine()}-").partition("-")[0]
        if pid.isdecimal() and len(pid) <= 10 and not _runs(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def is_leftover(name: str, changed: object) -> bool:
    """Whether nobody writes this file any more.

    True for what a process of this machine left that has ended, and for what was not touched for
    a day: `changed` is the file system's time of the last change, where it tells one.
    """
    if not name.startswith(TEMPORARY):
        return False
    ours = _OURS.match(name)
    if ours and ours[1] == _machine() and not _runs(int(ours[2])):
        return True
    when = changed.timestamp() if isinstance(changed, datetime) else changed
    return isinstance(when, int | float) and time.time() - when > OLD_S


def _machine() -> str:
    text = f"{socket.gethostname()} {uuid.getnode():x}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
