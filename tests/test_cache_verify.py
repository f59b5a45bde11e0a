"""Damage: every flipped bit is found, the clip it hit is named, and only that one is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_media import (
    CONFIG,
    SMALL_FLAGS,
    TinyCache,
    assert_same_clip,
    assert_same_rows,
    random_row,
    tiny_cache,
    write_set,
)

import extract.features
from cache.annotations import Labels
from cache.errors import CacheError
from cache.folder import make_identity, parse_identity, render_identity
from cache.index import Index
from cache.index_file import load_index
from cache.labels_file import write_labels
from cache.lock import writer_lock
from cache.reader import open_cache
from cache.repair import damaged_shards, repair, without
from cache.rows import RowFile, jpeg_bounds
from cache.schema import JPEG_BYTES, JPEG_END
from cache.shard import Clip, Failure, write_shard
from cache.verify import RECORD_FILE, Report, intact_clips, read_record, verify, write_record
from extract.__main__ import main
from extract.clips import Source

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


def test_numbers_that_json_can_write_in_two_ways_are_covered() -> None:
    text = render_identity(make_identity(CONFIG.resolved("0" * 64), 1, {"step": 1e-05}))
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
        suspects = damaged_shards(tiny.folder, load_index(tiny.folder, tiny.identity))
        return repair(tiny.folder, tiny.identity, suspects)


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
        return list(intact_clips(tiny.folder / "shards" / shard, shard, index))

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
        assert found.row_origins() == [OLD, OLD]
        assert found.failure_origins() == {"x": OLD}
        assert found.index.failures == {"x": Failure("x", "video", "no picture", 2, 3, 4)}
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

    def test_a_whole_shard_is_left_alone(self, one: tuple[TinyCache, Path]) -> None:
        """Whatever the record says: it may be old, or a stranger's."""
        tiny, path = one
        write_record(tiny.folder, Report(damaged={path.name: ["a"], "../x.h5": ["b"]}))
        before = path.read_bytes()
        with writer_lock(tiny.folder):
            suspects = damaged_shards(tiny.folder, load_index(tiny.folder, tiny.identity))
            assert list(suspects) == [path.name]
            assert repair(tiny.folder, tiny.identity, suspects) == []
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
    works = extract.features.Extractor.__call__

    def note(self: extract.features.Extractor, source: Source) -> Clip:
        extracted.append(source.id)
        return works(self, source)

    monkeypatch.setattr(extract.features.Extractor, "__call__", note)
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
