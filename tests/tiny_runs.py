"""A cache and settings with which a run takes a second, and hardly any drawing."""

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from synthetic_cache import labels_for

from cache import Labels
from train.commands.evaluate import evaluate_run
from train.report.views import View

TINY: dict[str, Any] = {
    "clip_seconds": 2.0,
    "n_mfcc": 2,
    "n_mels": 4,
    "num_frames": 2,
    "frame_size_px": 64,
}
FLAGS = [
    *("--device", "cpu", "--audio-feat-dim", "16", "--video-feat-dim", "16", "--num-heads", "2"),
    *("--map-channels", "8", "--batch-size", "8", "--pictures", "0", "--epochs", "1"),
]


def tiny_labels(clips: int = 30, classes: int = 3) -> Labels:
    """Three fifths of the rows in train, a fifth each in val and test."""
    labels = labels_for(clips, classes)
    return dataclasses.replace(labels, start_s=labels.start_s / 5, end_s=labels.end_s / 5)


def copied(folder: Path, into: Path) -> Path:
    """A copy of a cache or run that a test may change."""
    return Path(shutil.copytree(folder, into / folder.name))


def score(run: Path, cache: Path, split: str = "test", pictures: int = 0) -> dict[str, Any]:
    """The result of the first model of a run on a split."""
    return evaluate_run(run, cache, split, pictures=pictures)[0]


def drawable(name: str, **changes: Any) -> View:
    """A small view whose id and classes have this name; `changes` are other fields of it."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(buffer, "JPEG")
    small = View(
        id=name,
        attention={
            "audio": rng.random((2, 4, 4)),
            "spatial": rng.random((2, 7, 7)),
            "audio_to_video": rng.random((2, 4, 2)),
            "video_to_audio": rng.random((2, 2, 4)),
        },
        attention_of="",
        on=rng.random(10),
        by_gate=True,
        decided_by="the gate's",
        clip_seconds=10.0,
        step_s=2.5,
        frame_time_s=np.array([2.5, 7.5]),
        pictures=[buffer.getvalue()] * 2,
        predicted=name,
        confidence=0.5,
        predicted_s=(0.0, 10.0),
        category=name,
        true_s=(2.0, 5.0),
    )
    return dataclasses.replace(small, **changes)
