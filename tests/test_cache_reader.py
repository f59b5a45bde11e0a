"""Many shards as one dataset: order, subsets, pictures, laziness, and never a write."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_media import TinyCache, random_row, tiny_cache

from cache import Cache, CacheError, open_cache
from cache.format.index_file import load_index, save_index
from cache.format.schema import ROW_FIELDS
from cache.format.shard import Failure

SEED = {"d": 0, "b": 1, "e": 2, "a": 10, "c": 11}
"""Seed of each clip's row, as `three_shards` writes them."""


@pytest.fixture(scope="module")
def three_shards(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    tiny = tiny_cache(tmp_path_factory.mktemp("reader") / "cache")
    tiny.write("d", "b", "e", seed=0)
    tiny.write("a", "c", seed=10)
    tiny.write(failures=[Failure("broken", "audio", "no sound in it")])
    return open_cache(tiny.folder)


def test_everything_in_the_order_of_ids(three_shards: Cache) -> None:
    assert three_shards.ids == list("abcde")
    assert len(three_shards) == 5
    for name in three_shards.fields:
        values = three_shards.read(name)
        assert values.dtype == three_shards.fields[name].dtype
        for row, clip_id in enumerate("abcde"):
            wanted = random_row(clip_id, SEED[clip_id]).features[name]
            assert values[row].tobytes() == wanted.tobytes()


@given(st.lists(st.integers(0, 4), max_size=8))
@settings(max_examples=30)
def test_any_rows_in_any_order(three_shards: Cache, rows: list[int]) -> None:
    for name in ("audio/mel", "video/frame_time_s", "rows/valid_s", "rows/media_sha256"):
        wanted = three_shards.read(name)[rows]
        assert three_shards.read(name, rows).tobytes() == wanted.tobytes()


@given(st.lists(st.integers(0, 4), max_size=8))
@settings(max_examples=30)
def test_by_shard_covers_each_place_once(three_shards: Cache, rows: list[int]) -> None:
    names = ["audio/mfcc", "rows/media_size"]
    whole = {name: three_shards.read(name) for name in names}
    seen: list[int] = []
    blocks = 0
    for places, arrays in three_shards.by_shard(names, np.array(rows, np.int64)):
        blocks += 1
        seen += places.tolist()
        assert list(arrays) == names
        for name in names:
            assert arrays[name].tobytes() == whole[name][np.array(rows)[places]].tobytes()
    assert sorted(seen) == list(range(len(rows)))
    assert blocks == len({three_shards.index.clips["abcde"[row]].shard for row in rows})


def test_row_fields_and_pictures(three_shards: Cache) -> None:
    for clip_id, seed in SEED.items():
        wanted, row = random_row(clip_id, seed), three_shards.row(clip_id)
        assert three_shards.jpegs(clip_id) == wanted.jpegs
        for spec in ROW_FIELDS[:5]:
            value = three_shards.read(spec.name, [row])[0]
            assert value == getattr(wanted, spec.name.removeprefix("rows/"))


def test_a_clip_without_features_says_why(three_shards: Cache) -> None:
    assert "a" in three_shards
    assert "broken" not in three_shards
    for call in (three_shards.row, three_shards.jpegs):
        with pytest.raises(CacheError, match="'broken': it failed: no sound in it"):
            call("broken")
        with pytest.raises(CacheError, match="'unheard of': it was never extracted"):
            call("unheard of")


def test_unknown_names_list_the_known(three_shards: Cache) -> None:
    with pytest.raises(CacheError, match=r"no dataset 'audio/smell'; it has audio/mfcc"):
        three_shards.read("audio/smell")


def test_readers_never_write_and_need_no_permission(tmp_path: Path) -> None:
    tiny = tiny_cache(tmp_path / "cache")
    tiny.write("a")
    before = {path: path.stat().st_mtime_ns for path in tiny.folder.rglob("*")}
    for path in before:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    try:
        found = open_cache(tiny.folder)
        found.read("audio/mel")
        found.jpegs("a")
    finally:
        for path in before:
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert {path: path.stat().st_mtime_ns for path in tiny.folder.rglob("*")} == before


def test_no_file_stays_open(three_shards: Cache) -> None:
    three_shards.read("audio/mel")
    three_shards.jpegs("a")
    handles = list(Path("/proc/self/fd").iterdir())
    open_files = [str(path.readlink()) for path in handles if path.is_symlink()]
    assert not [name for name in open_files if name.startswith(str(three_shards.path))]


def test_a_shard_that_vanishes_is_an_error(tmp_path: Path) -> None:
    tiny: TinyCache = tiny_cache(tmp_path / "cache")
    path = tiny.path(tiny.write("a"))
    found = open_cache(tiny.folder)
    path.unlink()
    with pytest.raises(CacheError, match=path.name):
        found.read("audio/mel")


def test_a_reader_while_a_writer_works_sees_whole_rows_only(tmp_path: Path) -> None:
    tiny = tiny_cache(tmp_path / "cache")
    tiny.write("a")
    save_index(tiny.folder, tiny.identity, load_index(tiny.folder, tiny.identity))
    early = open_cache(tiny.folder)
    tiny.write("b")
    assert early.ids == ["a"]
    assert early.read("audio/mel").shape[0] == 1
    assert open_cache(tiny.folder).ids == ["a", "b"]
