"""Annotations of other programs: tables by other names, JSON, Audacity, ELAN, folders of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.common.errors import AnnotationError
from cache.format.schema import NO_SPLIT
from cache.labels.annotations import Labels, read_annotations

DATA = Path(os.environ.get("AVEL_DATA", ""))
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2025-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"/>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="t1" TIME_VALUE="1250"/>
<TIME_SLOT TIME_SLOT_ID="t2" TIME_VALUE="3001"/><TIME_SLOT TIME_SLOT_ID="t3"/></TIME_ORDER>
{tiers}</ANNOTATION_DOCUMENT>
"""


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(labels: Labels) -> list[tuple[str, str, float, float]]:
    times = (labels.start_s.tolist(), labels.end_s.tolist())
    return list(zip(labels.ids, labels.names(), *times, strict=True))


def read(path: Path, text: str) -> list[tuple[str, str, float, float]]:
    return rows(read_annotations(written(path, text), None))


def refusal(path: Path) -> str:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(path, None)
    text = str(caught.value)
    assert len(text) < 3000
    return text


def tier(name: str, value: str, begin: str = "t1", end: str = "t2") -> str:
    return (
        f'<TIER TIER_ID="{name}" LINGUISTIC_TYPE_REF="x"><ANNOTATION><ALIGNABLE_ANNOTATION '
        f'ANNOTATION_ID="a1" TIME_SLOT_REF1="{begin}" TIME_SLOT_REF2="{end}">'
        f"<ANNOTATION_VALUE>{value}</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>"
    )


class TestTables:
    @pytest.mark.parametrize(
        "text",
        [
            "media,category,start,end\naudio/r.1.wav,Bark,1.25,3\n",
            "filename\tonset\toffset\tevent_label\nr.1.wav\t1.25\t3\tBark\n",  # DCASE
            "\nRecording;Label;Start_S;End Time\nr.1.MP4;Bark;1,25;3\n",
            "audio_filename,class,start_time,end_time,extra\nC:\\a\\r.1.flac,Bark,1.250,3.0,x\n",
            "Start (s),End (s),Scientific name,Common name,Confidence,File\n"
            "1.25,3.0,Canis,Bark,0.9,/data/r.1.wav\n",  # BirdNET
            "filepath,start,end,scientific_name,common_name,confidence\n/x/r.1.wav,1.25,3,C,Bark,1\n",
            f"{RAVEN}\tCommon Name\tSpecies Code\tConfidence\tBegin Path\tFile Offset (s)\n"
            "1\tSpectrogram 1\t1\t61.25\t63\t0\t15000\tBark\tb\t0.9\t/x/r.1.wav\t1.25\n",
            f"{RAVEN}\tBegin File\tBegin Path\tSpecies\n1\tWaveform 1\t1\t1.25\t3\t0\t9\tr.1.wav\t"
            "C:\\r.1.wav\tBark\n2\tSpectrogram 1\t1\t1.25\t3\t0\t9\tr.1.wav\tC:\\r.1.wav\tBark\n",
        ],
    )
    def test_columns_of_others(self, tmp_path: Path, text: str) -> None:
        suffix = "tsv" if "\t" in text else "csv"
        assert read(tmp_path / f"set.{suffix}", text) == [("r.1", "Bark", 1.25, 3.0)]
        if "\t" in text:
            assert read(tmp_path / "set.txt", text) == [("r.1", "Bark", 1.25, 3.0)]

    def test_a_table_of_one_recording_is_named_by_it(self, tmp_path: Path) -> None:
        text = f"{RAVEN}\tAnnotation\n1\tSpectrogram 1\t1\t1.25\t3\t0\t9\tBark\n"
        for name in (
            "r_1.Table.1.selections.txt",
            "r_1.wav.txt",
            "r_1.BirdNET.selection.table.txt",
        ):
            assert read(tmp_path / name, text) == [("r_1", "Bark", 1.25, 3.0)]
        text = "Start (s),End (s),Scientific name,Common name,Confidence\n0,3,C,Bark,1\n"
        assert read(tmp_path / "r_1.BirdNET.results.csv", text) == [("r_1", "Bark", 0, 3)]

    def test_own_columns_come_first(self, tmp_path: Path) -> None:
        """And an id is no media name, whatever it looks like."""
        text = "id,filename,category,label,start,end,onset\na.wav,b.wav,Bark,x,0,1,5\n"
        labels = read_annotations(written(tmp_path / "set.csv", text), None)
        assert rows(labels) == [("a.wav", "Bark", 0, 1)]
        assert labels.notes == ["3 column(s) not used: filename, label, onset"]

    def test_background_and_weak_rows(self, tmp_path: Path) -> None:
        text = "filename\tonset\toffset\tevent_label\na.wav\t\t\t\nb.wav\t\t\tBark\n"
        labels = read_annotations(written(tmp_path / "set.tsv", text), None)
        assert labels.background.tolist() == [True, False]
        assert labels.weak.tolist() == [False, True]

    def test_words_for_splits(self, tmp_path: Path) -> None:
        words = ("Training", "validation", "valid", "testing")
        text = "id,category,start,end,subset\n" + "".join(f"{w},A,0,1,{w}\n" for w in words)
        labels = read_annotations(written(tmp_path / "set.csv", text), None)
        assert labels.split.tolist() == [0, 1, 1, 2]

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (
                "media,file,category,start,end\n",
                "the columns 'media' and 'file' may both be the id",
            ),
            ("id,label,event_label,start,end\n", "'label' and 'event_label' may both be the categ"),
            ("id,category,onset,start_s,end\n", "'onset' and 'start_s' may both be the start"),
            ("media,Media,category,start,end\n", "the column media stands 2 times"),
            (
                "media,category,start,end\nr.wav,A,0,1\nx/r.wav,A,2,3\n",
                "line 3: the media 'x/r.wav' and 'r.wav' have one name but for folder or suffix",
            ),
            (
                "media,category,start,end\nr.wav,A,0,1\nr.mp4,A,2,3\n",
                "'r.mp4' and 'r.wav' have one",
            ),
            ("media,category,start,end\nx/,A,0,1\n", "line 2: '' is no clip id"),
            ("media,category,start,end\nr.wav,A,,1\n", "line 2: expected start and end in seconds"),
            ("media,category,start,end\nr.wav,A,nan,1\n", "both finite"),
            ("media;category;start;end\nr.wav;A;1,5,0;2\n", "found '1,5,0'"),
            ("Begin Time (s),End Time (s)\n0,1\n", "missing: category"),
            ("category,onset,offset\nA,0,1\n", "missing: id"),
            (f"{RAVEN}\tSpecies\tFile Offset (s)\n1\t1\t1\t0\t1\t0\t1\tA\tx\n", "File Offset (s)"),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, why: str) -> None:
        assert why in refusal(written(tmp_path / "set.csv", text))

    def test_a_list_of_all_recordings_beside_it(self, tmp_path: Path) -> None:
        written(tmp_path / "recordings.csv", "media,duration,split\na.mp4,9,val\nb.mp4,8,test\n")
        path = written(
            tmp_path / "events.csv", "media,category,start,end,split\na.mp4,A,0,1,train\n"
        )
        labels = read_annotations(path, None)
        assert rows(labels) == [("a", "A", 0, 1), ("b", "", 0, 0)]
        assert labels.split.tolist() == [0, 2]
        assert labels.source == "events.csv, recordings.csv, its own splits"
        written(path, "media,category,start,end\na.mp4,A,0,1\n")
        assert read_annotations(path, None).split.tolist() == [1, 2]
        written(tmp_path / "recordings.csv", "id\na\nb\n")
        labels = read_annotations(path, None)
        assert labels.source.startswith("events.csv, recordings.csv, divided 70/15/15")
        assert NO_SPLIT not in labels.split
        for text, why in (("name\nx\n", "expected the columns id"), ("id\n..\n", "no clip id")):
            written(tmp_path / "recordings.csv", text)
            assert why in refusal(path)

    @pytest.mark.data
    @pytest.mark.skipif(not (DATA / "recordings").is_dir(), reason="recordings are not at hand")
    def test_real_recordings(self) -> None:
        labels = read_annotations(DATA / "recordings" / "events.csv", None)
        assert labels.counted() == "166 events, 1 clip without an event"
        assert len(set(labels.ids)) == 36
        assert len({i for i, n in zip(labels.ids, labels.split, strict=True) if n == 2}) == 12
        assert not labels.leaks()
        assert all(clip_id.startswith("rec_") and "." not in clip_id for clip_id in labels.ids)
        assert labels.end_s.max() > 60


def database(**videos: Any) -> str:
    return json.dumps({"version": "1", "taxonomy": [], "database": videos})


def video(subset: str | None, *events: tuple[float, float, str], **more: Any) -> dict[str, Any]:
    found = [{"segment": [a, b], "label": label, "label_id": 3} for a, b, label in events]
    return {
        "duration": 42.1,
        "annotations": found,
        **({"subset": subset} if subset else {}),
        **more,
    }


class TestJson:
    def test_events_splits_and_background(self, tmp_path: Path) -> None:
        text = database(
            v1=video("training", (0, 1.5, "man speaking"), (0.5, 40.25, "Bark")),
            v2=video("validation"),
            **{"-v3.mp4": video("testing", (3, 4, "Bark"))},
        )
        labels = read_annotations(written(tmp_path / "a.json", text), None)
        assert rows(labels) == [
            ("v1", "man speaking", 0, 1.5),
            ("v1", "Bark", 0.5, 40.25),
            ("v2", "", 0, 0),
            ("-v3", "Bark", 3, 4),
        ]
        assert labels.split.tolist() == [0, 0, 1, 2]
        assert labels.source == "a.json, its own splits"

    def test_labels_that_are_held_back(self, tmp_path: Path) -> None:
        text = database(a=video("training", (0, 1, "Bark")), b=video("testing"), c=video("testing"))
        labels = read_annotations(written(tmp_path / "a.json", text), None)
        assert labels.ids == ["a"]
        assert labels.notes == ["2 video(s) of the test subset, none with a label: left out"]

    def test_without_subsets_they_are_divided(self, tmp_path: Path) -> None:
        text = database(**{f"v{n}": video(None, (0, 1, "Bark")) for n in range(9)})
        labels = read_annotations(written(tmp_path / "a.json", text), None)
        assert set(labels.split.tolist()) == {0, 1, 2}
        assert "divided 70/15/15" in labels.source

    def test_short_labels_without_spaces(self, tmp_path: Path) -> None:
        events = [(float(n), n + 1.0, "A") for n in range(20_000)]
        text = json.dumps({"database": {"v": video("train", *events)}}, separators=(",", ":"))
        assert len(read_annotations(written(tmp_path / "a.json", text), None)) == 20_000

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("[" * 10**5, "this is not JSON"),
            ('{"database": {"v": {"annotations": [{"segment": [0, NaN]}]}}}', "no finite number"),
            ('{"database": {"v": {"annotations": [{"segment": [0, 1e999]}]}}}', "no finite number"),
            ("7", "found no database"),
            ('{"database": []}', "found no database"),
            ("{" + '"a":{},' * 10**5 + '"database":{}}', "more than texts have"),
            (database(v=[]), "video 'v': expected an object with a list"),
            (database(v={"annotations": {}}), "video 'v': expected an object with a list"),
            (database(v=video("dev", (0, 1, "A"))), "expected a subset of training, validation"),
            (
                database(v=video("train", (0, 1, "A")), w=video("train", (2, 1, "A"))),
                "video 'w', an",
            ),
            (
                database(v={"annotations": [{"segment": [0], "label": "A"}]}),
                "annotation 1: expected",
            ),
            (database(v={"annotations": [{"segment": [0, True], "label": "A"}]}), "two numbers"),
            (database(v={"annotations": [{"segment": ["0", "1"], "label": "A"}]}), "two numbers"),
            (database(v={"annotations": [{"segment": [0, 1], "label": ""}]}), "is no class name"),
            (database(v={"annotations": [7]}), "expected {"),
            (database(**{"../v": video("x")}), "expected a subset"),
            (
                database(**{"a/v.mp4": video(None), "v": video(None)}),
                "have one name but for folder",
            ),
            (database(), "expected one event a line, found none"),
        ],
    )
    def test_refused_by_id_and_place(self, tmp_path: Path, text: str, why: str) -> None:
        path = written(tmp_path / "a.json", text)
        found = refusal(path)
        assert found.startswith(str(path))
        assert why in found


def task(media: str, *regions: tuple[float, float, str], **more: Any) -> dict[str, Any]:
    result = [
        {"type": "labels", "value": {"start": a, "end": b, "channel": 0, "labels": [label]}}
        for a, b, label in regions
    ]
    return {"id": 7, "data": {"media": media}, "annotations": [{"result": result, **more}]}


class TestLabelStudio:
    def test_what_people_marked(self, tmp_path: Path) -> None:
        tasks = [
            task("/data/local-files/?d=sub/a%20b.mp4", (0.5, 1.25, "Bark"), (1, 2, "Horn")),
            task("/data/upload/3/0a1b2c3d-c.wav"),
            {"data": {"media": "x.mp4"}, "predictions": [{"result": []}], "annotations": []},
        ]
        tasks[0]["annotations"][0]["result"].append({"type": "timelinelabels", "value": {}})
        tasks[0]["annotations"].append({"was_cancelled": True, "result": []})
        path = written(tmp_path / "export.json", json.dumps(tasks))
        labels = read_annotations(path, None)
        assert rows(labels) == [("a b", "Bark", 0.5, 1.25), ("a b", "Horn", 1, 2), ("c", "", 0, 0)]
        assert labels.notes[:2] == [
            "1 task(s) that nobody has annotated: left out",
            "1 region(s) that are no Labels in seconds: left out",
        ]

    @pytest.mark.parametrize(
        ("tasks", "why"),
        [
            ([7], "task 1: expected a task whose data names one media file"),
            ([{"data": {"a": "a.mp4"}, "predictions": []}], "every task: nobody has annotated it"),
            ([{"data": {"text": "hello"}}], "task 1: expected a task whose data names"),
            ([{"data": {"a": "a.mp4", "b": "b.mp4"}}], "task 1: expected a task whose data names"),
            ([task("a.mp4"), task("x/a.mp4")], "task 2: the media 'x/a.mp4' and 'a.mp4'"),
            ([{**task("a.mp4"), "annotations": [{}, {}]}], "2 annotations of 'a.mp4'; which one"),
            ([task("a.mp4", (2, 1, "A"))], "task 1, region 1: expected 0 <= start <= end"),
            ([task("a.mp4", (0, 1, ""))], "is no class name"),
            ([task("a.mp4", ("0", 1, "A"))], "region 1: expected a start and an end"),  # type: ignore[arg-type]
            ([task("a.mp4", (0, 1, 5))], "region 1: expected a label"),  # type: ignore[arg-type]
            ([], "found none"),
        ],
    )
    def test_refused_by_task(self, tmp_path: Path, tasks: list[Any], why: str) -> None:
        assert why in refusal(written(tmp_path / "export.json", json.dumps(tasks)))


class TestAudacity:
    def test_labels_and_frequencies(self, tmp_path: Path) -> None:
        text = "1.250000\t3.000000\tBark\n\\\t100.0\t-1.0\r\n\n2,5\t2,5\tDog & co, 5\n"
        labels = read_annotations(written(tmp_path / "r_1.txt", text), None)
        assert rows(labels) == [("r_1", "Bark", 1.25, 3), ("r_1", "Dog & co, 5", 2.5, 2.5)]

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("1\t2", "expected START, END and LABEL"),
            ("1\t2\t", "a label without a name, from 1"),
            ("1\t2\ta\tb", "expected START, END and LABEL"),
            ("\t\tBark", "expected START, END and LABEL"),
            ("2\t1\tBark", "expected 0 <= start <= end"),
            ("-1\t1\tBark", "expected 0 <= start <= end"),
            ("0\tinf\tBark", "both finite"),
            ("\\\tx\ty", "expected start and end in seconds"),
            (f"0\t1\t{'x' * 300}", "longer than 255 bytes"),
            ("0\t1\tbark", "differs from 'Bark' of line 1"),
        ],
    )
    def test_refused_by_line(self, tmp_path: Path, line: str, why: str) -> None:
        found = refusal(written(tmp_path / "r.txt", f"0\t1\tBark\n{line}\n"))
        assert "line 2: " in found
        assert why in found

    def test_an_overlong_line(self, tmp_path: Path) -> None:
        path = written(tmp_path / "r.txt", f"0\t1\tBark\n0\t1\t{'x' * 70_000}\n")
        assert "line 2: longer than 65,536 characters" in refusal(path)


class TestElan:
    def test_values_and_tiers(self, tmp_path: Path) -> None:
        text = EAF.format(tiers=tier("x", "Bark &amp; &lt;co&gt;") + tier("Horn", " "))
        assert read(tmp_path / "r_1.eaf", text) == [
            ("r_1", "Bark & <co>", 1.25, 3.001),
            ("r_1", "Horn", 1.25, 3.001),
        ]

    def test_none_is_background(self, tmp_path: Path) -> None:
        assert read(tmp_path / "r_1.eaf", EAF.format(tiers="")) == [("r_1", "", 0, 0)]

    def test_what_hangs_on_others_is_noted(self, tmp_path: Path) -> None:
        more = (
            '<TIER TIER_ID="y"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a2" '
            'ANNOTATION_REF="a1"><ANNOTATION_VALUE>loud</ANNOTATION_VALUE></REF_ANNOTATION>'
            "</ANNOTATION></TIER>"
        ) + tier("words", "woof", "t1", "t3").replace("<TIER", '<TIER PARENT_REF="x"')
        path = written(tmp_path / "r.eaf", EAF.format(tiers=tier("x", "Bark") + more))
        labels = read_annotations(path, None)
        assert labels.names() == ["Bark"]
        assert labels.notes == ["r.eaf: 2 annotation(s) hang on others: left out"]

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "no element found"),
            ("<html/>", "expected ANNOTATION_DOCUMENT, found 'html'"),
            (EAF.format(tiers="<a>"), "mismatched tag"),
            (EAF.format(tiers=tier("x", "A", "t1", "t3")), "align it in ELAN"),
            (EAF.format(tiers=tier("x", "A", "t1", "t9")), "found 't1' and 't9'"),
            (EAF.format(tiers=tier("x", "A", "t2", "t1")), "expected 0 <= start <= end"),
            (EAF.format(tiers=tier("", " ")), "which class is it"),
            (EAF.format(tiers=tier("x", "a&#10;b")), "control character"),
            (EAF.format(tiers=tier("x", "y" * 70_000)), "more than 65,536 characters"),
            (EAF.format(tiers="<a>" * 99 + "</a>" * 99), "deeper than any"),
            (EAF.format(tiers="").replace('"1250"', '"-5"'), "expected a TIME_VALUE"),
            (
                EAF.format(tiers="").replace('"1250"', '"1' + "0" * 5000 + '"'),
                "expected a TIME_VAL",
            ),
            (EAF.format(tiers="").replace("milliseconds", "PAL-frames"), "found 'PAL-frames'"),
            (EAF.format(tiers='<MEDIA_DESCRIPTOR TIME_ORIGIN="99"/>'), "TIME_ORIGIN"),
            (EAF.format(tiers="").replace("UTF-8", "no-such"), "unknown encoding"),
            (
                '<!DOCTYPE z [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
                "<ANNOTATION_DOCUMENT>&b;</ANNOTATION_DOCUMENT>",
                "a document type or entity",
            ),
            (
                '<!DOCTYPE z SYSTEM "file:///etc/passwd"><ANNOTATION_DOCUMENT/>',
                "a document type or entity",
            ),
        ],
    )
    def test_refused(self, tmp_path: Path, text: str, why: str) -> None:
        path = written(tmp_path / "r.eaf", text)
        found = refusal(path)
        assert found.startswith(str(path))
        assert why in found


class TestFolders:
    def test_a_file_a_recording(self, tmp_path: Path) -> None:
        folder = tmp_path / "labels"
        written(folder / "r_2.txt", "0\t1\tBark\n")
        written(folder / "r_1.labels.txt", "1\t2\tHorn\n1.5\t3\tBark\n")
        written(folder / "r_3.txt", "")
        written(folder / ".hidden.txt", "x")
        written(folder / "r_1.mp4", "media")
        labels = read_annotations(folder, None)
        assert rows(labels) == [
            ("r_1", "Horn", 1, 2),
            ("r_1", "Bark", 1.5, 3),
            ("r_2", "Bark", 0, 1),
            ("r_3", "", 0, 0),
        ]
        assert labels.source == "labels (3 Audacity files), divided 70/15/15 by id with seed 42"

    def test_splits_beside_them(self, tmp_path: Path) -> None:
        written(tmp_path / "a.eaf", EAF.format(tiers=tier("x", "Bark")))
        written(tmp_path / "b.eaf", EAF.format(tiers=tier("x", "Bark")))
        written(tmp_path / "splits.csv", "media,split\na.wav,test\nc.wav,train\n")
        labels = read_annotations(tmp_path, None)
        assert labels.split.tolist() == [2, -1]
        assert labels.notes == [
            "1 id(s) of splits.csv have no annotations: 'c' …",
            "1 event(s) are in no split",
        ]
        assert labels.source == f"{tmp_path.name} (2 ELAN files), splits.csv"
        for text, why in (
            ("id,split\na,dev\n", "line 2: expected one split of train, val, test"),
            ("id,split\na,val\na,test\n", "line 3: expected one split"),
            ("id,split\na\n", "line 2: expected an id and a split"),
            ("name,fold\na,1\n", "expected the columns id,split"),
        ):
            written(tmp_path / "splits.csv", text)
            assert f"splits.csv: line {why[5] if why.startswith('line') else 1}" in refusal(
                tmp_path
            )

    def test_tables_and_aves_own(self, tmp_path: Path) -> None:
        text = "Start (s),End (s),Common name\n0,3,{}\n"
        for name in "ab":
            written(tmp_path / "t" / f"{name}.BirdNET.results.csv", text.format("Owl"))
        assert rows(read_annotations(tmp_path / "t", None)) == [
            ("a", "Owl", 0, 3),
            ("b", "Owl", 0, 3),
        ]
        written(tmp_path / "a" / "Annotations.txt", "Bark&a&good&0&1\n")
        written(tmp_path / "a" / "other.csv", "x")
        assert rows(read_annotations(tmp_path / "a", None)) == [("a", "Bark", 0, 1)]

    def test_what_is_wrong_is_named_by_file_and_line(self, tmp_path: Path) -> None:
        written(tmp_path / "a.txt", "0\t1\tBark\n")
        written(tmp_path / "b.txt", "0\t1\tbark\nx\t1\tBark\n")
        found = refusal(tmp_path)
        assert "b.txt: line 1: the class 'bark' differs from 'Bark' of a.txt: line 1" in found
        assert "b.txt: line 2: expected start and end" in found

    def test_two_kinds_two_files_of_one_recording_links(self, tmp_path: Path) -> None:
        written(tmp_path / "a.txt", "0\t1\tBark\n")
        written(tmp_path / "b.eaf", EAF.format(tiers=""))
        assert "found a.txt (Audacity) and b.eaf (ELAN); keep one kind" in refusal(tmp_path)
        (tmp_path / "b.eaf").unlink()
        written(tmp_path / "b.txt", "no label at all")
        assert "b.txt (another)" in refusal(tmp_path)
        written(tmp_path / "b.txt", "0\t1\tBark\n").rename(tmp_path / "a.wav.txt")
        assert "a.txt and a.wav.txt are both of the recording 'a'" in refusal(tmp_path)
        (tmp_path / "a.wav.txt").unlink()
        (tmp_path / "c.txt").symlink_to("/etc/passwd")
        assert "c.txt: expected a plain file, found none; refused" in refusal(tmp_path)

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        assert "found none" in refusal(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "ave").is_dir(), reason="AVE's annotations are not at hand")
def test_aves_ids_with_several_rows_are_several_events() -> None:
    labels = read_annotations(DATA / "ave" / "Annotations.txt", None)
    count = np.unique(labels.ids, return_counts=True)[1]
    assert (len(labels), len(count), int((count > 1).sum())) == (4143, 4097, 45)
    assert {pair: len(ids) for pair, ids in labels.leaks().items()} == {
        ("train", "val"): 10,
        ("train", "test"): 8,
    }
