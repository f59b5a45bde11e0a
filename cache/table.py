"""Clips and what is true of them as one pandas table, for programs of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cache.format.schema import NO_SPLIT, SPLITS
from cache.labels.annotations import Labels
from cache.reader import Cache

if TYPE_CHECKING:
    import pandas as pd


def clip_table(cache: Cache) -> pd.DataFrame:
    """A row for each clip of a cache and each event in it.

    Parameters
    ----------
    cache: as of `open_cache`; labels are not needed.

    Returns
    -------
    A pandas.DataFrame with `id`; `row`, which `Cache.read` takes; `recording` and `offset_s`, of
    which and where the clip is a window; `valid_s`, how much of it there is. Of the event
    `category`, `start_s`, `end_s` (s from the clip's start, cut to the clip), `split`. Without an
    event the category is "", the times 0; of one that doesn't say when they are NaN; without a
    label all are none.

    Raises
    ------
    CacheError
        Where the labels can't be read.

    Examples
    --------
    >>> from cache import clip_table, open_cache
    >>> features = open_cache("features")
    >>> clips = clip_table(features)
    >>> clips[["id", "category", "start_s", "end_s"]].head(1).to_dict("records")
    [{'id': 'clip00000', 'category': 'Class 0', 'start_s': 5.0, 'end_s': 9.0}]
    >>> features.read("audio/mel", clips.row[clips.split == "train"]).shape
    (9, 431, 64)
    """
    clips = _clips(cache)
    labels = cache.stored_labels()
    if labels is None:
        return clips.assign(category=None, start_s=np.nan, end_s=np.nan, split=None)
    return _cut(clips.merge(_events(labels), on="recording", how="left"), cache.clip_seconds)


def _clips(cache: Cache) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "id": cache.ids,
            "row": np.arange(len(cache.ids)),
            "recording": [one.recording for one in cache.windows],
            "offset_s": np.array([one.offset_s for one in cache.windows], np.float64),
            "valid_s": np.asarray(cache.lengths_s[0], np.float64),
        }
    )


def _events(labels: Labels) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "recording": labels.ids,
            "category": labels.names(),
            "start_s": labels.start_s,
            "end_s": labels.end_s,
            "split": [None if n == NO_SPLIT else SPLITS[n] for n in labels.split.tolist()],
        }
    )


def _cut(rows: pd.DataFrame, clip_seconds: float) -> pd.DataFrame:
    """Pairs of clip and event of one recording → those that overlap, on the clip's clock.

    A clip that none of its recording's events overlaps has none.
    """
    begin, end = rows["start_s"] - rows["offset_s"], rows["end_s"] - rows["offset_s"]
    inside = (begin < clip_seconds) & ((end > 0) | ((begin == end) & (begin >= 0)))
    nothing = (rows["category"] == "") | (begin.notna() & ~inside)
    cut = {"start_s": begin.clip(0, clip_seconds), "end_s": end.clip(0, clip_seconds)}
    rows = rows.assign(**{name: value.mask(nothing, 0.0) for name, value in cut.items()})
    rows["category"] = rows["category"].mask(nothing, "")
    has_event = (~nothing).groupby(rows["id"]).transform("any")
    spare = nothing & (has_event | (rows.duplicated(["id", "split"]) & nothing))
    return rows[~spare].reset_index(drop=True)
