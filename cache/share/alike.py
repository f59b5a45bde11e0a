"""Whether caches hold the same of a clip, though not from the same file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cache.format.schema import row_digest
from cache.format.shard import hashed_arrays
from cache.reader import Cache


def alike(caches: Sequence[Cache], clip_id: str) -> bool:
    """Whether rows differ in nothing but when their media file was changed, as by copying it."""
    entries = [cache.index.clips[clip_id] for cache in caches]
    if len({(one.media_size, one.valid_s, one.jpeg_bytes) for one in entries}) > 1:
        return False  # known without reading
    contents = set()
    for cache, one in zip(caches, entries, strict=True):
        (clip,) = cache.read_members(one.shard, [(one.row, clip_id, one.sha256)])
        contents.add(row_digest(clip_id, hashed_arrays(replace(clip, media_mtime_ns=0))))
    return len(contents) == 1
