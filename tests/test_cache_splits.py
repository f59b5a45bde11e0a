"""Splits that the annotations don't say: an id's own affair, kept by a cache, changes told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_media import tiny_cache

from cache import CacheError, open_cache
from cache.__main__ import main
from cache.format.schema import NO_SPLIT
from cache.labels.annotations import Labels, changed_splits, describe_changes, read_annotations
from cache.labels.store import read_labels, write_labels
from cache.share.merge import merge
from extract.__main__ import main as extract

Event = tuple[str, str, int, int]
Capture = pytest.CaptureFixture[str]
IDS = st.text("abc-_ 01é", min_size=1, max_size=6).map(str.strip).filter(bool)
TIMES = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)
EVENTS = st.lists(
    st.builds(
        lambda clip_id, category, times: (clip_id, category, *times),
        IDS,
        st.sampled_from(["A", "B, b", "C (c)"]),
        TIMES,
    ),
    min_size=1,
    max_size=40,
    unique=True,
)


def clips(numbers: Iterable[int]) -> list[Event]:
    return [(f"clip{n}", f"class {n % 4}", 0, 5) for n in numbers]


def as_ave(events: Sequence[Event]) -> str:
    return "".join(f"{c}&{i}&good&{a}&{b}\n" for i, c, a, b in events)


def as_csv(path: Path, events: Sequence[Event]) -> Path:
    lines = [f'{i},"{c}",{a},{b}\n' for i, c, a, b in events]
    path.write_text("id,category,start,end\n" + "".join(lines), encoding="utf-8")
    return path


def read(
    path: Path, events: Sequence[Event], seed: int = 42, before: Labels | None = None
) -> Labels:
    if path.suffix == ".csv":
        as_csv(path, events)
    else:
        path.write_text(as_ave(events), encoding="utf-8")
    return read_annotations(path, 10.0, seed, before)


def split_of(labels: Labels) -> dict[str, int]:
    found = dict(zip(labels.ids, labels.split.tolist(), strict=True))
    assert labels.leaks() == {}
    return found


class TestDivision:
    @given(EVENTS, st.integers(0, 5))
    @settings(max_examples=40)
    def test_laws(
        self, tmp_path_factory: pytest.TempPathFactory, events: list[Event], seed: int
    ) -> None:
        path = tmp_path_factory.mktemp("division") / "Annotations.txt"
        labels = read(path, events, seed)
        names = [labels.classes[k] for k in labels.category]
        found = zip(labels.ids, names, labels.start_s, labels.end_s, strict=True)
        assert list(found) == events
        split = split_of(labels)
        assert set(split.values()) <= {0, 1, 2}
        assert len(set(split.values())) == 3 or len(split) < 3
        assert read(path, events, seed, labels).equals(labels)
        assert read(path, events, seed + 1, labels).split.tolist() == labels.split.tolist()

    @pytest.mark.parametrize(("few", "many"), [(100, 120), (400, 520), (1000, 5000)])
    def test_no_id_moves_when_clips_are_added(self, tmp_path: Path, few: int, many: int) -> None:
        before = split_of(read(tmp_path / "set.csv", clips(range(few))))
        after = split_of(read(tmp_path / "set.csv", clips(range(many))[::-1]))
        assert {clip_id: after[clip_id] for clip_id in before} == before

    def test_two_sets_agree_on_the_clips_of_both(self, tmp_path: Path) -> None:
        mine = split_of(read(tmp_path / "mine.csv", clips(range(150))))
        theirs = split_of(read(tmp_path / "Annotations.txt", clips(range(50, 250))))
        assert {i: mine[i] for i in mine.keys() & theirs} == {
            i: theirs[i] for i in mine.keys() & theirs
        }

    def test_shares_of_a_thousand_and_of_its_classes(self, tmp_path: Path) -> None:
        labels = read(tmp_path / "set.csv", clips(range(1000)))
        shares = np.bincount(labels.split, minlength=3) / 1000
        assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.03)
        for category in range(4):
            part = labels.split[labels.category == category]
            shares = np.bincount(part, minlength=3) / len(part)
            assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.08)

    def test_it_is_the_same_on_every_machine_and_in_every_release(self, tmp_path: Path) -> None:
        split = read(tmp_path / "set.csv", clips(range(1000))).split
        assert "".join(map(str, split[:40])) == "1000100000000202020201020100000000000100"
        assert np.bincount(split).tolist() == [706, 141, 153]

    def test_a_new_class_or_interval_moves_nothing(self, tmp_path: Path) -> None:
        events = clips(range(60))
        other = [(clip_id, "another", 1, 2) for clip_id, *_ in events]
        path = tmp_path / "set.csv"
        assert split_of(read(path, events)) == split_of(read(path, other))

    def test_another_seed_is_another_division(self, tmp_path: Path) -> None:
        path, events = tmp_path / "set.csv", clips(range(200))
        one, two = (read(path, events, seed) for seed in (42, 43))
        assert changed_splits(one, two)
        assert "seed 43" in two.source

    @pytest.mark.parametrize("count", range(1, 13))
    def test_small_sets_have_all_splits(self, tmp_path: Path, count: int) -> None:
        for seed in range(20):
            split = split_of(read(tmp_path / "set.csv", clips(range(count)), seed))
            assert len(set(split.values())) == min(count, 3) or count < 3
            whole = split_of(read(tmp_path / "set.csv", clips(range(300)), seed))
            moved = [i for i in split if split[i] != whole[i]]
            empty = {0, 1, 2} - {whole[i] for i in split}
            assert len(moved) == (len(empty) if count >= 3 else 0)

    def test_composed_and_decomposed_ids_are_one(self, tmp_path: Path) -> None:
        composed = read(tmp_path / "set.csv", [("caf\u00e9", "A", 0, 1), *clips(range(9))])
        before = Labels(**{**vars(composed), "ids": ["cafe\u0301", *composed.ids[1:]]})
        labels = read(tmp_path / "set.csv", [*clips(range(20)), ("caf\u00e9", "A", 0, 1)])
        kept = read(tmp_path / "set.csv", [*clips(range(20)), ("cafe\u0301", "A", 0, 1)], 7, before)
        assert kept.ids == labels.ids
        assert changed_splits(before, kept) == {}


class TestKept:
    """What a cache says of its ids stays, unless the annotations say otherwise."""

    def earlier(self, tmp_path: Path) -> Labels:
        """The labels of a cache that was divided in another way."""
        labels = read(tmp_path / "old.csv", clips(range(100)))
        return Labels(**{**vars(labels), "split": (labels.split + 1) % 3})

    def test_ids_keep_their_split_and_new_ones_get_one(self, tmp_path: Path) -> None:
        before, path = self.earlier(tmp_path), tmp_path / "set.csv"
        labels = read(path, clips(range(120)), before=before)
        assert changed_splits(before, labels) == {}
        alone = split_of(read(path, clips(range(120))))
        new = {i: n for i, n in split_of(labels).items() if i not in before.ids}
        assert new == {i: alone[i] for i in new}
        assert len(new) == 20
        assert labels.source == (
            "set.csv, divided 70/15/15 by id with seed 42, but 100 ids keep an earlier split"
        )
        assert read(path, clips(range(120)), before=labels).equals(labels)

    def test_each_event_of_an_id_in_two_splits_keeps_its_own(self, tmp_path: Path) -> None:
        path = tmp_path / "set.csv"
        path.write_text(
            "id,category,start,end,split\na,A,0,1,train\na,B,1,20,test\nb,A,0,1,\nc,A,0,1,val\n"
        )
        before = read_annotations(path, 10.0)
        events = [("a", "B", 1, 20), ("a", "C", 2, 3), ("c", "B", 1, 2), ("a", "A", 0, 1)]
        labels = read(path, events, before=before)
        assert labels.split.tolist() == [2, 0, 1, 0]

    def test_what_has_no_split_gets_one(self, tmp_path: Path) -> None:
        before = self.earlier(tmp_path)
        before = Labels(**{**vars(before), "split": np.full(100, NO_SPLIT, np.int8)})
        labels = read(tmp_path / "set.csv", clips(range(100)), before=before)
        assert labels.equals(read(tmp_path / "set.csv", clips(range(100))))
        assert len(changed_splits(before, labels)) == 100

    def test_splits_of_its_own_count(self, tmp_path: Path) -> None:
        path = tmp_path / "set.csv"
        path.write_text("id,category,start,end,split\nclip0,A,0,1,val\nclip1,A,0,1,\n")
        labels = read_annotations(path, 10.0, before=self.earlier(tmp_path))
        assert labels.split.tolist() == [1, NO_SPLIT]


def test_changes_are_described(tmp_path: Path) -> None:
    before = read(tmp_path / "set.csv", clips(range(9)))
    after = Labels(**{**vars(before), "split": (before.split + 1) % 3})
    assert changed_splits(None, after) == {}
    text = describe_changes(changed_splits(before, after))
    names = ("train", "val", "test")
    first = names[before.split[0]], names[(before.split[0] + 1) % 3]
    assert text.startswith(f"9 ids changed: clip0 ({first[0]} → {first[1]}), clip1 (")
    assert text.endswith(") …")
    assert text.count("→") == 5
    assert describe_changes({"a": "train → test"}) == "1 id changed: a (train → test)"


def folder_with(tmp_path: Path, name: str, numbers: Iterable[int]) -> Path:
    labels = read(tmp_path / f"{name}.csv", clips(numbers))
    return tiny_cache(tmp_path / name, labels).folder


class TestCommands:
    def extract(self, data: Path, *more: str) -> int:
        where = ["--data", str(data), "--cache", str(data / "cache"), "--max-failures", "1000"]
        return extract([*where, "--modalities", "audio", *more])

    def test_extract_adds_to_a_cache(self, tmp_path: Path, capsys: Capture) -> None:
        """A cache whose splits are an earlier version's keeps them while its set grows."""
        as_csv(tmp_path / "set.csv", clips(range(100)))
        assert self.extract(tmp_path) == 0
        folder = tmp_path / "cache"
        labels = read_labels(folder)
        assert labels is not None
        earlier = Labels(**{**vars(labels), "split": (labels.split + 1) % 3})
        write_labels(folder, earlier)
        as_csv(tmp_path / "set.csv", clips(range(120)))
        for more in ([], ["--split-seed", "7"]):
            capsys.readouterr()
            assert self.extract(tmp_path, *more) == 0
            out = capsys.readouterr().out
            assert "ids keep an earlier split" in out
            assert "changed" not in out
            labels = read_labels(folder)
            assert labels is not None
            assert len(labels) == 120
            assert changed_splits(earlier, labels) == {}
        assert self.extract(tmp_path, "--split-seed", "7") == 0
        assert "replaced" not in capsys.readouterr().out.split("finished")[1]

    def test_extract_tells_what_changes(self, tmp_path: Path, capsys: Capture) -> None:
        text = "id,category,start,end,split\na,A,0,1,train\nb,A,0,1,test\nc,A,0,1,val\n"
        (tmp_path / "set.csv").write_text(text)
        assert self.extract(tmp_path) == 0
        assert "changed" not in capsys.readouterr().out
        (tmp_path / "set.csv").write_text(text.replace("b,A,0,1,test", "b,A,0,1,train"))
        assert self.extract(tmp_path) == 0
        assert "\nsplits    1 id changed: b (test → train)\n" in capsys.readouterr().out

    def test_relabel_keeps_or_divides_anew(self, tmp_path: Path, capsys: Capture) -> None:
        folder = folder_with(tmp_path, "cache", range(60))
        first = read_labels(folder)
        assert first is not None
        write_labels(folder, Labels(**{**vars(first), "split": (first.split + 1) % 3}))
        new = as_csv(tmp_path / "new.csv", clips(range(80)))
        assert main(["relabel", str(folder), str(new)]) == 0
        assert "changed" not in capsys.readouterr().out
        assert main(["relabel", str(folder), str(new), "--split-seed", "42"]) == 0
        assert "splits    60 ids changed: clip0 (" in capsys.readouterr().out
        labels = read_labels(folder)
        assert labels is not None
        assert changed_splits(first, labels) == {}

    def test_relabel_over_damaged_labels_says_what_is_lost(
        self, tmp_path: Path, capsys: Capture
    ) -> None:
        folder = folder_with(tmp_path, "cache", range(9))
        (folder / "labels.h5").write_bytes(b"gone")
        assert main(["relabel", str(folder), str(tmp_path / "cache.csv")]) == 0
        assert "which splits the ids were in is lost" in capsys.readouterr().err

    def test_merge_of_two_grown_sets_has_nothing_to_settle(
        self, tmp_path: Path, capsys: Capture
    ) -> None:
        sources = [
            str(folder_with(tmp_path, name, numbers))
            for name, numbers in (("a", range(100)), ("b", range(50, 180)))
        ]
        assert main(["merge", *sources, "--into", str(tmp_path / "both")]) == 0
        assert "changed" not in capsys.readouterr().out
        labels = read_labels(tmp_path / "both")
        assert labels is not None
        alone = read(tmp_path / "both.csv", clips(range(180)))
        assert split_of(labels) == split_of(alone)
        assert Counter(labels.split.tolist()) == Counter(alone.split.tolist())

    def test_merge_tells_what_a_preference_changes(self, tmp_path: Path, capsys: Capture) -> None:
        one, two = (folder_with(tmp_path, name, range(5)) for name in "ab")
        labels = read_labels(two)
        assert labels is not None
        split = labels.split.copy()
        split[3] = 1 - split[3] if split[3] in (0, 1) else 0
        write_labels(two, Labels(**{**vars(labels), "split": split}))
        with pytest.raises(CacheError, match="clip3"):
            merge([open_cache(one), open_cache(two)], tmp_path / "both")
        assert main(["merge", str(one), str(two), "--into", str(two), "--prefer", str(one)]) == 0
        assert "splits    1 id changed: clip3 (" in capsys.readouterr().out
