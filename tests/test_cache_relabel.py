"""`relabel`: what changes is said by event; corrections leave other recordings as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_media import TinyCache, tiny_cache
from windows_cache import windows_cache

from cache import CacheError, Labels, open_cache
from cache.__main__ import main
from cache.common.errors import AnnotationError
from cache.labels.annotations import read_annotations
from cache.labels.changes import Changes, corrected, event_changes
from cache.labels.store import read_labels

HEAD = "id,category,start,end,split\n"
FIRST = f"""{HEAD}a,Horn,0,0.5,train
a,Bark,0.25,1,train
b,Bark,,,val
c,,,,test
d,Bell,0,1,test
"""
Capture = pytest.CaptureFixture[str]
Event = tuple[str, str, float | None, float | None]


def read(folder: Path, text: str, name: str = "events.csv", before: Labels | None = None) -> Labels:
    (folder / name).write_text(text, encoding="utf-8")
    return read_annotations(folder / name, None, before=before)


def rows(labels: Labels | None) -> list[tuple[str, str, float, float, int]]:
    assert labels is not None
    columns = (labels.start_s, labels.end_s, labels.split)
    return list(zip(labels.ids, labels.names(), *(c.tolist() for c in columns), strict=True))


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    tiny = tiny_cache(tmp_path / "cache", read(tmp_path, FIRST))
    tiny.write("a", "b", "c", "d")
    return tiny


def relabel(tiny: TinyCache, path: Path, *more: str, code: int = 0) -> None:
    assert main(["relabel", str(tiny.folder), str(path), *more]) == code


class TestOnlyThese:
    def test_an_audacity_file(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "a.wav.txt"
        path.write_text("0.1\t0.5\tHorn\n0.25\t1\tDog\n0,5\t0,75\tBell\n")
        before = rows(read_labels(tiny.folder))
        relabel(tiny, path, "--only-these")
        out, err = capsys.readouterr()
        assert err == ""
        assert "events    1 moved: a Horn 0 to 0.5 s → 0.1 to 0.5 s\n" in out
        assert "events    1 renamed: a 0.25 to 1 s Bark → Dog\n" in out
        assert "events    1 added: a Bell 0.5 to 0.75 s\n" in out
        assert "removed" not in out
        assert "changed" not in out
        labels = read_labels(tiny.folder)
        assert labels is not None
        assert labels.source == "events.csv, its own splits; corrected by a.wav.txt"
        assert [row[-1] for row in rows(labels)[:3]] == [0, 0, 0]
        np.testing.assert_equal(rows(labels)[3:], before[2:])
        assert labels.classes == ["Horn", "Bark", "Bell", "Dog"]
        assert labels.notes == ["1 event(s) say what, not when", "1 clip without an event"]

    def test_twice_changes_nothing(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "more.csv"
        path.write_text("media,start_s,end_s,category,confidence\nb.mp4,0,1,Bark,0.9\nc.mp4,,,,\n")
        relabel(tiny, path, "--only-these")
        assert "1 moved: b Bark somewhere → 0 to 1 s" in capsys.readouterr().out
        first = read_labels(tiny.folder)
        relabel(tiny, path, "--only-these")
        assert "events  " not in capsys.readouterr().out
        again = read_labels(tiny.folder)
        assert first is not None
        assert again is not None
        assert again.equals(first)

    def test_no_event_is_left(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "more.csv"
        path.write_text("media,category,start,end\na.mp4,,,\n")
        relabel(tiny, path, "--only-these")
        out = capsys.readouterr().out
        assert "events    2 removed: a Horn 0 to 0.5 s, a Bark 0.25 to 1 s" in out
        assert "2 clips without an event now" in out

    def test_its_own_split_counts(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "more.csv"
        path.write_text(f"{HEAD}d,Bell,0,1,val\n")
        relabel(tiny, path, "--only-these")
        assert "splits    1 id changed: d (test → val)" in capsys.readouterr().out

    def test_named_as_nothing_there(self, tiny: TinyCache, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "labels.txt"
        path.write_text("0\t1\tBark\n")
        before = read_labels(tiny.folder)
        relabel(tiny, path, "--only-these", code=2)
        err = capsys.readouterr().err
        assert "none of its 1 recording(s) is in" in err
        assert "labels; there are a, b, c, d" in err
        after = read_labels(tiny.folder)
        assert before is not None
        assert after is not None
        assert after.equals(before)
        path = tmp_path / "more.csv"
        path.write_text("id,category,start,end\na,Horn,0,1\nx,Bark,0,1\n")
        relabel(tiny, path, "--only-these")
        assert "note      1 recording(s) that were not there: x" in capsys.readouterr().out

    def test_a_class_that_looks_alike(self, tmp_path: Path) -> None:
        before = read(tmp_path, FIRST)
        with pytest.raises(AnnotationError, match=r"x\.csv: the class 'bark' differs from 'Bark'"):
            corrected(before, read(tmp_path, f"{HEAD}a,bark,0,1,train\n"), "x.csv")

    def test_where_there_is_nothing_to_correct(
        self, tmp_path: Path, tiny: TinyCache, capsys: Capture
    ) -> None:
        path = tmp_path / "events.csv"
        relabel(tiny, path, "--only-these", "--split-seed", "1", code=2)
        assert "doesn't go with --only-these" in capsys.readouterr().err
        (tiny.folder / "labels.h5").write_bytes(b"gone")
        relabel(tiny, path, "--only-these", code=2)
        (tiny.folder / "labels.h5").unlink()
        relabel(tiny, path, "--only-these", code=2)
        assert "has no labels to correct" in capsys.readouterr().err

    def test_many_files_one_after_the_other(self, tmp_path: Path) -> None:
        labels = read(tmp_path, FIRST)
        for number in range(9):
            found = read(tmp_path, f"id,category,start,end\na,Horn,0,{number}\n", before=labels)
            labels = corrected(labels, found, f"{number % 7}.csv")
        assert labels.source.endswith("; corrected by 4.csv, 5.csv, 6.csv, 0.csv, 1.csv")


def test_what_lacks_recordings_is_told_loudly(
    tiny: TinyCache, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "more.csv"
    path.write_text("id,category,start,end\na,Horn,0,0.5\n")
    relabel(tiny, path)
    out, err = capsys.readouterr()
    assert "WARNING   3 recording(s) that had labels have none now, as more.csv doesn't" in err
    assert "b, c, d. Was it meant to correct" in err
    assert "events    3 removed: a Bark 0.25 to 1 s, b Bark somewhere, d Bell 0 to 1 s" in out
    assert rows(read_labels(tiny.folder)) == [("a", "Horn", 0, 0.5, 0)]


def test_windows_keep_events_whole(tmp_path: Path, capsys: Capture) -> None:
    tiny = tiny_cache(tmp_path / "cache", hop_seconds=0.5)
    tiny.write("walk", "walk@0.5", "walk@1", "run")
    text = "media,category,onset,offset\nwalk.mp4,Bark,0.75,1.5\nwalk.mp4,Horn,,\nrun.mp4,,,\n"
    (tmp_path / "e.csv").write_text(text)
    relabel(tiny, tmp_path / "e.csv")
    assert "0 of 2 recordings without features" in capsys.readouterr().out
    labels = open_cache(tiny.folder).labels
    assert labels.ids == ["walk", "walk", "run"]
    assert labels.end_s[0] == 1.5


@pytest.mark.parametrize("line", ["0\t1", "x\t1\tBark", "0\t1\tBark\tmore"])
def test_a_bad_file_changes_nothing(tiny: TinyCache, tmp_path: Path, line: str) -> None:
    before = (tiny.folder / "labels.h5").read_bytes()
    (tmp_path / "a.txt").write_text(f"0\t1\tBark\n{line}\n")
    relabel(tiny, tmp_path / "a.txt", "--only-these", code=2)
    assert (tiny.folder / "labels.h5").read_bytes() == before


IDS, CLASSES = st.sampled_from("abc"), st.sampled_from(["A", "B", "C"])
TIMES = st.one_of(
    st.just((None, None)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: tuple(sorted(pair))),
)
EVENTS = st.lists(st.tuples(IDS, CLASSES, TIMES), min_size=1, max_size=12, unique=True)


def table(events: Sequence[tuple[str, str, tuple[float | None, float | None]]]) -> Labels:
    classes = sorted({name for _, name, _ in events})
    times = np.array([pair for *_, pair in events], np.float64).reshape(-1, 2)
    category = np.array([classes.index(name) for _, name, _ in events], np.int64)
    ids = [clip_id for clip_id, *_ in events]
    split = np.array(["abc".index(clip_id) for clip_id in ids], np.int8)
    return Labels(ids, classes, category, times[:, 0], times[:, 1], split, "made")


class TestChanges:
    @given(EVENTS, EVENTS)
    @settings(max_examples=60)
    def test_counts_add_up(self, one: list[Event], two: list[Event]) -> None:
        found = event_changes(table(one), table(two))  # type: ignore[arg-type]
        both = len(found.moved) + len(found.renamed)
        assert len(found.removed) + both == len(set(one) - set(two))
        assert len(found.added) + both == len(set(two) - set(one))
        back = event_changes(table(two), table(one))  # type: ignore[arg-type]
        assert len(back.moved) + len(back.renamed) == both or found.renamed
        assert event_changes(table(one), table(one)) == Changes()  # type: ignore[arg-type]

    @given(EVENTS, EVENTS)
    @settings(max_examples=60)
    def test_corrections_replace_whole_recordings(self, one: list[Event], two: list[Event]) -> None:
        before, found = table(one), table(two)  # type: ignore[arg-type]
        labels = corrected(before, found, "x")
        those = {clip_id for clip_id, *_ in two}
        wanted = [e for e in one if e[0] not in those] + two
        want = table(wanted)  # type: ignore[arg-type]
        assert event_changes(want, labels) == Changes()
        assert len(labels) == len(want)
        assert corrected(labels, found, "x").equals(labels)
        assert labels.split.tolist() == ["abc".index(clip_id) for clip_id in labels.ids]

    def test_very_many_are_not_paired(self) -> None:
        events = [("a", "A", (n / 100, n / 100 + 1)) for n in range(1100)]
        later = [(i, c, (a + 0.001, b + 0.001)) for i, c, (a, b) in events]
        found = event_changes(table(events), table(later))
        assert (len(found.added), len(found.removed), found.moved) == (1100, 1100, [])

    def test_splits_are_no_events(self) -> None:
        labels = table([("a", "A", (0, 1))])
        other = dataclasses.replace(labels, split=labels.split + 1)
        assert list(event_changes(labels, other).described()) == []
        assert event_changes(None, labels).added == ["a A 0 to 1 s"]


def test_a_pack_is_never_changed(tiny: TinyCache, tmp_path: Path) -> None:
    assert main(["pack", str(tiny.folder), str(tmp_path / "p.h5")]) == 0
    assert main(["relabel", str(tmp_path / "p.h5"), str(tmp_path / "events.csv")]) == 2
    with pytest.raises(CacheError):
        open_cache(tmp_path / "none")


def test_events_after_the_end_of_their_recording_are_named(tmp_path: Path, capsys: Capture) -> None:
    cache = windows_cache(tmp_path / "cache", {"walk": (9.0, [(0, 1.0, 3.0)])})
    table = tmp_path / "events.csv"
    table.write_text("media,start,end,category\nwalk.mp4,1,9.5,Bark\nwalk.mp4,70,90,Bark\n")
    assert main(["relabel", str(cache), str(table)]) == 0
    told = capsys.readouterr().out
    assert "1 event(s) end after their recording does: walk Bark 70 to 90 s, of 9 s\n" in told
