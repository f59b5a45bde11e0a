"""Recordings of any length: which windows each gives, by what is known of its length."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cache.format.index import Index
from cache.format.names import check_id
from cache.format.row_table import Entry
from cache.format.shard import Failure
from cache.format.windows import Window, looks_like_window, window_of
from extract.config import ExtractConfig
from extract.sources import MediaSource
from extract.stretches import believable, offsets_of


@dataclass(frozen=True)
class Recording:
    """One recording, and what a cache of windows has of it.

    Attributes
    ----------
    id: its id, which is that of its first window.
    source: its media, if any.
    config: the settings, with a hop.
    offsets_s: its windows by its length; without media, those that there are.
    gone: ids of windows of which there are rows of other, longer media.
    refusal: why none of it is looked at.
    """

    id: str
    source: MediaSource | None
    config: ExtractConfig
    offsets_s: list[float] = field(default_factory=list)
    gone: tuple[str, ...] = ()
    refusal: Failure | None = None


def find_recordings(
    ids: Iterable[str], sources: Mapping[str, MediaSource], index: Index, config: ExtractConfig
) -> Iterator[Recording]:
    """Each recording with its windows; media is opened where no row tells its length."""
    rows, failures = _by_recording(index.clips), _by_recording(index.failures)
    for recording in ids:
        yield _recording(
            recording,
            sources.get(recording),
            {offset_s: index.clips[i] for offset_s, i in rows.get(recording, {}).items()},
            {offset_s: index.failures[i] for offset_s, i in failures.get(recording, {}).items()},
            config,
        )


def _by_recording(ids: Iterable[str]) -> dict[str, dict[float, str]]:
    found: dict[str, dict[float, str]] = defaultdict(dict)
    for clip_id in ids:
        window = window_of(clip_id)
        found[window.recording][window.offset_s] = clip_id
    return found


def _recording(
    recording: str,
    source: MediaSource | None,
    rows: Mapping[float, Entry],
    failures: Mapping[float, Failure],
    config: ExtractConfig,
) -> Recording:
    if source is None or source.problem:
        return Recording(recording, source, config, sorted(rows) or [0.0])
    if looks_like_window(recording):
        why = (
            f"{source.path}: its name looks like a window of another recording, "
            f"{window_of(recording).recording!r}; give it a name without @ and a number at its "
            "end, in the annotations too"
        )
        return Recording(recording, source, config, refusal=_refusal(recording, source, why))
    declared_s = next((row.media_s for row in rows.values() if source.made(row)), math.nan)
    if not believable(declared_s, source.size):
        from extract.media.length import recording_s  # opens media: no warm run needs it

        declared_s = recording_s(source, config)
    offsets_s = offsets_of(declared_s, config)
    ends_s = [o for o, f in failures.items() if f.stage == "end" and source.made(f)]
    offsets_s = [offset_s for offset_s in offsets_s if offset_s <= min(ends_s, default=math.inf)]
    if check_id(Window(recording, offsets_s[-1]).clip_id) is not None:
        why = f"{source.path}: its name is too long for names of its windows; shorten it"
        return Recording(recording, source, config, refusal=_refusal(recording, source, why))
    gone_s = [o for o, row in rows.items() if o > offsets_s[-1] and not source.made(row)]
    gone = tuple(Window(recording, offset_s).clip_id for offset_s in sorted(gone_s))
    return Recording(recording, source, config, offsets_s, gone)


def _refusal(recording: str, source: MediaSource, why: str) -> Failure:
    return Failure(recording, "find", why, 1, source.size, source.mtime_ns)
