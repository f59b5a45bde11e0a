"""Damage: every flipped bit is found, the clip it hit is named, and only that one is lost."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import soundfile
from small_media import (
    RATE_HZ,
    SMALL_FLAGS,
    TinyCache,
    assert_same_clip,
    assert_same_rows,
    noise,
    random_row,
    tiny_cache,
    write_set,
)

import cache.format.shard
import extract.features.extractor
from cache import CacheError, Labels, open_cache
from cache.__main__ import main as cache_command
from cache.check.examine import intact_clips
from cache.check.repair import damaged_shards, repair, without
from cache.check.verify import RECORD_FILE, Report, read_record, verify, write_record
from cache.format.identity import parse_identity
from cache.format.index import Index
from cache.format.index_file import load_index, save_index
from cache.format.lock import writer_lock
from cache.format.row_table import COLUMNS
from cache.format.rows import RowFile, jpeg_bounds
from cache.format.schema import JPEG_BYTES, JPEG_END
from cache.format.sealed import write_seal
from cache.format.shard import DAMAGED, Clip, Failure, file_sha256, shard_name, write_shard
from cache.labels.store import write_labels
from cache.share.merge import merge
from cache.share.pack import pack
from extract.__main__ import main
from extract.sources import MediaSource

LABELS = Labels(
    ids=["a", "b", "f"],
    classes=["Bark", "Speech"],
    category=np.array([0, 1, 0]),
    start_s=np.array([0.0, 0.5, 0.0]),
    end_s=np.array([1.0, 1.0, 0.5]),
    split=np.array([0, 1, 2], np.int8),
    source="events.csv",
    notes=["one ü"],
)


@pytest.fixture
def stored(tmp_path: Path) -> TinyCache:
    """Two shards, labels and an index; `b` stands in both shards, `d` failed."""
    tiny = tiny_cache(tmp_path / "cache", LABELS)
    tiny.write("a", "b", "c", seed=0, failures=[Failure("d", "audio", "no sound")])
    tiny.write("b", "e", "f", seed=10)
    tiny.store_index()
    assert verify(tiny.folder).problems == []
    return tiny


def flip(path: Path, place: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1 << bit]))


def owners(tiny: TinyCache, shard: str, index: Index, place: int) -> set[str]:
    """The clips whose rows hold a byte of a shard."""
    layout, members = index.layout(shard), index.members(shard)
    ids = [clip_id for _, clip_id, _ in sorted(members)]
    with RowFile(tiny.folder / "shards" / shard, layout) as file:
        pictures = jpeg_bounds(file.fetch, layout, np.arange(len(ids)), shard)
    found = set()
    for row, clip_id in enumerate(ids):
        spans = [layout.span(name, row, row + 1) for name in layout.fields if "sha256" not in name]
        spans.append(layout.span("rows/media_sha256", row, row + 1))
        begin = layout.offsets[JPEG_BYTES]
        spans.append((begin + int(pictures[row, 0]), begin + int(pictures[row, -1])))
        if row:  # the end of the picture before is where its first begins
            end = layout.span(JPEG_END, row, row + 1)[0]
            spans.append((end - 8, end))
        if any(start <= place < stop for start, stop in spans):
            found.add(clip_id)
    return found


@pytest.mark.parametrize("flips", [120, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found_and_its_clip_named(stored: TinyCache, flips: int) -> None:
    index = load_index(stored.folder, stored.identity)
    files = sorted(path for path in stored.folder.rglob("*") if path.is_file())
    assert {path.name for path in files} == {"cache.json", "labels.h5", "index.h5", *index.shards}
    rng = np.random.default_rng(flips)
    hit = 0
    for _ in range(flips):
        path = files[int(rng.integers(len(files)))]
        place, bit = int(rng.integers(path.stat().st_size)), int(rng.integers(8))
        shard = path.name if path.name in index.shards else ""
        lost = sorted(owners(stored, shard, index, place)) if shard else []
        flip(path, place, bit)
        try:
            report = verify(stored.folder)
        except CacheError as error:  # nothing else can be checked without an identity
            assert path.name == "cache.json"
            report = Report(problems=[str(error)])
        assert len(report.problems) == 1, (path, place, bit)
        assert str(path) in report.problems[0]
        assert report.damaged == ({shard: lost} if shard else {}), (path, place, bit)
        if shard:
            named = f"rows {', '.join(lost)}" if lost else "the file's structure"
            assert named in report.problems[0]
            hit += bool(lost)
        flip(path, place, bit)
    assert hit > flips / 10
    assert verify(stored.folder).problems == []


def test_a_flip_of_the_seal_itself_is_found(stored: TinyCache) -> None:
    """A seal that is no longer taken for one must not switch its check off."""
    for name in ("labels.h5", "index.h5"):
        path = stored.folder / name
        for place in (0, 3, 40, 80, 511):
            flip(path, place)
            (problem,) = verify(stored.folder).problems
            assert name in problem
            flip(path, place)


def test_numbers_that_json_can_write_in_two_ways_are_covered(tmp_path: Path) -> None:
    identity = tiny_cache(tmp_path / "cache").identity
    text = dataclasses.replace(identity, provenance={"step": 1e-05}).render()
    assert b"1e-05" in text
    parse_identity(text, "x")
    with pytest.raises(CacheError, match="edited or damaged"):
        parse_identity(text.replace(b"1e-05", b"1E-05"), "x")


def test_a_cut_shard_is_found(stored: TinyCache) -> None:
    name = next(iter(load_index(stored.folder, stored.identity).shards))
    path = stored.folder / "shards" / name
    path.write_bytes(path.read_bytes()[:-1])
    report = verify(stored.folder)
    assert list(report.damaged) == [name]
    assert name in report.problems[0]


def test_a_shard_that_cannot_be_read_is_reported(stored: TinyCache) -> None:
    """Here a link; a bad sector is told the same way. The others are checked all the same."""
    bad, good = load_index(stored.folder, stored.identity).shards
    (stored.folder / "shards" / bad).rename(stored.folder / "shards" / "x")
    (stored.folder / "shards" / bad).symlink_to("x")
    path = stored.folder / "shards" / good
    flip(path, path.stat().st_size // 2)
    assert set(verify(stored.folder).damaged) == {bad, good}


def repaired(tiny: TinyCache) -> list[str]:
    """verify → record → repair, as the command lines do; returns what was told."""
    write_record(tiny.folder, verify(tiny.folder))
    with writer_lock(tiny.folder):
        return repair(tiny.folder, tiny.identity, [])[0]


OLD = 12345, '{"machine":"old"}'


class TestRepair:
    @pytest.fixture
    def one(self, tmp_path: Path) -> tuple[TinyCache, Path]:
        """One shard made long ago by another machine, with an index."""
        tiny = tiny_cache(tmp_path / "cache")
        rows = [random_row(clip_id, seed) for seed, clip_id in enumerate("abcd")]
        failed = [Failure("x", "video", "no picture", 2, 3, 4)]
        written = write_shard(tiny.folder, tiny.identity, rows, failed, dict.fromkeys("abcdx", OLD))
        tiny.store_index()
        return tiny, tiny.path(written)

    def row_place(self, tiny: TinyCache, clip_id: str) -> int:
        index = load_index(tiny.folder, tiny.identity)
        entry = index.clips[clip_id]
        return index.layout(entry.shard).span("audio/mel", entry.row, entry.row + 1)[0]

    def kept(self, tiny: TinyCache) -> list[Clip]:
        (shard,) = open_cache(tiny.folder).index.shards
        index = load_index(tiny.folder, tiny.identity)
        return list(intact_clips(tiny.folder / "shards" / shard, index))

    def test_intact_rows_are_kept_byte_for_byte(self, one: tuple[TinyCache, Path]) -> None:
        tiny, path = one
        for clip_id in "bd":
            flip(path, self.row_place(tiny, clip_id))
        damaged = path.read_bytes()
        (told,) = repaired(tiny)
        assert "kept 2 whole rows" in told
        assert "to extract again: b, d" in told
        assert not path.exists()
        assert path.with_suffix(".damaged").read_bytes() == damaged
        found = open_cache(tiny.folder)
        assert found.ids == ["a", "c"]
        for clip in self.kept(tiny):
            assert_same_clip(clip, random_row(clip.id, "abcd".index(clip.id)))
        assert found.row_origins == [OLD, OLD]
        assert found.failure_origins["x"] == OLD
        failures = found.index.failures
        assert failures.pop("x") == Failure("x", "video", "no picture", 2, 3, 4)
        assert {clip_id: one.stage for clip_id, one in failures.items()} == dict.fromkeys(
            "bd", DAMAGED
        )
        assert verify(tiny.folder).problems == []
        assert not load_index(tiny.folder, tiny.identity).stale

    def test_a_damaged_header_loses_no_row_while_there_is_an_index(
        self, one: tuple[TinyCache, Path]
    ) -> None:
        tiny, path = one
        flip(path, 0)  # HDF5 can't open it any more
        (problem,) = verify(tiny.folder).problems
        assert "the file's structure, no clip's row" in problem
        (told,) = repaired(tiny)
        assert "no row of it; written anew, whole" in told
        assert [clip.id for clip in self.kept(tiny)] == list("abcd")
        assert path.exists()  # the same bytes as before the damage, so the same name
        index = load_index(tiny.folder, tiny.identity)
        assert damaged_shards(tiny.folder, index) == {}  # the next run has nothing to do
        assert verify(tiny.folder).problems == []
        assert repaired(tiny) == []

    def test_a_damaged_header_and_a_damaged_row(self, one: tuple[TinyCache, Path]) -> None:
        tiny, path = one
        flip(path, self.row_place(tiny, "c"))
        flip(path, 0)
        (told,) = repaired(tiny)
        assert "kept 3 whole rows" in told
        assert open_cache(tiny.folder).ids == ["a", "b", "d"]
        assert not path.exists()
        assert path.with_suffix(".damaged").exists()

    def test_without_an_index_a_damaged_header_loses_the_shard(
        self, one: tuple[TinyCache, Path]
    ) -> None:
        tiny, path = one
        (tiny.folder / "index.h5").unlink()
        flip(path, 0)
        (problem,) = verify(tiny.folder).problems
        assert "its clips are not known" in problem
        (told,) = repaired(tiny)
        assert "not a readable HDF5 file" in told
        assert "its clips are extracted again" in told
        assert path.with_suffix(".damaged").exists()
        assert open_cache(tiny.folder).ids == []
        assert verify(tiny.folder).problems == []

    def test_without_an_index_a_damaged_row_is_still_the_only_one_lost(
        self, one: tuple[TinyCache, Path]
    ) -> None:
        tiny, path = one
        place = self.row_place(tiny, "b")
        (tiny.folder / "index.h5").unlink()
        flip(path, place)
        assert verify(tiny.folder).damaged_ids == ["b"]
        assert "kept 3 whole rows" in repaired(tiny)[0]
        assert open_cache(tiny.folder).ids == ["a", "c", "d"]

    def test_a_damaged_provenance_loses_nothing(self, one: tuple[TinyCache, Path]) -> None:
        tiny, path = one
        (tiny.folder / "index.h5").unlink()
        flip(path, path.read_bytes().index(b'{"machine"'))
        assert "kept 4 whole rows" in repaired(tiny)[0]
        assert open_cache(tiny.folder).ids == list("abcd")

    def test_a_superseded_row_does_not_come_back(self, tmp_path: Path) -> None:
        """What is copied stays as old as it was."""
        tiny = tiny_cache(tmp_path / "cache")
        old = tiny.write("a", "b", seed=0)
        time.sleep(0.001)
        tiny.write("a", seed=50)
        tiny.store_index()
        flip(tiny.path(old), 0)
        repaired(tiny)
        found = open_cache(tiny.folder)
        wanted = random_row("a", 50).features["audio/mel"]
        assert found.read("audio/mel", [found.row("a")])[0].tobytes() == wanted.tobytes()

    @pytest.mark.parametrize("how", ["row", "row, no index", "cut"])
    def test_older_rows_of_a_lost_row_do_not_come_back(self, tmp_path: Path, how: str) -> None:
        """Clip `a` was extracted again since its media changed; the newer row is damaged."""
        tiny = tiny_cache(tmp_path / "cache")
        old = tiny.write("a", "b", seed=0)
        time.sleep(0.001)
        tiny.write(failures=[Failure("a", "audio", "no sound then")])
        time.sleep(0.001)
        new = tiny.path(tiny.write("a", "c", seed=50))
        place = self.row_place(tiny, "a")
        if how != "row, no index":
            tiny.store_index()
        if how == "cut":
            new.write_bytes(new.read_bytes()[: place + 10])
        else:
            flip(new, place)
        lost = ["a", "c"] if how == "cut" else ["a"]
        report = verify(tiny.folder)
        assert report.damaged == {new.name: lost}
        index = load_index(tiny.folder, tiny.identity)
        if how != "cut":
            assert sorted(without(index, report.damaged).clips) == ["b", "c"]
            assert without(index, report.damaged).failures == {}
        (told,) = repaired(tiny)
        assert f"to extract again: {', '.join(lost)}" in told
        found = open_cache(tiny.folder)
        assert found.ids == (["b"] if how == "cut" else ["b", "c"])
        assert {i: f.stage for i, f in found.index.failures.items()} == dict.fromkeys(lost, DAMAGED)
        with pytest.raises(CacheError, match=r"no features of the clip 'a': it failed: .*the row"):
            found.row("a")
        assert verify(tiny.folder).problems == []
        assert old.name in found.index.shards  # never changed
        again = tiny.write("a", seed=7)
        index = load_index(tiny.folder, tiny.identity)
        assert index.clips["a"].shard == again.name
        assert "a" not in index.failures

    def test_they_do_not_come_back_whatever_the_clock_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tiny = tiny_cache(tmp_path / "cache")
        tiny.write("a", seed=0)
        time.sleep(0.001)
        new = tiny.path(tiny.write("a", seed=50))
        tiny.store_index()
        flip(new, self.row_place(tiny, "a"))
        monkeypatch.setattr(time, "time_ns", lambda: 1)  # far behind that of the writer
        repaired(tiny)
        found = open_cache(tiny.folder)
        assert found.ids == []
        assert found.index.failures["a"].stage == DAMAGED

    def test_a_failure_that_superseded_a_row_stays(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "cache")
        tiny.write("a", seed=0)
        time.sleep(0.001)
        new = tiny.path(tiny.write("b", failures=[Failure("a", "audio", "no sound now")]))
        tiny.store_index()
        flip(new, self.row_place(tiny, "b"))
        repaired(tiny)
        found = open_cache(tiny.folder)
        assert found.ids == []
        assert {i: f.stage for i, f in found.index.failures.items()} == {"a": "audio", "b": DAMAGED}

    def test_a_lost_row_that_was_superseded_is_no_loss(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "cache")
        old = tiny.path(tiny.write("a", "b", seed=0))
        tiny.store_index()
        place = self.row_place(tiny, "a")
        time.sleep(0.001)
        new = tiny.write("a", seed=50)
        flip(old, place)
        repaired(tiny)
        found = open_cache(tiny.folder)
        assert found.ids == ["a", "b"]
        assert found.index.clips["a"].shard == new.name
        assert found.index.failures == {}

    def test_what_a_file_that_is_gone_had_superseded_does_not_come_back(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tiny = tiny_cache(tmp_path / "cache")
        tiny.write("a", "b", "c", seed=0)
        time.sleep(0.001)
        gone = tiny.path(tiny.write("a", "d", "e", failures=[Failure("b", "audio", "no sound")]))
        time.sleep(0.001)
        tiny.write("e", seed=70)
        tiny.store_index()
        gone.unlink()
        (problem,) = verify(tiny.folder).problems
        assert (
            f"{gone}: not there, though the index lists it; lost: rows a, d; failures b" == problem
        )
        assert verify(tiny.folder).damaged == {gone.name: ["a", "d"]}
        assert cache_command(["verify", str(tiny.folder)]) == 1
        assert cache_command(["info", str(tiny.folder)]) == 0
        assert "health       1 problem(s) when verified at" in capsys.readouterr().out
        for _ in range(2):
            assert cache_command(["repair", str(tiny.folder)]) == 1
            assert "2 clips; 2 lost, to extract again" in capsys.readouterr().out
            found = open_cache(tiny.folder)
            assert found.ids == ["c", "e"]
            stages = {i: f.stage for i, f in found.index.failures.items()}
            assert stages == {"a": DAMAGED, "b": "audio", "d": DAMAGED}
            assert verify(tiny.folder).problems == []
        tiny.write("a", "d", seed=90)
        assert open_cache(tiny.folder).ids == ["a", "c", "d", "e"]

    def test_a_file_that_is_gone_and_of_which_all_stands_elsewhere(self, tmp_path: Path) -> None:
        """As where a repair was killed before it wrote the index."""
        tiny = tiny_cache(tmp_path / "cache")
        path = tiny.path(tiny.write("a", "b", seed=0))
        flip(path, self.row_place(tiny, "a"))
        index = tiny.store_index().read_bytes()
        repaired(tiny)
        (tiny.folder / "index.h5").write_bytes(index)
        assert not path.exists()
        assert verify(tiny.folder).problems == []
        assert open_cache(tiny.folder).ids == ["b"]

    def test_a_whole_shard_is_left_alone(self, one: tuple[TinyCache, Path]) -> None:
        """Whatever the record says: it may be old, or a stranger's."""
        tiny, path = one
        write_record(tiny.folder, Report(damaged={path.name: ["a"], "../x.h5": ["b"]}))
        before = path.read_bytes()
        with writer_lock(tiny.folder):
            suspects = damaged_shards(tiny.folder, load_index(tiny.folder, tiny.identity))
            assert list(suspects) == [path.name]
            assert repair(tiny.folder, tiny.identity, suspects)[0] == []
        record = read_record(tiny.folder)
        assert record is not None
        assert list(record["damaged"]) == ["../x.h5"]  # looked at by nobody
        assert path.read_bytes() == before

    def test_the_plan_leaves_the_lost_rows_out(self, one: tuple[TinyCache, Path]) -> None:
        tiny, path = one
        index = load_index(tiny.folder, tiny.identity)
        left = without(index, {path.name: ["b", "zzz", "\ud800"], "f" * 32 + ".h5": ["a"]})
        assert list(left.clips) == ["a", "c", "d"]
        assert list(index.clips) == list("abcd")


class TestContents:
    """Bytes that are as they were written, and still no features."""

    @pytest.fixture
    def bent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyCache:
        """An older release wrote `b` with numbers that are not finite."""
        tiny = tiny_cache(tmp_path / "cache", LABELS)
        rows = [random_row(clip_id, seed) for seed, clip_id in enumerate("abc")]
        rows[1].features["audio/mfcc"][0, 3] = np.inf
        with monkeypatch.context() as older:
            older.setattr(cache.format.shard, "clip_problem", lambda *_: "")
            write_shard(tiny.folder, tiny.identity, rows)
        tiny.store_index()
        return tiny

    def test_verify_names_clip_and_dataset(self, bent: TinyCache) -> None:
        report = verify(bent.folder)
        (problem,) = report.problems
        assert "1 row(s) of it can't be used: b: audio/mfcc: expected finite numbers" in problem
        assert report.damaged_ids == ["b"]

    def test_repair_drops_the_row_and_keeps_the_others(self, bent: TinyCache) -> None:
        (told,) = repaired(bent)
        assert "kept 2 whole rows" in told
        found = open_cache(bent.folder)
        assert found.ids == ["a", "c"]
        assert found.index.failures["b"].stage == DAMAGED
        assert "audio/mfcc: expected finite" in found.index.failures["b"].message
        assert verify(bent.folder).problems == []

    def test_a_pack_is_looked_into_too(self, bent: TinyCache, tmp_path: Path) -> None:
        pack(open_cache(bent.folder), tmp_path / "pack.h5")
        report = verify(tmp_path / "pack.h5")
        assert report.damaged_ids == ["b"]
        assert "first b: audio/mfcc: expected finite" in report.problems[0]

    def test_merging_takes_no_such_shard(self, bent: TinyCache, tmp_path: Path) -> None:
        with pytest.raises(CacheError, match=r"b: audio/mfcc: expected finite .* repair"):
            merge([open_cache(bent.folder)], tmp_path / "into")
        assert open_cache(tmp_path / "into").ids == []

    def test_pulling_takes_no_such_shard(
        self, bent: TinyCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        url = f"file://{bent.folder}"
        assert cache_command(["pull", url, str(tmp_path / "into")]) == 2
        assert "can't be used: b: audio/mfcc: expected finite" in capsys.readouterr().err
        assert list((tmp_path / "into" / "shards").glob("*.h5")) == []

    def test_a_row_whose_checksum_is_another_s(self, tmp_path: Path) -> None:
        """A shard of the right name, made by hand: its rows don't give their checksums."""
        tiny = tiny_cache(tmp_path / "cache")
        path = tiny.path(tiny.write("a", "b"))
        with h5py.File(path, "r+") as file:
            file["rows/sha256"][...] = file["rows/sha256"][()][::-1]
        path.rename(path.with_name(shard_name(file_sha256(path))))
        assert verify(tiny.folder).damaged_ids == ["a", "b"]


@pytest.mark.parametrize("name", ["labels/category", "rows/valid_s", "rows/media_s"])
def test_a_rightly_sealed_pack_with_a_table_of_other_data(tmp_path: Path, name: str) -> None:
    tiny = tiny_cache(tmp_path / "cache", LABELS)
    tiny.write("a", "b")
    path = tmp_path / "p.h5"
    pack(open_cache(tiny.folder), path)
    with h5py.File(path, "r+") as file:
        count = len(file[name])
        del file[name]
        file[name] = np.array([b"no number"] * count)
    write_seal(path)
    (problem,) = verify(path).problems
    assert name.removeprefix("labels/") in problem
    assert cache_command(["verify", str(path)]) == 1
    assert cache_command(["unpack", str(path), str(tmp_path / "back")]) == 2


SWAPS: dict[str, tuple[str, ...]] = {
    "rows": ("clip/row",),
    "ids": ("clip/row", "clip/sha256"),
    "everything but the id": tuple(f"clip/{name}" for name in COLUMNS),
    "checksums": ("clip/sha256",),
    "lengths": ("clip/valid_s",),
    "media": ("clip/media_size",),
}


class TestIndexAgainstShards:
    """A rightly sealed index that says what the shards don't."""

    @pytest.fixture
    def stored(self, tmp_path: Path) -> TinyCache:
        tiny = tiny_cache(tmp_path / "cache", LABELS)
        tiny.write("a", "b", "c", failures=[Failure("d", "audio", "no sound")])
        tiny.store_index()
        return tiny

    def swap(self, tiny: TinyCache, names: tuple[str, ...]) -> None:
        with h5py.File(tiny.folder / "index.h5", "r+") as file:
            for name in names:
                values = file[name][()]
                values[[0, 1]] = values[[1, 0]]
                file[name][...] = values
        write_seal(tiny.folder / "index.h5")

    @pytest.mark.parametrize("kind", SWAPS)
    def test_verify_tells_and_repair_mends(self, stored: TinyCache, kind: str) -> None:
        right = dict(load_index(stored.folder, stored.identity).clips)
        self.swap(stored, SWAPS[kind])
        assert dict(load_index(stored.folder, stored.identity).clips) != right
        report = verify(stored.folder)
        (problem,) = report.problems
        assert "index.h5: says otherwise of 1 shard(s) than they do themselves" in problem
        assert report.damaged_ids == []
        (told,) = repaired(stored)
        assert "written anew" in told
        assert dict(load_index(stored.folder, stored.identity).clips) == right
        assert verify(stored.folder).problems == []

    @pytest.mark.parametrize("kind", ["rows", "ids", "everything but the id", "checksums"])
    def test_readers_take_no_row_for_another_s(self, stored: TinyCache, kind: str) -> None:
        """So no model is trained on the wrong features."""
        self.swap(stored, SWAPS[kind])
        found = open_cache(stored.folder)
        for read in (
            lambda: found.read("audio/mel"),
            lambda: found.read("video/maps", [0]),
            lambda: list(found.by_shard(["video/maps"], [2, 1])),
            lambda: found.jpegs("b"),
        ):
            with pytest.raises(CacheError, match=r"other rows than the cache's index says.*repair"):
                read()
        assert len(found.read("audio/mel", [2])) == 1  # nothing is said against this one

    def test_an_index_of_an_earlier_release_will_do(self, stored: TinyCache) -> None:
        """It doesn't say where the ids are; the checksums it has."""
        with h5py.File(stored.folder / "index.h5", "r+") as file:
            del file["shard/id_place"]
        write_seal(stored.folder / "index.h5")
        assert verify(stored.folder).problems == []
        assert not open_cache(stored.folder).index.stale
        assert len(open_cache(stored.folder).read("audio/mel")) == 3
        for names in (("clip/row",), ("clip/row", "clip/sha256")):  # rows, then ids
            self.swap(stored, names)
            with pytest.raises(CacheError, match="other rows"):
                open_cache(stored.folder).read("audio/mel")
            self.swap(stored, names)

    @pytest.mark.parametrize("what", ["created_ns", "made_by", "jpeg_bytes"])
    def test_every_column_counts(self, stored: TinyCache, what: str) -> None:
        with h5py.File(stored.folder / "index.h5", "r+") as file:
            if what == "made_by":
                text = file["made_by_json"][()].tobytes().replace(b"random:0", b"random:1")
                file["made_by_json"][...] = np.frombuffer(text, np.uint8)
            else:
                file[f"clip/{what}"][1] += 1
        write_seal(stored.folder / "index.h5")
        assert "says otherwise" in verify(stored.folder).problems[0]

    def test_rows_that_it_keeps_to_itself(self, stored: TinyCache) -> None:
        index = load_index(stored.folder, stored.identity)
        for left in (
            replace(index, rows=index.rows[:1]),
            replace(index, reported=[]),
        ):
            save_index(stored.folder, stored.identity, left)
            assert "says otherwise" in verify(stored.folder).problems[0]

    def test_any_lie_is_refused_or_told(self, stored: TinyCache) -> None:
        """Columns exchanged, shifted and made up, sealed again: no clip gets another's features."""
        stored.write("e", "f", seed=30)
        path = stored.store_index()
        good, whole = path.read_bytes(), open_cache(stored.folder)
        rows = dict(zip(whole.ids, whole.read("audio/mel"), strict=True))
        rng, told = np.random.default_rng(0), 0
        for _ in range(60):
            path.write_bytes(good)
            with h5py.File(path, "r+") as file:
                for name in rng.choice(["id", *COLUMNS], int(rng.integers(1, 4)), replace=False):
                    values = file[f"clip/{name}"][()]
                    a, b = rng.choice(len(values), 2, replace=False)
                    values[[a, b]] = values[[b, a]]
                    if rng.random() < 0.3:
                        values = np.roll(values, 1, axis=0)
                    file[f"clip/{name}"][...] = values
            changed = path.read_bytes() != good
            write_seal(path)
            problems = verify(stored.folder).problems
            told += bool(problems)
            assert changed or not problems
            found = open_cache(stored.folder)
            for row, clip_id in enumerate(found.ids):
                try:
                    (mel,) = found.read("audio/mel", [row])
                except CacheError:
                    assert problems
                else:
                    assert mel.tobytes() == rows[clip_id].tobytes()
        assert told > 30

    def test_a_damaged_row_of_a_shard_that_it_swaps(self, stored: TinyCache) -> None:
        """Two faults at a time lose no more than the row that was hit."""
        index = load_index(stored.folder, stored.identity)
        entry = index.clips["c"]
        place = index.layout(entry.shard).span("audio/mel", entry.row, entry.row + 1)[0]
        other = stored.write("x", "y", seed=60)
        stored.store_index()
        self.swap(stored, ("clip/row",))
        flip(stored.folder / "shards" / entry.shard, place)
        assert len(verify(stored.folder).problems) == 1
        repaired(stored)
        found = open_cache(stored.folder)
        assert {"x", "y"} <= set(found.ids)
        assert "c" not in found.ids
        assert found.index.clips["x"].shard == other.name
        assert verify(stored.folder).problems == []


def test_the_record_says_what_was_found(stored: TinyCache) -> None:
    assert read_record(stored.folder) is None
    write_record(stored.folder, verify(stored.folder))
    record = read_record(stored.folder)
    assert record is not None
    assert (record["shards"], record["clips"], record["problems"]) == (2, 5, 0)
    assert record["damaged"] == {}
    assert (stored.folder / RECORD_FILE).read_bytes().startswith(b"{")


def test_damaged_labels_are_written_anew(stored: TinyCache) -> None:
    flip(stored.folder / "labels.h5", 900)
    assert "write the labels anew" in verify(stored.folder).problems[0]
    write_labels(stored.folder, LABELS)
    assert verify(stored.folder).problems == []


@pytest.fixture
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_signals")
def test_extraction_repeats_exactly_the_damaged_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = write_set(tmp_path / "set", 5)
    flags = ["--data", str(tmp_path / "set"), "--weights", "random:0", "--jobs", "1", *SMALL_FLAGS]
    assert main([*flags, "--cache", str(tmp_path / "whole")]) == 0
    folder = tmp_path / "cache"
    assert main([*flags, "--cache", str(folder)]) == 0
    index = load_index(folder, open_cache(folder).identity)
    entry = index.clips[ids[2]]
    path = folder / "shards" / entry.shard
    flip(path, index.layout(entry.shard).span("video/maps", entry.row, entry.row + 1)[0] + 7)

    (tmp_path / "set").rename(tmp_path / "away")  # verifying needs no media
    report = verify(folder)
    assert report.damaged == {entry.shard: [ids[2]]}
    write_record(folder, report)
    (tmp_path / "away").rename(tmp_path / "set")

    extracted = []
    works = extract.features.extractor.Extractor.__call__

    def note(self: extract.features.extractor.Extractor, source: MediaSource) -> Clip:
        extracted.append(source.id)
        return works(self, source)

    monkeypatch.setattr(extract.features.extractor.Extractor, "__call__", note)
    capsys.readouterr()
    assert main([*flags, "--cache", str(folder)]) == 0
    output = "".join(capsys.readouterr())
    assert "to do 1" in output
    assert f"to extract again: {ids[2]}" in output
    assert extracted == [ids[2]]
    assert_same_rows(open_cache(folder), open_cache(tmp_path / "whole"))
    assert verify(folder).problems == []
    extracted.clear()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([*flags, "--cache", str(folder)]) == 0
    assert extracted == []
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.usefixtures("_signals")
def test_a_clip_whose_newer_row_is_damaged_is_missing_until_extracted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its media changed, it was extracted again, then the newer row was hit."""
    data, folder = tmp_path / "set", tmp_path / "cache"
    ids = write_set(data, 3)
    flags = ["--data", str(data), "--weights", "random:0", "--jobs", "1", *SMALL_FLAGS]
    assert main([*flags, "--cache", str(folder)]) == 0
    before = open_cache(folder)
    old = before.read("audio/mel", [before.row(ids[1])]).tobytes()
    soundfile.write(data / "audio_wav" / f"{ids[1]}.wav", noise(0.9), RATE_HZ, "PCM_16")
    assert main([*flags, "--cache", str(folder)]) == 0
    changed = open_cache(folder)
    new = changed.read("audio/mel", [changed.row(ids[1])]).tobytes()
    assert new != old
    entry = changed.index.clips[ids[1]]
    place = changed.index.layout(entry.shard).span("audio/mel", entry.row, entry.row + 1)[0]
    flip(folder / "shards" / entry.shard, place)

    for _ in range(2):  # it stays so until it is extracted
        capsys.readouterr()
        assert cache_command(["repair", str(folder)]) == 1
        assert "2 clips; 1 lost, to extract again" in capsys.readouterr().out
        assert ids[1] not in open_cache(folder)
    assert cache_command(["verify", str(folder)]) == 0
    assert main([*flags, "--cache", str(folder)]) == 0
    found = open_cache(folder)
    assert found.read("audio/mel", [found.row(ids[1])]).tobytes() == new
    assert cache_command(["repair", str(folder)]) == 0


def test_repair_says_that_a_shard_s_clips_are_not_known(
    stored: TinyCache, capsys: pytest.CaptureFixture[str]
) -> None:
    (stored.folder / "index.h5").unlink()
    flip(next((stored.folder / "shards").glob("*.h5")), 0)
    assert cache_command(["repair", str(stored.folder)]) == 1
    text = capsys.readouterr().out
    assert "0 lost, to extract again, and those of 1 shard(s), which nobody knows" in text
    assert "where they have older rows, `make features` compares those with the media" in text


def test_silence_is_whole(tmp_path: Path) -> None:
    """Extracted from media without a sound, in pictures that are all the same."""
    data, folder = tmp_path / "set", tmp_path / "cache"
    ids = write_set(data, 2)
    soundfile.write(data / "audio_wav" / f"{ids[0]}.wav", np.zeros(RATE_HZ), RATE_HZ, "PCM_16")
    for path in (data / "video_frames" / ids[0]).iterdir():
        cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    flags = ["--data", str(data), "--weights", "random:0", "--jobs", "1", *SMALL_FLAGS]
    assert main([*flags, "--cache", str(folder)]) == 0
    assert sorted(open_cache(folder).ids) == sorted(ids)
    assert verify(folder).problems == []
