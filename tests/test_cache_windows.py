"""Clips as windows of recordings: what an id says, and what a cache says of its clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_media import tiny_cache

from cache import Labels, open_cache
from cache.__main__ import main
from cache.check.info import facts_of
from cache.format.shard import Failure
from cache.format.windows import Window, looks_like_window, window_of


@given(st.text(min_size=1, max_size=20), st.integers(0, 10**9 - 1))
def test_an_id_says_its_recording_and_offset(recording: str, offset_ms: int) -> None:
    if looks_like_window(recording):
        return
    window = Window(recording, offset_ms / 1000)
    assert window_of(window.clip_id) == window


@pytest.mark.parametrize(
    ("clip_id", "recording", "offset_s"),
    [
        ("walk", "walk", 0.0),
        ("walk@5", "walk", 5.0),
        ("a@b@0.125", "a@b", 0.125),
        ("walk@0", "walk@0", 0.0),
        ("walk@05", "walk@05", 0.0),
        ("walk@5.0", "walk@5.0", 0.0),
        ("walk@1e3", "walk@1e3", 0.0),
        ("@5", "@5", 0.0),
    ],
)
def test_only_an_offset_as_it_is_written_here_is_one(
    clip_id: str, recording: str, offset_s: float
) -> None:
    assert window_of(clip_id) == Window(recording, offset_s)


def test_a_recording_s_id_stands_for_all_its_windows(tmp_path: Path) -> None:
    made = tiny_cache(tmp_path / "a", hop_seconds=0.5)
    made.write("walk", "walk@0.5", "run", failures=[Failure("walk@1", "audio", "no sound")])
    (tmp_path / "ids").write_text("walk\n")
    one, ids = str(tmp_path / "a"), ["--ids", str(tmp_path / "ids")]
    assert main(["pull", one, str(tmp_path / "b"), *ids]) == 0
    found = open_cache(tmp_path / "b")
    assert found.ids == ["walk", "walk@0.5"]
    assert list(found.index.failures) == ["walk@1"]
    (tmp_path / "ids").write_text("run\nwalk@0.5\n")
    assert main(["pull", one, str(tmp_path / "c"), *ids]) == 0
    assert open_cache(tmp_path / "c").ids == ["run", "walk@0.5"]


def test_a_split_of_recordings_is_all_their_windows(tmp_path: Path) -> None:
    ids = ["run", "walk", "rest"]
    labels = Labels(
        ids=ids,
        classes=["kind"],
        category=np.zeros(3, np.int64),
        start_s=np.zeros(3),
        end_s=np.array([1.0, 2.5, 7.0]),
        split=np.array([0, 0, 2], np.int8),
        source="by hand",
        notes=[],
    )
    made = tiny_cache(tmp_path / "a", labels, hop_seconds=0.5)
    made.write(*ids, *(f"{clip_id}@0.5" for clip_id in ids))
    assert main(["pull", str(tmp_path / "a"), str(tmp_path / "b"), "--only", "train"]) == 0
    assert open_cache(tmp_path / "b").ids == ["run", "run@0.5", "walk", "walk@0.5"]
    facts = facts_of(open_cache(tmp_path / "a"))
    assert facts["recordings"] == {"count": len(ids), "hop_s": 0.5}
    assert facts["labels"]["without_features"] == 0
