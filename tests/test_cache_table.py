"""The table of clips and events: times on the clip's clock, whatever a clip is."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_cache import make_cache
from tiny_runs import TINY, tiny_labels
from windows_cache import windows_cache

import cache.table
from cache import Labels, clip_table, open_cache
from cache.labels.store import write_labels


def labels_of(rows: list[tuple[str, str, float, float]]) -> Labels:
    classes = sorted({name for _, name, _, _ in rows if name})
    return Labels(
        ids=[name for name, *_ in rows],
        classes=classes,
        category=np.array([classes.index(n) if n else -1 for _, n, _, _ in rows], np.int64),
        start_s=np.array([start for *_, start, _ in rows]),
        end_s=np.array([end for *_, end in rows]),
        split=np.array([0] * len(rows), np.int8),
    )


def test_a_row_for_each_event_of_a_clip(tmp_path: Path) -> None:
    labels = tiny_labels(6)
    features = open_cache(make_cache(tmp_path / "c", labels=labels, missing=["clip00002"], **TINY))
    table = clip_table(features)
    assert table.id.tolist() == [f"clip0000{n}" for n in (0, 1, 3, 4, 5)]
    assert table.id.tolist() == [features.ids[row] for row in table.row]
    assert table.category.tolist() == [labels.names()[n] for n in (0, 1, 3, 4, 5)]
    assert np.allclose(table.end_s, labels.end_s[[0, 1, 3, 4, 5]])
    assert set(table.split) == {"train", "val"} or set(table.split) == {"train"}
    assert (table.offset_s == 0).all()
    assert (table.valid_s == 2).all()


def test_events_of_recordings_are_cut_to_their_windows(tmp_path: Path) -> None:
    folder = windows_cache(tmp_path / "w", {"a": (4.0, []), "b": (2.0, []), "c": (2.0, [])})
    rows = [("a", "x", 0.5, 2.5), ("a", "y", 1.0, 1.5), ("b", "", 0.0, 0.0), ("b", "", 0.0, 0.0)]
    write_labels(folder, labels_of(rows))
    table = clip_table(open_cache(folder))
    found = table[["id", "category", "start_s", "end_s"]].astype(object).fillna("-").values.tolist()
    assert found == [
        ["a", "x", 0.5, 2.0], ["a", "y", 1.0, 1.5],
        ["a@1", "x", 0.0, 1.5], ["a@1", "y", 0.0, 0.5],
        ["a@2", "x", 0.0, 0.5],
        ["b", "", 0.0, 0.0],
        ["c", "-", "-", "-"],
    ]  # fmt: skip
    assert table[table.id == "c"].split.isna().all()


def test_a_window_beside_all_events_has_none_and_a_weak_one_no_times(tmp_path: Path) -> None:
    folder = windows_cache(tmp_path / "w", {"a": (4.0, []), "b": (2.0, [])})
    rows = [("a", "x", 0.0, 0.5), ("a", "y", 0.1, 0.2), ("b", "x", np.nan, np.nan)]
    write_labels(folder, labels_of(rows))
    table = clip_table(open_cache(folder))
    found = table[["id", "category", "start_s"]].fillna({"start_s": -1.0}).values.tolist()
    assert found == [
        ["a", "x", 0.0], ["a", "y", 0.1], ["a@1", "", 0.0], ["a@2", "", 0.0], ["b", "x", -1.0],
    ]  # fmt: skip


def test_a_cache_without_labels_has_its_clips(tmp_path: Path) -> None:
    folder = windows_cache(tmp_path / "w", {"a": (3.0, [])})
    table = clip_table(open_cache(folder))
    assert table.id.tolist() == ["a", "a@1"]
    assert table.category.isna().all()


def test_an_empty_event_is_in_its_clip(tmp_path: Path) -> None:
    labels = replace(tiny_labels(3), start_s=np.zeros(3), end_s=np.zeros(3))
    table = clip_table(open_cache(make_cache(tmp_path / "c", labels=labels, **TINY)))
    assert table.category.tolist() == labels.names()


def test_the_example_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache(tmp_path / "features", clips=12)
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(cache.table)
    assert found.attempted >= 4
    assert not found.failed
