"""Annotation and split files: AVE's own format, CSV, every malformed line, the division by id."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.annotations import NO_SPLIT, Labels, check_id, read_annotations
from cache.errors import AnnotationError

HEADER = "Category&VideoID&Quality&StartTime&EndTime\n"


def read(path: Path, text: str, clip_seconds: float = 10.0, seed: int = 42) -> Labels:
    path.write_text(text, encoding="utf-8")
    return read_annotations(path, clip_seconds, seed)


def rows(labels: Labels) -> list[tuple[str, str, float, float]]:
    return [
        (clip_id, labels.classes[k], float(start), float(end))
        for clip_id, k, start, end in zip(
            labels.ids, labels.category, labels.start_s, labels.end_s, strict=True
        )
    ]


class TestAveFormat:
    body = (
        "Train horn&-abc&good&0&10\n"
        "Male speech, man speaking&x_1&bad&2&7\n"
        "Accordion (big)&-abc&good&1.5&4\n"
        "Train horn&zero&good&0&0\n"
    )

    @pytest.mark.parametrize("header", ["", HEADER, HEADER.lower(), "\ufeff" + HEADER])
    def test_with_and_without_header(self, tmp_path: Path, header: str) -> None:
        labels = read(tmp_path / "Annotations.txt", header + self.body)
        assert rows(labels) == [
            ("-abc", "Train horn", 0, 10),
            ("x_1", "Male speech, man speaking", 2, 7),
            ("-abc", "Accordion (big)", 1.5, 4),
            ("zero", "Train horn", 0, 0),
        ]
        assert labels.classes == ["Train horn", "Male speech, man speaking", "Accordion (big)"]
        assert labels.notes == []
        assert labels.category.dtype == np.int64
        assert labels.split.dtype == np.int8

    def test_windows_line_ends_and_blank_lines(self, tmp_path: Path) -> None:
        text = HEADER + "\n" + self.body.replace("\n", "\r\n") + "  \n"
        (tmp_path / "Annotations.txt").write_bytes(text.encode())
        assert len(read_annotations(tmp_path / "Annotations.txt", 10.0)) == 4

    def test_events_past_the_clip_are_cut_and_noted(self, tmp_path: Path) -> None:
        text = "A&one&good&2&12\nB&two&good&10&11\nC&three&good&0&10\n"
        labels = read(tmp_path / "Annotations.txt", text)
        assert rows(labels) == [("one", "A", 2, 10), ("three", "C", 0, 10)]
        assert labels.notes == [
            "1 event(s) begin after 10 s: left out",
            "1 event(s) end after 10 s: cut there",
        ]

    def test_no_event_within_the_clip(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match="no event begins within the first 10 s"):
            read(tmp_path / "Annotations.txt", "B&two&good&10&11\n")

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("A&one&good&0", "expected Category&VideoID&Quality&StartTime&EndTime"),
            ("A&one&good&0&1&2", "expected Category&VideoID&Quality&StartTime&EndTime"),
            ("A,one,good,0,1", "expected Category&VideoID&Quality&StartTime&EndTime"),
            ("A&one&good&zero&1", "expected start and end in seconds, found 'zero' and '1'"),
            ("A&one&good&&1", "expected start and end in seconds"),
            ("A&one&good&5&4", "expected 0 <= start <= end in seconds, found 5 and 4"),
            ("A&one&good&-1&4", "expected 0 <= start <= end"),
            ("A&one&good&nan&4", "expected 0 <= start <= end"),
            ("A&one&good&0&inf", "expected 0 <= start <= end"),
            ("&one&good&0&1", "expected a category for 'one'"),
            ("A&&good&0&1", "'' is no clip id"),
            ("A&..&good&0&1", "'..' is no clip id"),
            ("A&../x&good&0&1", "slash or a control character"),
            ("A&a\\b&good&0&1", "slash or a control character"),
            ("A&a\tb&good&0&1", "slash or a control character"),
            (f"A&{'x' * 256}&good&0&1", "longer than 255 bytes"),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path: Path, line: str, why: str) -> None:
        path = tmp_path / "Annotations.txt"
        with pytest.raises(AnnotationError) as caught:
            read(path, f"{HEADER}A&ok&good&0&1\n{line}\nB&ok2&good&0&1\n")
        assert str(path) in str(caught.value)
        assert "1 line(s)" in str(caught.value)
        assert "line 3: " in str(caught.value)
        assert why in str(caught.value)

    def test_ten_bad_lines_are_shown_and_the_others_counted(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError) as caught:
            read(tmp_path / "Annotations.txt", "bad\n" * 13 + "A&ok&good&0&1\n")
        text = str(caught.value)
        assert "13 line(s)" in text
        assert "line 10:" in text
        assert "line 11:" not in text
        assert "and 3 more" in text

    @pytest.mark.parametrize("text", ["", "\n\n", HEADER])
    def test_empty_files(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(AnnotationError, match="expected one event a line, found none"):
            read(tmp_path / "Annotations.txt", text)

    def test_unreadable_files(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match=r"absent\.txt: can't be read"):
            read_annotations(tmp_path / "absent.txt", 10.0)
        (tmp_path / "latin.txt").write_bytes("Caf\xe9&a&good&0&1".encode("latin-1"))
        with pytest.raises(AnnotationError, match="expected UTF-8"):
            read_annotations(tmp_path / "latin.txt", 10.0)


class TestSplitFiles:
    body = "A&one&good&0&10\nB&one&good&0&10\nA&two&good&2&4\nA&three&good&0&1\n"

    def write(self, folder: Path, **splits: str) -> Path:
        for name, text in splits.items():
            (folder / f"{name}Set.txt").write_text(text)
        (folder / "Annotations.txt").write_text(HEADER + self.body)
        return folder / "Annotations.txt"

    def test_rows_are_matched_by_the_whole_event(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path, train="B&one&good&0&10\n", val="A&one&good&0&10\n", test="A&two&good&2&4\n"
        )
        labels = read_annotations(path, 10.0)
        assert labels.split.tolist() == [1, 0, 2, NO_SPLIT]
        assert labels.rows("train").tolist() == [1]
        assert labels.leaks() == {("train", "val"): ["one"]}

    @pytest.mark.parametrize("absent", ["train", "val", "test"])
    def test_all_three_or_none(self, tmp_path: Path, absent: str) -> None:
        texts = {"train": "", "val": "", "test": ""}
        del texts[absent]
        path = self.write(tmp_path, **dict.fromkeys(texts, "A&one&good&0&10\n"))
        with pytest.raises(AnnotationError, match=rf"missing: .*{absent}Set\.txt"):
            read_annotations(path, 10.0)

    def test_rows_that_the_annotations_lack(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            train="A&one&good&0&10\nA&other&good&0&10\n",
            val="B&one&good&0&10\n",
            test="A&two&good&2&4\nA&two&good&2&5\n",
        )
        with pytest.raises(AnnotationError, match=r"2 row\(s\) of the split files .*'other'"):
            read_annotations(path, 10.0)

    def test_a_malformed_split_line_is_named(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, train="A&one\n", val="B&one&good&0&10\n", test="")
        with pytest.raises(AnnotationError, match=r"trainSet\.txt: 1 line\(s\).*\n.*line 1:"):
            read_annotations(path, 10.0)


class TestCsv:
    def test_quotes_order_case_and_bom(self, tmp_path: Path) -> None:
        text = '\ufeffStart, END,"Category",ID,remark\n1,2.5,"Speech, loud",-a b,x\n'
        text += '0,10,"A ""B""",c,\n'
        labels = read(tmp_path / "set.csv", text)
        assert rows(labels) == [("-a b", "Speech, loud", 1, 2.5), ("c", 'A "B"', 0, 10)]

    def test_split_column(self, tmp_path: Path) -> None:
        text = "id,category,start,end,split\na,A,0,1,Train\nb,A,0,1, val\nc,A,0,1,test\nd,A,0,1,\n"
        labels = read(tmp_path / "set.csv", text)
        assert labels.split.tolist() == [0, 1, 2, NO_SPLIT]
        assert labels.source == "set.csv, its own splits"

    def test_without_split_column_ids_are_divided(self, tmp_path: Path) -> None:
        text = "id,category,start,end\n" + "".join(f"c{n},A,0,1\n" for n in range(20))
        labels = read(tmp_path / "set.csv", text, seed=7)
        assert Counter(labels.split.tolist()) == {0: 14, 1: 3, 2: 3}
        assert "seed 7" in labels.source

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("a,A,0,1,dev", "expected a split of train, val, test or an empty one, found 'dev'"),
            ("a,A,zero,1,train", "expected start and end in seconds"),
            ("a,A,2,1,train", "expected 0 <= start <= end"),
            ("a,A", "expected start and end in seconds"),
            ("a/b,A,0,1,train", "slash or a control character"),
            (",A,0,1,train", "is no clip id"),
            ("a,A,0,1,train,more", "expected 5 cells, found more"),
        ],
    )
    def test_a_malformed_line_is_named(self, tmp_path: Path, line: str, why: str) -> None:
        with pytest.raises(AnnotationError) as caught:
            read(tmp_path / "set.csv", f"id,category,start,end,split\nx,A,0,1,val\n\n{line}\n")
        assert "line 4: " in str(caught.value)
        assert why in str(caught.value)

    @pytest.mark.parametrize("header", ["", "id,category,start", "name,category,start,end"])
    def test_missing_columns_are_named(self, tmp_path: Path, header: str) -> None:
        with pytest.raises(AnnotationError, match=r"missing: (id|end)"):
            read(tmp_path / "set.csv", f"{header}\nx,A,0,1\n")

    def test_a_quote_that_never_ends(self, tmp_path: Path) -> None:
        text = "id,category,start,end\n" + 'a,"A,0,1\n' + "b,B,0,1\n" * 30_000
        with pytest.raises(AnnotationError, match=r"set\.csv"):
            read(tmp_path / "set.csv", text)


IDS = st.text("abc-_ 01é", min_size=1, max_size=6).map(str.strip).filter(lambda t: t != "")
EVENTS = st.lists(
    st.tuples(IDS, st.sampled_from(["A", "B, b", "C (c)"]), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=40,
)


def ave_text(events: list[tuple[str, str, int, int]]) -> str:
    return "".join(f"{c}&{i}&good&{min(a, b)}&{max(a, b)}\n" for i, c, a, b in events)


class TestDivision:
    @given(EVENTS, st.integers(0, 5))
    @settings(max_examples=40)
    def test_laws(self, tmp_path_factory: pytest.TempPathFactory, events: list, seed: int) -> None:
        path = tmp_path_factory.mktemp("division") / "Annotations.txt"
        labels = read(path, ave_text(events), seed=seed)
        assert rows(labels) == [(i, c, min(a, b), max(a, b)) for i, c, a, b in events]
        assert labels.classes == list(dict.fromkeys(c for _, c, _, _ in events))
        assert labels.leaks() == {}
        assert set(labels.split.tolist()) <= {0, 1, 2}
        first = {
            i: labels.classes[k]
            for i, k in zip(labels.ids[::-1], labels.category[::-1], strict=True)
        }
        split = dict(zip(labels.ids, labels.split.tolist(), strict=True))
        for name in set(first.values()):
            members = [split[i] for i in split if first[i] == name]
            held_out = round(0.15 * len(members))
            assert Counter(members) == Counter(
                {0: len(members) - 2 * held_out, 1: held_out, 2: held_out}
            )

    def events(self, count: int = 200) -> list[tuple[str, str, int, int]]:
        return [(f"clip{n}", f"class {n % 4}", 0, 5) for n in range(count)]

    def split_of(self, path: Path, text: str, seed: int = 42) -> dict[str, int]:
        labels = read(path, text, seed=seed)
        return dict(zip(labels.ids, labels.split.tolist(), strict=True))

    def test_an_id_counts_with_its_first_class(self, tmp_path: Path) -> None:
        events = [(f"c{n}", "A", 0, 5) for n in range(20)]
        events += [(f"c{n}", "B", 5, 9) for n in range(10)]
        split = self.split_of(tmp_path / "Annotations.txt", ave_text(events))
        assert Counter(split.values()) == {0: 14, 1: 3, 2: 3}

    def test_independent_of_the_order_of_rows(self, tmp_path: Path) -> None:
        events = self.events()
        path = tmp_path / "Annotations.txt"
        assert self.split_of(path, ave_text(events)) == self.split_of(path, ave_text(events[::-1]))

    def test_equal_in_both_formats(self, tmp_path: Path) -> None:
        events = self.events(40)
        table = "id,category,start,end\n" + "".join(f"{i},{c},{a},{b}\n" for i, c, a, b in events)
        ours = self.split_of(tmp_path / "Annotations.txt", ave_text(events))
        assert ours == self.split_of(tmp_path / "set.csv", table)

    def test_stratified_and_seeded(self, tmp_path: Path) -> None:
        path, text = tmp_path / "Annotations.txt", ave_text(self.events())
        labels = read(path, text)
        counts = Counter(zip(labels.category.tolist(), labels.split.tolist(), strict=True))
        assert counts == {(k, s): (34, 8, 8)[s] for k in range(4) for s in range(3)}
        assert self.split_of(path, text, 42) == self.split_of(path, text, 42)
        assert self.split_of(path, text, 42) != self.split_of(path, text, 43)


def test_labels_that_differ_anywhere_are_not_equal(tmp_path: Path) -> None:
    text = "A&one&good&1&9\nB&two&good&0&10\n"
    labels = read(tmp_path / "Annotations.txt", text)
    assert labels.equals(read(tmp_path / "Annotations.txt", text))
    for old, new in [("one", "uno"), ("A", "C"), ("&1&", "&0&"), ("&9", "&8"), ("B", "A")]:
        other = read(tmp_path / "Annotations.txt", text.replace(old, new))
        assert not labels.equals(other), (old, new)
    texts = "id,category,start,end,split\none,A,1,9,train\n"
    assert not read(tmp_path / "a.csv", texts).equals(
        read(tmp_path / "a.csv", texts.replace("train", "test"))
    )


@pytest.mark.parametrize("good", ["-a", "a b", "é", "a:b", ".hidden", "...", "~", "a*?"])
def test_good_ids(good: str) -> None:
    assert check_id(good) is None


@pytest.mark.parametrize(
    "bad", ["", ".", "..", "a/b", "/", "a\\b", "a\0", "a\n", "\x7f", "é" * 128]
)
def test_bad_ids(bad: str) -> None:
    assert check_id(bad) is not None


@pytest.fixture(scope="module")
def labels(avel_data: Path) -> Labels:
    return read_annotations(avel_data / "ave" / "Annotations.txt", 10.0)


@pytest.mark.data
class TestRealAve:
    def test_counts(self, labels: Labels) -> None:
        per_id = Counter(labels.ids)
        assert len(labels) == 4143
        assert len(per_id) == 4097
        assert sum(count > 1 for count in per_id.values()) == 45
        assert sum(clip_id.startswith("-") for clip_id in labels.ids) == 1030
        whole = (labels.start_s == 0) & (labels.end_s == 10)
        assert whole.sum() == 2750
        empty = np.flatnonzero(labels.start_s == labels.end_s)
        assert [(labels.start_s[n], labels.end_s[n]) for n in empty] == [(0, 0)]
        assert labels.notes == []

    def test_splits_and_their_leaks(self, labels: Labels) -> None:
        sizes = [len(labels.rows(name)) for name in ("train", "val", "test")]
        assert sizes == [3339, 402, 402]
        leaks = {pair: len(ids) for pair, ids in labels.leaks().items()}
        assert leaks == {("train", "val"): 10, ("train", "test"): 8}

    def test_classes_in_the_order_of_the_data_set(self, labels: Labels, avel_data: Path) -> None:
        lines = (avel_data / "ave" / "categories.txt").read_text().splitlines()
        assert len(labels.classes) == 28
        assert labels.classes == [line.strip() for line in lines if line.strip()]

    def test_background_share_of_the_test_seconds(self, labels: Labels) -> None:
        test = labels.rows("test")
        seconds = (labels.end_s - labels.start_s)[test].sum()
        assert 1 - seconds / (10 * len(test)) == pytest.approx(0.178, abs=0.0005)

    def test_own_division_of_the_same_rows(self, avel_data: Path, tmp_path: Path) -> None:
        text = (avel_data / "ave" / "Annotations.txt").read_text(encoding="utf-8")
        labels = read(tmp_path / "Annotations.txt", text)
        assert labels.leaks() == {}
        shares = np.bincount(labels.split, minlength=3) / len(labels)
        assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.01)
