"""Label tables from strangers: what they claim is bounded before it is read or expanded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_media import TinyCache, tiny_cache

from cache import CacheError, Labels, open_cache
from cache.check.verify import verify
from cache.common.plain import write_text
from cache.format.sealed import write_seal
from cache.labels.store import (
    HISTORY_ENTRIES,
    LABELS_FILE,
    MAX_CLASSES,
    MAX_EVENTS,
    labels_sha256,
    read_label_history,
    read_labels,
    write_labels,
)
from cache.share.merge import merge

ROOT = Path(__file__).parent.parent
LABELS = Labels(
    ids=["a", "b"],
    classes=["Bark", "Horn"],
    category=np.array([0, 1]),
    start_s=np.array([0.0, 0.5]),
    end_s=np.array([1.0, 1.0]),
    split=np.array([0, 1], np.int8),
    source="events.csv",
)
ENTRY = {"sha256": "0" * 64, "source": "events.csv", "events": 2, "until": "2025-01-01"}
TABLE = ("id", "category", "start_s", "end_s", "split")


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    return tiny_cache(tmp_path / "cache", LABELS)


def bend(tiny: TinyCache, change: Callable[[h5py.File], object]) -> Path:
    """The cache's labels, changed by a stranger who seals what he made."""
    path = tiny.folder / LABELS_FILE
    with h5py.File(path, "r+") as file:
        change(file)
    write_seal(path)
    return path


def with_holes(file: h5py.File, name: str, rows: int, dtype: Any) -> None:
    """A dataset of zeros that takes no place on the disk."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    if name in file:
        del file[name]
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple((rows,)), how)


def long_table(file: h5py.File, rows: int, empty: bool) -> None:
    for name in TABLE:
        dtype = "S2" if name == "id" else file[name].dtype
        with_holes(file, name, rows, dtype)
    for begin in range(0, 0 if empty else rows, 1 << 18):
        file["id"][begin : begin + (1 << 18)] = b"ab"


def put_history(file: h5py.File, text: bytes) -> None:
    del file["history_json"]
    file["history_json"] = np.frombuffer(text, np.uint8)


def grown_by_mb(tiny: TinyCache, function: str) -> tuple[str, float]:
    """What reading says, and by how many MB memory grew at most."""
    script = f"""
import resource, sys
from pathlib import Path
from cache import CacheError
from cache.labels.store import {function}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {function}(Path(sys.argv[1]))
except CacheError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    command = [sys.executable, "-c", script, str(tiny.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *said, grown = done.stdout.splitlines()
    return "\n".join(said), float(grown)


class TestMemory:
    @pytest.mark.parametrize("item", [b"{},", b"[],", b'"",', b"1,"])
    def test_a_long_history(self, tiny: TinyCache, item: bytes) -> None:
        bend(tiny, lambda file: put_history(file, b"[" + item * 8_000_000 + b"0]"))
        text, grown = grown_by_mb(tiny, "read_label_history")
        assert "labels.h5: a history of" in text
        assert grown < 30

    @pytest.mark.parametrize("item", [b"{},", b"[],", b'"",', b"1,"])
    def test_a_history_just_short_enough(self, tiny: TinyCache, item: bytes) -> None:
        bend(tiny, lambda file: put_history(file, b"[" + item * 250_000 + b"0]"))
        text, grown = grown_by_mb(tiny, "read_label_history")
        assert "labels.h5: history_json" in text
        assert grown < 60

    @pytest.mark.parametrize("rows", [MAX_EVENTS, MAX_EVENTS + 1, 1 << 24, 1 << 28])
    def test_empty_ids_with_nothing_on_the_disk(self, tiny: TinyCache, rows: int) -> None:
        path = bend_without_seal(tiny, lambda file: long_table(file, rows, empty=True))
        assert path.stat().st_blocks * 512 < 1 << 20
        text, grown = grown_by_mb(tiny, "read_labels")
        assert "labels.h5" in text
        assert "write the labels anew" in text
        assert grown < 120

    def test_one_long_column(self, tiny: TinyCache) -> None:
        bend(tiny, lambda file: with_holes(file, "id", 1 << 27, "S1"))
        text, grown = grown_by_mb(tiny, "read_labels")
        assert "at most 2,097,152 can be" in text
        assert grown < 30

    def test_the_longest_table(self, tiny: TinyCache) -> None:
        path = bend(tiny, lambda file: long_table(file, MAX_EVENTS, empty=False))
        text, grown = grown_by_mb(tiny, "read_labels")
        assert "don't match their checksum" in text
        assert grown < 10 * path.stat().st_size / 1e6


def bend_without_seal(tiny: TinyCache, change: Callable[[h5py.File], object]) -> Path:
    """As `bend`, in the first release's form: a seal would take hours over so many holes."""
    path = tiny.folder / LABELS_FILE
    with h5py.File(path, "r") as old:
        values = {name: old[name][()] for name in old}
        texts = dict(old.attrs)
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[name] = value
        file.attrs.update(texts)
        change(file)
    return path


def put(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("classes", np.array([b"Bark", b"Bark"])), "a class stands twice"),
        (put("classes", np.array([b"Bark", b"Bark "])), "begins or ends with a space"),
        (put("classes", np.array(["é".encode(), "e\u0301".encode()])), "a class stands twice"),
        (put("classes", np.array([b"Bark", b"a\nb"])), "control character"),
        (put("classes", np.array([b"Bark", b"a\0b"])), "control character"),
        (put("classes", np.array(["a\u2028b".encode(), b"Bark"])), "control character"),
        (put("classes", np.array(["a\u202eb".encode(), b"Bark"])), "control character"),
        (put("classes", np.array([b"Bark", b""])), "classes has an empty name"),
        (put("classes", np.array([b"Bark", b"  "])), "no class name"),
        (put("classes", np.array([b"Bark", b"x" * 256])), "longer than 255 bytes"),
        (put("classes", np.array([b"c%d" % n for n in range(MAX_CLASSES + 1)])), "at most 16,384"),
        (put("id", np.array([b"a", b""])), "id has an empty name"),
        (put("id", np.array([b"a", b"x" * 256])), "longer than 255 bytes"),
        (put("id", np.array([[b"a", b"b"]])), "different lengths"),
        (put("end_s", np.array([1.0, np.inf])), "end finite"),
        (put("end_s", np.array([1.0, np.nan])), "end finite"),
        (put("start_s", np.array([0.0, np.inf])), "end finite"),
        (put("start_s", np.array([0.0, np.nan])), "end finite, or both NaN"),
        (lambda file: write_text(file, "notes", "{}"), "expected a list of sentences"),
        (lambda file: write_text(file, "notes", "[1]"), "expected a list of sentences"),
        (lambda file: write_text(file, "notes", "[" * 9000), "can't be read"),
        (lambda file: write_text(file, "notes", json.dumps([""] * 1001)), "at most 1,000"),
    ],
)
def test_what_no_table_says(
    tiny: TinyCache, change: Callable[[h5py.File], object], why: str
) -> None:
    bend(tiny, change)
    with pytest.raises(CacheError, match=rf"labels\.h5: .*{why}.*; write the labels anew"):
        read_labels(tiny.folder)
    assert any("labels.h5" in problem for problem in verify(tiny.folder).problems)


@pytest.mark.parametrize(
    "history",
    [
        {},
        [[]],
        [1],
        ["ab"],
        [{}],
        [{**ENTRY, "events": "2"}],
        [{**ENTRY, "events": True}],
        [{**ENTRY, "events": 2.0}],
        [{**ENTRY, "more": 1}],
        [{**ENTRY, "until": None}],
        [{name: value for name, value in ENTRY.items() if name != "sha256"}],
        [ENTRY] * (HISTORY_ENTRIES + 1),
    ],
)
def test_what_no_history_says(tiny: TinyCache, history: Any) -> None:
    bend(tiny, lambda file: put_history(file, json.dumps(history).encode()))
    with pytest.raises(CacheError, match=r"labels\.h5: .*history"):
        read_label_history(tiny.folder)
    assert read_labels(tiny.folder) is not None


@pytest.mark.parametrize(
    "text", [b"", b"[", b"[" * 100_000, b"\xff", b'[{"events": 1' + b"0" * 9999]
)
def test_a_history_that_is_no_json(tiny: TinyCache, text: bytes) -> None:
    bend(tiny, lambda file: put_history(file, text))
    with pytest.raises(CacheError, match=r"labels\.h5: history_json can't be read"):
        open_cache(tiny.folder).label_history()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"classes": [f"c{n}" for n in range(MAX_CLASSES + 1)]}, "2 events of 16,385 classes"),
        ({"classes": ["Bark", "Bark"]}, "a class stands twice"),
        ({"classes": ["Bark", "a\nb"]}, "control character"),
        ({"end_s": np.array([1.0, np.inf])}, "end finite"),
        ({"ids": ["a", "b/c"]}, "slash"),
    ],
)
def test_what_nobody_could_read_is_not_written(
    tiny: TinyCache, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(CacheError, match=why):
        write_labels(tiny.folder, Labels(**{**vars(LABELS), **changes}))
    found = read_labels(tiny.folder)
    assert found is not None
    assert found.equals(LABELS)


def test_classes_composed_and_decomposed_are_one_when_merged(tmp_path: Path) -> None:
    tables = {"a": ["Caf\u00e9", "Horn"], "b": ["Cafe\u0301", "Bark"]}
    for name, classes in tables.items():
        ids = [f"{name}0", f"{name}1"]
        tiny_cache(tmp_path / name, Labels(**{**vars(LABELS), "ids": ids, "classes": classes}))
    merge([open_cache(tmp_path / name) for name in tables], tmp_path / "both")
    assert open_cache(tmp_path / "both").labels.classes == ["Bark", "Caf\u00e9", "Horn"]


def test_names_of_any_script_stay(tiny: TinyCache) -> None:
    classes = ["Ba$$in \\ <b>", "雨 e\u0301"]
    labels = Labels(**{**vars(LABELS), "classes": classes})
    write_labels(tiny.folder, labels)
    found = read_labels(tiny.folder)
    assert found is not None
    assert labels_sha256(found) == labels_sha256(labels)


def test_a_long_history_stays_readable(tiny: TinyCache) -> None:
    for number in range(HISTORY_ENTRIES + 3):
        source = f"{number} " + "é" * 5_000
        write_labels(tiny.folder, Labels(**{**vars(LABELS), "source": source}))
    history = read_label_history(tiny.folder)
    assert len(history) == HISTORY_ENTRIES
    assert history[-1]["source"].startswith(f"{HISTORY_ENTRIES + 1} ")
