"""Scores against hand-computed cases; baselines; corner cases."""

import numpy as np
import pytest
from four_events import TRUTH, array, predictions
from hypothesis import given
from hypothesis import strategies as st

from train.score.metrics import (
    Events,
    Predictions,
    classification,
    confusion,
    localization,
    tiou,
)


def test_tiou_by_hand() -> None:
    found = tiou(array(0, 0, 2, 0), array(10, 4, 6, 1), array(0, 2, 4, 5), array(10, 6, 8, 6))
    np.testing.assert_allclose(found, [1, 2 / 6, 2 / 6, 0])


def test_empty_events_follow_the_rule() -> None:
    found = tiou(array(0, 0, 3), array(0, 0, 3), array(0, 0, 4), array(0, 5, 4))
    np.testing.assert_array_equal(found, [1, 0, 0])


@given(st.lists(st.floats(0, 10), min_size=4, max_size=4))
def test_tiou_is_symmetric_and_bounded(times: list[float]) -> None:
    a, b = sorted(times[:2]), sorted(times[2:])
    one = tiou(array(a[0]), array(a[1]), array(b[0]), array(b[1]))
    other = tiou(array(b[0]), array(b[1]), array(a[0]), array(a[1]))
    assert one == pytest.approx(other)
    assert 0 <= one <= 1


def test_localization_by_hand() -> None:
    guess = predictions([0, 1, 0, 2], (0, 3, 5, 0), (5, 6, 7, 8))
    found = localization(TRUTH, guess)
    overlaps = [0.5, 0.75, 1.0, 0.8]
    assert found["miou"] == pytest.approx(np.mean(overlaps))
    assert found["localized_iou"] == pytest.approx((0.5 + 0.75 + 0 + 0.8) / 4)
    assert found["start_mae_s"] == pytest.approx(1 / 4)
    assert found["end_mae_s"] == pytest.approx((5 + 2) / 4)
    assert found["recall@0.5"] == pytest.approx(3 / 4)
    assert found["recall@0.7"] == pytest.approx(2 / 4)
    assert found["recall@0.9"] == 0


def test_classification_by_hand() -> None:
    probability = array([0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1], [0.4, 0.5, 0.1])
    truth = Events(np.array([0, 1, 1, 2]), np.zeros(4), np.ones(4))
    found = classification(truth, Predictions(probability, np.zeros(4), np.ones(4)))
    assert found["top1"] == pytest.approx(2 / 4)
    assert found["top3"] == 1
    assert found["recall"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["precision"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert found["f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # AUC of class 0: 3 of 3 pairs right; class 1: 0.8 and 0.4 against 0.3 and 0.5; class 2: ties.
    assert found["auc"] == pytest.approx((1 + 3 / 4 + 1 / 2) / 3)
    assert found["map"] == pytest.approx((1 + (1 + 2 / 3) / 2 + 1 / 4) / 3)


def test_confusion_has_truth_down_and_guess_across() -> None:
    counts = confusion(TRUTH, predictions([0, 2, 1, 2], [0] * 4, [1] * 4))
    assert counts.shape == (4, 4)
    assert counts[1, 2] == 1
    assert counts[2, 1] == 0
    assert counts.trace() == 3
