"""The feature cache: its format, its labels, and how to read it. Imports neither stage.

What is listed here is the public face; each name is loaded when it is first asked for, so that
`import cache` itself costs nothing. Everything else is imported from the room that owns it.

Examples
--------
>>> from cache import open_cache
>>> cache = open_cache("features")  # a folder of `make features`, or a packed file
>>> cache.ids[:2]
['clip00000', 'clip00001']
>>> cache.fields["audio/mel"].shape, cache.fields["audio/mel"].unit
((431, 64), 'dB')
>>> cache.read("audio/mel", [0, 2]).shape  # of ids[0] and ids[2]; without rows: of all
(2, 431, 64)
>>> labels = cache.labels
>>> row = labels.rows("val")[0]
>>> labels.ids[row], labels.classes[labels.category[row]], float(labels.start_s[row])
('clip00009', 'Class 0', 0.0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.common.face import lazy_names

if TYPE_CHECKING:
    from cache.check.info import describe
    from cache.common.errors import CacheError
    from cache.format.schema import SPLITS
    from cache.labels.annotations import Labels
    from cache.reader import Cache, open_cache
    from cache.table import clip_table
    from cache.writer import CacheWriter

__all__ = [
    "SPLITS",
    "Cache",
    "CacheError",
    "CacheWriter",
    "Labels",
    "clip_table",
    "describe",
    "open_cache",
]

_ROOMS = {
    "SPLITS": "cache.format.schema",
    "Cache": "cache.reader",
    "CacheError": "cache.common.errors",
    "CacheWriter": "cache.writer",
    "Labels": "cache.labels.annotations",
    "clip_table": "cache.table",
    "describe": "cache.check.info",
    "open_cache": "cache.reader",
}

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, _ROOMS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
