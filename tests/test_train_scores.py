"""Every score together: the evaluation can't flatter; seeds, classes, corner cases."""

import dataclasses
import warnings

import numpy as np
import pytest
from four_events import TRUTH, array, predictions

from train.runs.trained import Answer
from train.score.calibrate import Calibration
from train.score.decode import Evidence
from train.score.metrics import Events, Predictions, segments
from train.score.named import mean_and_deviation
from train.score.summary import baselines, per_class, score

ERRORS = ("mae", "ece")  # names of scores whose best is 0


def number(value: float | None) -> float:
    """A score that is known."""
    assert value is not None
    return value


def many(seed: int = 0, count: int = 60, classes: int = 5) -> Events:
    """Events of whole seconds, a third of them as long as the clip."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 7, count).astype(float)
    end = np.minimum(start + rng.integers(1, 5, count), 10.0)
    whole = rng.random(count) < 1 / 3
    category = rng.integers(0, classes, count)
    return Events(category, np.where(whole, 0.0, start), np.where(whole, 10.0, end))


def perfect(truth: Events, classes: int = 5) -> Predictions:
    on = segments(truth.category, truth.start_s, truth.end_s, 10.0, classes) < classes
    return Predictions(
        np.eye(classes)[truth.category], truth.start_s, truth.end_s, on.astype(np.float64)
    )


@pytest.mark.parametrize("with_seconds", [True, False])
def test_a_perfect_predictor_gets_the_best_of_every_score(with_seconds: bool) -> None:
    truth = many()
    guess = perfect(truth)
    if not with_seconds:
        guess = dataclasses.replace(guess, on=None)
    found = score(truth, guess, 10.0)
    assert len(found) > 50
    for name, value in found.items():
        if name == "second_ece" and not with_seconds:
            assert value is None
        else:
            assert value == (0.0 if any(word in name for word in ERRORS) else 1.0), name


def test_a_constant_predictor_gets_exactly_the_baselines_figures() -> None:
    train, truth = many(seed=1, count=200), many()
    frequency = np.bincount(train.category, minlength=5) / 200
    spans = {
        "majority class, whole clip": (0.0, 10.0),
        "majority class, mean interval": (train.start_s.mean(), train.end_s.mean()),
    }
    found = baselines(train, len(truth), 5, 10.0)
    assert set(found) == set(spans)
    for name, (start, end) in spans.items():
        constant = Predictions(np.tile(frequency, (60, 1)), np.full(60, start), np.full(60, end))
        assert score(truth, constant, 10.0) == score(truth, found[name], 10.0)
    scores = score(truth, found["majority class, whole clip"], 10.0)
    own = np.mean(truth.category == frequency.argmax())
    assert scores["top1"] == pytest.approx(own)
    assert scores["auc"] == 0.5
    assert scores["miou"] == pytest.approx(np.mean(truth.end_s - truth.start_s) / 10)
    assert scores["map"] == pytest.approx(np.mean(np.bincount(truth.category) / 60))


def test_other_clips_answers_score_worse_on_everything() -> None:
    truth = many()
    order = np.random.default_rng(3).permutation(len(truth))
    best, mixed = (score(truth, g, 10.0) for g in (perfect(truth), perfect(truth).of(order)))
    for name, value in best.items():
        if name not in {"ece", "second_ece", "top5"}:  # all five classes are in a top 5
            other = number(mixed[name])
            assert (other > number(value)) if "mae" in name else (other < number(value)), name
    assert number(mixed["ece"]) > 0.5
    assert number(mixed["second_ece"]) > 0.2


def test_each_class_has_a_record_hardest_first() -> None:
    guess = predictions([0, 1, 0, 2], (0, 2, 5, 0), (10, 6, 7, 5))
    rows = per_class(TRUTH, guess, ["a", "b", "c", "never"], 10.0)
    assert [row["class"] for row in rows] == ["b", "c", "a"]
    b, c, a = rows
    assert (b["events"], b["recall"], b["precision"], b["miou"]) == (2, 0.5, 1.0, 1.0)
    assert b["localized_iou"] == 0.5
    assert b["segment_recall"] == pytest.approx(4 / 6)
    assert (c["miou"], c["segment_recall"]) == (0.5, 0.5)
    assert (a["recall"], a["precision"]) == (1.0, 0.5)


def answers(*ways: str) -> list[Answer]:
    """One for each way of reading start and end off."""
    rng = np.random.default_rng(0)
    found = []
    for way in ways:
        spans = np.sort(rng.uniform(0, 10, (6, 2)), axis=1)
        on, probability = rng.random((6, 10)), rng.dirichlet(np.ones(4), 6)
        said = Evidence(probability, spans[:, 0], spans[:, 1], on, np.repeat(on, 10, axis=1))
        found.append(Answer(said, Calibration(grid_s=1.0), way, list("abcd"), 10.0))
    return found


def test_an_ensemble_is_the_mean_and_one_member_is_itself() -> None:
    members = answers("gate", "gate", "gate")
    together = Answer.mean(members)
    mean = np.mean([one.evidence.on for one in members], axis=0)
    np.testing.assert_allclose(together.evidence.on, mean)
    mean = np.mean([one.evidence.probability for one in members], axis=0)
    for predicted in together.by_decoding.values():
        np.testing.assert_allclose(predicted.probability, mean)
    starts = [one.by_decoding["interval"].start_s for one in members]
    np.testing.assert_allclose(together.by_decoding["interval"].start_s, np.mean(starts, axis=0))
    assert Answer.mean(members[:1]) is members[0]


def test_an_ensemble_is_read_off_as_most_of_its_members() -> None:
    members = answers("interval", "gate", "gate")
    assert Answer.mean(members).decoding == "gate"
    assert Answer.mean(members[:2]).decoding == "interval", "of equals the first"


def test_swapped_start_and_end_are_noticed() -> None:
    swapped = predictions(TRUTH.category, 10 - TRUTH.end_s, 10 - TRUTH.start_s)
    assert number(score(TRUTH, swapped, 10.0)["miou"]) < 0.9


def test_classes_missing_from_the_split_do_not_count_and_do_not_warn() -> None:
    truth = Events(np.array([0, 0, 1]), np.zeros(3), np.full(3, 4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(truth, predictions([0, 0, 1], [0] * 3, [4] * 3, classes=9), 10.0)
    assert found["f1"] == found["map"] == found["auc"] == 1.0


def test_scores_over_nothing_are_none() -> None:
    whole = Events(np.array([0, 1]), np.zeros(2), np.full(2, 10.0))
    found = score(whole, predictions([0, 1], [0, 0], [10, 10]), 10.0)
    assert found["short_miou"] is None
    assert found["miou"] == 1
    alone = Events(np.array([1, 1]), np.zeros(2), np.full(2, 10.0))
    assert score(alone, predictions([1, 1], [0, 0], [10, 10]), 10.0)["auc"] is None


def test_shorter_events_are_scored_apart() -> None:
    guess = predictions(TRUTH.category, [0] * 4, [10] * 4)
    assert score(TRUTH, guess, 10.0)["short_miou"] == pytest.approx((0.4 + 0.2) / 2)


def test_segment_labels_and_accuracy() -> None:
    labels = segments(np.array([2]), array(2.0), array(4.4), 10.0, 4)
    np.testing.assert_array_equal(labels[0], [4, 4, 2, 2, 4, 4, 4, 4, 4, 4])
    truth = Events(np.array([2]), array(2.0), array(4.0))
    assert score(truth, predictions([2], [0], [5]), 10.0)["segment_accuracy"] == pytest.approx(0.7)
    wrong_class = score(truth, predictions([1], [2], [4]), 10.0)
    assert wrong_class["segment_accuracy"] == pytest.approx(0.8)


def test_mean_and_deviation_over_runs() -> None:
    found = mean_and_deviation([{"a": 1.0, "b": None}, {"a": 3.0, "b": 2.0}])
    assert set(found) == {"a"}
    mean, deviation = found["a"]
    assert mean == 2.0
    assert deviation == pytest.approx(np.sqrt(2))
    assert mean_and_deviation([{"a": 1.0}])["a"] == (1.0, 0.0)
