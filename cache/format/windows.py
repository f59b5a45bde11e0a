"""Which part of which recording a clip is: in a cache of windows, its id says so.

A recording is a media file of any length, a clip the window [offset, offset + clip_seconds) of it.
The clip at offset 0 has the recording's own id, so a set of short clips is a cache of windows too;
one further on has `<recording>@<offset>`, the offset in seconds without needless zeros, as
`walk@12.5`. In a cache without windows every clip is the beginning of its recording, whatever its
id looks like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LONGER_S = 0.25
"""What a recording has beyond its only clip is told of from here on: less is a codec's padding."""
OFFSET_DECIMALS = 3
_WINDOW = re.compile(r"(.+)@([1-9][0-9]{0,6}(?:\.[0-9]{0,2}[1-9])?|0\.[0-9]{0,2}[1-9])", re.DOTALL)


@dataclass(frozen=True, order=True)
class Window:
    """A clip's place: the recording, and where in it the clip begins, s."""

    recording: str
    offset_s: float = 0.0

    @property
    def clip_id(self) -> str:
        """The id of this clip in a cache of windows.

        Examples
        --------
        >>> Window("walk", 12.5).clip_id, Window("walk").clip_id
        ('walk@12.5', 'walk')
        """
        offset = f"{self.offset_s:.{OFFSET_DECIMALS}f}".rstrip("0").rstrip(".")
        return self.recording if offset == "0" else f"{self.recording}@{offset}"


def window_of(clip_id: str) -> Window:
    """The place that the id of a clip in a cache of windows says.

    Examples
    --------
    >>> window_of("walk@12.5"), window_of("walk@home")
    (Window(recording='walk', offset_s=12.5), Window(recording='walk@home', offset_s=0.0))
    """
    found = _WINDOW.fullmatch(clip_id)
    return Window(found[1], float(found[2])) if found else Window(clip_id)


def looks_like_window(recording: str) -> bool:
    """Whether a recording's own name could be taken for a window of another one."""
    return _WINDOW.fullmatch(recording) is not None


def beyond_clips(media_s: npt.NDArray[np.float64], clip_seconds: float) -> tuple[int, float]:
    """How many recordings of (R,) lengths are longer than their only clip, and by how many s."""
    more_s = media_s[np.isfinite(media_s)] - clip_seconds
    longer = more_s >= LONGER_S
    return int(longer.sum()), float(more_s[longer].sum())
