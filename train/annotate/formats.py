"""The formats that events are written in, and how a command names them."""

from __future__ import annotations

from cache.common.errors import ConfigError

FORMATS = ("csv", "json", "audacity", "elan", "webvtt", "label-studio", "page")


def parse_formats(text: str) -> tuple[str, ...]:
    """Which of FORMATS a list with commas names; ConfigError for others."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in FORMATS]
    if unknown or not words:
        raise ConfigError(
            f"--formats {text}: expected some of {','.join(FORMATS)}, found "
            + (repr(unknown[0]) if unknown else "none")
        )
    return tuple(name for name in FORMATS if name in words)
