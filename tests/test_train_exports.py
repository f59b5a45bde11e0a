"""Exports: each opened by an independent reader, and read back by our own as it was written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st
from pympi import Eaf

from cache.format.names import check_class, one_form
from cache.labels.annotations import Labels, read_annotations
from train.annotate.exports import (
    CSV_COLUMNS,
    Found,
    audacity_bytes,
    csv_bytes,
    elan_bytes,
    label_studio_bytes,
    label_studio_config,
    webvtt_bytes,
)

EVENTS = [
    Found("Dog & \"co\", <b>; --> 'x'", 61.0004, 3723.4567, 0.98765),
    Found("Bark", 1.25, 3.0, 0.5),
    Found("Bark", 2.5, 4.0, 0.25),
    Found("Bark (2)", 0.0, 0.0, 1.0),
    Found("ドア é", 3.0, 3.5, 0.0),
]
TASKS = {  # what Label Studio's guide on predictions says of a list of tasks
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {"type": "object", "required": ["media"]},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["result", "model_version"],
                    "properties": {
                        "result": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["id", "from_name", "to_name", "type", "value"],
                                "properties": {
                                    "id": {"type": "string", "pattern": r"^[-\w]+$"},
                                    "type": {"const": "labels"},
                                    "original_length": {"type": "number", "minimum": 0},
                                    "score": {"type": "number", "minimum": 0, "maximum": 1},
                                    "value": {
                                        "type": "object",
                                        "required": ["start", "end", "labels"],
                                        "additionalProperties": False,
                                        "properties": {
                                            "start": {"type": "number", "minimum": 0},
                                            "end": {"type": "number", "minimum": 0},
                                            "channel": {"type": "integer"},
                                            "labels": {
                                                "type": "array",
                                                "minItems": 1,
                                                "items": {"type": "string"},
                                            },
                                        },
                                    },
                                },
                            },
                        }
                    },
                },
            },
        },
    },
}
PARTS = st.sampled_from(
    [*",;&<>\"'-", "-->", "]]>", "&amp;", "é", "字", "%", "{x}", "\\", "=", "#"]
)
NAMES = st.lists(st.one_of(PARTS, st.sampled_from("AB 1")), min_size=1, max_size=6).map("".join)
CLASSES = NAMES.map(lambda name: one_form(name.strip())).filter(
    lambda name: check_class(name) is None
)
FOUND = st.builds(
    lambda category, start_ms, more_ms, sure: Found(
        category, start_ms / 1000, (start_ms + more_ms) / 1000, sure
    ),
    CLASSES,
    st.integers(0, 7_200_000),
    st.integers(1, 90_000),
    st.floats(0, 1),
)
LISTS = st.lists(FOUND, min_size=1, max_size=8)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rows(labels: Labels) -> list[tuple[str, str, float, float]]:
    times = (labels.start_s.tolist(), labels.end_s.tolist())
    return sorted(zip(labels.ids, labels.names(), *times, strict=True))


def wanted(recording: str, events: Sequence[Found]) -> list[tuple[str, str, float, float]]:
    return sorted({(recording, e.category, round(e.start_s, 3), round(e.end_s, 3)) for e in events})


class TestIndependentReaders:
    def test_csv(self) -> None:
        text = csv_bytes({"b.mp4": EVENTS, "a, b.mp4": []}).decode()
        table = list(csv.DictReader(io.StringIO(text)))
        assert tuple(table[0]) == CSV_COLUMNS
        assert [row["category"] for row in table[:-1]] == [
            "Bark (2)",
            "Bark",
            "Bark",
            "ドア é",
            EVENTS[0].category,
        ]
        assert table[1] | {"category": ""} == {
            "media": "b.mp4",
            "start_s": "1.250",
            "end_s": "3.000",
            "category": "",
            "confidence": "0.500",
        }
        assert list(table[-1].values()) == ["a, b.mp4", "", "", "", ""]

    def test_elan_by_pympi(self, tmp_path: Path) -> None:
        data = elan_bytes('x/a "b" & c.mp4', EVENTS)
        eaf = Eaf(str(written(tmp_path / "a.eaf", data)))
        assert list(eaf.get_tier_names()) == [
            "Bark",
            "Bark (3)",
            "Bark (2)",
            EVENTS[0].category,
            "ドア é",
        ]
        assert eaf.get_annotation_data_for_tier("Bark") == [(1250, 3000, "Bark")]
        assert eaf.get_annotation_data_for_tier("Bark (3)") == [(2500, 4000, "Bark")]
        assert eaf.get_annotation_data_for_tier(EVENTS[0].category) == [
            (61000, 3723457, EVENTS[0].category)
        ]
        (media,) = eaf.get_linked_files()
        assert media["RELATIVE_MEDIA_URL"] == "./x/a%20%22b%22%20%26%20c.mp4"
        assert media["MIME_TYPE"] == "video/mp4"
        times = [eaf.timeslots[slot] for slot in eaf.timeslots]
        assert times == sorted(times)
        assert {kind["TIME_ALIGNABLE"] for kind in eaf.linguistic_types.values()} == {"true"}

    def test_webvtt_by_webvtt_py(self, tmp_path: Path) -> None:
        captions = webvtt.read(str(written(tmp_path / "a.vtt", webvtt_bytes(EVENTS))))
        cues = [(cue.start, cue.end, cue.text) for cue in captions.captions]
        assert cues[0] == ("00:00:00.000", "00:00:00.001", "Bark (2)")
        assert [cue[0] for cue in cues] == sorted(cue[0] for cue in cues)
        assert cues[-1][:2] == ("00:01:01.000", "01:02:03.457")
        assert cues[-1][2] == "Dog &amp; \"co\", &lt;b&gt;; --&gt; 'x'"
        assert webvtt_bytes([]) == b"WEBVTT\n"

    def test_label_studio_by_its_schema(self) -> None:
        tasks = json.loads(label_studio_bytes("x/a b.mp4", 3723.5, EVENTS))
        jsonschema.validate(tasks, TASKS)
        assert tasks[0]["data"]["media"] == "/data/local-files/?d=x/a%20b.mp4"
        (prediction,) = tasks[0]["predictions"]
        ids = [result["id"] for result in prediction["result"]]
        assert len(set(ids)) == len(EVENTS)
        assert prediction["result"][-1]["value"] == {
            "start": 61.0,
            "end": 3723.457,
            "channel": 0,
            "labels": [EVENTS[0].category],
        }
        config = label_studio_config([e.category for e in EVENTS]).decode()
        assert all(f'="{name}"' in config for name in ("events", "sound", "Bark"))
        assert "&lt;b&gt;" in config

    def test_the_schema_refuses(self) -> None:
        tasks: Any = json.loads(label_studio_bytes("a.mp4", 9, EVENTS))
        del tasks[0]["predictions"][0]["result"][0]["value"]["labels"]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tasks, TASKS)

    def test_no_event_at_all(self, tmp_path: Path) -> None:
        assert Eaf(str(written(tmp_path / "a.eaf", elan_bytes("a.wav", [])))).tiers == {}
        jsonschema.validate(json.loads(label_studio_bytes("a.wav", 1, [])), TASKS)
        assert audacity_bytes([]) == b""


class TestRoundTrip:
    """What `relabel` reads is what was written."""

    @given(LISTS, LISTS)
    @settings(max_examples=60, deadline=None)
    def test_csv(
        self, tmp_path_factory: pytest.TempPathFactory, one: list[Found], two: list[Found]
    ) -> None:
        data = csv_bytes({"r, 1.mp4": one, "sub/r.2.wav": two, "r3.mp4": []})
        path = written(tmp_path_factory.mktemp("csv") / "events.csv", data)
        if not (labels := _unless_alike(path, [*one, *two])):
            return
        assert rows(labels) == sorted(
            [*wanted("r, 1", one), *wanted("r.2", two), ("r3", "", 0.0, 0.0)]
        )
        assert not [note for note in labels.notes if "not used" in note]

    @given(LISTS)
    @settings(max_examples=60, deadline=None)
    def test_audacity_and_elan(
        self, tmp_path_factory: pytest.TempPathFactory, events: list[Found]
    ) -> None:
        folder = tmp_path_factory.mktemp("one")
        for name, data in (
            ("r 1.txt", audacity_bytes(events)),
            ("r 1.eaf", elan_bytes("r 1.mp4", events)),
        ):
            if labels := _unless_alike(written(folder / name, data), events):
                assert rows(labels) == wanted("r 1", events)

    @given(LISTS)
    @settings(max_examples=30, deadline=None)
    def test_label_studio(
        self, tmp_path_factory: pytest.TempPathFactory, events: list[Found]
    ) -> None:
        """As people export it who have accepted the predictions."""
        (task,) = json.loads(label_studio_bytes("x/r 1.mp4", 9.0, events))
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
        path = tmp_path_factory.mktemp("one") / "export.json"
        if labels := _unless_alike(written(path, json.dumps([task]).encode()), events):
            assert rows(labels) == wanted("r 1", events)

    def test_an_empty_elan_file_is_background(self, tmp_path: Path) -> None:
        labels = read_annotations(written(tmp_path / "a.eaf", elan_bytes("a.wav", [])), None)
        assert rows(labels) == [("a", "", 0, 0)]

    def test_fractions_are_rounded_to_milliseconds(self, tmp_path: Path) -> None:
        events = [Found("A", 1 / 3, 2 / 3, 1.0)]
        labels = read_annotations(written(tmp_path / "a.txt", audacity_bytes(events)), None)
        np.testing.assert_array_equal([labels.start_s, labels.end_s], [[0.333], [0.667]])


def _unless_alike(path: Path, events: Sequence[Found]) -> Labels | None:
    """The labels; None for classes that differ in spaces alone, which are refused."""
    looks = {" ".join(event.category.casefold().split()) for event in events}
    if len(looks) < len({event.category for event in events}):
        return None
    return read_annotations(path, None)
