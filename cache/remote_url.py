"""Addresses: what kind of place one names, and how it is shown without what opens it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError

SSH = {"ssh", "sftp", "sshfs"}
WEB = {"http", "https"}
LOCAL = {"file", "local"}
# fsspec's file systems that lie on top of another one.
_LAYERS = {"blockcache", "cached", "dir", "filecache", "reference", "simplecache", "tar", "zip"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)://")
_FILE_URL = re.compile(r"(?:file|local):(?://(?=/)|(?=/(?!/)))", re.IGNORECASE)
# A user with a password, up to the last @: one in it that should have been written %40 counts.
_PASSWORD = re.compile(r"(?<=://)([^/@:?#]*):(?!\d+(?:[/?#]|$))[^?#]*@")
_TOKEN = re.compile(r"(?<=://)[^/@:?#]+@")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*://\S+")


@dataclass(frozen=True)
class Address:
    """Where a cache is.

    Attributes
    ----------
    url: as it was given, without a slash at its end.
    protocol: "file" for a folder here.
    root: what comes before a file's name; None where that is for the file system to say.
    query: what comes after it, with the "?": what opens a web server's files is for each of them.
    """

    url: str
    protocol: str
    root: str | None
    query: str = ""

    @property
    def shown(self) -> str:
        """The address for messages."""
        return shown(self.url)


def parse_address(text: str) -> Address:
    """Tell a folder here, taken as it is given, from a URL.

    Raises CacheError for what fsspec would read as several places, one on top of the other.
    """
    url = text.rstrip("/") or text
    if not url:
        raise CacheError("an empty address; expected a folder or a URL")
    local = _FILE_URL.match(url)
    if not local:
        _refuse_layers(text)
    scheme = _SCHEME.match(url)
    if local or not scheme:
        return Address(url, "file", str(Path(url[local.end() if local else 0 :]).absolute()))
    protocol, rest = scheme[1].lower(), url[scheme.end() :]
    if protocol in LOCAL:
        raise CacheError(f"{text}: expected a whole path after {protocol}://, as in file:///srv/x")
    if protocol in SSH:
        return Address(url, protocol, "/" + rest.partition("/")[2] if "/" in rest else "")
    if protocol in WEB:
        if "#" in url:
            raise CacheError(f"{shown(text)}: a # in a web address ends it; write %23")
        base, mark, query = url.partition("?")
        return Address(url, protocol, base.rstrip("/"), mark + query.replace(" ", "%20"))
    return Address(url, protocol, None)


def _refuse_layers(text: str) -> None:
    scheme = _SCHEME.match(text)
    first, *others = text.split("::")
    on_top = scheme is not None and scheme[1].lower() in _LAYERS
    if scheme is None and others and not first.startswith(("/", ".")):
        from fsspec import available_protocols

        on_top = first.lower() in available_protocols()
    elif scheme is not None:
        on_top = on_top or any(_SCHEME.match(other) for other in others)
    if on_top:
        raise CacheError(
            f"{shown(text)}: names several places, one on top of the other, expected one; name the "
            "place itself (for a folder that is called so, write ./ before it)"
        )


def shown(url: str) -> str:
    """A URL for people: without its password, and without its query, which may be one.

    A path stays as it is.
    """
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1].lower() in LOCAL:
        return url
    url = _PASSWORD.sub(r"\1:***@", url)
    if scheme[1].lower() in WEB and ":***@" not in url:
        url = _TOKEN.sub("***@", url)
    base, mark, query = url.partition("?")
    return f"{base}?***" if query else base + mark


def hidden(text: str) -> str:
    """A text with every URL in it as `shown` has it: what libraries say may hold them whole."""
    return _IN_TEXT.sub(lambda found: shown(found[0]), text)
