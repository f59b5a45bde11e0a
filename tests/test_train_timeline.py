"""Windows become one timeline: constants stay, padding says nothing, places are exact."""

from __future__ import annotations

import numpy as np
import pytest

from train.score.timeline import CELL_S, merge_windows

CLIP_S, STEPS = 10.0, 20


@pytest.mark.parametrize("hop_s", [2.5, 3.3, 5.0, 10.0])
def test_windows_of_a_constant_give_the_constant(hop_s: float) -> None:
    offsets_s = np.arange(0, 40, hop_s)
    probability = np.full((len(offsets_s), STEPS, 3), [0.2, 0.0, 1.0])
    merged = merge_windows(offsets_s, probability, CLIP_S, 40.0)
    assert merged.probability.shape == (400, 3)
    np.testing.assert_allclose(merged.probability, np.tile([0.2, 0.0, 1.0], (400, 1)))
    assert (merged.step_s, merged.length_s) == (CELL_S, 40.0)


def test_what_one_window_says_alone_counts_whole_and_between_steps_it_is_linear() -> None:
    answer = np.random.default_rng(0).random((1, STEPS, 2))
    merged = merge_windows(np.zeros(1), answer, CLIP_S, CLIP_S)
    middles = (np.arange(STEPS) + 0.5) * CLIP_S / STEPS
    cells = (np.arange(100) + 0.5) * CELL_S
    for k in range(2):
        wanted = np.interp(cells, middles, answer[0, :, k])
        np.testing.assert_allclose(merged.probability[:, k], wanted)


def test_where_windows_overlap_the_nearer_middle_counts_more() -> None:
    probability = np.zeros((2, STEPS, 1))
    probability[1] = 1.0
    merged = merge_windows(np.array([0.0, 5.0]), probability, CLIP_S, 15.0).probability[:, 0]
    assert np.all(merged[:50] == 0)
    assert np.all(merged[100:] == 1)
    assert np.all(np.diff(merged[50:100]) > 0)
    assert merged[74] + merged[75] == pytest.approx(1)


def test_steps_without_an_answer_say_nothing() -> None:
    probability = np.full((2, STEPS, 1), 0.4)
    probability[0, 16:] = np.nan
    probability[1, 6:] = np.nan
    merged = merge_windows(np.array([0.0, 5.0]), probability, CLIP_S, 9.0).probability[:, 0]
    np.testing.assert_allclose(merged[:80], 0.4)
    assert np.all(merged[80:] == 0)  # nobody looked there
    alone = merge_windows(np.array([5.0]), probability[1:], CLIP_S, 9.0).probability[:, 0]
    assert np.all(alone[:50] == 0)


@pytest.mark.parametrize("length_s", [0.04, 0.1, 3.0, 12.34])
def test_a_timeline_covers_its_recording(length_s: float) -> None:
    merged = merge_windows(np.zeros(1), np.ones((1, STEPS, 1)), CLIP_S, length_s)
    cells = len(merged.probability)
    assert (cells - 1) * CELL_S < length_s <= cells * CELL_S + 1e-9
    assert merge_windows(np.zeros(0), np.ones((0, STEPS, 2)), CLIP_S, 1.0).probability.sum() == 0


def test_the_order_of_windows_says_nothing() -> None:
    rng = np.random.default_rng(1)
    offsets_s, probability = np.arange(0, 30, 2.5), rng.random((12, STEPS, 3))
    order = rng.permutation(12)
    one = merge_windows(offsets_s, probability, CLIP_S, 33.3).probability
    other = merge_windows(offsets_s[order], probability[order], CLIP_S, 33.3).probability
    np.testing.assert_allclose(one, other)
