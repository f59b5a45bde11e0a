"""The index is derived: rebuilt when missing, stale or garbage; the newest row of an id counts."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_media import TinyCache, random_row, tiny_cache

import cache.common.atomic
import cache.format.index
import cache.format.shard
from cache import CacheError, Labels, open_cache
from cache.check.verify import verify
from cache.common.atomic import TEMPORARY, remove_leftovers, replace_file
from cache.format.identity import Identity, claim, read_identity
from cache.format.index import Index
from cache.format.index_file import INDEX_FILE, load_index, save_index
from cache.format.lock import writer_lock
from cache.format.sealed import write_seal
from cache.format.shard import Failure, Written, write_shard
from cache.labels.store import read_labels, write_labels


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    return tiny_cache(tmp_path / "cache")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Shards are written at the times in this list, first to last."""
    times: list[int] = []
    monkeypatch.setattr(time, "time_ns", lambda: times.pop(0))
    yield times
    assert times == []


def same(one: Index, other: Index) -> bool:
    return (one.shards, dict(one.clips), one.failures) == (
        other.shards,
        dict(other.clips),
        other.failures,
    )


class TestNewestWins:
    def test_rows(self, tiny: TinyCache, clock: list[int]) -> None:
        clock[:] = [300, 100, 200]
        shards = [tiny.write("a", "b", seed=n) for n in range(3)]
        found = open_cache(tiny.folder)
        assert found.ids == ["a", "b"]
        assert {entry.shard for entry in found.index.clips.values()} == {shards[0].name}
        wanted = random_row("a", 0).features["audio/mel"]
        assert found.read("audio/mel")[0].tobytes() == wanted.tobytes()

    @pytest.mark.parametrize("failure_first", [True, False])
    def test_a_row_against_a_failure(
        self, tiny: TinyCache, clock: list[int], failure_first: bool
    ) -> None:
        clock[:] = [100, 200] if failure_first else [200, 100]
        tiny.write(failures=[Failure("a", "audio", "no sound")])
        tiny.write("a")
        index = load_index(tiny.folder, tiny.identity)
        assert (list(index.clips), list(index.failures)) == (
            (["a"], []) if failure_first else ([], ["a"])
        )

    def test_failures(self, tiny: TinyCache, clock: list[int]) -> None:
        clock[:] = [2, 1]
        tiny.write(failures=[Failure("a", "audio", "second", 2)])
        tiny.write(failures=[Failure("a", "audio", "first", 1)])
        assert load_index(tiny.folder, tiny.identity).failures["a"].attempt == 2


class TestStored:
    @pytest.fixture
    def saved(self, tiny: TinyCache) -> tuple[TinyCache, Index]:
        tiny.write("a", "-é", failures=[Failure("x", "video", "bad ü", 3, 4, 5)])
        tiny.write("c", failures=[Failure("y", "audio", "worse")])
        index = load_index(tiny.folder, tiny.identity)
        assert index.stale
        save_index(tiny.folder, tiny.identity, index)
        return tiny, index

    def no_reading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("a shard was read although the index covers it")

        monkeypatch.setattr(cache.format.index, "summarize", refuse)

    def test_round_trip_without_opening_a_shard(
        self, saved: tuple[TinyCache, Index], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny, index = saved
        self.no_reading(monkeypatch)
        again = load_index(tiny.folder, tiny.identity)
        assert same(again, index)
        assert not again.stale
        assert again.failures["x"] == Failure("x", "video", "bad ü", 3, 4, 5)
        assert sorted(again.clips) == ["-é", "a", "c"]

    def test_an_empty_cache(self, tiny: TinyCache) -> None:
        index = load_index(tiny.folder, tiny.identity)
        save_index(tiny.folder, tiny.identity, index)
        assert not load_index(tiny.folder, tiny.identity).stale
        assert len(open_cache(tiny.folder)) == 0

    def test_missing_garbage_and_foreign_indexes_are_rebuilt(
        self, saved: tuple[TinyCache, Index]
    ) -> None:
        tiny, index = saved
        path = tiny.folder / INDEX_FILE
        good = path.read_bytes()
        save_index(tiny.folder, dataclasses.replace(tiny.identity, feature_version=9), index)
        foreign = path.read_bytes()
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            del file["clip/row"]
        write_seal(path)
        partial = path.read_bytes()
        for data in (None, b"", b"garbage", good[: len(good) // 2], foreign, partial):
            path.unlink(missing_ok=True)
            if data is not None:
                path.write_bytes(data)
            again = load_index(tiny.folder, tiny.identity)
            assert same(again, index)
            assert again.stale
        path.write_bytes(good)
        assert not load_index(tiny.folder, tiny.identity).stale

    def test_a_bent_index_is_never_believed(self, saved: tuple[TinyCache, Index]) -> None:
        """Whatever is bent, the answer is the shards' own."""
        tiny, index = saved
        path = tiny.folder / INDEX_FILE
        good = path.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(150):
            bent = bytearray(good)
            bent[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
            path.write_bytes(bent)
            assert same(load_index(tiny.folder, tiny.identity), index)

    def test_new_removed_and_resized_shards_make_it_stale(
        self, saved: tuple[TinyCache, Index]
    ) -> None:
        tiny, index = saved
        new = tiny.path(tiny.write("d"))
        found = load_index(tiny.folder, tiny.identity)
        assert found.stale
        assert sorted(found.clips) == ["-é", "a", "c", "d"]
        new.unlink()
        assert not load_index(tiny.folder, tiny.identity).stale
        gone = index.clips["c"].shard
        (tiny.folder / "shards" / gone).unlink()
        found = load_index(tiny.folder, tiny.identity)
        assert found.stale
        assert sorted(found.clips) == ["-é", "a"]
        other = tiny.folder / "shards" / index.clips["a"].shard
        other.write_bytes(other.read_bytes()[:-1])
        found = load_index(tiny.folder, tiny.identity)
        assert found.stale
        assert list(found.damaged) == [other.name]

    def test_links_inside_are_not_followed(self, saved: tuple[TinyCache, Index]) -> None:
        tiny, index = saved
        path = tiny.folder / INDEX_FILE
        for name in ("shard", "clip/id"):
            save_index(tiny.folder, tiny.identity, index)
            with h5py.File(path, "r+") as file, h5py.File(tiny.folder / "o.bin", "w") as other:
                file.copy(name, other, name="x")
                del file[name]
                file[name] = h5py.ExternalLink("o.bin", "x")
            write_seal(path)
            found = load_index(tiny.folder, tiny.identity)
            assert found.stale, name
            assert same(found, index)

    def test_absurd_sizes_need_no_memory(self, saved: tuple[TinyCache, Index]) -> None:
        tiny, index = saved
        with h5py.File(tiny.folder / INDEX_FILE, "r+") as file:
            del file["clip/row"]
            file.create_dataset("clip/row", (2**46,), np.int32)
        write_seal(tiny.folder / INDEX_FILE)
        assert same(load_index(tiny.folder, tiny.identity), index)


def test_foreign_and_broken_shards_are_named_and_left_out(tiny: TinyCache, tmp_path: Path) -> None:
    tiny.write("a")
    other = tiny_cache(tmp_path / "other", jpeg_quality=50)
    foreign = other.path(other.write("z"))
    (tiny.folder / "shards" / foreign.name).write_bytes(foreign.read_bytes())
    (tiny.folder / "shards" / f"{'0' * 32}.h5").write_text("no HDF5")
    (tiny.folder / "shards" / f"{TEMPORARY}x.h5").write_text("unfinished")
    (tiny.folder / "shards" / "notes.h5").write_text("not ours")
    found = open_cache(tiny.folder)
    assert found.ids == ["a"]
    assert sorted(found.index.damaged) == sorted([foreign.name, f"{'0' * 32}.h5"])
    assert "a shard of another cache" in found.index.damaged[foreign.name]
    problems = "\n".join(verify(tiny.folder).problems)
    assert foreign.name in problems
    assert "0" * 32 in problems


class TestIdentity:
    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            ('"n_mels": 8', '"n_mels": 16', "fingerprint doesn't match its settings"),
            ('"feature_version": 1', '"feature_version": 2', "fingerprint doesn't match"),
            ('"format_version": 2', '"format_version": 99', "format version 99"),
            ('"avel-cache"', '"other"', "not a feature cache"),
            ('"fingerprint"', '"fingerprnt"', "not a cache identity"),
            ("{", "", "not a cache identity"),
            ('"config": {', '"config": [{', "not a cache identity"),
        ],
    )
    def test_an_edited_file_is_refused(self, tiny: TinyCache, old: str, new: str, why: str) -> None:
        path = tiny.folder / "cache.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(CacheError, match=why):
            open_cache(tiny.folder)

    def test_json_that_is_no_object(self, tiny: TinyCache) -> None:
        for text in ("[]", "null", "3", '"x"'):
            (tiny.folder / "cache.json").write_text(text)
            with pytest.raises(CacheError, match="not a cache identity"):
                read_identity(tiny.folder)

    def test_no_cache(self, tmp_path: Path) -> None:
        with pytest.raises(CacheError, match="doesn't exist"):
            open_cache(tmp_path / "absent")
        with pytest.raises(CacheError, match="empty or unfinished"):
            open_cache(tmp_path)
        (tmp_path / "clip.mp4").touch()
        with pytest.raises(CacheError, match=r"is another one: it holds clip\.mp4\)"):
            open_cache(tmp_path)

    def test_provenance_is_not_hashed(self, tiny: TinyCache) -> None:
        identity = dataclasses.replace(tiny.identity, provenance={"weights": "elsewhere"})
        assert claim(tiny.folder, identity) == tiny.identity

    def test_other_settings_are_refused_by_name(self, tiny: TinyCache) -> None:
        config = {**tiny.identity.config, "n_mels": 16, "backbone": "large"}
        with pytest.raises(CacheError) as caught:
            claim(tiny.folder, Identity(2, config, tiny.identity.declaration, {}))
        text = str(caught.value)
        assert "n_mels: 16 here, 8 in the cache" in text
        assert "backbone: 'large' here, 'small' in the cache" in text
        assert "feature code version: 2 here, 1 in the cache" in text
        assert "n_mfcc" not in text
        assert read_identity(tiny.folder) == tiny.identity


class TestFolder:
    def test_only_one_writer(self, tiny: TinyCache) -> None:
        with writer_lock(tiny.folder):
            with pytest.raises(CacheError, match=r"another process is writing .*process \d+ on"):
                writer_lock(tiny.folder).__enter__()
            assert open_cache(tiny.folder).ids == []
        with writer_lock(tiny.folder):
            pass

    def test_a_packed_file_is_no_folder_to_write_to(self, tiny: TinyCache, tmp_path: Path) -> None:
        path = tmp_path / "pack.h5"
        path.write_bytes(b"anything")
        with pytest.raises(CacheError, match="never changed; turn it into a folder first with"):
            claim(path, tiny.identity)
        assert path.read_bytes() == b"anything"

    def test_leftovers_of_killed_writers_go(self, tiny: TinyCache) -> None:
        written = tiny.write("a")
        names = [f"{TEMPORARY}abc", f"shards/{TEMPORARY}x.h5"]
        for name in names:
            (tiny.folder / name).write_text("half")
        remove_leftovers(tiny.folder)
        assert not any((tiny.folder / name).exists() for name in names)
        assert tiny.path(written).exists()
        assert (tiny.folder / "cache.json").exists()

    def test_a_file_is_replaced_whole_or_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x"
        replace_file(path, b"old")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(CacheError, match=r"No space left on device.*make room"):
            replace_file(path, b"new")
        assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
        assert path.read_bytes() == b"old"


LABELS = Labels(
    ids=["a", "-é", "a"],
    classes=["Speech, man", "Bark"],
    category=np.array([1, 0, 0]),
    start_s=np.array([0.0, 1.5, 2.0]),
    end_s=np.array([10.0, 1.5, 4.0]),
    split=np.array([0, -1, 2], np.int8),
    source="events.csv",
    notes=["one ü"],
)


class TestLabels:
    def test_round_trip(self, tiny: TinyCache) -> None:
        assert read_labels(tiny.folder) is None
        with pytest.raises(CacheError, match="no labels in this cache"):
            _ = open_cache(tiny.folder).labels
        write_labels(tiny.folder, LABELS)
        assert open_cache(tiny.folder).labels.equals(LABELS)

    def test_garbage_is_refused_and_reported(self, tiny: TinyCache) -> None:
        write_labels(tiny.folder, LABELS)
        path = tiny.folder / "labels.h5"
        data = path.read_bytes()
        for bent in (b"", b"garbage", data[: len(data) // 2]):
            path.write_bytes(bent)
            with pytest.raises(CacheError, match=r"labels\.h5: its bytes don't match .*anew"):
                read_labels(tiny.folder)
            assert len(verify(tiny.folder).problems) == 1

    def test_a_flipped_bit_is_found(self, tiny: TinyCache) -> None:
        write_labels(tiny.folder, LABELS)
        path = tiny.folder / "labels.h5"
        data = path.read_bytes()
        with h5py.File(path) as file:
            places = [(file[n].id.get_offset(), file[n].nbytes) for n in file]
        rng = np.random.default_rng(0)
        for place in [start + int(n) for start, size in places for n in rng.integers(0, size, 5)]:
            bent = bytearray(data)
            bent[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bent)
            assert len(verify(tiny.folder).problems) == 1

    @pytest.mark.parametrize(
        ("name", "values", "why"),
        [
            ("category", [0, 1, 2], "out of range"),
            ("category", [0, -2, 1], "out of range"),
            ("category", [0, 1], "different lengths"),
            ("start_s", [0.0], "different lengths"),
            ("split", [[0, 1, 2]], "different lengths"),
            ("split", [0, 1, 3], "split"),
            ("split", [0, 1, -2], "split"),
            ("start_s", [0.0, float("nan"), 1.0], "start"),
            ("start_s", [-1.0, 0.0, 1.0], "start"),
            ("end_s", [1.0, 2.0, 1.0], "start"),
            ("id", [b"a", b"../b", b"c"], "slash"),
        ],
    )
    def test_wrong_columns(self, tiny: TinyCache, name: str, values: list[Any], why: str) -> None:
        write_labels(tiny.folder, LABELS)
        with h5py.File(tiny.folder / "labels.h5", "r+") as file:
            kind = file[name].dtype
            del file[name]
            file[name] = np.array(values, None if kind.kind == "S" else kind)
        write_seal(tiny.folder / "labels.h5")
        with pytest.raises(CacheError, match=why):
            read_labels(tiny.folder)

    def test_links_and_absurd_sizes_are_refused(self, tiny: TinyCache) -> None:
        path = tiny.folder / "labels.h5"
        for kind in ("external", "soft", "absurd", "object"):
            write_labels(tiny.folder, LABELS)
            with h5py.File(path, "r+") as file, h5py.File(tiny.folder / "o.bin", "w") as other:
                other["category"] = file["category"][()]
                del file["category"]
                if kind == "external":
                    file["category"] = h5py.ExternalLink("o.bin", "category")
                elif kind == "soft":
                    file["category"] = h5py.SoftLink("/split")
                elif kind == "absurd":
                    file.create_dataset("category", (2**45,), np.int64)
                else:
                    file.create_dataset("category", (3,), h5py.string_dtype())
            write_seal(path)
            with pytest.raises(CacheError, match="category"):
                read_labels(tiny.folder)


def test_written_counts_are_plain(tiny: TinyCache) -> None:
    written = write_shard(tiny.folder, tiny.identity, [], [Failure("a", "find", "x")])
    assert (written.clips, written.failures) == (0, 1)
    assert json.loads(json.dumps(vars(written))) == vars(written)
    assert isinstance(written, Written)
