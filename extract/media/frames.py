"""The chosen frames of a container's pictures, of one clip or of the windows of a stretch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.files import MAX_PIXELS, Picture
from extract.media.shown import has_presentation_times, pictures_end_s, presented
from extract.media.streams import Streams, decoded, seconds
from extract.sources import centres_s
from extract.stretches import MINIMUM_S

T = TypeVar("T")


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
        extent_s = _extent_s(path, packets, streams, whole, config)
        targets_s = centres_s(extent_s, config.num_frames) + streams.start_s
        if whole:
            chosen = _needed_frames(packets, targets_s)
        if chosen is None:
            chosen, good = _frames_in_passing(packets, targets_s)
            packets, whole = packets[: min(good, len(packets) - 1)], False
    times_s = _times_s(path, [time_s for time_s, _ in chosen], streams, config)
    pictures: dict[int, Picture] = {}
    reformatter = VideoReformatter()
    for _, frame in chosen:
        if id(frame) not in pictures:
            pictures[id(frame)] = _upright(frame, reformatter)
    return [pictures[id(frame)] for _, frame in chosen], times_s, extent_s


def frames_of_windows(
    path: Path,
    views: Sequence[Streams],
    packets: list[Any],
    config: ExtractConfig,
    prepare: Callable[[Picture], T],
) -> Iterator[tuple[list[T], npt.NDArray[np.float64], float] | MediaError]:
    """What `decode_frames` gives of each view, but each picture is decoded and prepared once.

    `views` are windows of one stretch, `packets` all its pictures'. Where pictures are not where
    the packets say, a window is decoded by itself.
    """
    needs = [_need(path, view, config) for view in views]
    wanted = {stamp for need in needs if need is not None for stamp in need[1]}
    shown = _shown(packets, wanted, prepare) if wanted else {}
    for view, need in zip(views, needs, strict=True):
        try:
            if need is not None and shown.keys() >= set(need[1]):
                extent_s, stamps = need
                times_s = [seconds(stamp, packets[0].time_base) for stamp in stamps]
                yield (
                    [shown[stamp] for stamp in stamps],
                    _times_s(path, times_s, view, config),
                    extent_s,
                )
            else:
                frames, times, extent_s = _by_itself(path, view, config)
                once = {id(frame): frame for frame in frames}
                prepared = {number: prepare(frame) for number, frame in once.items()}
                yield [prepared[id(frame)] for frame in frames], times, extent_s
        except MediaError as error:
            yield error


def _by_itself(
    path: Path, view: Streams, config: ExtractConfig
) -> tuple[list[Picture], npt.NDArray[np.float64], float]:
    """`decode_frames` of a window whose packets others have too: their times stay as they were."""
    given = [packet.pts for packet in view.video]
    try:
        return decode_frames(path, view, config)
    finally:
        for packet, stamp in zip(view.video, given, strict=True):
            packet.pts = stamp


def _need(path: Path, view: Streams, config: ExtractConfig) -> tuple[float, list[int]] | None:
    """Extent in s and the times of the pictures of a window by its packets alone, or None."""
    if not view.video or not has_presentation_times(view):
        return None
    try:
        extent_s = _extent_s(path, view.video, view, True, config)
    except MediaError:
        return None
    return extent_s, _stamps(view.video, centres_s(extent_s, config.num_frames) + view.start_s)


def _shown(packets: list[Any], wanted: set[int], prepare: Callable[[Picture], T]) -> dict[int, T]:
    """The pictures with the wanted times, in one pass; after damage from the next key frame on."""
    found: dict[int, T] = {}
    reformatter, rest = VideoReformatter(), packets
    while rest and wanted - found.keys():
        damaged = len(rest)
        for number, _, frame in decoded(rest, list(wanted - found.keys())):
            if frame is None:
                damaged = number
            elif frame.pts in wanted:
                found[frame.pts] = prepare(_upright(frame, reformatter))
        later = range(damaged + 1, len(rest))
        rest = rest[next((n for n in later if rest[n].is_keyframe), len(rest)) :]
    return found


def _upright(frame: Any, reformatter: VideoReformatter) -> Picture:
    picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(picture, (frame.rotation // 90) % 4))


def _times_s(
    path: Path, shown_s: list[float], streams: Streams, config: ExtractConfig
) -> npt.NDArray[np.float64]:
    """Times on the clip's clock: what was on screen before it begins is there from its start."""
    times_s = np.array([max(time_s - streams.start_s, 0.0) for time_s in shown_s])
    _check_first(path, times_s[0], config)
    return times_s


def _extent_s(
    path: Path, packets: list[Any], streams: Streams, whole: bool, config: ExtractConfig
) -> float:
    """How much of the clip has pictures, s; MediaError where that is none."""
    last_s = pictures_end_s(packets, streams if whole else None)
    extent_s = min(config.clip_seconds, last_s - streams.start_s)
    if extent_s < MINIMUM_S:
        raise MediaError(
            path,
            "video",
            f"expected at least {MINIMUM_S} s of pictures that decode, of at most "
            f"{MAX_PIXELS:,} pixels each, found {max(extent_s, 0):.2f} s",
        )
    return extent_s


def _check_first(path: Path, first_s: float, config: ExtractConfig) -> None:
    if first_s >= config.clip_seconds:
        raise MediaError(
            path,
            "video",
            f"expected pictures in the first {config.clip_seconds:g} s, found the first at "
            f"{first_s:.2f} s",
        )


def _needed_frames(
    packets: list[Any], targets_s: npt.NDArray[np.float64]
) -> list[tuple[float, Any]] | None:
    """(time, frame) on screen at each target by the packets' times, or None."""
    needed = _stamps(packets, targets_s)
    frames = {f.pts: (s, f) for _, s, f in decoded(packets, needed) if f and f.pts in needed}
    return [frames[stamp] for stamp in needed] if frames.keys() >= set(needed) else None


def _stamps(packets: list[Any], targets_s: npt.NDArray[np.float64]) -> list[int]:
    """The time of the picture on screen at each target, by the packets, in the stream's units."""
    stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    times_s = np.array([seconds(stamp, packets[0].time_base) for stamp in stamps])
    places = np.maximum(np.searchsorted(times_s, targets_s, side="right") - 1, 0)
    return [stamps[place] for place in places]


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
