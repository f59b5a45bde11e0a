"""Tiny sets and tiny cache rows: one-second clips and 32-pixel frames, so that tests take no time.

The media is real (WAV and JPEG or H.264 and AAC), the settings are extraction's own.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import soundfile

from cache import Cache, Labels
from cache.check.examine import intact_clips
from cache.common.settings import canonical_json
from cache.format.identity import Identity, claim
from cache.format.index_file import INDEX_FILE, load_index, save_index
from cache.format.schema import ROW_FIELDS
from cache.format.shard import Clip, Failure, Written, hashed_arrays, write_shard
from cache.format.shard_file import Shard
from cache.labels.store import write_labels
from extract.config import ExtractConfig
from extract.features.declare import declare

RATE_HZ = 22_050
SMALL: dict[str, Any] = {
    "clip_seconds": 1.0,
    "n_mfcc": 4,
    "n_mels": 8,
    "num_frames": 2,
    "resize_px": 32,
    "frame_size_px": 32,
}
SMALL_FLAGS = [
    text for name, value in SMALL.items() for text in (f"--{name.replace('_', '-')}", str(value))
]
CONFIG = ExtractConfig.parse(SMALL)


def tone(seconds: float, hz: float = 440.0, rate_hz: int = RATE_HZ) -> npt.NDArray[np.float32]:
    """A sine at half level: (samples,) float32."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * time_s)).astype(np.float32)


def noise(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> npt.NDArray[np.float32]:
    """Seeded noise: (samples,) float32."""
    values = np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    return (0.1 * values).astype(np.float32)


def grey_frames(levels: Sequence[int], height: int = 48, width: int = 64) -> npt.NDArray[np.uint8]:
    """Plain pictures, one of each level: (F, height, width, 3) uint8."""
    return np.stack([np.full((height, width, 3), level, np.uint8) for level in levels])


def write_set(folder: Path, clips: int = 8, mp4: int = 0) -> list[str]:
    """Write a CSV set of `clips` one-second clips, the last `mp4` of them as mp4; returns ids."""
    from extract.demo.__main__ import write_mp4  # heavy: processes that tests start need no set

    sounds, pictures = folder / "audio_wav", folder / "video_frames"
    sounds.mkdir(parents=True)
    rows, ids = ["id,category,start,end,split"], []
    for number in range(clips):
        clip_id = f"{'-' if number % 3 == 0 else ''}clip {number}"
        ids.append(clip_id)
        rows.append(f"{clip_id},kind {number % 2},0,1,{('train', 'val', 'test')[number % 3]}")
        rng = np.random.default_rng(number)
        frames = rng.integers(0, 255, (4, 6, 8, 3)).astype(np.uint8)
        frames = np.stack([cv2.resize(frame, (64, 48)) for frame in frames])
        sound = tone(1.0, 200 + 50 * number) + noise(1.0, number)
        if number >= clips - mp4:
            write_mp4(folder / f"{clip_id}.mp4", sound, RATE_HZ, frames, 4)
            continue
        soundfile.write(sounds / f"{clip_id}.wav", sound, RATE_HZ, "PCM_16")
        (pictures / clip_id).mkdir(parents=True)
        for place, frame in enumerate(frames):
            cv2.imwrite(str(pictures / clip_id / f"{place}.jpg"), frame)
    (folder / "events.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return ids


@dataclass(frozen=True)
class Kind:
    """How a recording is written: container, codecs, options of the pictures, and rates."""

    container: str
    video: str
    audio: str
    options: Mapping[str, str] = field(default_factory=dict)
    rate_hz: int = 44_100
    fps: int = 10


def write_recording(path: Path, kind: Kind, seconds: float, seed: int = 0) -> None:
    """A recording whose every picture and moment of sound is another one."""
    import av  # heavy, as above

    rng = np.random.default_rng(seed)
    sound = tone(seconds, 300 + seed, kind.rate_hz) + noise(seconds, seed, kind.rate_hz)
    small = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
    picture: npt.NDArray[np.uint8] = cv2.resize(small, (64, 48)).astype(np.uint8)
    with av.open(str(path), "w", format=kind.container) as container:
        video: Any = container.add_stream(kind.video, rate=kind.fps, options=dict(kind.options))
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio: Any = container.add_stream(kind.audio, rate=kind.rate_hz, layout="mono")
        size, name = audio.codec_context.frame_size or 1024, audio.codec_context.format.name
        resampler = av.AudioResampler(format=name, layout="mono", rate=kind.rate_hz)
        begin = 0
        for number in range(round(seconds * kind.fps)):
            picture = np.roll(picture, 1, axis=1)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, kind.fps)
            container.mux(video.encode(frame))
            while begin < min(len(sound), (number + 1) * kind.rate_hz // kind.fps):
                block = sound[None, begin : begin + size]
                part = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                part.pts, part.sample_rate = begin, kind.rate_hz
                part.time_base = Fraction(1, kind.rate_hz)
                for one in resampler.resample(part):
                    container.mux(audio.encode(one))
                begin += block.shape[1]
        container.mux(video.encode())
        container.mux(audio.encode())


@dataclass(frozen=True)
class TinyCache:
    """A cache folder that tests write shards into."""

    folder: Path
    identity: Identity

    def write(self, *ids: str, seed: int = 0, failures: Sequence[Failure] = ()) -> Written:
        """One shard of random rows with these ids."""
        rows = [random_row(clip_id, seed + place) for place, clip_id in enumerate(ids)]
        return write_shard(self.folder, self.identity, rows, failures)

    def path(self, written: Written) -> Path:
        return self.folder / "shards" / written.name

    def rows(self, written: Written) -> list[Clip]:
        """The shard's rows whose bytes give their checksums."""
        index = load_index(self.folder, self.identity)
        return list(intact_clips(self.path(written), index))

    def store_index(self) -> Path:
        """Write `index.h5` as it is now; returns its path."""
        save_index(self.folder, self.identity, load_index(self.folder, self.identity))
        return self.folder / INDEX_FILE

    def open(self, written: Written) -> Shard:
        return Shard(self.path(written), self.identity)


def tiny_cache(folder: Path, labels: Labels | None = None, **changes: Any) -> TinyCache:
    """An empty cache of tiny rows."""
    config = CONFIG.revised(**changes) if changes else CONFIG
    identity = Identity(1, config.resolved("0" * 64), declare(config), {"weights": "random:0"})
    claim(folder, identity)
    if labels is not None:
        write_labels(folder, labels)
    return TinyCache(folder, identity)


def version1_record(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `cache.json` said in format version 1, without a fingerprint: see `resealed`."""
    record = {"format": "avel-cache", "format_version": 1, "feature_version": 1}
    return {**record, "fingerprint": "", "config": dict(config), "provenance": {}}


def resealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A `cache.json` with the fingerprint that belongs to it, whatever it says."""
    names = {"config", "feature_version", "format_version"}
    if record["format_version"] != 1:
        names |= {"clip_seconds", "fields", "pictures"}
    text = canonical_json({name: record[name] for name in names})
    return {**record, "fingerprint": hashlib.sha256(text.encode()).hexdigest()}


def random_row(clip_id: str, seed: int, config: ExtractConfig = CONFIG) -> Clip:
    """A row of seeded noise in the format's shapes and dtypes."""
    rng = np.random.default_rng(seed)
    fields = declare(config).fields
    features = {spec.name: rng.standard_normal(spec.shape).astype(spec.dtype) for spec in fields}
    steps = int(rng.integers(1, 44))
    for name, values in features.items():
        if name.startswith("audio/"):
            values[steps:] = np.nan
        elif name == "video/frame_time_s":
            values[:] = np.sort(rng.uniform(0, config.clip_seconds, values.shape))
    pictures = 0 if config.modalities == "audio" else config.num_frames
    steps = 0 if config.modalities == "video" else steps
    return Clip(
        clip_id,
        features,
        [picture(int(rng.integers(64)), config.frame_size_px) for _ in range(pictures)],
        valid_s=float(rng.uniform(0, 1)),
        media_s=float(rng.uniform(1, 2)),
        audio_steps=steps,
        audio_start_s=float(rng.uniform(0, 1)),
        media_size=int(rng.integers(1, 2**40)),
        media_mtime_ns=int(rng.integers(1, 2**60)),
        media_sha256=rng.bytes(32),
    )


@functools.cache
def picture(number: int, size_px: int = SMALL["frame_size_px"]) -> bytes:
    """A small JPEG of noise of its own, of size_px²."""
    rng = np.random.default_rng(number)
    pixels = cv2.resize(rng.integers(0, 255, (2, 2, 3)).astype(np.uint8), (size_px, size_px))
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 50])[1])


def assert_same_clip(found: Clip, wanted: Clip) -> None:
    """Two rows are equal in every bit."""
    mine, theirs = hashed_arrays(found), hashed_arrays(wanted)
    assert (found.id, list(mine)) == (wanted.id, list(theirs))
    for name, values in mine.items():
        assert values.tobytes() == theirs[name].tobytes(), name


def assert_same_rows(cache: Cache, other: Cache) -> None:
    """Every dataset of every clip is equal, bit for bit, wherever it is stored."""
    assert cache.ids == other.ids
    assert cache.fingerprint == other.fingerprint
    for name in [*cache.fields, *(spec.name for spec in ROW_FIELDS)]:
        mine, theirs = cache.read(name), other.read(name)
        assert mine.tobytes() == theirs.tobytes(), name
    for clip_id in cache.ids if "video/maps" in cache.fields else []:
        assert cache.jpegs(clip_id) == other.jpegs(clip_id), clip_id
