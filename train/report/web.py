"""What all pages share: templates whose values are escaped, their head, and what they may do."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import jinja2

_HERE = Path(__file__).parent


def template(name: str, room: Path = _HERE) -> jinja2.Template:
    """A template of a room, or of this one; what is put into it is escaped unless it says "safe".

    Those that begin with `head.html` need a `title`, a `policy` and a `style`.
    """
    folders = jinja2.FileSystemLoader([room, _HERE])
    engine = jinja2.Environment(loader=folders, autoescape=True, undefined=jinja2.StrictUndefined)
    return engine.get_template(name)


def source(name: str, room: Path = _HERE) -> str:
    """The text of a style sheet or script of a room."""
    return (room / name).read_text(encoding="utf-8")


def policy(style: str | None, script: str = "") -> str:
    """What a page may do: its own style and script, pictures in it, and playing files.

    style: None of a page that has `style` attributes as well, which no digest covers.
    """
    own = {"style-src": style, "script-src": script}
    parts = [f"{what} '{digest(text)}'" for what, text in own.items() if text]
    parts += ["style-src 'unsafe-inline'"] if style is None else []
    media = ["img-src data:", "media-src 'self' file: blob:"] if script else []
    return "; ".join(
        ["default-src 'none'", *parts, *media, "base-uri 'none'", "form-action 'none'"]
    )


def digest(text: str) -> str:
    """What a policy calls a style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def embedded(value: object) -> str:
    """JSON that ends no element of a page, whatever is in its texts."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
