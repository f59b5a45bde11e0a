"""Annotation and split files: AVE's own format, CSV, every malformed line, the division by id."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cache.common.errors import AnnotationError
from cache.format.names import check_class, check_id
from cache.format.schema import NO_SPLIT
from cache.labels.annotations import Labels, read_annotations

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

    @pytest.mark.parametrize("name", ["train", "val", "test"])
    def test_any_of_the_three_will_do(self, tmp_path: Path, name: str) -> None:
        path = self.write(tmp_path, **{name: "A&one&good&0&10\n"})
        labels = read_annotations(path, 10.0)
        place = ["train", "val", "test"].index(name)
        assert labels.split.tolist() == [place, NO_SPLIT, NO_SPLIT, NO_SPLIT]
        assert labels.notes == ["3 event(s) are in no split"]
        assert labels.source == f"Annotations.txt, {name}Set.txt"

    def test_one_alone_is_annotations_too(self, tmp_path: Path) -> None:
        self.write(tmp_path, train="B&one&good&0&10\n", test=HEADER + "A&two&good&2&4\n")
        labels = read_annotations(tmp_path / "testSet.txt", 10.0)
        assert rows(labels) == [("two", "A", 2, 4)]
        assert (labels.split.tolist(), labels.source) == ([2], "testSet.txt")

    def test_without_annotations_all_that_are_there(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, val="B&one&good&0&10\n", test="A&two&good&2&4\n")
        path.unlink()
        labels = read_annotations(path, 10.0)
        assert (labels.ids, labels.split.tolist()) == (["one", "two"], [1, 2])
        assert labels.source == "valSet.txt, testSet.txt"
        with pytest.raises(AnnotationError, match=r"Anotations\.txt: can't be read"):
            read_annotations(tmp_path / "Anotations.txt", 10.0)

    def test_a_split_file_that_leads_nowhere_is_no_absent_one(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, train="A&one&good&0&10\n")
        (tmp_path / "testSet.txt").symlink_to("elsewhere.txt")
        with pytest.raises(AnnotationError, match=r"testSet\.txt: can't be read"):
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

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("a,A,0,1,dev", "expected a split of train, val, test or an empty one, found 'dev'"),
            ("a,A,zero,1,train", "expected start and end in seconds"),
            ("a,A,2,1,train", "expected 0 <= start <= end"),
            ("a,A", "expected 5 cells, found 2"),
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


class TestOddTables:
    """What other programs make of a table: understood as it looks, or refused by line."""

    head = "id,category,start,end\n"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("id|category|start|end\na|A|0.5|1\n", "parted by '|', save it with commas"),
            ("id,start,category,start,end\na,0,A,0,1\n", "line 1: the column start stands 2 times"),
            ("id,category,start,end,split,Split \n", "the column split stands 2 times"),
            ("\nid,category,start,end,splits\n", "line 2: the column 'splits' is unknown"),
            ("id,category,start,end,spilt\n", "the column 'spilt' is unknown"),
            ("id,category,start,end,data_split\n", "name it split"),
            (head, "expected one event a line, found none"),
            (head + ",,,\n", "expected one event a line, found none"),
            ("", "found nothing; missing: id, category, start, end"),
            (head + 'a,"0,5",1\n', "line 2: expected 4 cells, found 3"),
            (head + 'a,A,"0,5",1\n', "found '0,5' and '1'; write 1.5, not 1,5"),
            (
                head + "a,A,0,1_0\n",
                "line 2: expected start and end in seconds, found '0' and",
            ),
            (head + "a,A,0,\uff11\n", "expected start and end in seconds"),
            (head + "a,A,0,0x10\n", "expected start and end in seconds"),
            (
                head + "a,A,0,1e400\n",
                "expected 0 <= start <= end in seconds, both finite, found 0 and",
            ),
            (head + "a,A,-inf,1\n", "expected 0 <= start <= end"),
            (head + f"a,A,0,{'1' * 60_000}x\n", "expected start and end in seconds"),
            (head + "a,A\0,0,1\n", "line 2: the class 'A\\x00' has a control character"),
            (head + 'b,B,0,1\na,"A\nA",0,1\n', "line 3: the class 'A\\nA' has a control char"),
            (head + 'a,"A\n",0,1\n', "line 2: the class 'A\\n' has a control char"),
            (head + "a,A\u2028A,0,1\n", "line 2: the class 'A\\u2028A' has"),
            (head + "a,A\u2028,0,1\n", "line 2: the class"),
            (head + "a,A\x85,0,1\n", "line 2: the class"),
            (head + "a,A\u202eB,0,1\n", "line 2: the class"),
            (head + "a,A\u200b,0,1\n", "line 2: the class"),
            (head + f"a,{'A' * 256},0,1\n", "is longer than 255 bytes"),
            (head + "a\u2029b,A,0,1\n", "line 2: the id 'a\\u2029b' has a slash or a control"),
            (head + 'a"b,A,0,1\n"c"d,B,0,1\n', "line 3: expected CSV; is a quote left open"),
            (head + f"a,{'A' * 70_000},0,1\n", "line 2: longer than 65,536 characters"),
            (head + 'a,"' + "A\n" * 40_000, "which no event is; is a quote left open?"),
            (
                head + "a,A,0,1\nb,B,0,1\nc,a,0,1\n",
                "line 4: the class 'a' differs from 'A' of line 2",
            ),
            (head + "a,A B,0,1\nb,A  B,0,1\n", "line 3: the class 'A  B' differs from 'A B'"),
            (head + "a,Ａ,0,1\nb,A,0,1\n", "line 3: the class 'A' differs"),
        ],
    )
    def test_refused_with_line_and_cell(self, tmp_path: Path, text: str, why: str) -> None:
        path = tmp_path / "set.csv"
        path.write_text(text, encoding="utf-8", newline="")
        with pytest.raises(AnnotationError) as caught:
            read_annotations(path, 10.0)
        assert str(caught.value).startswith(str(path))
        assert why in str(caught.value)

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_wide_text_is_named(self, tmp_path: Path, encoding: str) -> None:
        for name, text in (("set.csv", self.head + "a,A,0,1\n"), ("a.txt", "A&a&good&0&1\n")):
            (tmp_path / name).write_bytes(text.encode(encoding))
            with pytest.raises(AnnotationError, match=r"line 1: .* found UTF-16 or no text"):
                read_annotations(tmp_path / name, 10.0)

    def test_latin_1_is_named_by_line_and_byte(self, tmp_path: Path) -> None:
        (tmp_path / "set.csv").write_bytes((self.head + "a,A,0,1\nb,Café,0,1\n").encode("latin-1"))
        with pytest.raises(AnnotationError, match=r"line 3: .* the byte 0xe9 .*save .* UTF-8"):
            read_annotations(tmp_path / "set.csv", 10.0)

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_line_ends(self, tmp_path: Path, end: str) -> None:
        text = (self.head + "a,A,0,1\n\nb,B,.5,1e0\n").replace("\n", end)
        (tmp_path / "set.csv").write_bytes(text.encode())
        labels = read_annotations(tmp_path / "set.csv", 10.0)
        assert rows(labels) == [("a", "A", 0, 1), ("b", "B", 0.5, 1)]
        (tmp_path / "bad.csv").write_bytes((text + f"c,C,0,x{end}").encode())
        with pytest.raises(AnnotationError, match="line 5:"):
            read_annotations(tmp_path / "bad.csv", 10.0)
        (tmp_path / "a.txt").write_bytes(f"A&a&good&0&1{end}B&b&good&0&x{end}".encode())
        with pytest.raises(AnnotationError, match="line 2:"):
            read_annotations(tmp_path / "a.txt", 10.0)

    def test_names_are_composed(self, tmp_path: Path) -> None:
        text = self.head + "cafe\u0301,Cafe\u0301,0,1\ncaf\u00e9,Caf\u00e9,1,2\n"
        labels = read(tmp_path / "set.csv", text)
        assert (labels.ids, labels.classes) == (["caf\u00e9"] * 2, ["Caf\u00e9"])

    def test_what_is_not_used_is_said(self, tmp_path: Path) -> None:
        text = 'id,category,start,end,split,fold,"a ""remark"""\na,A,0,1,test,3,"two\nlines"\n'
        text += "a,A,0,1,test,3,again\nb,A,0,1,,4\nc,A,0,1\n"
        labels = read(tmp_path / "set.csv", text)
        assert (labels.ids, labels.split.tolist()) == (["a", "b", "c"], [2, NO_SPLIT, NO_SPLIT])
        assert labels.notes == [
            '2 column(s) not used: fold, a "remark"',
            "1 event(s) repeat another: left out",
            "2 event(s) are in no split",
        ]

    def test_an_event_in_two_splits_is_a_leak(self, tmp_path: Path) -> None:
        text = "id,category,start,end,split\na,A,0,1,train\na,A,0,1,test\n"
        labels = read(tmp_path / "set.csv", text)
        assert (len(labels), labels.leaks()) == (2, {("train", "test"): ["a"]})

    def test_lines_end_where_files_end_them(self, tmp_path: Path) -> None:
        with pytest.raises(AnnotationError, match=r"line 2: the class 'B\\u2028C' has"):
            read(tmp_path / "a.txt", "A&a&good&0&1\nB\u2028C&b&good&0&1\n")
        with pytest.raises(AnnotationError, match=r"line 1: .* no name may have a & in it"):
            read(tmp_path / "a.txt", "Rock & roll&a&good&0&1\n")

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.csv")
        (tmp_path / "folder.csv").mkdir()
        (tmp_path / "loop.csv").symlink_to("loop.csv")
        (tmp_path / "zero.csv").symlink_to("/dev/zero")
        with pytest.raises(AnnotationError, match=r"folder\.csv: expected .*, found none"):
            read_annotations(tmp_path / "folder.csv", 10.0)
        for name in ("pipe", "zero"):
            with pytest.raises(AnnotationError, match=rf"{name}\.csv: no plain file"):
                read_annotations(tmp_path / f"{name}.csv", 10.0)
        with pytest.raises(AnnotationError, match=r"loop\.csv: can't be read"):
            read_annotations(tmp_path / "loop.csv", 10.0)
        with (tmp_path / "huge.csv").open("wb") as file:
            file.truncate(1 << 30)
        with pytest.raises(AnnotationError, match=r"huge\.csv: 1,073,741,824 bytes"):
            read_annotations(tmp_path / "huge.csv", 10.0)


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


@pytest.mark.parametrize("good", ["a\\b", "Ba$$in", "é" * 127, "<b>", "雨", "Speech, man"])
def test_good_classes(good: str) -> None:
    assert check_class(good) is None


@pytest.mark.parametrize("bad", ["", "  ", "a\nb", "a\0", "\x1b[2J", "\u202eab", "é" * 128])
def test_bad_classes(bad: str) -> None:
    assert check_class(bad) is not None


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
        assert shares == pytest.approx([0.70, 0.15, 0.15], abs=0.02)
