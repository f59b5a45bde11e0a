"""A folder in which the examples of the Python API run: features, a run, a clip, a recording."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from small_media import RATE_HZ, SMALL_FLAGS, grey_frames, noise, tone, write_set

from extract.__main__ import main as extract
from extract.demo.__main__ import write_mp4
from train.__main__ import main

CLASSES = ["Church bell", "Male speech"]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The current folder, while the block runs."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def make_folder(folder: Path) -> None:
    """`features`, `runs/one`, `clip.mp4`, and `recording.mp4` of four clips' length."""
    write_set(folder / "set", 12)
    events = folder / "set" / "events.csv"
    text = events.read_text()
    for number, name in enumerate(CLASSES):
        text = text.replace(f"kind {number}", name)
    events.write_text(text)
    cache = str(folder / "features")
    words = ["--data", str(folder / "set"), "--cache", cache, "--jobs", "1"]
    assert extract([*words, "--weights", "random:0", *SMALL_FLAGS]) == 0
    for name, seconds in (("clip", 1), ("recording", 4)):
        frames = grey_frames(range(20, 20 + 40 * seconds, 10))
        write_mp4(folder / f"{name}.mp4", tone(seconds) + noise(seconds), RATE_HZ, frames, 4)
    words = ["fit", "--cache", cache, "--run", str(folder / "runs" / "one"), "--pictures", "0"]
    assert main([*words, "--epochs", "1", "--device", "cpu"]) == 0
