"""Scores against hand-computed cases; baselines; corner cases."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.metrics import (
    Events,
    Predictions,
    baselines,
    classification,
    confusion,
    localization,
    mean_and_deviation,
    score,
    segments,
    tiou,
)


def array(*values):
    return np.array(values, np.float64)


TRUTH = Events(np.array([0, 1, 1, 2]), array(0, 2, 5, 0), array(10, 6, 7, 10))


def predictions(category, start, end, classes=4):
    return Predictions(np.eye(classes)[category], array(*start), array(*end))


def test_tiou_by_hand():
    found = tiou(array(0, 0, 2, 0), array(10, 4, 6, 1), array(0, 2, 4, 5), array(10, 6, 8, 6))
    np.testing.assert_allclose(found, [1, 2 / 6, 2 / 6, 0])


def test_empty_events_follow_the_rule():
    found = tiou(array(0, 0, 3), array(0, 0, 3), array(0, 0, 4), array(0, 5, 4))
    np.testing.assert_array_equal(found, [1, 0, 0])


@given(st.lists(st.floats(0, 10), min_size=4, max_size=4))
def test_tiou_is_symmetric_and_bounded(times):
    a, b = sorted(times[:2]), sorted(times[2:])
    one = tiou(array(a[0]), array(a[1]), array(b[0]), array(b[1]))
    other = tiou(array(b[0]), array(b[1]), array(a[0]), array(a[1]))
    assert one == pytest.approx(other)
    assert 0 <= one <= 1


def test_perfect_predictions_score_one_and_no_error():
    found = score(TRUTH, predictions(TRUTH.category, TRUTH.start_s, TRUTH.end_s), 10.0)
    for name, value in found.items():
        assert value == (0.0 if "mae" in name else 1.0), name


def test_swapped_start_and_end_are_noticed():
    swapped = predictions(TRUTH.category, 10 - TRUTH.end_s, 10 - TRUTH.start_s)
    assert score(TRUTH, swapped, 10.0)["miou"] < 0.9


def test_localization_by_hand():
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


def test_classification_by_hand():
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


def test_classes_missing_from_the_split_do_not_count_and_do_not_warn():
    truth = Events(np.array([0, 0, 1]), np.zeros(3), np.full(3, 4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(truth, predictions([0, 0, 1], [0] * 3, [4] * 3, classes=9), 10.0)
    assert found["f1"] == found["map"] == found["auc"] == 1.0


def test_scores_over_nothing_are_none():
    whole = Events(np.array([0, 1]), np.zeros(2), np.full(2, 10.0))
    found = score(whole, predictions([0, 1], [0, 0], [10, 10]), 10.0)
    assert found["short_miou"] is None
    assert found["miou"] == 1
    alone = Events(np.array([1, 1]), np.zeros(2), np.full(2, 10.0))
    assert score(alone, predictions([1, 1], [0, 0], [10, 10]), 10.0)["auc"] is None


def test_shorter_events_are_scored_apart():
    guess = predictions(TRUTH.category, [0] * 4, [10] * 4)
    assert score(TRUTH, guess, 10.0)["short_miou"] == pytest.approx((0.4 + 0.2) / 2)


def test_segment_labels_and_accuracy():
    labels = segments(np.array([2]), array(2.0), array(4.4), 10.0, 4)
    np.testing.assert_array_equal(labels[0], [4, 4, 2, 2, 4, 4, 4, 4, 4, 4])
    truth = Events(np.array([2]), array(2.0), array(4.0))
    assert score(truth, predictions([2], [0], [5]), 10.0)["segment_accuracy"] == pytest.approx(0.7)
    wrong_class = score(truth, predictions([1], [2], [4]), 10.0)
    assert wrong_class["segment_accuracy"] == pytest.approx(0.8)


def test_a_constant_predictor_gets_the_baselines_figures():
    train = Events(np.array([1, 1, 1, 0]), array(0, 0, 2, 2), array(10, 10, 6, 6))
    trivial = baselines(train, len(TRUTH), 4, 10.0)
    mean = trivial["majority class, mean interval"]
    assert (mean.start_s[0], mean.end_s[0]) == (1.0, 8.0)
    constant = Predictions(np.tile([0.25, 0.75, 0, 0], (4, 1)), np.zeros(4), np.full(4, 10.0))
    assert score(TRUTH, constant, 10.0) == score(TRUTH, trivial["majority class, whole clip"], 10.0)
    found = score(TRUTH, trivial["majority class, whole clip"], 10.0)
    assert found["top1"] == 0.5  # class 1, half of the true events
    assert found["auc"] == 0.5
    assert found["miou"] == pytest.approx((1 + 0.4 + 0.2 + 1) / 4)


def test_confusion_has_truth_down_and_guess_across():
    counts = confusion(TRUTH, predictions([0, 2, 1, 2], [0] * 4, [1] * 4))
    assert counts.shape == (4, 4)
    assert counts[1, 2] == 1
    assert counts[2, 1] == 0
    assert counts.trace() == 3


def test_mean_and_deviation_over_runs():
    found = mean_and_deviation([{"a": 1.0, "b": None}, {"a": 3.0, "b": 2.0}])
    assert found == {"a": (2.0, pytest.approx(np.sqrt(2)))}
    assert mean_and_deviation([{"a": 1.0}])["a"] == (1.0, 0.0)
