"""A timeline becomes a list of events: the true one where the model knows it, or an empty one."""

from __future__ import annotations

import numpy as np
import pytest
from event_lists import rows, timelines

from cache.common.errors import ConfigError
from train.score.read_off import ReadOff, choose_read_off
from train.score.recordings import score_recordings
from train.score.timeline import Timeline

CLASSES = 3
WAY = ReadOff(threshold=(0.5,) * CLASSES, side_s=0.5, join=0.5, shortest_s=0.0)
TRUTH = rows((0, 0, 2.0, 5.5), (0, 1, 4.0, 9.0), (0, 0, 12.3, 13.4), (1, 2, 0.0, 20.0))
LENGTHS_S = [20.0, 20.0, 15.0]


def test_what_the_model_knows_is_found_to_a_cell() -> None:
    found = WAY.events(timelines(TRUTH, LENGTHS_S, CLASSES))
    order = np.lexsort((found.start_s, found.category, found.recording))
    found = found.of(order)
    wanted = TRUTH.of(np.lexsort((TRUTH.start_s, TRUTH.category, TRUTH.recording)))
    assert found.recording.tolist() == wanted.recording.tolist()
    assert found.category.tolist() == wanted.category.tolist()
    np.testing.assert_allclose(found.start_s, wanted.start_s)
    np.testing.assert_allclose(found.end_s, wanted.end_s)
    np.testing.assert_allclose(found.confidence, 0.9)


def test_a_list_may_be_empty() -> None:
    assert len(WAY.events([])) == 0
    assert len(WAY.events([Timeline(np.zeros((50, CLASSES)), 0.1, 5.0)])) == 0
    assert len(WAY.events(timelines(rows(), LENGTHS_S, CLASSES, low=0.3))) == 0


def test_a_threshold_leaves_times_as_they_are() -> None:
    rng = np.random.default_rng(0)
    noisy = [
        Timeline(
            (one.probability + rng.normal(0, 0.1, one.probability.shape)).clip(0, 1), 0.1, 20.0
        )
        for one in timelines(TRUTH, LENGTHS_S, CLASSES)
    ]
    candidates = WAY.candidates(noisy)
    said = WAY.revised(threshold=(0.2, 0.6, 0.9)).events(noisy)
    limit = np.array([0.2, 0.6, 0.9])[candidates.category]
    kept = candidates.of(candidates.confidence >= limit)
    for name in ("recording", "category", "start_s", "end_s", "confidence"):
        np.testing.assert_array_equal(getattr(said, name), getattr(kept, name))


def test_short_dips_are_joined_and_short_events_left_out() -> None:
    probability = np.zeros((200, 1))
    probability[50:100] = 0.9
    probability[70:75] = 0.6
    probability[150:154] = 0.9
    way = ReadOff(threshold=(0.5,), side_s=0.5, join=0.5, shortest_s=1.0)
    line = [Timeline(probability, 0.1, 20.0)]
    assert way.events(line).start_s.tolist() == [5.0]
    assert way.events(line).end_s.tolist() == [10.0]
    assert way.revised(join=0.8, shortest_s=0.0).events(line).start_s.tolist() == [5.0, 7.5, 15.0]


def test_the_chosen_way_is_right_where_the_timelines_are() -> None:
    lines = timelines(TRUTH, LENGTHS_S, CLASSES)
    way = choose_read_off(lines, TRUTH)
    scores = score_recordings(
        TRUTH, way.events(lines), np.array(LENGTHS_S), CLASSES, way.candidates(lines)
    )
    assert scores["event_f1@0.2s,20%"] == 1
    assert scores["tiou_map"] == 1


def test_of_thresholds_that_are_as_good_the_highest_counts() -> None:
    lines = timelines(TRUTH, LENGTHS_S, CLASSES, sure=0.72, low=0.12)
    assert choose_read_off(lines, TRUTH).threshold == (0.7,) * CLASSES
    assert len(choose_read_off(lines, rows()).events(lines)) == 0


def test_it_is_stored_as_json_and_read_strictly() -> None:
    assert ReadOff.parse(WAY.record()) == WAY
    changes: list[dict[str, object]] = [
        {"threshold": []},
        {"threshold": ["a"]},
        {"threshold": [1.5]},
        {"join": 2},
        {"side_s": 0},
        {"other": 1},
    ]
    for change in changes:
        with pytest.raises(ConfigError):
            ReadOff.parse({**WAY.record(), **change})
    with pytest.raises(ValueError, match="classes"):
        WAY.events([Timeline(np.ones((50, 2)), 0.1, 5.0)])
