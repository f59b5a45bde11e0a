"""Decode the windows of a stretch of a recording, each as if it were decoded alone.

One pass: each picture and each block of sound is decoded once, whichever windows it is in. What a
window holds depends on the recording and the window, and not on the stretch it is in, but for
sound whose decoder makes up noise from a state that runs on (AAC's noise substitution): that state
begins with the stretch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av.error

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.media.decode import Decoded, container_sha256, decode_processed, unreadable
from extract.media.files import Album, Picture
from extract.media.frames import frames_of_windows
from extract.media.reading import read_packets
from extract.media.sound import Sound
from extract.media.streams import Streams
from extract.sources import MediaSource
from extract.stretches import shortest_s

Windows = Iterator[tuple[float, Decoded | MediaError]]


def decode_windows(
    source: MediaSource,
    offsets_s: Sequence[float],
    config: ExtractConfig,
    prepare: Callable[[Picture], Any],
) -> Windows:
    """(offset, what was decoded or why not) of each window of a stretch, in order.

    `frames` holds what `prepare` makes of each picture, the same object wherever windows share
    it. Raises MediaError where the recording can't be opened at all.
    """
    if source.container is not None:
        yield from _of_container(source.container, offsets_s, config, prepare)
        return
    album = None if source.frames is None else Album(source.frames, prepare)
    for offset_s in offsets_s:
        try:
            yield offset_s, decode_processed(source, album, config, offset_s)
        except MediaError as error:
            yield offset_s, error


def _of_container(
    path: Path, offsets_s: Sequence[float], config: ExtractConfig, prepare: Callable[[Picture], Any]
) -> Windows:
    part = offsets_s[0], offsets_s[-1] + config.clip_seconds
    try:
        sha256 = container_sha256(path)
        with read_packets(path, config, part) as streams:
            views = [
                streams.window(offset_s, offset_s + config.clip_seconds) for offset_s in offsets_s
            ]
            frames: Iterator[Any] = iter(())
            if config.modalities != "audio":
                frames = frames_of_windows(path, views, streams.video, config, prepare)
            sound = Sound(path, streams, part[1], config) if config.modalities != "video" else None
            for offset_s, view in zip(offsets_s, views, strict=True):
                clip = Decoded(media_s=streams.media_s, sha256=sha256)
                try:
                    if isinstance(found := next(frames, None), MediaError):
                        raise found
                    if found is not None:
                        clip.frames, clip.frame_time_s, clip.valid_s = found
                    if sound is not None:
                        clip.waveform, clip.audio_start_s = sound.window(view)
                        sound_s = len(clip.waveform) / config.sample_rate_hz
                        clip.valid_s = max(clip.valid_s, sound_s)
                    yield offset_s, clip
                except MediaError as error:
                    ended = 0 < offset_s > streams.end_s - shortest_s(config)
                    yield offset_s, _end(path, streams) if ended else error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise unreadable(path, error) from None


def _end(path: Path, streams: Streams) -> MediaError:
    """What is to be said of a recording that ends before its declared end."""
    held = f"{streams.end_s:.2f} s" if streams.end_s > 0 else "less"
    return MediaError(
        path,
        "end",
        f"expected {streams.media_s:.2f} s, as it declares, found {held}: it is cut, or declares "
        "too much; what is there was taken",
    )
