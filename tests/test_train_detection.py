"""Found events, seconds and calibration against cases worked by hand."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from four_events import array

from train.score.detection import (
    average_precision,
    calibration,
    detection,
    event_f1,
    expected_error,
    segment_scores,
)
from train.score.metrics import Events, Predictions, localization

TRUTH = Events(np.array([0, 1, 1, 0]), array(0, 2, 5, 0), array(10, 6, 7, 4))


def said(
    category: Sequence[int] | npt.NDArray[np.int64],
    start: Iterable[float],
    end: Iterable[float],
    probability: npt.ArrayLike | None = None,
) -> Predictions:
    chance = np.eye(2)[category] if probability is None else probability
    return Predictions(np.asarray(chance, np.float64), array(*start), array(*end))


def test_event_f1_wants_the_class_and_both_ends_within_the_collar() -> None:
    # exact; start off by 0.5; class wrong; end off by 1
    guess = said([0, 1, 0, 0], (0, 2.5, 5, 0), (10, 6, 7, 5))
    assert event_f1(TRUTH, guess, 0.5) == pytest.approx(2 / 4)
    assert event_f1(TRUTH, guess, 1.0) == pytest.approx(3 / 4)
    assert event_f1(TRUTH, guess, 0.25) == pytest.approx(1 / 4)


def test_a_clip_with_two_events_says_one_thing_only() -> None:
    # Rows 0 and 1 are of one clip, with two classes: one answer finds one of them.
    truth = Events(np.array([0, 1, 1]), array(0, 0, 5), array(10, 10, 7), np.array([7, 7, 3]))
    guess = said([0, 0, 1], (0, 0, 5), (10, 10, 7))
    # 3 true events, 2 found ones, 2 right: F1 = 2 * 2 / 5
    assert event_f1(truth, guess, 0.5) == pytest.approx(4 / 5)
    # Class 1: the clip of rows 0 and 1 offers its interval with probability 0, the other with 1.
    assert average_precision(truth, guess, 0.5) == 1.0
    apart = Events(truth.category, truth.start_s, truth.end_s)
    assert event_f1(apart, guess, 0.5) == pytest.approx(2 * 2 / 6)


def test_average_precision_by_hand() -> None:
    chance = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]
    guess = said([0, 0, 1, 0], (0, 2, 5, 0), (10, 6, 6, 2), chance)
    # tIoU: 1, 1, 0.5, 0.5.
    # At 0.5, class 0: scores 0.9 right, 0.7 right, 0.6 (a class 1 event), 0.2: AP 1.
    #         class 1: scores 0.8 right, 0.4 right: AP 1.
    assert average_precision(TRUTH, guess, 0.5) == 1.0
    # At 0.6, class 0: 0.9 right, 0.7 misses: precision 1 at recall 1/2, never more: AP 1/2.
    #         class 1: 0.8 misses, 0.4 right: precision 1/2 at recall 1/2: AP 1/4.
    assert average_precision(TRUTH, guess, 0.6) == pytest.approx((1 / 2 + 1 / 4) / 2)
    found = detection(TRUTH, guess)
    levels = [found[f"map@{level}"] for level in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert levels == [1.0] * 5
    assert found["tiou_map"] == pytest.approx((5 + 4 * 3 / 8) / 9)


def test_what_reaches_a_bound_but_for_rounding_reaches_it() -> None:
    """Times that went through float32, as a fraction of the clip; half of each event is found."""
    start = np.arange(0, 80) / 10
    end, half = start + 1.2, start + 0.6
    first, last = ((times / 10).astype(np.float32).astype(np.float64) for times in (start, end))
    truth = Events(np.zeros(80, np.int64), first * 10, last * 10)
    guess = said(np.zeros(80, np.int64), start, half, np.ones((80, 1)))
    assert localization(truth, guess)["recall@0.5"] == 1.0
    assert average_precision(truth, guess, 0.5) == 1.0
    assert event_f1(truth, guess, 0.6) == 1.0
    assert average_precision(truth, guess, 0.51) == event_f1(truth, guess, 0.59) == 0.0


def test_nothing_found_is_zero_without_a_warning() -> None:
    guess = said([1, 0, 0, 1], (9, 9, 9, 9), (10, 10, 10, 10))
    assert average_precision(TRUTH, guess, 0.9) == 0.0
    assert event_f1(TRUTH, guess, 0.5) == 0.0


def test_segment_f1_counts_seconds_with_an_event() -> None:
    truth = Events(np.array([1]), array(2), array(6))
    found = segment_scores(truth, said([1], (4,), (9,)), 10.0)
    # 4 true, 5 said, 2 agree; background agrees on 3 of 10.
    assert found == {"segment_accuracy": pytest.approx(0.5), "segment_f1": pytest.approx(4 / 9)}
    wrong = segment_scores(truth, said([0], (2,), (6,)), 10.0)
    assert wrong == {"segment_accuracy": pytest.approx(0.6), "segment_f1": 0.0}


def test_calibration_is_the_gap_between_said_and_true() -> None:
    probability = array(0.95, 0.95, 0.95, 0.95, 0.55, 0.55)
    right = np.array([True, True, True, False, True, False])
    # two bins: 4 x |0.95 - 0.75| + 2 x |0.55 - 0.5|, over 6
    assert expected_error(probability, right) == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)
    assert expected_error(array(0.0, 1.0), np.array([False, True])) == 0.0
    assert expected_error(array(0.0, 1.0), np.array([True, False])) == 1.0
    edge = expected_error(array(0.19, 0.2), np.array([True, False]))  # 3/15 is its bin's last
    assert edge == pytest.approx((1 - 0.39) / 2)


def test_the_seconds_are_calibrated_apart_from_the_class() -> None:
    on = np.tile(array(0, 0, 1, 1, 1, 1, 0, 0, 0, 0), (1, 1))
    truth = Events(np.array([1]), array(2), array(6))
    guess = Predictions(array([0.8, 0.2]), array(2), array(6), on)
    found = calibration(truth, guess, 10.0)
    assert found["ece"] == pytest.approx(0.8)
    assert found["second_ece"] == 0.0


def test_over_no_events_everything_is_none() -> None:
    nothing, rows = TRUTH.of(np.zeros(4, bool)), np.zeros(4, bool)
    guess = said([0, 1, 1, 0], (0, 2, 5, 0), (10, 6, 7, 4)).of(rows)
    for found in (detection(nothing, guess), segment_scores(nothing, guess, 10.0)):
        assert set(found.values()) == {None}
