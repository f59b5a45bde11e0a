"""Addresses: what kind of place one names, and how it is shown without what opens it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cache.common.errors import CacheError

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
# A slash that got lost, on the keyboard or where an address was taken for a path.
_CUT = re.compile(r"\b(https?|ssh|sftp|s3|gs|hf):/(?!/)", re.IGNORECASE)
_IN_TEXT = re.compile(
    rf'(?:[A-Za-z][A-Za-z0-9+._-]*://|{_CUT.pattern})[^\s"]*[^\s"\':,;.)]', re.IGNORECASE
)
_KEYED = {"gcs", "gs", "s3", "s3a"}


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
    if cut := _CUT.match(url):
        raise CacheError(
            f"{cut[0]}…: expected {cut[1]}:// (for a folder that is called so, write ./ before it)"
        )
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
    if protocol in _KEYED and "@" in rest.partition("/")[0]:
        raise CacheError(
            f"{protocol}://…@…: keys don't belong into this kind of address; set them as the "
            "service says (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
        )
    return Address(url, protocol, None)


def is_address(text: str) -> bool:
    """Whether a text names a place by a URL, or one that lost a slash."""
    return bool(_SCHEME.match(text) or _CUT.match(text))


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
    if cut := _CUT.match(url):
        url = f"{cut[1]}://{url[cut.end() :]}"
    scheme = _SCHEME.match(url)
    if scheme is None or scheme[1].lower() in LOCAL:
        return url
    url = _PASSWORD.sub(r"\1:***@", url)
    if scheme[1].lower() in WEB and ":***@" not in url:
        url = _TOKEN.sub("***@", url)
    base, mark, query = url.partition("?")
    hide = query and not query.startswith("***")  # what was hidden is followed by other words
    return f"{base}?***" if hide else base + mark + query


def hidden(text: str) -> str:
    """A text with every URL in it as `shown` has it: what libraries say may hold them whole."""
    return _IN_TEXT.sub(lambda found: shown(found[0]), text)
