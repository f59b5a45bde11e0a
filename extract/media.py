"""Decode one clip: a mono waveform and the chosen frames, on one clock.

Time is in seconds from the clip's start, which is the container's own start time (0 for the
processed layout). A stream counts up to the first packet that can't be decoded or the point
where the file ends; what would come after is not made up. Each stream must hold at least
`MINIMUM_S`, otherwise the clip is an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error
import cv2
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from cache.errors import MediaError
from extract.audio import shortest_samples
from extract.clips import Source, centres_s, pictures
from extract.config import ExtractConfig

MINIMUM_S = 0.08
"""Shortest picture stream that counts as a clip: two frames at 25 a second."""
GAP_S = 0.05
"""A jump of the audio clock that is larger than this is a true gap, smaller ones are rounding."""
REORDER_S = 1.0
"""How far packets may be out of presentation order."""

Picture = npt.NDArray[np.uint8]


@dataclass
class Decoded:
    """What was decoded of one clip.

    Attributes
    ----------
    waveform: (samples,) float32 mono at the configured rate from clip start; None without sound.
    audio_start_s: when the sound begins; the samples before are silence.
    frames: F pictures (height, width, 3) uint8 RGB, upright; empty without video.
    frame_time_s: (F,) float64 presentation time of each frame.
    valid_s: how much of the clip exists, at most clip_seconds.
    media_s: length that the file declares; NaN where it declares none.
    sha256: digest of the media bytes that were read.
    """

    waveform: npt.NDArray[np.float32] | None = None
    audio_start_s: float = 0.0
    frames: list[Picture] = field(default_factory=list)
    frame_time_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    valid_s: float = 0.0
    media_s: float = math.nan
    sha256: bytes = bytes(32)


def decode(source: Source, config: ExtractConfig) -> Decoded:
    """Decode a clip from either layout. Raises MediaError naming the file and what is wrong."""
    if source.container is not None:
        return _decode_container(source.container, config)
    return _decode_processed(source, config)


def _wants(config: ExtractConfig) -> tuple[bool, bool]:
    return config.modalities != "video", config.modalities != "audio"


# --- processed layout: WAV and a folder of pictures -------------------------------------------


def _decode_processed(source: Source, config: ExtractConfig) -> Decoded:
    want_audio, want_video = _wants(config)
    clip = Decoded()
    digest = hashlib.sha256()
    if source.sound is not None:
        samples, rate_hz, clip.media_s = _read_wav(source.sound, config, digest)
        clip.valid_s = min(config.clip_seconds, len(samples) / rate_hz)
        if want_audio:
            clip.waveform = _finish_waveform(source.sound, samples, rate_hz, config)
    elif want_audio:
        raise MediaError(source.path, "audio", "expected audio_wav/<id>.wav beside it, found none")
    if want_video:
        if source.frames is None:
            raise MediaError(
                source.path, "video", "expected video_frames/<id>/ with pictures, found none"
            )
        extent_s = clip.valid_s or config.clip_seconds
        clip.frames, clip.frame_time_s = _read_pictures(source.frames, extent_s, config, digest)
        clip.valid_s = extent_s
    clip.sha256 = digest.digest()
    return clip


def _read_wav(
    path: Path, config: ExtractConfig, digest: Any
) -> tuple[npt.NDArray[np.float32], int, float]:
    """The first clip_seconds as (mono samples, rate in Hz, declared length in s)."""
    try:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        with soundfile.SoundFile(path) as sound:
            rate_hz, media_s = sound.samplerate, sound.frames / sound.samplerate
            samples = sound.read(
                math.ceil(config.clip_seconds * rate_hz), dtype="float32", always_2d=True
            )
    except (OSError, soundfile.LibsndfileError) as error:
        raise MediaError(path, "audio", f"expected a readable WAV file, found: {error}") from None
    return samples.mean(axis=1), rate_hz, media_s


def _read_pictures(
    folder: Path, extent_s: float, config: ExtractConfig, digest: Any
) -> tuple[list[Picture], npt.NDArray[np.float64]]:
    """The pictures on screen at the sampled moments; they divide the extent evenly."""
    paths = pictures(folder)
    if not paths:
        raise MediaError(folder, "video", "expected .jpg or .png pictures, found none")
    targets_s = centres_s(extent_s, config.num_frames)
    chosen = np.minimum((targets_s / extent_s * len(paths)).astype(int), len(paths) - 1)
    frames = []
    for path in (paths[place] for place in chosen):
        data = path.read_bytes()
        digest.update(data)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if picture is None:
            raise MediaError(
                path, "video", f"expected a picture, found {len(data)} unreadable bytes"
            )
        frames.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError(folder, "video", "expected pictures of one size, found several")
    return [np.asarray(frame, np.uint8) for frame in frames], chosen * (extent_s / len(paths))


def _finish_waveform(
    path: Path, samples: npt.NDArray[np.float32], rate_hz: int, config: ExtractConfig
) -> npt.NDArray[np.float32]:
    """Resample (soxr, high quality, librosa's default), cut at the clip's end, check."""
    if len(samples) and rate_hz != config.sample_rate_hz:
        samples = soxr.resample(samples, rate_hz, config.sample_rate_hz, quality="HQ")
    samples = np.ascontiguousarray(samples[: config.clip_samples], np.float32)
    shortest = shortest_samples(config)
    if len(samples) < shortest:
        raise MediaError(
            path,
            "audio",
            f"expected at least {shortest / config.sample_rate_hz:.2f} s of sound, "
            f"found {len(samples) / config.sample_rate_hz:.3f} s",
        )
    if not np.isfinite(samples).all():
        raise MediaError(path, "audio", "expected finite samples, found NaN or infinity")
    return samples


# --- containers -------------------------------------------------------------------------------


@dataclass
class _Streams:
    """The clip's packets by stream, in file order, and the clock they share."""

    start_s: float
    media_s: float
    audio: list[Any] = field(default_factory=list)
    video: list[Any] = field(default_factory=list)


def _decode_container(path: Path, config: ExtractConfig) -> Decoded:
    want_audio, want_video = _wants(config)
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
            if stamp is not None and stamp * packet.time_base > limit_s:
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


def _decode_video(path: Path, streams: _Streams, config: ExtractConfig, clip: Decoded) -> None:
    """Fill in the frames. Decodes again over a shorter extent when a packet turns out damaged."""
    packets = streams.video
    while True:
        extent_s = min(config.clip_seconds, _video_end_s(packets, streams.start_s))
        if extent_s < MINIMUM_S:
            raise MediaError(
                path,
                "video",
                f"expected at least {MINIMUM_S} s of pictures, found {extent_s:.2f} s",
            )
        targets_s = centres_s(extent_s, config.num_frames)
        chosen, good = _frames_on_screen(packets, targets_s + streams.start_s)
        if chosen is not None:
            break
        packets = packets[: min(good, len(packets) - 1)]
    clip.frame_time_s = np.array([time_s - streams.start_s for time_s, _ in chosen])
    upright: dict[int, Picture] = {}
    for _, frame in chosen:
        if id(frame) not in upright:
            picture = frame.to_ndarray(format="rgb24")
            upright[id(frame)] = np.ascontiguousarray(np.rot90(picture, (frame.rotation // 90) % 4))
    clip.frames = [upright[id(frame)] for _, frame in chosen]
    clip.valid_s = max(clip.valid_s, extent_s)


def _video_end_s(packets: list[Any], start_s: float) -> float:
    """When the last frame leaves the screen: its time, and its duration or the median step."""
    stamps = sorted(
        float((packet.pts if packet.pts is not None else packet.dts) * packet.time_base)
        for packet in packets
        if packet.pts is not None or packet.dts is not None
    )
    if not stamps:
        return 0.0
    step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    last = max(packets, key=lambda packet: packet.pts if packet.pts is not None else -1)
    length = float(last.duration * last.time_base) if last.duration else step
    return stamps[-1] + (length if 0 < length <= 10 * max(step, 1e-3) else step) - start_s


def _frames_on_screen(
    packets: list[Any], targets_s: npt.NDArray[np.float64]
) -> tuple[list[tuple[float, Any]] | None, int]:
    """(time, frame) on screen at each target, or None and how many packets decode well."""
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


def _decoded(packets: list[Any]) -> Iterator[tuple[int, float, Any]]:
    """(packet number, time in s, frame) in presentation order.

    A frame of None marks a damaged packet, and the end.
    """
    if not packets:
        return
    context = packets[0].stream.codec_context
    context.flush_buffers()
    for number, packet in enumerate([*packets, None]):
        try:
            for frame in context.decode(packet):
                if frame.is_corrupt:
                    yield number, 0.0, None
                    return
                if frame.pts is not None:
                    yield number, float(frame.pts * packets[0].time_base), frame
        except av.error.FFmpegError:
            yield number, 0.0, None
            return


def _decode_audio(path: Path, streams: _Streams, config: ExtractConfig, clip: Decoded) -> None:
    """Place each decoded block where it plays; the mean over channels, like librosa.to_mono."""
    blocks: list[tuple[float, npt.NDArray[np.float32]]] = []
    rate_hz = 0
    resampler = av.AudioResampler(format="fltp")
    for _, time_s, frame in _decoded(streams.audio):
        if frame is None:
            break
        if rate_hz not in (0, frame.sample_rate):
            break  # the rate changes mid-stream: what follows can't be trusted
        rate_hz = frame.sample_rate
        parts = [frame] if frame.format.name == "fltp" else resampler.resample(frame)
        for part in parts:
            blocks.append((time_s - streams.start_s, part.to_ndarray().mean(axis=0)))
    if not blocks:
        raise MediaError(path, "audio", "expected sound, found no block that decodes")
    samples, clip.audio_start_s = _placed(blocks, rate_hz)
    clip.waveform = _finish_waveform(path, samples, rate_hz, config)
    clip.valid_s = max(clip.valid_s, len(clip.waveform) / config.sample_rate_hz)


def _placed(
    blocks: list[tuple[float, npt.NDArray[np.float32]]], rate_hz: int
) -> tuple[npt.NDArray[np.float32], float]:
    """Join blocks on the clip's clock: silence before the first and in true gaps."""
    parts: list[npt.NDArray[np.float32]] = []
    position = 0
    for time_s, block in blocks:
        gap = round(time_s * rate_hz) - position
        if not parts and gap < 0:
            block = block[-gap:]  # sound before the clip's start
        elif gap > (GAP_S * rate_hz if parts else 0):
            parts.append(np.zeros(gap, np.float32))
            position += gap
        parts.append(block)
        position += len(block)
    return np.concatenate(parts), max(0.0, blocks[0][0])
