"""How long a recording is, without decoding it."""

from __future__ import annotations

import math

import av
import av.error
import soundfile

from extract.config import ExtractConfig
from extract.media.reading import open_container
from extract.media.streams import packet_s, seconds
from extract.sources import MediaSource
from extract.stretches import believable


def recording_s(source: MediaSource, config: ExtractConfig) -> float:
    """Length of a source in s, as it declares it; where it declares none, by its packets.

    0 where it can't be opened: then its first clip is what will tell why. Pictures without sound
    last a clip, in whose parts they are.
    """
    if source.problem or (source.container is None and source.sound is None):
        return 0.0
    length_s = math.nan
    if source.container is None:
        try:
            length_s = float(soundfile.info(str(source.sound)).duration)
        except (OSError, soundfile.LibsndfileError):
            length_s = math.nan
        if length_s > 0:
            return length_s
    return _container_s(source)


def _container_s(source: MediaSource) -> float:
    path = source.container or source.sound
    assert path is not None
    try:
        with open_container(path) as container:
            declared = container.duration
            length_s = declared / av.time_base if declared is not None else math.nan
            if believable(length_s, source.size):
                return length_s
            begin_s = (container.start_time or 0) / av.time_base
            return max(_last_s(container) - begin_s, 0.0)
    except (av.error.FFmpegError, OSError, ValueError):
        return 0.0


def _last_s(container: av.container.InputContainer) -> float:
    """When the last packet ends, s on the container's clock."""
    last_s = 0.0
    try:
        for packet in container.demux():
            time_s = packet_s(packet)
            if packet.size and not math.isnan(time_s):
                length = seconds(packet.duration or 0, packet.time_base)
                last_s = max(last_s, time_s + length)
    except av.error.FFmpegError:
        pass  # cut or damaged there
    return last_s
