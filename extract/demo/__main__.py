"""Synthesize a small audio-visual event set in AVE's own format, to try everything without data.

Each class has a sound and a picture of its own. As in real clips, one of the two may go on for
the whole clip, or another class may be heard or seen outside the interval, so neither modality
alone can place every event. `composition.json` says what was put where; nothing may train on it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import joblib
import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from cache.common.atomic import plain_folder, publish, replace_file, unfinished
from cache.common.cli import Parser, exit_code, say
from cache.common.errors import ConfigError
from extract.demo.recording import RECORDING_S, make_recording
from extract.demo.scenes import (
    CLASSES,
    CLIP_S,
    FPS,
    SAMPLE_RATE_HZ,
    Span,
    render_frames,
    render_sound,
)

JPEGS_PER_S = 4
SHORTER_SHARE = 0.6  # of events shorter than the clip; AVE has 0.34, which shows less in few clips
VIDEO_CLOCK_HZ = 90_000
MP4_FOLDER = "AVE_Dataset/AVE"
WAV_FOLDER = "AVE_Processed/audio_wav"
JPEG_FOLDER = "AVE_Processed/video_frames"
ID_LETTERS = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_"))


@dataclass(frozen=True)
class DemoClip:
    """The plan of one clip: labels `rows`, and what is `heard` and `seen` when."""

    id: str
    seed: int
    split: str
    layout: str
    mode: str
    has_audio: bool
    rows: list[Span]
    heard: list[Span]
    seen: list[Span]


def plan_demo_set(clips: int, seed: int) -> list[DemoClip]:
    """Decide every clip: ids, labels, splits (stratified 3:1:1), layouts, distractors.

    The first clip has two events of two categories; one training clip has no audio track.
    Raises ConfigError for fewer than 6 clips.
    """
    if clips < 6:
        raise ConfigError(f"clips: expected at least 6 (2 classes in 3 splits), found {clips}")
    rng = np.random.default_rng(seed)
    names = list(CLASSES)[: min(len(CLASSES), clips // 3)]
    shorter = rng.permutation(clips) < SHORTER_SHARE * clips
    modes = rng.permutation(clips) % 4
    plan: list[DemoClip] = []
    for i in range(clips):
        turn, label = divmod(i, len(names))
        others = [name for name in names if name != names[label]]
        other = str(rng.choice(others))
        length = int(rng.integers(2, CLIP_S)) if shorter[i] else CLIP_S
        start = int(rng.integers(0, CLIP_S - length + 1))
        event = (names[label], start, start + length)
        mode, heard, seen = _mode(event, int(modes[i]), other, int(rng.integers(3)))
        rows = [event]
        if i == 0:
            rows = [(names[label], 0, 4), (other, 6, CLIP_S)]
            mode, heard, seen = "sync", list(rows), list(rows)
        plan.append(
            DemoClip(
                id=("-" if i % 3 == 0 else "") + "".join(rng.choice(ID_LETTERS, 11 - (i % 3 == 0))),
                seed=int(rng.integers(2**31)),
                split=("train", "val", "test", "train", "train")[turn % 5],
                layout=("mp4", "frames")[turn % 2],
                mode=mode,
                has_audio=i != len(names) - 1,
                rows=rows,
                heard=heard,
                seen=seen,
            )
        )
    return plan


def _mode(event: Span, mode: int, other: str, extra: int) -> tuple[str, list[Span], list[Span]]:
    """Name of the mode, then what is heard and what is seen."""
    name, start, end = event
    if (start, end) == (0, CLIP_S):
        return "sync", [event], [event]
    if mode == 0:
        return "seen-always", [event], [(name, 0, CLIP_S)]
    if mode == 1:
        return "heard-always", [(name, 0, CLIP_S)], [event]
    outside = [(other, a, b) for a, b in ((0, start), (end, CLIP_S)) if a < b]
    return "sync", [event, *outside * (extra == 1)], [event, *outside * (extra == 2)]


def make_demo_set(out: Path, clips: int = 128, seed: int = 0, jobs: int = 2) -> list[DemoClip]:
    """Write the set into folder `out`, about half of it in each layout; return its plan.

    A second call with equal `clips` and `seed` writes only the media that is missing. Raises
    ConfigError when `out` holds anything else: nothing of the user's is ever overwritten.
    """
    plan = plan_demo_set(clips, seed)
    composition = json.dumps({"seed": seed, "clips": [asdict(clip) for clip in plan]}, indent=1)
    plan_file = out / "composition.json"
    if plan_file.exists():
        if plan_file.read_text(encoding="utf-8") != composition:
            raise ConfigError(f"{out}: holds a demo set made otherwise; delete it or name another")
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: expected an empty or new folder for the demo set")
    for folder in (MP4_FOLDER, WAV_FOLDER, JPEG_FOLDER):
        plain_folder(out / folder)
    replace_file(plan_file, composition.encode())
    _write_annotations(out, plan)
    todo = [clip for clip in plan if not _media(out, clip).exists()]
    work = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
        joblib.delayed(_write_clip)(out, clip) for clip in todo
    )
    for _ in tqdm(work, total=len(todo), desc="demo set", unit="clip", disable=not todo):
        pass
    return plan


def _write_annotations(out: Path, plan: Sequence[DemoClip]) -> None:
    """`Annotations.txt` with a header, and the three split files without one, as AVE has them."""
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for clip in plan:
        for category, start, end in clip.rows:
            lines[clip.split].append(f"{category}&{clip.id}&good&{start}&{end}\n")
    for split, rows in lines.items():
        replace_file(out / f"{split}Set.txt", "".join(rows).encode())
    every = "".join(sorted(row for rows in lines.values() for row in rows))
    header = "Category&VideoID&Quality&StartTime&EndTime\n"
    replace_file(out / "Annotations.txt", (header + every).encode())


def _media(out: Path, clip: DemoClip) -> Path:
    """What appears, by rename, when the clip is complete."""
    return (
        out / MP4_FOLDER / f"{clip.id}.mp4" if clip.layout == "mp4" else out / JPEG_FOLDER / clip.id
    )


def _write_clip(out: Path, clip: DemoClip) -> None:
    waveform = render_sound(clip.heard, clip.seed)
    frames = render_frames(clip.seen, clip.seed)
    target = _media(out, clip)
    if clip.layout == "mp4":
        with _partial(target) as path:
            write_mp4(path, waveform if clip.has_audio else None, SAMPLE_RATE_HZ, frames, FPS)
        return
    with _partial(out / WAV_FOLDER / f"{clip.id}.wav") as path:
        soundfile.write(path, waveform, SAMPLE_RATE_HZ, "PCM_16", format="WAV")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_jpegs(partial, frames[:: FPS // JPEGS_PER_S])
    partial.rename(target)


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A temporary file that becomes `target`; the name is one that the next call finds again."""
    name = f"{target.name}.partial"
    target.with_name(name).unlink(missing_ok=True)
    with unfinished(target, name) as path:
        yield path
        publish(path, target)


def write_jpegs(folder: Path, frames: NDArray[np.uint8]) -> None:
    """Write (F, H, W, 3) RGB frames as `000001.jpg` and on; raises OSError when one fails."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=1):
        path = folder / f"{number:06d}.jpg"
        if not cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)):
            raise OSError(f"{path}: OpenCV could not write the picture")


def write_mp4(
    path: Path,
    waveform: NDArray[np.floating[Any]] | None,
    sample_rate_hz: int,
    frames: NDArray[np.uint8] | None,
    fps: float,
    *,
    audio_start_s: float = 0.0,
    frame_times_s: Sequence[float] | None = None,
) -> None:
    """Encode an mp4 with H.264 and AAC tracks, through PyAV; `None` leaves a track out.

    Parameters
    ----------
    path: where to write; the container is mp4 whatever the suffix.
    waveform: (S,) or (channels, S) float in [-1, 1], one or two channels.
    frames: (F, H, W, 3) uint8 RGB; H and W even.
    fps: frames a second, unless `frame_times_s` gives the time of each of the F frames.
    audio_start_s: when the sound begins to play, for files whose audio starts late.
    """
    packets: list[av.Packet[Any]] = []
    with av.open(str(path.absolute()), "w", format="mp4") as container:
        if frames is not None:
            times = np.arange(len(frames)) / fps if frame_times_s is None else frame_times_s
            packets += _encode_video(container, frames, fps, times)
        if waveform is not None:
            packets += _encode_audio(container, waveform, sample_rate_hz, audio_start_s)
        for packet in sorted(packets, key=_decode_time_s):
            container.mux(packet)


def _decode_time_s(packet: av.Packet[Any]) -> float:
    return float((packet.dts or 0) * packet.time_base)


def _encode_video(
    container: av.container.OutputContainer,
    frames: NDArray[np.uint8],
    fps: float,
    times_s: Sequence[float] | NDArray[np.floating[Any]],
) -> list[av.Packet[Any]]:
    rate = Fraction(fps).limit_denominator(1001)
    options = {"preset": "ultrafast", "crf": "24", "g": str(max(1, round(fps)))}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
    stream.codec_context.time_base = Fraction(1, VIDEO_CLOCK_HZ)
    stream.codec_context.thread_count = 1
    packets = []
    for picture, time_s in zip(frames, times_s, strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = round(time_s * VIDEO_CLOCK_HZ), Fraction(1, VIDEO_CLOCK_HZ)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _encode_audio(
    container: av.container.OutputContainer,
    waveform: NDArray[np.floating[Any]],
    sample_rate_hz: int,
    start_s: float,
) -> list[av.Packet[Any]]:
    planar = np.ascontiguousarray(np.atleast_2d(waveform), dtype=np.float32)
    layout = {1: "mono", 2: "stereo"}[len(planar)]
    options = {"aac_coder": "fast"}
    stream = container.add_stream("aac", rate=sample_rate_hz, layout=layout, options=options)
    frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout=layout)
    frame.sample_rate, frame.time_base = sample_rate_hz, Fraction(1, sample_rate_hz)
    frame.pts = round(start_s * sample_rate_hz)
    return [*stream.encode(frame), *stream.encode(None)]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python -m extract.demo OUT [--clips N] [--seed 0] [--jobs 2]`."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m extract.demo", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the set into")
    parser.add_argument("--clips", type=int, default=128, help="how many clips (default 128)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same set (default 0)")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one per core)")
    given = parser.parse_args(argv)
    plan = make_demo_set(given.out, given.clips, given.seed, given.jobs)
    classes = len({row[0] for clip in plan for row in clip.rows})
    say(f"{given.out}: {len(plan)} clips of {CLIP_S} s in {classes} classes")
    say(f"{make_recording(given.out, given.seed)}: a recording of {RECORDING_S} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
