"""Clips as windows of recordings: what an id says, and what a cache says of its clips."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
