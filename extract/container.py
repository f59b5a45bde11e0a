"""Decode a container (mp4, webm, …) with PyAV, whose wheels carry FFmpeg."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.video.reformatter import VideoReformatter

from cache.errors import MediaError
from extract.clips import centres_s
from extract.config import ExtractConfig
from extract.decoded import Decoded, Picture, finish_waveform

MINIMUM_S = 0.08
"""Shortest picture stream that counts as a clip: two frames at 25 a second."""
GAP_S = 0.05
"""A jump of the audio clock that is larger than this is a true gap, smaller ones are rounding."""
REORDER_S = 1.0
"""How far packets may be out of presentation order."""


@dataclass
class _Streams:
    """The clip's packets by stream, in file order, and the clock they share."""

    start_s: float
    media_s: float
    audio: list[Any] = field(default_factory=list)
    video: list[Any] = field(default_factory=list)


def decode_container(path: Path, config: ExtractConfig) -> Decoded:
    """Decode the first clip_seconds of a container's first audio and first video stream."""
    want_audio, want_video = config.modalities != "video", config.modalities != "audio"
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
        # Only this file: a playlist inside must not lead to other files or the network.
        with av.open(
            str(path.absolute()), metadata_errors="ignore", options={"protocol_whitelist": "file"}
        ) as container:
            audio = container.streams.audio[0] if container.streams.audio else None
            video = container.streams.video[0] if container.streams.video else None
            for wanted, stream, kind in (
                (want_audio, audio, "audio"),
                (want_video, video, "video"),
            ):
                if wanted and stream is None:
                    raise MediaError(path, kind, f"expected {kind}, found no {kind} stream")
                if stream is not None:
                    stream.codec_context.thread_count = 1
            streams = _packets(
                container, audio if want_audio else None, video if want_video else None, config
            )
            clip = Decoded(media_s=streams.media_s, sha256=sha256)
            if want_video:
                _decode_video(path, streams, config, clip)
            if want_audio:
                _decode_audio(path, streams, config, clip)
            return clip
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            path, "find", f"expected audio and video that FFmpeg can open, found: {error}"
        ) from None


def _packets(container: Any, audio: Any, video: Any, config: ExtractConfig) -> _Streams:
    """Collect the clip's packets; a file that ends early gives those before its end."""
    begin, length = container.start_time, container.duration
    streams = _Streams(
        start_s=begin / av.time_base if begin is not None else 0.0,
        media_s=length / av.time_base if length is not None else math.nan,
    )
    wanted = [stream for stream in (audio, video) if stream is not None]
    open_streams = {stream.index for stream in wanted}
    limit_s = streams.start_s + config.clip_seconds + REORDER_S
    try:
        for packet in container.demux(wanted):
            if packet.size == 0:
                continue
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is not None and _seconds(stamp, packet.time_base) > limit_s:
                open_streams.discard(packet.stream_index)
                if not open_streams:
                    break
            elif audio is not None and packet.stream_index == audio.index:
                streams.audio.append(packet)
            else:
                streams.video.append(packet)
    except av.error.FFmpegError:
        pass  # the file is cut or damaged here; the module's rule says what that means
    return streams


def _seconds(stamp: int, time_base: Any) -> float:
    """A time stamp in seconds, correctly rounded; several times faster than Fraction."""
    return float(stamp * time_base.numerator / time_base.denominator)


def _decode_video(path: Path, streams: _Streams, config: ExtractConfig, clip: Decoded) -> None:
    """Fill in the frames. Decodes again over a shorter extent when a packet turns out damaged."""
    packets = streams.video
    chosen = None
    while chosen is None:
        extent_s = min(config.clip_seconds, _video_end_s(packets, streams.start_s))
        if extent_s < MINIMUM_S:
            raise MediaError(
                path,
                "video",
                f"expected at least {MINIMUM_S} s of pictures, found {extent_s:.2f} s",
            )
        targets_s = centres_s(extent_s, config.num_frames) + streams.start_s
        if packets is streams.video:
            chosen = _needed_frames(packets, targets_s)
        if chosen is None:
            chosen, good = _frames_in_passing(packets, targets_s)
            packets = packets[: min(good, len(packets) - 1)]
    clip.frame_time_s = np.array([time_s - streams.start_s for time_s, _ in chosen])
    upright: dict[int, Picture] = {}
    reformatter = VideoReformatter()
    for _, frame in chosen:
        if id(frame) not in upright:
            picture = reformatter.reformat(frame, format="rgb24").to_ndarray()
            upright[id(frame)] = np.ascontiguousarray(np.rot90(picture, (frame.rotation // 90) % 4))
    clip.frames = [upright[id(frame)] for _, frame in chosen]
    clip.valid_s = max(clip.valid_s, extent_s)


def _video_end_s(packets: list[Any], start_s: float) -> float:
    """When the last frame leaves the screen: its time, and its duration or the median step."""
    stamps = sorted(
        _seconds(packet.pts if packet.pts is not None else packet.dts, packet.time_base)
        for packet in packets
        if packet.pts is not None or packet.dts is not None
    )
    if not stamps:
        return 0.0
    step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    last = max(packets, key=lambda packet: packet.pts if packet.pts is not None else -1)
    length = _seconds(last.duration, last.time_base) if last.duration else step
    return stamps[-1] + (length if 0 < length <= 10 * max(step, 1e-3) else step) - start_s


def _needed_frames(
    packets: list[Any], targets_s: npt.NDArray[np.float64]
) -> list[tuple[float, Any]] | None:
    """(time, frame) on screen at each target by the packets' times, or None."""
    stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
    if len(set(stamps)) < len(packets):
        return None
    times_s = np.array([_seconds(stamp, packets[0].time_base) for stamp in stamps])
    places = np.maximum(np.searchsorted(times_s, targets_s, side="right") - 1, 0)
    needed = [stamps[place] for place in places]
    decoded = _decoded(packets, needed)
    frames = {f.pts: (s, f) for _, s, f in decoded if f is not None and f.pts in needed}
    return [frames[stamp] for stamp in needed] if frames.keys() >= set(needed) else None


def _frames_in_passing(
    packets: list[Any], targets_s: npt.NDArray[np.float64]
) -> tuple[list[tuple[float, Any]] | None, int]:
    """(time, frame) on screen at each target, or None and how many packets decode well.

    Trusts what is decoded alone, frame by frame up to the last target.
    """
    chosen: list[tuple[float, Any]] = []
    shown = None
    for number, time_s, frame in _decoded(packets):
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


def _decoded(
    packets: list[Any], needed: list[int] | None = None
) -> Iterator[tuple[int, float, Any]]:
    """(packet number, time in s, frame) in presentation order.

    A frame of None marks a damaged packet, and the end. With `needed` (times in the stream's
    own units) the decoder skips frames that are neither needed nor referred to by others, and
    stops after the last.
    """
    if not packets:
        return
    context, time_base = packets[0].stream.codec_context, packets[0].time_base
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
                    yield number, _seconds(frame.pts, time_base), frame
                    if left is not None:
                        left.discard(frame.pts)
        except av.error.FFmpegError:
            yield number, 0.0, None
            return
        if left is not None and not left:
            return


def _decode_audio(path: Path, streams: _Streams, config: ExtractConfig, clip: Decoded) -> None:
    """Place each decoded block where it plays; the mean over channels, like librosa.to_mono."""
    blocks: list[tuple[float, npt.NDArray[np.float32]]] = []
    rate_hz = 0
    resampler = av.AudioResampler(format="fltp")
    for _, time_s, frame in _decoded(streams.audio):
        if frame is None or time_s - streams.start_s >= config.clip_seconds:
            break
        if rate_hz not in (0, frame.sample_rate):
            break  # the rate changes mid-stream: what follows can't be trusted
        rate_hz = frame.sample_rate
        parts = [frame] if frame.format.name == "fltp" else resampler.resample(frame)
        for part in parts:
            channels = part.to_ndarray()
            mono = channels[0] if len(channels) == 1 else channels.mean(axis=0)
            blocks.append((time_s - streams.start_s, mono))
    if not blocks:
        raise MediaError(path, "audio", "expected sound, found no block that decodes")
    samples, clip.audio_start_s = _placed(blocks, rate_hz)
    clip.waveform = finish_waveform(path, samples, rate_hz, config)
    clip.valid_s = max(clip.valid_s, len(clip.waveform) / config.sample_rate_hz)


def _placed(
    blocks: list[tuple[float, npt.NDArray[np.float32]]], rate_hz: int
) -> tuple[npt.NDArray[np.float32], float]:
    """Join blocks on the clip's clock: silence before the first and in true gaps."""
    parts: list[npt.NDArray[np.float32]] = []
    position = 0
    for time_s, block in blocks:
        gap = round(time_s * rate_hz) - position
        if position == 0 and gap < 0:
            block = block[-gap:]  # sound before the clip's start
        elif gap > (GAP_S * rate_hz if position else 0):
            parts.append(np.zeros(gap, np.float32))
            position += gap
        parts.append(block)
        position += len(block)
    return np.concatenate(parts), max(0.0, blocks[0][0])
