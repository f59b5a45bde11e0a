"""Clips without an event, from annotation files to the label table and all that handles it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from small_media import TinyCache, tiny_cache

from cache import CacheError, Labels, open_cache
from cache.__main__ import main
from cache.check.info import describe, facts_of
from cache.common.errors import AnnotationError
from cache.format.schema import BACKGROUND
from cache.labels.annotations import read_annotations
from cache.labels.store import read_labels, write_labels
from cache.share.diff import describe_difference, difference
from cache.share.merge_labels import merge_labels

HEAD = "id,category,start,end,split\n"
AVE = "Bark&one&good&0&10\nHorn&two&good&2&7\nBark&three&good&0&3\n"
REAL = Path(os.environ.get("AVEL_DATA", "")) / "ave-hard"


def read(folder: Path, **files: str) -> Labels:
    """What the annotations among some files say; the names are without a suffix."""
    for name, text in files.items():
        suffix = ".csv" if name == "events" else ".txt"
        (folder / f"{name}{suffix}").write_text(text, encoding="utf-8")
    name = "events.csv" if "events" in files else "Annotations.txt"
    return read_annotations(folder / name, 10.0)


def rows(labels: Labels) -> dict[str, tuple[str, float, float, int]]:
    columns = (labels.start_s, labels.end_s, labels.split)
    values = zip(labels.names(), *(c.tolist() for c in columns), strict=True)
    return dict(zip(labels.ids, values, strict=True))


class TestFiles:
    @pytest.mark.parametrize("times", [",", "0,0", "0,10", "no,idea"])
    def test_a_csv_row_without_a_category(self, tmp_path: Path, times: str) -> None:
        text = f"{HEAD}a,Bark,0,2,train\nb, ,{times},val\nc,Horn,1,2,test\n"
        labels = read(tmp_path, events=text)
        assert rows(labels)["b"] == ("", 0.0, 0.0, 1)
        assert labels.classes == ["Bark", "Horn"]
        assert labels.category.tolist() == [0, BACKGROUND, 1]
        assert labels.notes == ["1 clip without an event"]
        assert labels.counted() == "2 events, 1 clip without an event"

    @pytest.mark.parametrize("line", ["&-x&good&&", "&-x&good&0&0", "&-x&&0.0&0.0"])
    def test_an_empty_first_field(self, tmp_path: Path, line: str) -> None:
        labels = read(
            tmp_path,
            Annotations=AVE + line,
            trainSet=f"Bark&one&good&0&10\n{line}\n",
            testSet="Horn&two&good&2&7\nBark&three&good&0&3",
        )
        assert rows(labels)["-x"] == ("", 0.0, 0.0, 0)
        assert labels.source == "Annotations.txt, trainSet.txt, testSet.txt"

    def test_a_list_with_splits_beside_split_files(self, tmp_path: Path) -> None:
        labels = read(
            tmp_path, Annotations=AVE, trainSet=AVE, background="-a&test\n\n_b & Train\r\n"
        )
        assert rows(labels)["-a"] == ("", 0.0, 0.0, 2)
        assert rows(labels)["_b"] == ("", 0.0, 0.0, 0)
        assert labels.source == "Annotations.txt, trainSet.txt, background.txt"
        assert labels.notes == ["2 clips without an event"]

    def test_a_list_without_splits_is_divided_by_id(self, tmp_path: Path) -> None:
        names = [f"clip{n}" for n in range(40)]
        alone = read(tmp_path, Annotations="".join(f"A&{i}&good&0&1\n" for i in names)).split
        (tmp_path / "other").mkdir()
        labels = read(
            tmp_path / "other", Annotations=AVE, trainSet=AVE, background="\n".join(names)
        )
        assert labels.split.tolist() == [0, 0, 0, *alone.tolist()]
        assert labels.source == (
            "Annotations.txt, trainSet.txt; background.txt, divided 70/15/15 by id with seed 42"
        )

    def test_all_are_divided_together(self, tmp_path: Path) -> None:
        labels = read(tmp_path, Annotations=AVE, background="a\nb\nc\n")
        assert (
            labels.source == "Annotations.txt, background.txt, divided 70/15/15 by id with seed 42"
        )
        assert -1 not in labels.split

    def test_a_list_with_splits_beside_annotations_without(self, tmp_path: Path) -> None:
        labels = read(tmp_path, Annotations=AVE, background="a&test\n")
        assert rows(labels)["a"][-1] == 2
        assert -1 not in labels.split
        assert labels.source == (
            "background.txt; Annotations.txt, divided 70/15/15 by id with seed 42"
        )

    def test_one_clip_in_both_counts_once_with_its_split(self, tmp_path: Path) -> None:
        labels = read(
            tmp_path,
            Annotations=f"{AVE}&a&good&&\n&b&good&&\n",
            trainSet=f"{AVE}&a&good&&\n",
            background="a\nb&val\nb&val\n",
        )
        assert labels.ids == ["one", "two", "three", "a", "b"]
        assert labels.split.tolist() == [0, 0, 0, 0, 1]
        assert not labels.leaks()

    def test_one_split_alone_has_no_list(self, tmp_path: Path) -> None:
        (tmp_path / "trainSet.txt").write_text(AVE)
        (tmp_path / "background.txt").write_text("a&test")
        assert len(read_annotations(tmp_path / "trainSet.txt", 10.0)) == 3
        assert len(read_annotations(tmp_path / "Annotations.txt", 10.0)) == 4

    def test_earlier_splits_are_kept(self, tmp_path: Path) -> None:
        before = read(tmp_path, Annotations=AVE, background="a&test\nb&test\n")
        (tmp_path / "background.txt").write_text("a\nb\n")
        after = read_annotations(tmp_path / "Annotations.txt", 10.0, before=before)
        assert rows(after)["a"][-1] == rows(after)["b"][-1] == 2

    def test_an_event_beyond_the_clip_is_none_of_the_others(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match="no event begins"):
            read(tmp_path, events=f"{HEAD}a,Bark,11,12,\nb,,,,\n")

    def test_nothing_but_clips_without_an_event(self, tmp_path: Path) -> None:
        labels = read(tmp_path, events="id,category,start,end\na,,,\nb,,,\n")
        write_labels(tmp_path, labels)
        stored = read_labels(tmp_path)
        assert stored is not None
        assert stored.equals(labels)
        assert labels.classes == []

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("a&none", "expected ID or ID&SPLIT, with a split of train, val, test, found 'a&none'"),
            ("a&", "expected ID or ID&SPLIT"),
            ("a&train&0", "expected ID or ID&SPLIT"),
            ("&train", "'' is no clip id"),
            ("../a&train", "slash or a control character"),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path: Path, line: str, why: str) -> None:
        with pytest.raises(AnnotationError) as caught:
            read(tmp_path, Annotations=AVE, background=f"x\n{line}\n")
        assert str(tmp_path / "background.txt") in str(caught.value)
        assert "line 2: " in str(caught.value)
        assert why in str(caught.value)

    def test_a_list_that_is_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "background.txt")
        with pytest.raises(AnnotationError, match="no plain file"):
            read(tmp_path, Annotations=AVE)

    def test_a_clip_with_an_event_and_without(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError) as caught:
            read(tmp_path, Annotations=AVE, background="x\ntwo\n")
        text = str(caught.value)
        assert "Annotations.txt: 1 clip(s) are said to have no event, and one as well" in text
        assert "two: no event by line 2 of background.txt, 'Horn' by line 2 of Annotations" in text

    def test_many_contradictions(self, tmp_path: Path) -> None:
        text = HEAD + "".join(f"c{n},Bark,0,1,\nc{n},,,,\n" for n in range(12))
        with pytest.raises(AnnotationError) as caught:
            read(tmp_path, events=text)
        assert "12 clip(s)" in str(caught.value)
        assert "c0: no event by line 3 of events.csv, 'Bark' by line 2" in str(caught.value)
        assert "… and 2 more" in str(caught.value)


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason="real clips are not at hand")
def test_real_annotations() -> None:
    labels = read_annotations(REAL / "Annotations.txt", 10.0)
    assert labels.counted() == "750 events, 102 clips without an event"
    assert len(set(labels.ids)) == 852
    assert labels.source.endswith("testSet.txt, background.txt")
    assert "102 clips without an event" in labels.notes
    assert not labels.leaks()


def table(ids: str, names: list[str], splits: list[int]) -> Labels:
    classes = list(dict.fromkeys(filter(None, names)))
    category = [classes.index(name) if name else BACKGROUND for name in names]
    return Labels(
        ids=list(ids),
        classes=classes,
        category=np.array(category, np.int64),
        start_s=np.zeros(len(ids)),
        end_s=np.array([1.0 if name else 0.0 for name in names]),
        split=np.array(splits, np.int8),
        source="made",
    )


LABELS = table("abc", ["Horn", "", "Bark"], [0, 0, 1])


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    return tiny_cache(tmp_path / "cache", LABELS)


class TestTable:
    def test_stored_and_read_again(self, tiny: TinyCache) -> None:
        stored = open_cache(tiny.folder).labels
        assert stored.equals(LABELS)
        assert stored.background.tolist() == [False, True, False]

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"category": np.array([0, -2, 1])}, "a category is out of range"),
            ({"end_s": np.array([1.0, 1.0, 1.0])}, "expected start and end 0 in each row"),
            ({"ids": ["a", "a", "b"]}, "1 clip.s. are said to have no event, and one as well"),
        ],
    )
    def test_what_no_table_says(self, tmp_path: Path, change: dict[str, object], why: str) -> None:
        with pytest.raises(CacheError, match=why):
            write_labels(tmp_path, dataclasses.replace(LABELS, **change))  # type: ignore[arg-type]

    def test_info_counts_them_apart(self, tiny: TinyCache) -> None:
        tiny.write("a", "b", "c")
        cache = open_cache(tiny.folder)
        facts = facts_of(cache)["labels"]
        assert facts["events"] == 2
        assert facts["clips"] == 3
        assert facts["shorter_events"] == 0  # the clips are as long as the events: 1 s
        assert facts["without_an_event"] == {"train": 1, "val": 0, "test": 0, "clips": 1}
        assert [row["events"] for row in facts["classes"].values()] == [1, 1]
        text = describe(cache)
        assert "2 events of 2 classes and 1 clip without an event in 3 clips" in text
        assert "train 2 (1 without an event), val 1, test 0" in text

    def test_a_pack_holds_them_and_verify_is_content(self, tiny: TinyCache, tmp_path: Path) -> None:
        tiny.write("a", "b", "c")
        pack = tmp_path / "pack.h5"
        assert main(["pack", str(tiny.folder), str(pack)]) == 0
        assert main(["verify", str(pack)]) == main(["verify", str(tiny.folder)]) == 0
        assert open_cache(pack).labels.equals(LABELS)

    def test_pull_of_a_split_takes_them(self, tiny: TinyCache, tmp_path: Path) -> None:
        tiny.write("a", "b", "c")
        mine = tmp_path / "mine"
        assert main(["pull", str(tiny.folder), str(mine), "--only", "train"]) == 0
        assert open_cache(mine).ids == ["a", "b"]
        assert open_cache(mine).labels.equals(LABELS)

    def test_relabel_tells_of_them(
        self, tiny: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tiny.write("a", "b", "c")
        (tmp_path / "new.csv").write_text(f"{HEAD}a,Horn,0,1,train\nb,,,,val\nc,,,,test\n")
        assert main(["relabel", str(tiny.folder), str(tmp_path / "new.csv")]) == 0
        told = capsys.readouterr().out
        assert "2 events, 1 clip without an event before, " in told
        assert "1 of 1 classes and 2 clips without an event now" in told
        assert "b (train → val)" in told
        assert facts_of(open_cache(tiny.folder))["labels"]["replaced"][0]["events"] == 2


class TestSeveralCaches:
    def merged(self, tmp_path: Path, *tables: Labels, prefer: int | None = None) -> Labels | None:
        caches = [
            open_cache(tiny_cache(tmp_path / str(n), labels).folder)
            for n, labels in enumerate(tables)
        ]
        return merge_labels(caches, None if prefer is None else caches[prefer])

    def test_joined(self, tmp_path: Path) -> None:
        found = self.merged(tmp_path, LABELS, table("de", ["", "Horn"], [2, 0]))
        assert found is not None
        assert found.classes == ["Bark", "Horn"]
        assert found.names() == ["Horn", "", "Bark", "", "Horn"]
        assert found.split.tolist() == [0, 0, 1, 2, 0]

    def test_a_cache_of_them_alone_leaves_the_classes_order(self, tmp_path: Path) -> None:
        found = self.merged(tmp_path, LABELS, table("de", ["", ""], [2, 0]))
        assert found is not None
        assert found.classes == LABELS.classes == ["Horn", "Bark"]

    def test_one_says_event_the_other_none(self, tmp_path: Path) -> None:
        other = table("b", ["Bark"], [0])
        with pytest.raises(CacheError, match=r"1 clip.s. have different events or splits .*: b;"):
            self.merged(tmp_path, LABELS, other)
        (tmp_path / "again").mkdir()
        found = self.merged(tmp_path / "again", LABELS, other, prefer=1)
        assert found is not None
        assert found.names() == ["Horn", "Bark", "Bark"]

    def test_diff_says_which(self, tmp_path: Path) -> None:
        a, b = (
            open_cache(tiny_cache(tmp_path / str(n), labels).folder)
            for n, labels in enumerate((LABELS, table("bc", ["Bark", "Bark"], [0, 1])))
        )
        text = describe_difference(difference(a, b))
        assert "b: A: [('no event', 0)]; B: [('Bark', 0.0, 1.0, 0)]" in text
        assert "a: A: [('Horn', 0.0, 1.0, 0)]; B: none" in text
