"""A container's packets: of which streams, from where to where.

A container may hold more than one picture and one sound: a cover, a still in front, commentary,
tracks that no decoder here knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
from av.stream import Disposition

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.files import MAX_PIXELS
from extract.media.streams import PREROLL_S, REORDER_S, Streams, packet_s, shown_s

INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
"""Containers whose index leads to a time; others are read from their beginning."""
FAR_S = 10.0
"""A part that begins no later is read from the beginning."""
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}
"""Kept by the decoder too: the size of the pictures may change in the middle of a stream."""
TAGS: dict[str, Any] = (
    {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
)
"""Tags that are no UTF-8 are none of our business; PyAV 19 takes them without being asked."""


def read_packets(
    path: Path, config: ExtractConfig, part: tuple[float, float] | None = None
) -> Streams:
    """The packets of the clip's sound and pictures, as far as the clip goes; to be closed.

    `part` names another part of the recording, [from, to) in s from its start: pictures are then
    read from the last key frame before it, sound from PREROLL_S before. Where a container has an
    index that leads there, what is before isn't read.

    Raises MediaError where a wanted stream is missing or its pictures are too large.
    """
    from_s, to_s = part or (0.0, config.clip_seconds)
    if from_s > FAR_S and (found := _read(path, config, from_s, to_s, seek=True)) is not None:
        return found
    whole = _read(path, config, from_s, to_s, seek=False)
    assert whole is not None
    return whole


def open_container(path: Path) -> Any:
    """A media file opened by FFmpeg; and this file alone: a playlist in it leads nowhere."""
    options = {"protocol_whitelist": "file", **DECODER_OPTIONS}
    return av.open(str(path.absolute()), options=options, **TAGS)


def _read(
    path: Path, config: ExtractConfig, from_s: float, to_s: float, seek: bool
) -> Streams | None:
    """What `read_packets` gives; None where the index may not lead to all that is needed."""
    container = open_container(path)
    try:
        found = _read_open(path, container, config, (from_s, to_s), seek)
    except BaseException:
        container.close()
        raise
    if found is None:
        container.close()
    return found


def _read_open(
    path: Path, container: Any, config: ExtractConfig, part: tuple[float, float], seek: bool
) -> Streams | None:
    wanted = {
        kind: _candidates(path, kind, getattr(container.streams, kind))
        for kind in ("audio", "video")
        if config.modalities in (kind, "both")
    }
    begin, length = container.start_time, container.duration
    streams = Streams(
        path=path,
        format=container.format.name,
        start_s=begin / av.time_base if begin is not None else 0.0,
        media_s=length / av.time_base if length is not None else math.nan,
        container=container,
    )
    begin_s = streams.start_s + part[0] if part[0] > 0 else -math.inf
    limit_s = streams.start_s + part[1] + REORDER_S
    if seek:
        if streams.format not in INDEXED:
            return None
        try:
            container.seek(round((begin_s - PREROLL_S - REORDER_S) * av.time_base))
        except av.error.FFmpegError:
            return None
    found = _demux(container, list(chain(*wanted.values())), begin_s, limit_s, seek)
    if found is None:
        return None
    packets, beyond, streams.cut = found
    streams.ended = not (streams.cut or beyond)
    if "audio" in wanted:
        streams.audio = packets[_fullest(wanted["audio"], packets)]
    if "video" in wanted:
        index = _fullest(wanted["video"], packets)
        streams.video, streams.next_s = packets[index], beyond.get(index, math.nan)
    return streams


def _candidates(path: Path, kind: str, streams: Sequence[Any]) -> list[Any]:
    """The streams of a kind that can be decoded, those marked as default first; no covers."""
    shown = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    able = [stream for stream in shown if stream.codec_context is not None]
    if not able:
        rest = ", only a cover picture" if len(shown) < len(streams) else ""
        rest = " that can be decoded here" if shown else rest
        raise MediaError(path, kind, f"expected {kind}, found no {kind} stream{rest}")
    for stream in able:
        context = stream.codec_context
        context.thread_count = 1
        if kind == "video":
            context.options = DECODER_OPTIONS
            if context.width * context.height > MAX_PIXELS:
                raise MediaError(
                    path,
                    "video",
                    f"expected pictures of at most {MAX_PIXELS:,} pixels, found "
                    f"{context.width} × {context.height}; scale the video down",
                )
    return sorted(able, key=lambda stream: not stream.disposition & Disposition.default)


def _fullest(candidates: list[Any], packets: dict[int, list[Any]]) -> int:
    """Index of the first stream that is more than a still, or holds anything at all."""
    for fewest in (2, 1, 0):
        for stream in candidates:
            if len(packets[stream.index]) >= fewest:
                return int(stream.index)
    raise AssertionError("every stream has no packets or more")


def _demux(
    container: Any, wanted: list[Any], begin_s: float, limit_s: float, sought: bool
) -> tuple[dict[int, list[Any]], dict[int, float], bool] | None:
    """Packets by stream up to the part's end, the time of the first one beyond it, and `cut`.

    Of pictures from the last key frame before its beginning on, of sound from PREROLL_S before.
    A file that ends early gives the packets before its end. With `sought`, None where the first
    packet of a stream comes too late to be sure that none before it is needed.
    """
    packets: dict[int, list[Any]] = {stream.index: [] for stream in wanted}
    beyond: dict[int, float] = {}
    pictures = {stream.index for stream in wanted if stream.type == "video"}
    unsure = set(packets) if sought else set()
    try:
        for packet in container.demux(wanted):
            if packet.size == 0:
                continue
            index, time_s = packet.stream_index, packet_s(packet)
            if index in unsure:
                needed = packet.is_keyframe and shown_s(packet) <= begin_s
                if not (needed if index in pictures else time_s < begin_s - PREROLL_S):
                    return None
                unsure.discard(index)
            if time_s > limit_s:
                beyond.setdefault(index, time_s)
                if len(beyond) == len(wanted):
                    break
            elif index in pictures:
                if packet.is_keyframe and shown_s(packet) <= begin_s:
                    packets[index].clear()
                packets[index].append(packet)
            elif not time_s < begin_s - PREROLL_S:
                packets[index].append(packet)
    except av.error.FFmpegError:
        return None if unsure else (packets, beyond, True)  # extract.media says what that means
    return None if unsure else (packets, beyond, False)
