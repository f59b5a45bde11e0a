"""From the gate to seconds: against brute force, and the laws that a decoding must keep."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.score.decode import (
    best_interval,
    cell_count,
    cell_probability,
    second_probability,
)
from train.score.metrics import Events, Predictions, second_count, segments
from train.score.summary import score
from train.training.loop import gate_targets


def half_seconds(count: int) -> torch.Tensor:
    """Steps of half a second over a clip of `count` / 2 seconds: (1, count, 2)."""
    edge = torch.arange(count + 1) / count
    return torch.stack([edge[:-1], edge[1:]], dim=-1).unsqueeze(0)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12))
def test_the_best_interval_has_the_largest_expected_tiou(eighths: list[int]) -> None:
    chance = np.array(eighths) / 8 + 1e-9

    def expected(i: int, j: int) -> float:
        inside = chance[i:j].sum()
        return float(inside / (j - i + chance.sum() - inside))

    first, stop = (int(value[0]) for value in best_interval(chance[None]))
    assert 0 <= first < stop <= len(chance)
    ends = combinations(range(len(chance) + 1), 2)
    assert expected(first, stop) == pytest.approx(max(expected(i, j) for i, j in ends), abs=1e-9)


def test_a_sure_gate_is_read_off_exactly() -> None:
    for start, end in combinations(range(11), 2):
        chance = np.zeros((1, 10))
        chance[0, start:end] = 1.0
        assert [int(value[0]) for value in best_interval(chance)] == [start, end]


def test_a_gap_is_bridged_where_both_sides_pay_for_it() -> None:
    chance = np.array([[0.1, 0.9, 0.9, 0.4, 0.9, 0.1], [0.9, 0.1, 0.1, 0.1, 0.9, 0.9]])
    first, stop = best_interval(chance)
    assert first.tolist() == [1, 4]
    assert stop.tolist() == [5, 6]


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_a_gate_that_knows_nothing_gives_the_whole_clip(chance: float) -> None:
    assert [value.tolist() for value in best_interval(np.full((2, 7), chance))] == [[0, 0], [7, 7]]


def test_many_clips_are_read_off_as_each_alone() -> None:
    chance = np.random.default_rng(0).random((2000, 100))  # several blocks
    first, stop = best_interval(chance)
    for n in (0, 837, 838, 1999):
        assert [first[n], stop[n]] == [int(value[0]) for value in best_interval(chance[n : n + 1])]


def test_cells_are_linear_between_the_middles_of_steps() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.0, -torch.inf]])
    found = cell_probability(logits, half_seconds(4), 20)[0].numpy()
    middle = (np.arange(20) + 0.5) / 20
    values = logits[0, :3].sigmoid().numpy()
    expected = np.interp(middle, [0.125, 0.375, 0.625], values)
    np.testing.assert_allclose(found[:15], expected[:15], atol=1e-6)
    assert not found[15:].any(), "beyond the sound"


@pytest.mark.parametrize(
    ("clip_seconds", "cells"), [(10.0, 100), (0.4, 10), (120.0, 600), (3600, 3600)]
)
def test_cells_are_a_multiple_of_seconds(clip_seconds: float, cells: int) -> None:
    assert cell_count(clip_seconds) == cells
    assert cells % second_count(clip_seconds) == 0


def test_seconds_average_their_steps() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0, -torch.inf]])
    found = second_probability(logits, half_seconds(4), 2)
    both = (torch.tensor([0.0, 2.0]).sigmoid()).mean()
    torch.testing.assert_close(found, torch.tensor([[both, torch.tensor(-1.0).sigmoid()]]))


def test_a_second_without_steps_is_off() -> None:
    logits = torch.tensor([[5.0, 5.0, -torch.inf, -torch.inf]])
    assert second_probability(logits, half_seconds(4), 2)[0, 1] == 0.0


def test_steps_wider_than_seconds_count_in_each() -> None:
    steps = torch.tensor([[[0.0, 0.375], [0.375, 1.0]]])  # of an 8 s clip: 0 to 3 s, 3 to 8 s
    logits = torch.tensor([[8.0, -8.0]])
    found = second_probability(logits, steps, 8)
    assert (found[0] > 0.5).tolist() == [True] * 3 + [False] * 5


def test_targets_are_the_share_of_a_step_in_the_event() -> None:
    steps = torch.tensor([[[0.0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1.0]]])
    found = gate_targets(steps, torch.tensor([[0.125, 0.75]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0, 1.0, 0.0]]))
    assert not gate_targets(steps, torch.tensor([[0.5, 0.5]])).any()


@pytest.mark.parametrize(("clip_seconds", "seconds"), [(10.0, 10), (1.0, 1), (0.1, 1), (7.6, 8)])
def test_every_clip_has_a_second(clip_seconds: float, seconds: int) -> None:
    assert second_count(clip_seconds) == seconds
    whole = segments(np.array([0]), np.zeros(1), np.array([clip_seconds]), clip_seconds, 1)
    assert whole.tolist() == [[0] * seconds]


def test_targets_decoded_again_are_the_event() -> None:
    """What the loss asks of the gate is what the decoding reads off it."""
    for start in range(10):
        for end in range(start + 1, 11):
            steps = half_seconds(20)
            target = gate_targets(steps, torch.tensor([[start / 10, end / 10]]))
            chance = second_probability(torch.logit(target, eps=1e-4), steps, 10)
            first, stop = best_interval(chance.double().numpy())
            assert (first[0], stop[0]) == (start, end)


def test_segments_come_from_the_gate_where_it_speaks() -> None:
    truth = Events(np.array([1]), np.array([2.0]), np.array([8.0]))
    on = np.zeros((1, 10))
    on[0, [2, 3, 6, 7]] = 0.9
    probability = np.array([[0.2, 0.8]])
    guess = Predictions(probability, np.array([2.0]), np.array([8.0]), on)
    assert score(truth, guess, 10.0)["segment_accuracy"] == pytest.approx(0.8)
    assert score(truth, guess, 10.0)["miou"] == 1.0
