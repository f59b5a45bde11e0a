"""A clip's packets and their times: of a clip alone, or of a window among others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

REORDER_S = 1.0
"""How far packets may be out of presentation order."""
PREROLL_S = 1.0
"""So long before a part of a recording its sound is decoded: what comes then depends on it."""
_TAGGED_DURATION = re.compile(r"([0-9]+):([0-9]+):([0-9.]+)")


@dataclass
class Streams:
    """The clip's packets by stream, in file order, and the clock they share.

    Attributes
    ----------
    path: the file.
    format: FFmpeg's name of the container's kind.
    start_s: the container's start, which is the clip's.
    media_s: length that the container declares; NaN where it declares none.
    next_s: time of the first picture that comes too late for the clip; NaN where none does.
    offset_s: of a window of a recording: where in it the clip begins; `start_s` is then there.
    ended: whether the file has no more than what was read.
    cut: whether it breaks off, or can't be followed, where reading ended.
    container: what the packets belong to.
    """

    path: Path
    format: str
    start_s: float
    media_s: float
    audio: list[Any] = field(default_factory=list)
    video: list[Any] = field(default_factory=list)
    next_s: float = math.nan
    offset_s: float = 0.0
    ended: bool = False
    cut: bool = False
    container: Any = None

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def window(self, offset_s: float, end_s: float) -> Streams:
        """What `read_packets` gives of the part [offset_s, end_s) alone."""
        view = replace(
            self,
            start_s=self.start_s + offset_s,
            media_s=self.media_s - offset_s,
            offset_s=offset_s,
        )
        limit_s = self.start_s + end_s + REORDER_S
        first = 0
        if offset_s > 0:
            view.audio = _inside(self.audio, self._audio_s, view.start_s - PREROLL_S, limit_s)
            keys = [place for place, shown_s in self._keys if shown_s <= view.start_s]
            first = keys[-1] if keys else 0
        else:
            view.audio = _inside(self.audio, self._audio_s, -math.inf, limit_s)
        late = self._video_s[first:] > limit_s
        view.video = _inside(self.video[first:], self._video_s[first:], -math.inf, limit_s)
        if late.any():
            view.next_s = float(self._video_s[first:][late][0])
        return view

    @cached_property
    def _audio_s(self) -> npt.NDArray[np.float64]:
        return np.array([packet_s(packet) for packet in self.audio], np.float64)

    @cached_property
    def _video_s(self) -> npt.NDArray[np.float64]:
        return np.array([packet_s(packet) for packet in self.video], np.float64)

    @cached_property
    def _keys(self) -> list[tuple[int, float]]:
        """The place of each key frame, and when it is shown."""
        found = enumerate(self.video)
        return [(place, shown_s(packet)) for place, packet in found if packet.is_keyframe]

    @property
    def end_s(self) -> float:
        """When the last packet ends, s from the start; infinite where more follow, or may."""
        if not self.ended:
            return math.inf
        packets = [*self.audio, *self.video]
        ends = [packet_s(p) + seconds(p.duration or 0, p.time_base) for p in packets]
        return max((end_s for end_s in ends if end_s > 0), default=0.0) - self.start_s

    @property
    def stores_pts(self) -> bool:
        """Whether the container stores presentation times at all."""
        return self.format != "avi"


def packet_s(packet: Any) -> float:
    """When a packet is to be decoded, s; NaN where nothing says."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return math.nan if stamp is None else seconds(stamp, packet.time_base)


def shown_s(packet: Any) -> float:
    """When a packet's picture is shown, s; NaN where nothing says."""
    return packet_s(packet) if packet.pts is None else seconds(packet.pts, packet.time_base)


def _inside(
    packets: list[Any], times_s: npt.NDArray[np.float64], begin_s: float, limit_s: float
) -> list[Any]:
    """The packets of [begin, limit], and those whose time isn't known."""
    kept = ~((times_s < begin_s) | (times_s > limit_s))
    return [packets[place] for place in np.flatnonzero(kept).tolist()]


def seconds(stamp: int, time_base: Any) -> float:
    """A time stamp in seconds, correctly rounded; several times faster than Fraction."""
    return float(stamp * time_base.numerator / time_base.denominator)


def declared_end_s(stream: Any) -> float:
    """When a stream ends by its own account, on the container's clock; NaN where it gives none."""
    if stream.duration is not None:
        return seconds((stream.start_time or 0) + stream.duration, stream.time_base)
    tagged = _TAGGED_DURATION.match(stream.metadata.get("DURATION", ""))  # Matroska's way
    if tagged is None:
        return math.nan
    hours, minutes, rest = tagged.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def decoded(
    packets: Sequence[Any], needed: list[int] | None = None, context: Any = None
) -> Iterator[tuple[int, float, Any]]:
    """(packet number, time in s, frame) in presentation order.

    A frame of None marks a damaged packet, and the end. With `needed` (times in the stream's
    own units) the decoder skips frames that are neither needed nor referred to by others, and
    stops after the last.
    """
    if not packets:
        return
    context, time_base = context or packets[0].stream.codec_context, packets[0].time_base
    context.flush_buffers()
    left = set(needed) if needed is not None else None
    for number, packet in enumerate([*packets, None]):
        skip = left is not None and packet is not None and packet.pts not in left
        context.skip_frame = "NONREF" if skip else "DEFAULT"
        try:
            for frame in context.decode(packet):
                if frame.is_corrupt:
                    yield number, 0.0, None
                    return
                if frame.pts is not None:
                    yield number, seconds(frame.pts, time_base), frame
                    if left is not None:
                        left.discard(frame.pts)
        except av.error.FFmpegError:
            yield number, 0.0, None
            return
        if left is not None and not left:
            return
