"""Turn a folder of mp4s into AVE's processed layout: one WAV and a folder of JPEGs a clip.

    python benchmarks/make_processed.py AVE_Dataset AVE_Processed_from_mp4

Writes OUT/audio_wav/<id>.wav (mono, at the file's own rate), OUT/video_frames/<id>/frame_0001.jpg
and on (every frame of the clip, at its own size and rate) and copies the annotation and split
files. The layout holds no times: pictures are taken to divide the clip evenly, so files of a
variable frame rate come out with other frame times than their mp4 has.

A second call makes only the clips that are missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import joblib
import numpy as np
import numpy.typing as npt
import soundfile
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cache.common.errors import AvelError  # noqa: E402
from cache.labels.annotations import read_annotations  # noqa: E402
from cache.labels.files import SPLIT_FILES  # noqa: E402
from extract.config import ExtractConfig  # noqa: E402
from extract.finding import find_annotations, find_sources  # noqa: E402
from extract.media.decode import decode  # noqa: E402
from extract.sources import MediaSource  # noqa: E402

JPEG_QUALITY = 95


def write_sound(source: MediaSource, path: Path, subtype: str) -> None:
    """The clip's sound as a mono WAV at the rate of its track: nothing is resampled."""
    with av.open(str(source.path.absolute())) as container:
        rate_hz = container.streams.audio[0].sample_rate
    config = ExtractConfig(modalities="audio", sample_rate_hz=rate_hz)
    waveform: npt.NDArray[Any] | None = decode(source, config).waveform
    assert waveform is not None  # or decode had raised
    if subtype == "PCM_16":
        # Rounded here: libsndfile would cut the fraction off, an offset of half a step.
        waveform = np.clip(np.rint(waveform * 32768), -32768, 32767).astype(np.int16)
    soundfile.write(path, waveform, rate_hz, subtype)


def write_frames(source: MediaSource, folder: Path, clip_seconds: float) -> None:
    """Every upright frame of the clip as a JPEG; the folder appears when it is complete."""
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with av.open(str(source.path.absolute())) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0), start=1):
            if frame.time is not None and frame.time >= clip_seconds:
                break
            picture = np.rot90(frame.to_ndarray(format="bgr24"), (frame.rotation // 90) % 4)
            path = partial / f"frame_{number:04d}.jpg"
            quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
            if not cv2.imwrite(str(path), np.ascontiguousarray(picture), quality):
                raise OSError(f"{path}: OpenCV could not write the picture")
    partial.rename(folder)


def convert(source: MediaSource, out: Path, subtype: str, clip_seconds: float) -> str | None:
    """Convert one clip; what is wrong with it, if anything."""
    cv2.setNumThreads(1)
    frames = out / "video_frames" / source.id
    if frames.exists():
        return None
    try:
        write_sound(source, out / "audio_wav" / f"{source.id}.wav", subtype)
        write_frames(source, frames, clip_seconds)
    except (AvelError, av.error.FFmpegError, IndexError) as error:
        return f"{source.id}: {error}"
    return None


def main() -> int:
    """Convert every annotated clip; exit code 1 if any could not be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with mp4s and Annotations.txt")
    parser.add_argument("out", type=Path, help="folder to write the processed layout into")
    parser.add_argument("--subtype", choices=("PCM_16", "FLOAT"), default="PCM_16", help="of WAVs")
    parser.add_argument("--jobs", type=int, default=-1, help="processes (default: one per core)")
    options = parser.parse_args()
    clip_seconds = ExtractConfig().clip_seconds
    annotations = find_annotations(options.data)
    sources = find_sources(options.data, read_annotations(annotations, clip_seconds).ids)
    sources = {name: source for name, source in sources.items() if source.container}
    for name in ("audio_wav", "video_frames"):
        (options.out / name).mkdir(parents=True, exist_ok=True)
    for path in (annotations, *(annotations.parent / name for name in SPLIT_FILES.values())):
        if path.exists():
            shutil.copyfile(path, options.out / path.name)
    work = joblib.Parallel(n_jobs=options.jobs, return_as="generator_unordered")(
        joblib.delayed(convert)(source, options.out, options.subtype, clip_seconds)
        for source in sources.values()
    )
    problems = [line for line in tqdm(work, total=len(sources), unit="clip") if line]
    print(f"{options.out}: {len(sources) - len(problems)} of {len(sources)} clips")
    for line in problems:
        print(f"failed  {line}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
