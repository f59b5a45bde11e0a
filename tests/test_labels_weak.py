"""Rows that say what happens and not when: read, stored, joined, compared, never cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_media import tiny_cache

from cache import CacheError, Labels, open_cache
from cache.__main__ import main
from cache.common.errors import AnnotationError
from cache.labels.annotations import read_annotations
from cache.labels.store import labels_sha256, read_labels, write_labels
from cache.share.merge_labels import events_by_clip, merge_labels

CSV = (
    "id,category,start,end,split\na,Bark,,,train\na,Bark,1.25,40,train\na,Bark,,,train\nb,,,,val\n"
)


def read(folder: Path, text: str = CSV, clip_seconds: float | None = None) -> Labels:
    (folder / "events.csv").write_text(text, encoding="utf-8")
    return read_annotations(folder / "events.csv", clip_seconds)


def test_read_once_and_counted(tmp_path: Path) -> None:
    labels = read(tmp_path)
    assert labels.weak.tolist() == [True, False, False]
    np.testing.assert_array_equal(labels.start_s, [np.nan, 1.25, 0])
    np.testing.assert_array_equal(labels.end_s, [np.nan, 40, 0])
    assert labels.notes == [
        "1 event(s) repeat another: left out",
        "1 event(s) say what, not when",
        "1 clip without an event",
    ]


def test_the_clips_end_cuts_the_others_alone(tmp_path: Path) -> None:
    labels = read(tmp_path, clip_seconds=10.0)
    np.testing.assert_array_equal(labels.end_s, [np.nan, 10, 0])
    assert len(read(tmp_path, "id,category,start,end\na,Bark,,\nb,Bark,11,12\n", 10.0)) == 1


def test_in_aves_format(tmp_path: Path) -> None:
    """A split file's row is matched by what is known of it."""
    (tmp_path / "Annotations.txt").write_text("Bark&a&good&&\nBark&b&good&0&1\n")
    (tmp_path / "valSet.txt").write_text("Bark&a&good&&\n")
    labels = read_annotations(tmp_path / "Annotations.txt", 10.0)
    assert labels.weak.tolist() == [True, False]
    assert labels.split.tolist() == [1, -1]


@pytest.mark.parametrize("times", [",1", "1,", ",nan", "nan,nan"])
def test_half_a_time_is_none(tmp_path: Path, times: str) -> None:
    with pytest.raises(AnnotationError, match=r"line 2: expected .*start"):
        read(tmp_path, f"id,category,start,end\na,Bark,{times}\n")


def test_stored_and_read_again(tmp_path: Path) -> None:
    labels = read(tmp_path)
    write_labels(tmp_path, labels)
    stored = read_labels(tmp_path)
    assert stored is not None
    assert stored.equals(labels)
    assert not stored.equals(Labels(**{**vars(labels), "end_s": np.array([1.0, 40, 0])}))


def test_every_nan_is_one(tmp_path: Path) -> None:
    labels = read(tmp_path)
    odd = labels.start_s.copy()
    odd.view(np.uint64)[0] |= 0x8000_0000_0000_0001
    assert labels_sha256(Labels(**{**vars(labels), "start_s": odd})) == labels_sha256(labels)


@pytest.mark.parametrize(("start", "end"), [(np.nan, 1.0), (1.0, np.nan), (np.nan, np.inf)])
def test_half_a_time_is_not_stored(tmp_path: Path, start: float, end: float) -> None:
    labels = read(tmp_path)
    times = {"start_s": np.array([start, 1, 0]), "end_s": np.array([end, 2, 0])}
    with pytest.raises(CacheError, match="or both NaN"):
        write_labels(tmp_path, Labels(**{**vars(labels), **times}))


def test_a_recording_without_an_event_has_times(tmp_path: Path) -> None:
    labels = read(tmp_path)
    times = {name: np.array([0, 1, np.nan]) for name in ("start_s", "end_s")}
    with pytest.raises(CacheError, match="expected start and end 0"):
        write_labels(tmp_path, Labels(**{**vars(labels), **times}))


def test_splits_are_kept(tmp_path: Path) -> None:
    before = read(tmp_path, "id,category,start,end,split\na,Bark,,,test\nb,Bark,,,val\n")
    labels = read_annotations(tmp_path / "events.csv", None)
    (tmp_path / "events.csv").write_text("id,category,start,end\na,Bark,,\nb,Bark,,\n")
    labels = read_annotations(tmp_path / "events.csv", None, before=before)
    assert labels.split.tolist() == [2, 1]


def test_joined_compared_and_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = read(tmp_path)
    assert events_by_clip(labels)["a"] == [("Bark", None, None, 0), ("Bark", 1.25, 40, 0)]
    tinies = [tiny_cache(tmp_path / name, labels) for name in ("one", "two")]
    for tiny in tinies:
        tiny.write("a", "b")
    more = Labels(**{**vars(labels), "ids": ["c", "c", "d"]})
    tiny_cache(tmp_path / "three", more)
    caches = [open_cache(tmp_path / name) for name in ("one", "two", "three")]
    merged = merge_labels(caches, None)
    assert merged is not None
    assert merged.ids == ["a", "a", "b", "c", "c", "d"]
    assert merged.weak.tolist() == [True, False, False] * 2
    assert main(["diff", str(caches[0].path), str(caches[1].path), "--json"]) == 0
    capsys.readouterr()
    assert main(["diff", str(caches[0].path), str(caches[2].path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["events"]["a"][0][0] == ["Bark", None, None, 0]
    assert main(["pack", str(caches[0].path), str(tmp_path / "pack.h5")]) == 0
    assert open_cache(tmp_path / "pack.h5").labels.equals(labels)
    assert main(["verify", str(tmp_path / "pack.h5")]) == 0


def test_a_table_in_one_line(tmp_path: Path) -> None:
    """A notebook that shows it isn't flooded."""
    text = "id,category,start,end\n" + "".join(f"c{n},Bark,0,1\n" for n in range(4000))
    labels = read(tmp_path, text)
    assert repr(labels) == "Labels(4000 events, 1 classes, 4000 recordings)"
    assert (
        repr(read(tmp_path)) == "Labels(2 events, 1 clip without an event, 1 classes, 2 recordings)"
    )
