"""Calibration: what is put wrong on purpose is found again, few clips change little."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, logit, softmax

from cache.common.errors import ConfigError
from train.score.calibrate import Calibration, class_temperature, gate_scale_and_shift, grid_of
from train.score.decode import Evidence
from train.score.detection import expected_error
from train.score.metrics import Events
from train.training.validate import calibrate, shares_of_seconds


def array(*values: float) -> npt.NDArray[np.float64]:
    return np.array(values, np.float64)


def drawn_events(count: int, seed: int = 0, whole: float = 0.3) -> Events:
    """Events of 3 classes in clips of 10 s, some of which they fill."""
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, 11, (count, 2)), axis=1).astype(float)
    ends[:, 1] += ends[:, 0] == ends[:, 1]
    ends = np.minimum(ends, 10.0)
    ends[rng.random(count) < whole] = (0.0, 10.0)
    return Events(rng.integers(0, 3, count), ends[:, 0], ends[:, 1])


def said_of(truth: Events, sure: float, seed: int = 1) -> Evidence:
    """What a model that knows something says: `sure` = 1 is calibrated, more is too sure."""
    rng = np.random.default_rng(seed)
    on = shares_of_seconds(truth, 10.0)
    logits = 2.0 * (2 * on - 1) + 2.0 * rng.normal(size=on.shape)
    gate = expit(sure * logits)
    scores = 2.0 * np.eye(3)[truth.category] + rng.gumbel(size=(len(truth), 3))
    cells = np.repeat(gate, 10, axis=1)
    return Evidence(softmax(sure * scores, axis=1), truth.start_s, truth.end_s, gate, cells)


@pytest.mark.parametrize("sure", [0.4, 1.0, 3.0])
def test_a_model_that_is_too_sure_is_made_as_sure_as_it_should_be(sure: float) -> None:
    truth = drawn_events(4000)
    said = said_of(truth, sure)
    scale, shift = gate_scale_and_shift(said.on, shares_of_seconds(truth, 10.0))
    assert scale * sure == pytest.approx(1.0, rel=0.1)  # logits of two normals, 4 apart, sd 2
    assert class_temperature(said.probability, truth.category) == pytest.approx(
        sure * class_temperature(said_of(truth, 1.0).probability, truth.category), rel=0.1
    )
    fixed = said.calibrated(Calibration(gate_scale=scale, gate_shift=shift))
    on = shares_of_seconds(truth, 10.0) > 0.5
    assert expected_error(fixed.on.ravel(), on.ravel()) < 0.03


def test_few_clips_change_little() -> None:
    truth = drawn_events(3)
    right = np.eye(3)[truth.category] * 0.9 + 1 / 30
    assert 0.5 < class_temperature(right, truth.category) < 1.0
    on = shares_of_seconds(truth, 10.0)
    scale, shift = gate_scale_and_shift(0.4 + 0.2 * on, on)
    assert 1.0 < scale < 5.0
    assert abs(shift) < 1.0


def test_the_plain_one_changes_nothing_and_zeros_stay_zero() -> None:
    chance = np.array([[0.0, 0.2, 1.0]])
    assert Calibration().gate(chance) is chance
    assert Calibration().classes(chance) is chance
    changed = Calibration(gate_scale=0.5, gate_shift=2.0).gate(chance)
    assert changed[0, 0] == 0.0, "where there is no sound there is no event"
    assert changed[0, 1] == pytest.approx(expit(0.5 * logit(0.2) + 2.0))
    np.testing.assert_allclose(Calibration(class_temperature=2.0).classes(chance).sum(), 1.0)


def test_boundaries_keep_the_grid_of_the_training_events() -> None:
    assert grid_of(array(0, 3), array(10, 7)) == 1.0
    assert grid_of(array(0, 3.5), array(10, 7)) == 0.5
    assert grid_of(array(0, 3.3), array(10, 7)) == 0.1
    assert grid_of(array(0, 3.33), array(10, 7)) == 0.1
    assert grid_of(array(), array()) == 1.0


@pytest.mark.parametrize("grid_s", [1.0, 0.5, 0.1])
def test_start_and_end_are_read_off_on_the_grid(grid_s: float) -> None:
    cells = np.zeros((1, 100))
    cells[0, 23:68] = 1.0
    on = cells.reshape(1, 10, 10).mean(axis=2)
    said = Evidence(np.ones((1, 1)), array(1), array(2), on, cells)
    guess = said.read_off(Calibration(grid_s=grid_s), 10.0)["gate"]
    for value, true in ((guess.start_s[0], 2.3), (guess.end_s[0], 6.8)):
        assert value == pytest.approx(round(value / grid_s) * grid_s)
        assert abs(value - true) <= grid_s / 2 + 1e-9


def test_a_model_worse_than_the_whole_clip_says_the_whole_clip() -> None:
    truth = drawn_events(60, whole=0.7)
    good = said_of(truth, 1.0)
    assert not calibrate(good, truth, 1.0, 10.0)[0].whole_clip
    turned = dataclasses.replace(good, on=1 - good.on, cells=1 - good.cells)
    calibration, answers = calibrate(turned, truth, 1.0, 10.0)
    guess = turned.calibrated(calibration).read_off(calibration, 10.0)["gate"]
    assert np.array_equal(guess.start_s, answers["gate"].start_s)
    assert np.array_equal(guess.end_s, answers["gate"].end_s)
    overlap = (truth.end_s - truth.start_s) / 10
    found = np.minimum(guess.end_s, truth.end_s) - np.maximum(guess.start_s, truth.start_s)
    assert np.mean(np.maximum(found, 0) / 10) >= overlap.mean() - 0.02


def test_an_ensemble_is_read_off_as_its_members_are_on_the_mean() -> None:
    truth = drawn_events(20)
    members = [said_of(truth, 1.0, seed) for seed in (1, 2, 3)]
    together = Evidence.mean(members)
    np.testing.assert_allclose(together.on, np.mean([one.on for one in members], axis=0))
    one = Calibration(gate_scale=2.0, class_temperature=3.0, grid_s=1.0, whole_clip=True)
    mean = Calibration.mean([one, one.revised(whole_clip=False)])
    assert (mean.gate_scale, mean.class_temperature) == (1.0, 1.0), "corrected once"
    assert (mean.grid_s, mean.whole_clip) == (1.0, False)


@pytest.mark.parametrize("bad", [{"gate_scale": 0.0}, {"grid_s": 0}, {"class_temperature": 1e9}])
def test_a_calibration_of_a_stranger_is_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Calibration.parse(bad)
