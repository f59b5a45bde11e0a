"""When each picture of a container is on screen, by its packets, and until when the last is."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np

from extract.media.boxes import track_end_s, whole_avi
from extract.media.streams import Streams, declared_end_s, decoded, seconds

LONG_STEPS = 10
"""The last picture's duration is believed at once when it is no longer than so many steps."""
USUAL_RATE = Fraction(25)


def presented(streams: Streams) -> list[Any]:
    """The packets with presentation times as their `pts`, each its own; none for what isn't shown.

    Where a container gives times in decoding order (AVI, some Matroska, raw streams, lost
    tables), the pictures are decoded once to learn in which order they are shown, and the
    sorted times are dealt out in that order. Ends before the first packet that is damaged.
    """
    packets = streams.video
    if has_presentation_times(streams):
        return packets
    given = [packet.pts for packet in packets]
    times = _sorted_times(streams)
    for number, packet in enumerate(packets):
        packet.pts = number  # the decoder hands it on to the picture
    shown: dict[int, None] = {}
    good = len(packets)
    for number, _, frame in decoded(packets):
        if frame is None:
            good = number
            break
        shown.setdefault(frame.pts)
    for packet in packets:
        packet.pts = None
    dealt = sorted(times[number] for number in shown)
    known = [given[n] - time for n, time in zip(shown, dealt, strict=True) if given[n] is not None]
    late = int(np.median(known)) if known and streams.stores_pts else 0
    for number, time in zip(shown, dealt, strict=True):
        packets[number].pts = time + late
    return packets[:good]


def has_presentation_times(streams: Streams) -> bool:
    """Whether the times of the packets are those of presentation, each picture's its own."""
    packets = streams.video
    stamps = [packet.pts for packet in packets]
    if not packets or None in stamps or len(set(stamps)) < len(stamps):
        return not packets
    reorders = packets[0].stream.codec_context.has_b_frames
    if not streams.stores_pts:
        return not reorders and all(packet.pts == packet.dts for packet in packets)
    return not reorders or any(a > b for a, b in itertools.pairwise(stamps))


def _sorted_times(streams: Streams) -> list[int]:
    """One time a packet, all different, in the stream's units; a missing one by the frame rate."""
    packets = streams.video
    stream = packets[0].stream
    rate = stream.guessed_rate or stream.average_rate or USUAL_RATE
    step = max(1, round(1 / (rate * packets[0].time_base)))
    whole = streams.stores_pts and all(packet.pts is not None for packet in packets)
    times: list[int] = []
    following = stream.start_time or 0
    for packet in packets:
        stamp = packet.pts if whole or packet.dts is None else packet.dts
        times.append(following if stamp is None else stamp)
        following = times[-1] + step
    for place, following in itertools.pairwise(np.argsort(times, kind="stable").tolist()):
        times[following] = max(times[following], times[place] + 1)
    return times


def pictures_end_s(packets: list[Any], streams: Streams | None = None) -> float:
    """When the last picture leaves the screen: its time and its duration, or the median step.

    With `streams`, by all that the file says, for a picture may stay: a still, a slide, motion
    and then rest. It stays until the next one, be that after the clip, or for its packet's
    duration, or until the stream's or the track's declared end; within the container's length.
    """
    shown = [packet for packet in packets if packet.pts is not None]
    if not shown:
        return -math.inf
    time_base = shown[0].time_base
    times_s = [seconds(stamp, time_base) for stamp in sorted(packet.pts for packet in shown)]
    step = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0
    last = max(shown, key=lambda packet: packet.pts)
    length = seconds(last.duration, time_base) if last.duration else step
    end_s = times_s[-1] + (length if 0 < length <= LONG_STEPS * max(step, 1e-3) else step)
    if streams is None:
        return end_s
    container_s = streams.start_s + streams.media_s
    stays_s = times_s[-1] + length
    if not last.duration:
        stays_s = declared_end_s(last.stream)
        if math.isnan(stays_s) and len(times_s) == 1:
            stays_s = container_s
        if streams.audio:
            stays_s = min(stays_s, pictures_end_s(streams.audio))
    if streams.format == "avi" and whole_avi(streams.path):
        stays_s = float(np.fmax(stays_s, declared_end_s(last.stream)))
    if container_s > end_s:
        stays_s = min(stays_s, container_s)
    if "mp4" in streams.format and last is not packets[-1] and _complete(packets, streams):
        track_s = track_end_s(streams.path, last.stream.id)
        if times_s[-1] < track_s < end_s - step / 2:
            end_s = stays_s = track_s
        stays_s = float(np.fmax(stays_s, track_s))
    if stays_s > end_s + step:
        end_s = stays_s
    return streams.next_s if streams.next_s > end_s else end_s


def _complete(packets: list[Any], streams: Streams) -> bool:
    """Whether all that the stream's table lists is there: nothing is beyond the clip, or cut.

    Of a window further on in a recording, all up to the end of the table.
    """
    if packets[-1].is_corrupt:
        return False
    if streams.offset_s > 0:
        return not streams.cut and math.isnan(streams.next_s)
    return len(packets) >= int(packets[0].stream.frames)
