"""Servers of each kind: connected to safely, never waited for without end, and explained.

What they and their libraries raise becomes one sentence that says what to do.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from typing import Any

from cache.common.atomic import advice
from cache.common.errors import AvelError, CacheError
from cache.common.url import SSH, hidden

# Seconds without a sign of life after which a server is given up.
WAIT_S = 60.0
_KEPT = "What was moved before is kept; run the same command again."
_CUT = {"ConnectionLost", "SFTPConnectionLost", "SFTPNoConnection"}
_CUT |= {"ClientPayloadError", "ServerDisconnectedError", "IncompleteReadError"}


# By the name of the exception's class: the libraries need not be installed to be named.
_BY_NAME = {
    "HostKeyNotVerifiable": "the server's host key is not in your known_hosts, or has changed. "
    "Connect once with `ssh`, compare the fingerprint it shows, and accept it; then try again",
    "KeyImportError": "your ssh key can't be read, or needs its passphrase: use an ssh agent",
    "SFTPPermissionDenied": "no permission for that at the other end; ask its owner",
    "SFTPFailure": "the server refused without a reason: most often its disk is full or read-only, "
    "a quota is used up, or a part of the path is a file",
    "NoCredentialsError": "no credentials found; set them as the service says (for S3: "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)",
    "EndpointConnectionError": f"the service can't be reached; check the address. {_KEPT}",
    "ReadTimeoutError": f"the service did not answer in time. {_KEPT}",
    "FSTimeoutError": f"the server did not answer in time. {_KEPT}",
    "ConnectionLost": f"the connection was lost. {_KEPT}",
    "SFTPConnectionLost": f"the connection was lost. {_KEPT}",
    "SFTPNoConnection": f"the connection was lost. {_KEPT}",
    "ClientPayloadError": f"the connection was cut in the middle of a file. {_KEPT}",
    "ServerDisconnectedError": f"the server closed the connection. {_KEPT}",
}
_HTTP = {
    401: "the server wants a login; put it into the URL or its settings",
    403: "the server refuses access; ask its owner",
    404: "there is no such file",
    405: "this server takes no uploads; push to a folder, over ssh, or to object storage",
    429: f"the server asks to slow down; wait, or use --jobs 1. {_KEPT}",
}
_PASSING = {500, 502, 503, 504}


def connection_options(protocol: str) -> dict[str, Any]:
    """What fsspec is told besides the address; of web servers see `client_options`."""
    if protocol in SSH:
        # asyncio's warnings of a lost connection; the error that follows says it all.
        logging.getLogger("asyncio").addHandler(logging.NullHandler())
        # sshfs alone would accept any host key; () means the user's own known_hosts.
        waits = {"login_timeout": WAIT_S / 2, "keepalive_interval": WAIT_S / 4}
        # A connection that was lost is not taken up again by the next Remote.
        return {"known_hosts": (), "keepalive_count_max": 4, "skip_instance_cache": True, **waits}
    if protocol in {"s3", "s3a"}:
        # s3fs itself tries up to five times five; botocore need not do so as well.
        waits = {"connect_timeout": WAIT_S / 12, "read_timeout": WAIT_S / 4}
        config = {**waits, "retries": {"max_attempts": 0}}
        return {"config_kwargs": config, "skip_instance_cache": True}
    return {}


class Interrupted(CacheError):
    """A connection was cut: the same once more may well succeed."""


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn whatever a file system library raises into a CacheError that names `where`.

    FileNotFoundError inside is for the caller to catch first, where a file may be absent.
    """
    try:
        yield
    except AvelError:
        raise
    except Exception as error:  # noqa: BLE001 - each library has its own tree of exceptions
        kind = Interrupted if _is_cut(error) else CacheError
        raise kind(f"{where}: {hidden(_sentence(error))}") from None


def _is_cut(error: Exception) -> bool:
    lost = isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError)
    return lost or type(error).__name__ in _CUT or getattr(error, "status", None) in _PASSING


def _sentence(error: Exception) -> str:
    name, text = type(error).__name__, str(error)
    status = getattr(error, "status", None)
    if isinstance(status, int) and name == "ClientResponseError":
        return _HTTP.get(status, f"the server answered with status {status}. {_KEPT}")
    if name in _BY_NAME:
        return f"{_BY_NAME[name]} ({text or name})"
    if isinstance(error, ImportError):
        return f"a package for this kind of address is missing: {text} (pip install it)"
    if isinstance(error, ValueError) and "Protocol not known" in text:
        return "no such kind of address; known are a folder, file://, ssh://, http(s)://, s3://, …"
    if isinstance(error, NotADirectoryError):
        return "a part of that path is a file, expected the folder of a cache"
    if isinstance(error, FileNotFoundError):
        return f"not found there ({text})"
    if isinstance(error, socket.gaierror) or name == "ClientConnectorDNSError":
        return "no such host; check the name, and that you are on the network"
    if isinstance(error, OSError):
        return _system_sentence(error, text)
    return f"{name}: {text}"


def _system_sentence(error: OSError, text: str) -> str:
    if error.errno == errno.ECONNREFUSED or isinstance(error, ConnectionRefusedError):
        return "nothing answers there; check the port, and that the server runs"
    if isinstance(error, PermissionError) and error.errno is None:
        return f"the server refuses the login: {text}; check the user name and your key"
    if isinstance(error, ConnectionError):
        return f"the connection was lost ({text}). {_KEPT}"
    return f"{error.strerror or text}: {advice(error)}"
