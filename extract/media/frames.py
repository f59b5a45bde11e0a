"""The chosen frames of a container's pictures: when each is on screen, and how long the last."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.files import MAX_PIXELS, Picture
from extract.media.streams import (
    Streams,
    declared_end_s,
    decoded,
    seconds,
    track_end_s,
    whole_avi,
)
from extract.sources import centres_s

MINIMUM_S = 0.08
"""Shortest picture stream that counts as a clip: two frames at 25 a second."""
LONG_STEPS = 10
"""The last picture's duration is believed at once when it is no longer than so many steps."""
USUAL_RATE = Fraction(25)


def decode_frames(
    path: Path, streams: Streams, config: ExtractConfig
) -> tuple[list[Picture], npt.NDArray[np.float64], float]:
    """F frames, their times (F,) in s, and how much of the clip has pictures, in s.

    Decodes again over a shorter extent when a packet turns out damaged.
    """
    if not streams.video:
        _check_first(path, streams.next_s - streams.start_s, config)
    packets = presented(streams)
    whole = len(packets) == len(streams.video)
    chosen = None
    while chosen is None:
        end_s = _end_s(packets, streams if whole else None)
        extent_s = min(config.clip_seconds, end_s - streams.start_s)
        if extent_s < MINIMUM_S:
            raise MediaError(
                path,
                "video",
                f"expected at least {MINIMUM_S} s of pictures that decode, of at most "
                f"{MAX_PIXELS:,} pixels each, found {max(extent_s, 0):.2f} s",
            )
        targets_s = centres_s(extent_s, config.num_frames) + streams.start_s
        if whole:
            chosen = _needed_frames(packets, targets_s)
        if chosen is None:
            chosen, good = _frames_in_passing(packets, targets_s)
            packets, whole = packets[: min(good, len(packets) - 1)], False
    # What was on screen before the clip begins is there from its beginning.
    times_s = np.array([max(time_s - streams.start_s, 0.0) for time_s, _ in chosen])
    _check_first(path, times_s[0], config)
    upright: dict[int, Picture] = {}
    reformatter = VideoReformatter()
    for _, frame in chosen:
        if id(frame) not in upright:
            picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
            upright[id(frame)] = np.ascontiguousarray(np.rot90(picture, (frame.rotation // 90) % 4))
    return [upright[id(frame)] for _, frame in chosen], times_s, extent_s


def _check_first(path: Path, first_s: float, config: ExtractConfig) -> None:
    if first_s >= config.clip_seconds:
        raise MediaError(
            path,
            "video",
            f"expected pictures in the first {config.clip_seconds:g} s, found the first at "
            f"{first_s:.2f} s",
        )


def presented(streams: Streams) -> list[Any]:
    """The packets with presentation times as their `pts`, each its own; none for what isn't shown.

    Where a container gives times in decoding order (AVI, some Matroska, raw streams, lost
    tables), the pictures are decoded once to learn in which order they are shown, and the
    sorted times are dealt out in that order. Ends before the first packet that is damaged.
    """
    packets = streams.video
    if _has_presentation_times(streams):
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


def _has_presentation_times(streams: Streams) -> bool:
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


def _end_s(packets: list[Any], streams: Streams | None = None) -> float:
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
            stays_s = min(stays_s, _end_s(streams.audio))
    if streams.format == "avi" and whole_avi(streams.path):
        stays_s = float(np.fmax(stays_s, declared_end_s(last.stream)))
    if container_s > end_s:
        stays_s = min(stays_s, container_s)
    if "mp4" in streams.format and last is not packets[-1] and _complete(packets):
        track_s = track_end_s(streams.path, last.stream.id)
        if times_s[-1] < track_s < end_s - step / 2:
            end_s = stays_s = track_s
        stays_s = float(np.fmax(stays_s, track_s))
    if stays_s > end_s + step:
        end_s = stays_s
    return streams.next_s if streams.next_s > end_s else end_s


def _complete(packets: list[Any]) -> bool:
    """Whether all that the stream's table lists is there: nothing is beyond the clip, or cut."""
    return len(packets) >= packets[0].stream.frames and not packets[-1].is_corrupt


def _needed_frames(
    packets: list[Any], targets_s: npt.NDArray[np.float64]
) -> list[tuple[float, Any]] | None:
    """(time, frame) on screen at each target by the packets' times, or None."""
    stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    time_base = packets[0].time_base
    times_s = np.array([seconds(stamp, time_base) for stamp in stamps])
    places = np.maximum(np.searchsorted(times_s, targets_s, side="right") - 1, 0)
    needed = [stamps[place] for place in places]
    frames = {f.pts: (s, f) for _, s, f in decoded(packets, needed) if f and f.pts in needed}
    return [frames[stamp] for stamp in needed] if frames.keys() >= set(needed) else None


def _frames_in_passing(
    packets: list[Any], targets_s: npt.NDArray[np.float64]
) -> tuple[list[tuple[float, Any]] | None, int]:
    """(time, frame) on screen at each target, or None and how many packets decode well.

    Trusts what is decoded alone, frame by frame up to the last target.
    """
    chosen: list[tuple[float, Any]] = []
    shown = None
    for number, time_s, frame in decoded(packets):
        if frame is None:
            return None, number
        while len(chosen) < len(targets_s) and time_s > targets_s[len(chosen)]:
            chosen.append(shown or (time_s, frame))
        if len(chosen) == len(targets_s):
            return chosen, len(packets)
        shown = (time_s, frame)
    if shown is None:
        return None, 0
    return chosen + [shown] * (len(targets_s) - len(chosen)), len(packets)
