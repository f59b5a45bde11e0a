"""Intervals of scores: as scipy and a plain loop have them, by clips, in pairs, and none of few."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from train.score import intervals
from train.score.intervals import Estimate, EventScores
from train.score.metrics import Events, Predictions
from train.score.summary import score

CLASSES, SECONDS = 4, 10.0


def answered(events: int, seed: int = 0, seconds: bool = True) -> tuple[Events, Predictions]:
    """Events of clips with one to three events, and what somebody says who knows a little."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 7, events).astype(np.float64)
    end = np.where(rng.random(events) < 0.5, 10.0, start + rng.integers(1, 4, events))
    start[end == 10] = 0
    clip = np.sort(rng.integers(0, max(1, events // 2), events))
    truth = Events(rng.integers(0, CLASSES, events), start, end, clip)
    probability = rng.dirichlet(np.ones(CLASSES), events)
    probability[np.arange(events), truth.category] += 0.3
    spans = np.sort(np.stack([start, end], 1) + rng.normal(0, 1, (events, 2)), axis=1).clip(0, 10)
    on = rng.random((events, 10)) if seconds else None
    return truth, Predictions(probability, spans[:, 0], spans[:, 1], on)


def of_values(values: npt.ArrayLike, clip: npt.ArrayLike | None = None) -> Estimate:
    numbers = np.array(values, np.float64)
    places = np.arange(len(numbers)) if clip is None else np.array(clip)
    return EventScores(places, {"a": numbers}).estimates()["a"]


def edges(one: Estimate) -> tuple[float, float]:
    assert one.low is not None
    assert one.high is not None
    return one.low, one.high


@pytest.mark.parametrize("seconds", [True, False])
def test_the_mean_over_events_is_the_score_of_that_name(seconds: bool) -> None:
    truth, guess = answered(80, seconds=seconds)
    assert truth.clip is not None
    found, whole = EventScores.of(truth, guess, SECONDS).estimates(), score(truth, guess, SECONDS)
    assert set(found) == {"top1", "segment_accuracy", "miou", "localized_iou", "short_miou"}
    for name, one in found.items():
        assert one.mean == pytest.approx(whole[name]), name
        low, high = edges(one)
        assert low < one.mean < high
    assert (found["miou"].clips, found["miou"].events) == (len(np.unique(truth.clip)), 80)
    assert found["short_miou"].events == np.sum(truth.end_s - truth.start_s < SECONDS)


def test_it_is_the_interval_of_scipy() -> None:
    values = np.random.default_rng(1).beta(3, 1, 50)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert edges(of_values(values)) == pytest.approx(expected, abs=0.005)


def test_it_is_the_interval_of_a_plain_loop_over_clips_with_several_events() -> None:
    rng = np.random.default_rng(3)
    clip = np.repeat(np.arange(25), rng.integers(1, 4, 25))
    values = rng.random(25)[clip] + 0.1 * rng.random(len(clip))
    values[rng.random(len(clip)) < 0.2] = np.nan
    of_clip = [values[clip == number] for number in range(25)]
    means = [
        np.nanmean(np.concatenate([of_clip[n] for n in rng.integers(0, 25, 25)]))
        for _ in range(8000)
    ]
    expected = np.quantile(means, [0.025, 0.975])
    assert edges(of_values(values, clip)) == pytest.approx(expected, abs=0.01)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(4), 0
    for _ in range(300):
        low, high = edges(of_values(rng.random(80) < 0.8))
        held += low <= 0.8 <= high
    assert 0.89 < held / 300 < 0.985


def test_the_events_of_a_clip_stay_together() -> None:
    values = np.random.default_rng(5).random(30)
    alone, twice = of_values(values), of_values(np.repeat(values, 2), np.repeat(np.arange(30), 2))
    assert edges(alone) == pytest.approx(edges(twice))
    assert (twice.clips, twice.events) == (30, 60)
    apart = edges(of_values(np.repeat(values, 2)))
    assert np.ptp(apart) < 0.8 * np.ptp(edges(alone))


def test_a_difference_in_pairs_is_surer_than_its_two_sides() -> None:
    rng = np.random.default_rng(6)
    hard = rng.random(60)
    better = EventScores(np.arange(60), {"a": hard})
    worse = EventScores(np.arange(60), {"a": hard - 0.05 + 0.02 * rng.normal(size=60)})
    found = (better - worse).estimates()["a"]
    low, high = edges(found)
    assert 0 < low < found.mean == pytest.approx(0.05, abs=0.01)
    of_one, of_other = edges(better.estimates()["a"]), edges(worse.estimates()["a"])
    assert of_one[0] < of_other[1], "side by side they could not be told apart"
    assert high - low < 0.2 * np.ptp(of_one)


def test_the_mean_over_seeds_is_drawn_by_clips() -> None:
    truth, _ = answered(60)
    several = [EventScores.of(truth, answered(60, seed)[1], SECONDS) for seed in range(4)]
    found = EventScores.mean(several).estimates()["miou"]
    assert found.mean == pytest.approx(np.mean([one.estimates()["miou"].mean for one in several]))
    alone = EventScores.mean(several[:1]).estimates()
    assert alone == several[0].estimates()


def test_of_few_clips_or_of_equal_ones_there_is_no_interval() -> None:
    assert of_values(np.linspace(0, 1, 9)).low is None
    assert of_values(np.linspace(0, 1, 10)).low is not None
    many_events = of_values(np.linspace(0, 1, 90), np.repeat(np.arange(9), 10))
    assert (many_events.low, many_events.clips, many_events.events) == (None, 9, 90)
    assert of_values([1.0] * 50) == Estimate(1.0, None, None, 50, 50)


def test_few_shorter_events_have_no_interval_though_all_together_have() -> None:
    end = np.full(40, SECONDS)
    end[:9] = 4.0
    truth = Events(np.zeros(40, np.int64), np.zeros(40), end)
    guess = Predictions(np.ones((40, 2)), np.zeros(40), np.linspace(3, 10, 40))
    found = EventScores.of(truth, guess, SECONDS).estimates()
    assert found["miou"].low is not None
    assert (found["short_miou"].low, found["short_miou"].clips) == (None, 9)
    whole = EventScores.of(truth.of(end == SECONDS), guess.of(end == SECONDS), SECONDS)
    assert "short_miou" not in whole.estimates(), "no event carries it"


def test_many_clips_are_drawn_in_blocks_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(7).random(40)
    whole = of_values(values)
    assert whole == of_values(values), "it is seeded"
    monkeypatch.setattr(intervals, "_AT_ONCE", 1000)
    assert edges(of_values(values)) == pytest.approx(edges(whole), abs=1e-12)
