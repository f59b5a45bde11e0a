"""What may name a clip or a class: text that looks like what it is, equal on every machine."""

from __future__ import annotations

import unicodedata

from cache.format.schema import MAX_CLASS_BYTES, MAX_ID_BYTES


def check_id(clip_id: str) -> str | None:
    """What is wrong with an id, or None. Ids name files, so nothing in them may leave a folder."""
    if not clip_id or clip_id in {".", ".."}:
        return f"{clip_id!r} is no clip id"
    if _size(clip_id) > MAX_ID_BYTES:
        return f"the id {clip_id[:20]!r}… is longer than {MAX_ID_BYTES} bytes"
    if not clip_id.isprintable() or "/" in clip_id or "\\" in clip_id:
        return f"the id {clip_id!r} has a slash or a control character"
    return None


def check_class(name: str) -> str | None:
    """What is wrong with a class name, or None: nothing in it may be invisible or break a line."""
    if _size(name) > MAX_CLASS_BYTES:
        return f"the class {name[:20]!r}… is longer than {MAX_CLASS_BYTES} bytes"
    if not name.isprintable():
        return f"the class {name!r} has a control character or one that can't be seen"
    if not name or name != name.strip():
        return f"{name[:20]!r} is no class name: it is empty, or begins or ends with a space"
    return None


def one_form(text: str) -> str:
    """The composed form (NFC): é is one character, whichever system the text comes from."""
    return unicodedata.normalize("NFC", text)


def look(name: str) -> str:
    """Equal for names that differ in case, spaces or the form of characters alone."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
