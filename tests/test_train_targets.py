"""Targets at load time: events of recordings, cut to windows; background, weak rows, splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings_cache import Recording, labels_of, recordings_cache
from synthetic_cache import make_cache
from tiny_runs import TINY, tiny_labels

from cache import Cache, Labels, open_cache
from cache.format.schema import BACKGROUND
from train.config import TrainConfig
from train.data.dataset import choose_rows, load_dataset, resolve
from train.data.settled import settle_events, settle_weak
from train.data.targets import targets

RECORDINGS = [
    Recording("a", 6.0, 0, [(0, 0.5, 1.5), (1, 1.0, 3.2), (0, 5.0, 6.0)]),
    Recording("b", 4.0, 0),
    Recording("c", 4.0, 1, [(2, 0.0, 4.0)]),
    Recording("d", 4.0, 2, [(1, 1.0, 2.0)]),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(recordings_cache(tmp_path_factory.mktemp("windows") / "cache", RECORDINGS))


def found(
    cache: Cache, labels: Labels, several: bool, split: str = "train"
) -> dict[str, list[tuple[int, float, float]]]:
    """The events (class, start, end) of each clip, repetitions left out."""
    some = targets(cache, labels, labels.rows(split), several)
    together: dict[str, list[tuple[int, float, float]]] = {}
    for n, row in enumerate(some.clips):
        events = together.setdefault(cache.ids[row], [])
        for e in range(max(int(some.count[n]), 1)):
            start, end = round(some.start_s[n, e], 6), round(some.end_s[n, e], 6)
            events.append((int(some.category[n, e]), start, end))
    return together


def test_a_windows_events_are_those_that_overlap_it_cut_to_it(cache: Cache) -> None:
    assert found(cache, cache.labels, several=True) == {
        "a": [(0, 0.5, 1.5), (1, 1.0, 2.0)],
        "a@1": [(0, 0.0, 0.5), (1, 0.0, 2.0)],
        "a@2": [(1, 0.0, 1.2)],
        "a@3": [(1, 0.0, 0.2)],
        "a@4": [(0, 1.0, 2.0)],
        "b": [(BACKGROUND, 0.0, 0.0)],
        "b@1": [(BACKGROUND, 0.0, 0.0)],
        "b@2": [(BACKGROUND, 0.0, 0.0)],
    }


def test_with_single_events_a_window_has_a_sample_for_each(cache: Cache) -> None:
    single = targets(cache, cache.labels, cache.labels.rows("train"), several=False)
    assert single.category.shape == (10, 1)
    assert found(cache, cache.labels, several=False) == found(cache, cache.labels, several=True)


def test_windows_that_events_touch_only_at_their_edge_are_background(tmp_path: Path) -> None:
    path = recordings_cache(tmp_path / "cache", [Recording("a", 5.0, 0, [(0, 2.0, 3.0)])])
    some = found(open_cache(path), open_cache(path).labels, several=True)
    assert some["a"] == some["a@3"] == [(BACKGROUND, 0.0, 0.0)]
    assert some["a@1"] == [(0, 1.0, 2.0)]


def test_nothing_is_background_beside_weak_or_unused_rows(cache: Cache) -> None:
    labels = cache.labels
    start, end = labels.start_s.copy(), labels.end_s.copy()
    start[2] = end[2] = np.nan
    vague = replace(labels, start_s=start, end_s=end)
    some = targets(cache, vague, np.array([0, 1]), several=True)
    assert [cache.ids[row] for row in some.clips] == ["a", "a@1", "a@2", "a@3"]
    rows = targets(cache, labels, np.array([0]), several=True)
    assert [cache.ids[row] for row in rows.clips] == ["a", "a@1"], "others have events of row 1, 2"


def test_weak_rows_are_left_out_and_told(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = labels_of(RECORDINGS)
    weak.start_s[2] = weak.end_s[2] = np.nan
    monkeypatch.setattr(Cache, "labels", weak)
    rows = settle_weak(cache, TrainConfig(events="single"), choose_rows(cache, TrainConfig()))
    assert rows.kept["train"].tolist() == [3], "nor are others of that recording"
    assert any(
        "1 row(s) say that there is an event, but not when: left out, and with them 2 that do"
        in note
        for note in rows.notes
    )


def test_a_cache_without_windows_gives_a_sample_for_each_row(tmp_path: Path) -> None:
    cache = open_cache(make_cache(tmp_path / "cache", labels=tiny_labels(), **TINY))
    rows = cache.labels.rows("train")
    some = targets(cache, cache.labels, rows, several=False)
    assert some.rows.tolist() == rows.tolist()
    assert np.array_equal(some.start_s[:, 0], cache.labels.start_s[rows])
    assert [cache.ids[row] for row in some.clips] == [cache.labels.ids[row] for row in rows]


@pytest.mark.parametrize(("asked", "kind"), [("auto", "several"), ("single", "single")])
def test_what_a_clip_may_have_is_decided_and_told(cache: Cache, asked: str, kind: str) -> None:
    config = resolve(TrainConfig.parse({"events": asked}), cache, cache.labels.classes)
    config, told = settle_events(cache, config, choose_rows(cache, config))
    assert config.events == kind
    assert told == f"events: {kind} (2 of 8 clips with an event have two or more; --events)"


def test_samples_of_several_events_repeat_the_first_to_fill_up(cache: Cache) -> None:
    config = resolve(TrainConfig(events="several", device="cpu"), cache, cache.labels.classes)
    samples = load_dataset(cache, config, ("train",)).splits["train"]
    assert samples.category.shape == (8, 2)
    assert samples.interval.shape == (8, 2, 2)
    assert samples.category[2].tolist() == [1, 1]
    assert samples.interval[2].tolist() == pytest.approx(np.array([[0, 0.6], [0, 0.6]]))
    assert samples.background_count() == 3


def test_clips_without_an_event_are_at_most_a_share_of_an_epoch(cache: Cache) -> None:
    config = resolve(TrainConfig(events="several", device="cpu"), cache, cache.labels.classes)
    samples = load_dataset(cache, config, ("train",)).splits["train"]
    assert samples.epoch_size(0.5) == samples.epoch_size(1.0) == 8
    assert samples.epoch_size(0.2) == 6
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    drawn = samples.drawn(order, 0.2)
    assert len(drawn) == 6
    assert int(samples.background[drawn].sum()) == 1
    assert [row for row in order.tolist() if row in drawn.tolist()] == drawn.tolist()
