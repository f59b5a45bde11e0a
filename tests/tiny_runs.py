"""A cache and settings with which a run takes a second, and hardly any drawing."""

import dataclasses
import shutil
from pathlib import Path

from synthetic_cache import labels_for

from train.commands.evaluate import evaluate_run

TINY = {"clip_seconds": 2.0, "n_mfcc": 2, "n_mels": 4, "num_frames": 2, "frame_size_px": 64}
FLAGS = [
    *("--device", "cpu", "--audio-feat-dim", "16", "--video-feat-dim", "16", "--num-heads", "4"),
    *("--map-channels", "8", "--batch-size", "8", "--pictures", "0", "--epochs", "1"),
]


def tiny_labels(clips=30, classes=3):
    """Three fifths of the rows in train, a fifth each in val and test."""
    labels = labels_for(clips, classes)
    return dataclasses.replace(labels, start_s=labels.start_s / 5, end_s=labels.end_s / 5)


def copied(folder, into):
    """A copy of a cache or run that a test may change."""
    return Path(shutil.copytree(folder, into / folder.name))


def score(run, cache, split="test", pictures=0):
    """The result of the first model of a run on a split."""
    return evaluate_run(run, cache, split, pictures=pictures)[0]
