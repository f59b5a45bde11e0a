"""JPEG decoding at a reduced scale: milliseconds a clip, and what it does to the features.

    python benchmarks/compare_jpeg_scale.py clips/*.mp4 --weights imagenet

libjpeg can decode at 1/2, 1/4 or 1/8 of the size for less work. From each video two frames are
taken, scaled to each picture size (with seeded noise for the detail that scaling cannot bring
back), encoded as JPEG at quality 90, and decoded whole and at the smallest scale whose shorter
side still reaches the 256 pixels that preprocessing asks for. `maps` is |a − b| / |b| of the
network's maps, median and worst over the frames; `ms` is of decoding and resizing 8 frames on one
thread, whole and reduced, median over the frames. One JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from extract.config import ExtractConfig  # noqa: E402
from extract.features.video import Backbone, load_backbone, preprocess  # noqa: E402

Picture = npt.NDArray[np.uint8]
SIZES = [(320, 240), (640, 480), (1280, 720), (1920, 1080)]
REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
CONFIG = ExtractConfig()


def frames_of(path: str) -> list[Picture]:
    """Two frames, at a quarter and three quarters of the video."""
    video = cv2.VideoCapture(path)
    count, frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), []
    for quarter in (1, 3):
        video.set(cv2.CAP_PROP_POS_FRAMES, count * quarter // 4)
        fine, frame = video.read()
        if fine:
            frames.append(np.asarray(frame, np.uint8))
    return frames


def scaled(frame: Picture, size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """The frame as a JPEG file of that size."""
    picture = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    if size[0] > frame.shape[1]:
        picture += rng.normal(0, 6, picture.shape).astype(np.float32)
    whole = np.clip(picture, 0, 255).astype(np.uint8)
    return np.asarray(cv2.imencode(".jpg", whole, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def decoded(data: Picture, scale: int) -> tuple[torch.Tensor, float]:
    """The network's pixels of one frame, and the seconds that took."""
    begin = time.perf_counter()
    picture = cv2.imdecode(data, REDUCED[scale])
    if scale > 1:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    pixels = preprocess([np.asarray(picture, np.uint8)], CONFIG)
    return pixels, time.perf_counter() - begin


def compare(frames: list[Picture], size: tuple[int, int], network: Backbone) -> dict[str, Any]:
    """One size: how long whole and reduced decoding take, and how far the maps are apart."""
    rng = np.random.default_rng(0)
    scale = max(s for s in REDUCED if s == 1 or min(size) // s >= CONFIG.shorter_side_px)
    seconds: dict[int, list[float]] = {1: [], scale: []}
    apart = []
    for frame in frames:
        data = scaled(frame, size, rng)
        maps = {}
        for each in seconds:
            pixels, took = decoded(data, each)
            seconds[each].append(took)
            maps[each] = network(pixels).astype(np.float32)
        apart.append(np.linalg.norm(maps[scale] - maps[1]) / np.linalg.norm(maps[1]))
    whole, reduced = (8e3 * statistics.median(seconds[each]) for each in (1, scale))
    return {
        "size": size,
        "scale": f"1/{scale}",
        "ms": [round(whole, 1), round(reduced, 1)],
        "maps": [round(float(np.median(apart)), 4), round(float(max(apart)), 4)],
    }


def main() -> None:
    """Compare at each picture size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--weights", default="random:0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    network = load_backbone("small", args.weights, "cpu")
    frames = [frame for path in args.videos for frame in frames_of(path)]
    rows = [compare(frames, size, network) for size in SIZES]
    print(json.dumps({"benchmark": "jpeg scale", "frames": len(frames), "sizes": rows}))


if __name__ == "__main__":
    main()
