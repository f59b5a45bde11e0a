"""Scores of lists of events: cases by hand, rules that always hold, an oracle for the mean AP."""

from __future__ import annotations

import numpy as np
import pytest
from event_lists import drawn, rows

from train.score.detection import AP_LEVELS
from train.score.events import EventList
from train.score.named import HEADLINES
from train.score.ranking import average_precision, mean_average_precision
from train.score.recordings import (
    TOLERANCES,
    counts,
    estimates,
    event_f1,
    ratios,
    score_recordings,
    trivial,
)

CLASSES = 4


def moved(events: EventList, recordings: np.ndarray[tuple[int], np.dtype[np.int64]]) -> EventList:
    """The same events in recordings with other numbers."""
    number = recordings[events.recording]
    return EventList(number, events.category, events.start_s, events.end_s, events.confidence)


def test_the_perfect_list_scores_1_and_the_empty_one_0() -> None:
    truth, _, lengths_s = drawn(0)
    perfect = score_recordings(truth, truth, lengths_s, CLASSES)
    for name, value in perfect.items():
        wanted = 0.0 if "rate" in name or "alarms" in name else 1.0
        assert value == pytest.approx(wanted), name
    nothing = score_recordings(truth, EventList.empty(), lengths_s, CLASSES)
    for name, value in nothing.items():
        assert value == (1.0 if "rate" in name else 0.0), name


def test_over_nothing_there_are_no_scores_but_false_alarms() -> None:
    lengths_s = np.array([1800.0, 1800.0])
    scores = score_recordings(EventList.empty(), EventList.empty(), lengths_s, CLASSES)
    alarms = {name: value for name, value in scores.items() if "alarms" in name}
    assert set(alarms.values()) == {0.0}
    assert {value for name, value in scores.items() if name not in alarms} == {None}
    wrong = score_recordings(EventList.empty(), rows((0, 1, 2, 3), (0, 1, 5, 6)), lengths_s, 4)
    assert wrong["false_alarms_per_hour_without_events"] == 2
    assert wrong["event_f1@1s"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_scores_lie_between_0_and_1_and_other_numbers_for_recordings_change_none(seed: int) -> None:
    truth, found, lengths_s = drawn(seed)
    scores = score_recordings(truth, found, lengths_s, CLASSES)
    for name, value in scores.items():
        assert value is not None, name
        assert value >= 0, name
        if "alarms" not in name and "error" not in name:
            assert value <= 1, name
    order = np.random.default_rng(seed).permutation(len(lengths_s))
    place = np.argsort(order)
    mixed = np.random.default_rng(seed).permutation(len(found))
    again = score_recordings(
        moved(truth, place), moved(found.of(mixed), place), lengths_s[order], CLASSES
    )
    assert dict(again) == pytest.approx(dict(scores))


@pytest.mark.parametrize("seed", range(3))
def test_a_shift_of_both_lists_by_whole_seconds_changes_nothing(seed: int) -> None:
    truth, found, lengths_s = drawn(seed)
    scores = score_recordings(truth, found, lengths_s, CLASSES)
    late = [
        EventList(one.recording, one.category, one.start_s + 7, one.end_s + 7, one.confidence)
        for one in (truth, found)
    ]
    again = score_recordings(late[0], late[1], lengths_s + 7, CLASSES)
    for name, value in again.items():
        if "alarms" not in name:
            assert value == pytest.approx(scores[name]), name


def precision(truth: EventList, found: EventList, level: float) -> float:
    return float(average_precision(truth, found, np.ones((1, 9)), (level,))[0, 0])


def oracle(truth: EventList, found: EventList, level: float) -> float:
    """ActivityNet's protocol as it is written, one found event after another."""
    areas = []
    for category in set(truth.category.tolist()):
        own = [n for n in range(len(truth)) if truth.category[n] == category]
        said = [n for n in range(len(found)) if found.category[n] == category]
        taken: set[int] = set()
        right = []
        for f in sorted(said, key=lambda n: -found.confidence[n]):
            best, best_overlap = None, 0.0
            for t in own:
                if truth.recording[t] != found.recording[f] or t in taken:
                    continue
                shared = min(truth.end_s[t], found.end_s[f]) - max(
                    truth.start_s[t], found.start_s[f]
                )
                union = max(truth.end_s[t], found.end_s[f]) - min(
                    truth.start_s[t], found.start_s[f]
                )
                if shared > 0 and shared / union >= level - 1e-6 and shared / union > best_overlap:
                    best, best_overlap = t, shared / union
            right.append(best is not None)
            if best is not None:
                taken.add(best)
        precision = [sum(right[: n + 1]) / (n + 1) for n in range(len(right))]
        areas.append(sum(max(precision[n:]) / len(own) for n in range(len(right)) if right[n]))
    return sum(areas) / len(areas)


@pytest.mark.parametrize("seed", range(8))
def test_the_mean_average_precision_is_that_of_the_protocol(seed: int) -> None:
    truth, found, _ = drawn(seed, each=14)
    for level in AP_LEVELS:
        assert precision(truth, found, level) == pytest.approx(oracle(truth, found, level))


def test_the_average_precision_by_hand() -> None:
    truth = rows((0, 0, 0, 10), (0, 0, 20, 30), (1, 0, 0, 10), (1, 1, 0, 4))
    found = rows(
        (0, 0, 0, 10, 0.9),  # right
        (0, 0, 1, 10, 0.8),  # a second time
        (1, 0, 5, 10, 0.7),  # half of it
        (0, 1, 0, 4, 0.6),  # another recording
    )
    assert precision(truth, found, 0.5) == pytest.approx((1 / 3 + 2 / 9) / 2)
    assert precision(truth, found, 0.6) == pytest.approx((1 / 3) / 2)


def test_of_equal_confidences_the_order_says_nothing() -> None:
    truth = rows((0, 0, 0, 10), (0, 0, 20, 30))
    right, wrong = (0, 0, 0, 10, 0.5), (0, 0, 40, 50, 0.5)
    assert precision(truth, rows(right, wrong), 0.5) == pytest.approx(0.25)
    assert precision(truth, rows(wrong, right), 0.5) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ((2.0, 12.0), {"0.5s", "1s", "1s,20%", "0.2s,20%"}),
        ((2.9, 12.0), {"1s", "1s,20%"}),
        ((2.2, 13.9), {"1s,20%", "0.2s,20%"}),
        ((2.9, 10.1), {"1s,20%"}),
        ((3.1, 12.0), set()),
        ((2.0, 14.1), set()),
    ],
)
def test_collars_and_the_share_of_the_length(found: tuple[float, float], right: set[str]) -> None:
    truth = rows((0, 0, 2.0, 12.0))
    for name, how in TOLERANCES.items():
        assert event_f1(truth, rows((0, 0, *found)), *how) == float(name in right), name
        assert event_f1(truth, rows((0, 1, *found)), *how) == 0
        assert event_f1(truth, rows((1, 0, *found)), *how) == 0


def test_events_are_matched_so_that_most_are_right() -> None:
    # The first found one suits both; taken by the second true one, it leaves the first its own.
    truth = rows((0, 0, 1.0, 5.0), (0, 0, 2.0, 6.0))
    found = rows((0, 0, 1.5, 5.5), (0, 0, 0.5, 4.5))
    assert event_f1(truth, found, 0.5, 0.0) == 1.0


def test_alarms_and_misses_by_hand() -> None:
    truth = rows((0, 0, 0, 10), (0, 1, 5, 8))
    found = rows((0, 0, 9, 12), (0, 1, 8, 9), (1, 0, 0, 5), (2, 2, 1, 2), (2, 2, 5, 6))
    lengths_s = np.array([900.0, 900.0, 1800.0])
    scores = score_recordings(truth, found, lengths_s, CLASSES)
    assert scores["false_alarms_per_hour"] == 4
    assert scores["false_alarms_per_hour_without_events"] == 4
    assert scores["miss_rate"] == 0.5
    assert counts(truth, found, lengths_s) == {
        "recordings": 3,
        "recordings_without_events": 2,
        "hours": 1.0,
        "hours_without_events": 0.75,
        "events": 2,
        "found_events": 5,
    }


def test_candidates_are_ranked_and_nothing_else_is_of_them() -> None:
    truth, found, lengths_s = drawn(1)
    said = found.of(found.confidence > 0.6)
    scores = score_recordings(truth, said, lengths_s, CLASSES, candidates=found)
    for name, value in scores.items():
        list_of_it = found if "map" in name else said
        assert value == score_recordings(truth, list_of_it, lengths_s, CLASSES)[name], name


def test_what_needs_no_looking() -> None:
    truth, _, lengths_s = drawn(2)
    lists = trivial(truth, lengths_s, lengths_s, CLASSES)
    every, commonest, nothing = lists.values()
    assert len(every) == len(lengths_s) * CLASSES
    assert np.all(every.end_s == lengths_s[every.recording])
    assert score_recordings(truth, every, lengths_s, CLASSES)["miss_rate"] == 0
    assert set(commonest.category) == {np.bincount(truth.category).argmax()}
    assert np.all(commonest.end_s <= lengths_s[commonest.recording])
    assert len(nothing) == 0
    assert [len(one) for one in trivial(nothing, lengths_s, lengths_s, 0).values()] == [0, 0, 0]


@pytest.mark.parametrize(
    "bad", [(-1, 0, 0, 1), (0, -1, 0, 1), (0, 0, 2, 1), (0, 0, np.nan, np.nan), (0, 0, 0, 1, 1.5)]
)
def test_what_is_no_event_is_refused(bad: tuple[int, int, float, float]) -> None:
    with pytest.raises(ValueError, match=r"begin|start|confidence"):
        rows(bad)
    with pytest.raises(ValueError, match="equal lengths"):
        EventList(np.zeros(1, np.int64), *[np.zeros(2)] * 4)  # type: ignore[arg-type]


def test_drawing_a_recording_twice_is_having_it_twice() -> None:
    truth, found, lengths_s = drawn(4)
    often = np.array([2.0, 0, 1, 1, 3, 0])
    chosen = np.repeat(np.arange(6), often.astype(int))
    copies = [
        EventList.together(
            [moved(one.of(one.recording == old), np.full(6, new)) for new, old in enumerate(chosen)]
        )
        for one in (truth, found)
    ]
    drawn_anew = average_precision(truth, found, often[None])[0].mean()
    assert drawn_anew == pytest.approx(mean_average_precision(*copies))
    again = score_recordings(copies[0], copies[1], lengths_s[chosen], CLASSES)
    for name, (above, below) in ratios(truth, found, lengths_s, CLASSES).items():
        if below @ often:
            assert above @ often / (below @ often) == pytest.approx(again[name]), name


def test_intervals_hold_the_scores_and_few_recordings_have_none() -> None:
    truth, found, lengths_s = drawn(5, recordings=12)
    other = found.of(found.confidence > 0.5)
    several = [(found, found), (other, found)]
    sure = estimates(truth, several, lengths_s, CLASSES)
    scores = [score_recordings(truth, *one[:1], lengths_s, CLASSES, one[1]) for one in several]
    assert set(sure) == set(HEADLINES)
    for name, one in sure.items():
        assert one.mean == pytest.approx(np.mean([each[name] or 0 for each in scores])), name
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.mean < one.high
        assert (one.clips, one.events) == (12, len(truth))
    perfect = estimates(truth, [(truth, truth)], lengths_s, CLASSES)
    assert {one.low for one in perfect.values()} == {None}
    few, said, seconds = drawn(5, recordings=9)
    assert estimates(few, [(said, said)], seconds, CLASSES)["tiou_map"].low is None
