"""Joining caches: whichever way, the same comes out; what contradicts is named, never guessed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_media import TinyCache, assert_same_rows, random_row, tiny_cache
from synthetic_cache import make_cache
from torch import Tensor

import cache.common.atomic
from cache import CacheError, Labels, open_cache
from cache.check.info import facts_of
from cache.check.verify import verify
from cache.format.shard import Failure, write_shard
from cache.labels.store import write_labels
from cache.share.merge import merge
from cache.share.merge_labels import events_by_clip
from cache.share.pack import pack
from cache.share.plan import CopyPlan
from extract.config import ExtractConfig
from train.config import TrainConfig
from train.data.dataset import Dataset, load_dataset, resolve

VIDEO_ONLY = {"modalities": "video", "num_frames": 1}  # the fewest datasets to open
MAKER = '{"made_by":"test"}'
EVENTS = {clip_id: (n % 3, 0.0, 0.01 * n, n % 4 - 1) for n, clip_id in enumerate("abcde")}
CLASSES = ["Bark", "Aeroplane", "Speech, man"]


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache.common.atomic, "sync", lambda path: None)
        yield


@pytest.fixture
def two(tmp_path: Path) -> tuple[TinyCache, TinyCache]:
    return tiny_cache(tmp_path / "a"), tiny_cache(tmp_path / "b")


def add(
    tiny: TinyCache,
    rows: dict[str, int],
    when: int = 100,
    failures: Sequence[Failure] = (),
    maker: str = MAKER,
) -> str:
    """A shard with a row of the given seed for each id, made at `when`; returns its name."""
    known = ExtractConfig.model_fields
    config = ExtractConfig.parse({n: v for n, v in tiny.identity.config.items() if n in known})
    clips = [random_row(clip_id, seed, config) for clip_id, seed in rows.items()]
    origins = dict.fromkeys([*rows, *(f.id for f in failures)], (when, maker))
    return write_shard(tiny.folder, tiny.identity, clips, failures, origins).name


def labels_of(ids: Sequence[str], order: Sequence[int] = (0, 1, 2), **changes: Any) -> Labels:
    """The events of EVENTS for some ids; `order` is that of the classes in the table."""
    events = [changes.get(clip_id, EVENTS[clip_id]) for clip_id in ids]
    return Labels(
        ids=list(ids),
        classes=[CLASSES[place] for place in order],
        category=np.array([list(order).index(event[0]) for event in events], np.int64),
        start_s=np.array([event[1] for event in events], np.float64),
        end_s=np.array([event[2] for event in events], np.float64),
        split=np.array([event[3] for event in events], np.int8),
        source="events.csv",
    )


def content(folder: Path) -> dict[str, Any]:
    """What a cache holds in effect, every row proved against its checksum."""
    found = open_cache(folder)
    rows = {}
    for name in found.index.shards:
        live = [m for m in found.index.members(name) if found.index.clips.get(m[1])]
        live = [m for m in live if found.index.clips[m[1]].shard == name]
        rows.update(
            {
                clip.id: member[2]
                for clip, member in zip(found.read_members(name, live), sorted(live), strict=True)
            }
        )
    labels = found.stored_labels()
    return {
        "rows": rows,
        "failures": found.index.failures,
        "events": events_by_clip(labels) if labels else {},
    }


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of every file but the lock."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def join(sources: Sequence[Path], target: Path, prefer: str | None = None) -> CopyPlan:
    return merge([open_cache(path) for path in sources], target, prefer)


def joined(sources: Sequence[Path], target: Path, prefer: str | None = None) -> Path:
    join(sources, target, prefer)
    return target


@st.composite
def described(draw: st.DrawFn, seeds: int) -> dict[str, Any]:
    """A small cache: shards of rows and failures made at some time, and labels."""
    shards = []
    for _ in range(draw(st.integers(0, 3))):
        whats = st.sampled_from(["row", "row", "failure"])
        held = draw(st.dictionaries(st.sampled_from("abcde"), whats, max_size=4))
        rows = {i: draw(st.integers(0, seeds - 1)) for i, what in held.items() if what == "row"}
        attempts = {i: draw(st.integers(1, 2)) for i in held if i not in rows}
        shards.append((draw(st.integers(1, 9)), rows, attempts))
    ids = draw(st.none() | st.lists(st.sampled_from("abcde"), unique=True))
    order = draw(st.permutations(range(3)))
    return {"shards": shards, "labels": None if ids is None else labels_of(ids, order)}


def build(folder: Path, description: dict[str, Any]) -> Path:
    tiny = tiny_cache(folder, description["labels"], **VIDEO_ONLY)
    for when, rows, attempts in description["shards"]:
        failures = [Failure(i, "audio", f"try {n}", n, n, when) for i, n in attempts.items()]
        add(tiny, rows, when, failures)
    return folder


def check_laws(descriptions: list[dict[str, Any]], prefer: str | None) -> None:
    """Commutative, associative, idempotent; proved by content, with and without the index."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        a, b, c = (build(top / n, d) for n, d in zip("abc", descriptions, strict=True))
        ab = joined([a, b], top / "ab", prefer)
        wanted = content(ab)
        assert content(joined([b, a], top / "ba", prefer)) == wanted
        (ab / "index.h5").unlink(missing_ok=True)
        assert content(ab) == wanted
        assert content(joined([a, a], top / "aa", prefer)) == content(a)
        bc = joined([b, c], top / "bc", prefer)
        all_at_once = content(joined([c, a, b], top / "abc", prefer))
        assert content(joined([ab, c], top / "(ab)c", prefer)) == all_at_once
        assert content(joined([a, bc], top / "a(bc)", prefer)) == all_at_once
        assert verify(top / "a(bc)").problems == []
        shutil.copytree(a, top / "in place")
        assert content(joined([b], top / "in place", prefer)) == wanted


@settings(max_examples=8)
@given(st.lists(described(seeds=1), min_size=3, max_size=3))
def test_laws_without_conflicts(descriptions: list[dict[str, Any]]) -> None:
    check_laws(descriptions, None)


@settings(max_examples=8)
@given(st.lists(described(seeds=3), min_size=3, max_size=3))
def test_laws_when_the_newest_wins(descriptions: list[dict[str, Any]]) -> None:
    check_laws(descriptions, "newest")


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(described(seeds=3), min_size=3, max_size=3), st.booleans())
def test_laws_at_length(descriptions: list[dict[str, Any]], conflicts: bool) -> None:
    if not conflicts:
        for description in descriptions:
            shards = description["shards"]
            description["shards"] = [(t, dict.fromkeys(r, 0), f) for t, r, f in shards]
    check_laws(descriptions, "newest" if conflicts else None)


class TestConflicts:
    @pytest.fixture
    def apart(self, two: tuple[TinyCache, TinyCache]) -> tuple[Path, Path]:
        """A and B agree on `same`, differ on `x` (newer in B) and `y` (newer in A)."""
        a, b = two
        add(a, {"same": 0, "x": 1, "a": 2}, 100)
        add(a, {"y": 3}, 400)
        add(b, {"same": 0, "x": 4}, 200)
        add(b, {"y": 5, "b": 6}, 300)
        return a.folder, b.folder

    @pytest.mark.parametrize("made", ["absent", "empty"])
    def test_are_named_and_nothing_is_written(
        self, apart: tuple[Path, Path], tmp_path: Path, made: str
    ) -> None:
        target = tmp_path / "new"
        if made == "empty":
            target.mkdir()
        with pytest.raises(CacheError, match=r"2 clip\(s\) have different rows .*: x, y; .*prefer"):
            join(apart, target)
        assert target.exists() == (made == "empty")
        assert made == "absent" or not list(target.iterdir())

    def test_of_the_time_of_a_media_file_are_none(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path
    ) -> None:
        """It was copied, say, to another machine: whichever cache comes first gives the row."""
        a, b = two
        for one, mtime_ns in ((a, 5), (b, 7)):
            rows = [replace(random_row(name, 1), media_mtime_ns=mtime_ns) for name in ("x", "y")]
            write_shard(one.folder, one.identity, rows)
        for sources, mtime_ns in (((a, b), 5), ((b, a), 7)):
            target = tmp_path / f"new{mtime_ns}"
            done = join([one.folder for one in sources], target)
            assert (done.clips, done.settled) == (2, [])
            assert open_cache(target).media_stamps[1].tolist() == [mtime_ns] * 2
        assert join([b.folder], a.folder).clips == 0
        packed = tmp_path / "b.h5"
        pack(open_cache(b.folder), packed)
        assert join([packed], a.folder).clips == 0
        assert open_cache(a.folder).media_stamps[1].tolist() == [5] * 2

    def test_of_the_same_file_whose_features_differ_are_some(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path
    ) -> None:
        a, b = two
        row = random_row("x", 1)
        write_shard(a.folder, a.identity, [row])
        mel = row.features["audio/mel"].copy()
        mel[0, 0] += 1
        other = replace(row, features={**row.features, "audio/mel": mel})
        write_shard(b.folder, b.identity, [other])
        with pytest.raises(CacheError, match=r"1 clip\(s\) have different rows"):
            join([a.folder, b.folder], tmp_path / "new")

    def test_leave_an_existing_cache_as_it_was(self, apart: tuple[Path, Path]) -> None:
        before = files(apart[0])
        with pytest.raises(CacheError, match="2 clip"):
            join([apart[1]], apart[0])
        assert files(apart[0]) == before

    @pytest.mark.parametrize(
        ("prefer", "x", "y"), [("newest", 4, 3), ("a", 1, 3), ("b", 4, 5), ("a/", 1, 3)]
    )
    def test_prefer_settles(
        self, apart: tuple[Path, Path], tmp_path: Path, prefer: str, x: int, y: int
    ) -> None:
        if prefer != "newest":
            prefer = f"{tmp_path}/{prefer}"
        done = join(apart, tmp_path / "new", prefer)
        assert sorted(done.settled) == ["x", "y"]
        found = open_cache(tmp_path / "new")
        assert found.ids == ["a", "b", "same", "x", "y"]
        for clip_id, seed in (("x", x), ("y", y)):
            mel = found.read("audio/mel", [found.row(clip_id)])[0]
            assert mel.tobytes() == random_row(clip_id, seed).features["audio/mel"].tobytes()

    @pytest.mark.parametrize("prefer", ["newest", "a", "b"])
    def test_settled_once_is_settled(
        self, apart: tuple[Path, Path], tmp_path: Path, prefer: str
    ) -> None:
        prefer = prefer if prefer == "newest" else str(tmp_path / prefer)
        target = joined(apart, tmp_path / "new", prefer)
        before = files(target)
        assert join(apart, target, prefer).clips == 0
        assert files(target) == before

    @pytest.mark.parametrize("prefer", ["a", "b"])
    def test_an_older_row_that_won_stays(
        self, apart: tuple[Path, Path], tmp_path: Path, prefer: str
    ) -> None:
        """The row that lost is still in a shard of the target, and must not count again."""
        a, b = apart
        target = a if prefer == "b" else b
        other = b if prefer == "b" else a
        join([other], target, str(other))
        wanted = {"x": 1, "y": 3} if prefer == "a" else {"x": 4, "y": 5}
        for change in ("merge", "index", "reopen"):
            if change == "merge":
                extra = tiny_cache(tmp_path / "extra")
                add(extra, {"z": 9}, 10**6)
                join([extra.folder, other], target)
            elif change == "index":
                (target / "index.h5").unlink()
            found = open_cache(target)
            for clip_id, seed in wanted.items():
                mel = found.read("audio/mel", [found.row(clip_id)])[0]
                assert mel.tobytes() == random_row(clip_id, seed).features["audio/mel"].tobytes()
        assert verify(target).problems == []

    def test_prefer_has_no_word_on_clips_it_lacks(
        self, apart: tuple[Path, Path], tmp_path: Path
    ) -> None:
        third = tiny_cache(tmp_path / "third")
        add(third, {"z": 1})
        with pytest.raises(CacheError, match=r"2 clip\(s\) have different rows"):
            join([*apart, third.folder], tmp_path / "new", str(third.folder))
        assert not (tmp_path / "new").exists()

    def test_prefer_of_the_target(self, apart: tuple[Path, Path], tmp_path: Path) -> None:
        a, b = apart
        with pytest.raises(CacheError, match=r"2 clip\(s\)"):  # holds nothing to prefer yet
            join([a, b], tmp_path / "new", str(tmp_path / "new"))
        assert not (tmp_path / "new").exists()
        before = content(a)["rows"]
        join([b], a, str(a))
        assert content(a)["rows"] == {**before, "b": content(a)["rows"]["b"]}

    def test_prefer_of_something_else(self, apart: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(CacheError, match=r"prefer: expected newest or one of .*found 'oldest'"):
            join(apart, tmp_path / "new", "oldest")


class TestSpellings:
    def test_one_clip_under_two_is_refused(self, tmp_path: Path) -> None:
        """It would be two clips, in training and in test maybe."""
        a, b = (tiny_cache(tmp_path / name) for name in "ab")
        a.write("caf\u00e9", "x", seed=0)
        b.write("cafe\u0301", "y", seed=9)
        with pytest.raises(
            CacheError, match=r"1 clip\(s\) stand in these .* two spellings .*caf\u00e9"
        ):
            join([a.folder, b.folder], tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_cache_that_has_both_is_what_it_is(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a")
        tiny.write("caf\u00e9", "cafe\u0301")
        for _ in range(2):
            join([tiny.folder], tmp_path / "new")
        assert open_cache(tmp_path / "new").ids == ["cafe\u0301", "caf\u00e9"]


class TestSettings:
    def test_other_settings_are_refused_by_name(self, tmp_path: Path) -> None:
        a, b = tiny_cache(tmp_path / "a"), tiny_cache(tmp_path / "b", n_mels=16)
        for sources, target in (([a, b], tmp_path / "new"), ([b], a.folder)):
            before = files(a.folder)
            with pytest.raises(CacheError, match=r"(?s)other settings.*n_mels: \d+ here, \d+ in"):
                join([tiny.folder for tiny in sources], target)
            assert files(a.folder) == before
        assert not (tmp_path / "new").exists()

    def test_a_file_as_target(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a")
        (tmp_path / "x.h5").write_text("mine")
        with pytest.raises(CacheError, match=r"x\.h5: a file; expected the folder"):
            join([tiny.folder], tmp_path / "x.h5")
        assert (tmp_path / "x.h5").read_text() == "mine"

    def test_no_cache_as_target_folder_is_made_one(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a")
        tiny.write("a")
        (tmp_path / "new").mkdir()
        join([tiny.folder], tmp_path / "new")
        assert_same_rows(open_cache(tmp_path / "new"), open_cache(tiny.folder))


class TestDamage:
    @pytest.mark.parametrize("shared", [False, True])
    def test_of_a_row_names_the_clip(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path, shared: bool
    ) -> None:
        """Whether its shard is copied whole, or row by row (as the other cache has one of it)."""
        a, b = two
        name = add(a, {"one": 0, "bad": 1, "three": 2})
        a.store_index()
        add(b, {"one": 0} if shared else {"z": 0})
        path = a.folder / "shards" / name
        with h5py.File(path) as file:
            maps = file["video/maps"]
            place = maps.id.get_offset() + maps.nbytes // 3 + 5
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(CacheError, match=r"(checksums:|damaged: rows) bad; run .*repair"):
            join([b.folder, a.folder], tmp_path / "new")
        assert "bad" not in open_cache(tmp_path / "new")

    def test_outside_of_rows_is_refused_too(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a")
        path = tiny.path(tiny.write("a"))
        tiny.store_index()
        path.write_bytes(path.read_bytes() + b"\0")
        data = bytearray(path.read_bytes()[:-1])
        data[60] ^= 1
        path.write_bytes(data)
        with pytest.raises(CacheError, match="repair"):
            join([tiny.folder], tmp_path / "new")

    def test_an_unreadable_shard_is_not_passed_over(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a")
        tiny.write("a")
        tiny.path(tiny.write("b")).write_bytes(b"gone")
        with pytest.raises(CacheError, match=r"1 shard\(s\) of .*a can't be read.*repair"):
            join([tiny.folder], tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_pack_is_proved_before_anything_is_written(self, tmp_path: Path) -> None:
        """Failures and origins have no checksum but the pack's own."""
        tiny = tiny_cache(tmp_path / "a")
        tiny.write("a", failures=[Failure("f", "audio", "expected sound, found none")])
        pack(open_cache(tiny.folder), tmp_path / "p.h5")
        data = (tmp_path / "p.h5").read_bytes()
        assert data.count(b"expected sound") == 1
        (tmp_path / "p.h5").write_bytes(data.replace(b"expected sound", b"expected round"))
        with pytest.raises(CacheError, match=r"p\.h5: its bytes don't match .*verify"):
            join([tmp_path / "p.h5"], tmp_path / "new")
        assert not (tmp_path / "new").exists()


class TestExisting:
    def test_repeated_changes_no_file(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path
    ) -> None:
        a, b = two
        add(a, {"a": 0, "both": 1}, failures=[Failure("f", "audio", "x")])
        add(b, {"both": 1, "b": 2}, failures=[Failure("f", "audio", "x", 2)])
        write_labels(a.folder, labels_of("ab"))
        write_labels(b.folder, labels_of("bc", (2, 1, 0)))
        target = tmp_path / "new"
        done = join([a.folder, b.folder], target)
        assert (done.clips, done.kept, done.failures) == (3, 0, 1)
        before = files(target)
        for sources in ([a, b], [b, a], [a]):
            done = join([tiny.folder for tiny in sources], target)
            assert (done.clips, done.kept, done.failures) == (0, 3, 0)
            assert done.settled == []
            assert done.changed_splits == {}
            assert files(target) == before
        assert open_cache(target).label_history() == []

    def test_only_what_lacks_is_added(self, two: tuple[TinyCache, TinyCache]) -> None:
        a, b = two
        add(a, {"a": 0})
        before = files(a.folder)
        name = add(b, {"b": 1, "c": 2})
        done = join([b.folder], a.folder)
        assert (done.clips, done.kept) == (2, 1)
        after = files(a.folder)
        assert {n for n in after if n not in before} == {f"shards/{name}", "index.h5"}
        assert all(after[n] == before[n] for n in before)
        assert not open_cache(a.folder).index.stale

    def test_with_itself(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a")
        tiny.write("a", "b")
        tiny.store_index()
        before = files(tiny.folder)
        assert join([tiny.folder], tiny.folder).clips == 0
        assert files(tiny.folder) == before


class TestFailures:
    @pytest.mark.parametrize("in_place", [False, True])
    def test_a_row_beats_a_later_failure(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path, in_place: bool
    ) -> None:
        a, b = two
        add(a, {}, 900, [Failure("x", "audio", "no sound", 3)])
        add(b, {"x": 1}, 100)
        target = a.folder if in_place else tmp_path / "new"
        for sources in ([b.folder], [a.folder, b.folder], [b.folder]):
            join(sources, target)
            (target / "index.h5").unlink(missing_ok=True)
            found = open_cache(target)
            assert (found.ids, found.index.failures) == (["x"], {})

    def test_a_failure_does_not_replace_a_row(self, two: tuple[TinyCache, TinyCache]) -> None:
        a, b = two
        add(a, {"x": 1}, 100)
        add(b, {"y": 2}, 900, [Failure("x", "audio", "no sound", 3)])
        join([b.folder], a.folder)
        assert open_cache(a.folder).ids == ["x", "y"]

    def test_the_last_attempt_counts_not_an_earlier_one(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path
    ) -> None:
        """Also when the earlier one's shard could be copied whole, and the last one's not."""
        a, b = two
        add(a, {"one": 0}, 100, [Failure("x", "audio", "first", 1)])
        add(a, {"two": 1}, 200, [Failure("x", "audio", "second", 2)])
        add(b, {"two": 1}, 300)
        join([b.folder, a.folder], tmp_path / "new")
        assert open_cache(tmp_path / "new").index.failures["x"].message == "second"


class TestLabels:
    def test_join_clip_by_clip(self, two: tuple[TinyCache, TinyCache], tmp_path: Path) -> None:
        a, b = two
        write_labels(a.folder, labels_of("ab", (1, 0, 2)))
        write_labels(b.folder, labels_of("bcd", (2, 0, 1)))
        join([a.folder, b.folder], tmp_path / "new")
        labels = open_cache(tmp_path / "new").labels
        assert events_by_clip(labels) == events_by_clip(labels_of("abcd"))
        assert labels.classes == sorted(CLASSES)

    def test_one_alone_keeps_its_order(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path
    ) -> None:
        a, b = two
        write_labels(a.folder, labels_of("cab", (1, 0, 2)))
        join([b.folder, a.folder], tmp_path / "new")
        assert open_cache(tmp_path / "new").labels.equals(labels_of("cab", (1, 0, 2)))

    @pytest.mark.parametrize("event", [(1, 0.0, 0.0, -1), (0, 0.0, 0.05, -1), (0, 0.0, 0.0, 2)])
    def test_contradictions_are_named(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path, event: tuple[Any, ...]
    ) -> None:
        a, b = two
        write_labels(a.folder, labels_of("ab"))
        write_labels(b.folder, labels_of("ab", a=event))
        for prefer in (None, "newest"):
            with pytest.raises(
                CacheError, match=r"1 clip\(s\) have different events .*: a; .*PATH"
            ):
                join([a.folder, b.folder], tmp_path / "new", prefer)
            assert not (tmp_path / "new").exists()
        for number, tiny in enumerate(two):
            target = joined([a.folder, b.folder], tmp_path / f"{number}", str(tiny.folder))
            assert content(target)["events"] == content(tiny.folder)["events"]

    def test_a_replaced_table_is_noted(self, two: tuple[TinyCache, TinyCache]) -> None:
        a, b = two
        write_labels(a.folder, labels_of("ab"))
        write_labels(b.folder, labels_of("c"))
        join([b.folder], a.folder)
        assert [entry["events"] for entry in open_cache(a.folder).label_history()] == [2]

    def test_prefer_has_no_word_on_clips_it_lacks(
        self, two: tuple[TinyCache, TinyCache], tmp_path: Path
    ) -> None:
        a, b = two
        third = tiny_cache(tmp_path / "third", labels_of("c"))
        write_labels(a.folder, labels_of("ab"))
        write_labels(b.folder, labels_of("ab", a=(1, 0.0, 0.0, -1)))
        with pytest.raises(CacheError, match="different events"):
            join([a.folder, b.folder, third.folder], tmp_path / "new", str(third.folder))


def test_what_made_the_rows_is_kept(two: tuple[TinyCache, TinyCache], tmp_path: Path) -> None:
    a, b = two
    add(a, {"a": 0, "both": 1}, 100, maker='{"machine":"one"}')
    add(b, {"both": 1, "b": 2, "c": 3}, 200, maker='{"machine":"two"}')
    join([a.folder, b.folder], tmp_path / "new")
    made_by = facts_of(open_cache(tmp_path / "new"))["made_by"]
    assert {(made["machine"], made["clips"]) for made in made_by} == {("one", 2), ("two", 2)}
    found = open_cache(tmp_path / "new")
    times = dict(zip(found.ids, (when for when, _ in found.row_origins), strict=True))
    assert times == {"a": 100, "both": 100, "b": 200, "c": 200}


def cells(dataset: Dataset) -> Tensor | None:
    return None if dataset.clips.maps is None else dataset.clips.maps.cells


def test_trains_like_the_whole(tmp_path: Path) -> None:
    """Caches of two halves, one handed over as a pack, are one cache to training."""
    whole = make_cache(tmp_path / "whole", clips=8, classes=2, clip_seconds=1.0, num_frames=2)
    ids = open_cache(whole).ids
    for name, part in (("a", ids[:5]), ("b", ids[3:])):
        shutil.copytree(whole, tmp_path / name)
        shutil.rmtree(tmp_path / name / "shards")
        found = open_cache(whole)
        (shard,) = found.index.shards
        members = [member for member in found.index.members(shard) if member[1] in part]
        write_shard(tmp_path / name, found.identity, found.read_members(shard, members))
    pack(open_cache(tmp_path / "b"), tmp_path / "b.h5", compress=True)
    join([tmp_path / "a", tmp_path / "b.h5"], tmp_path / "new")
    tables = []
    for path in (whole, tmp_path / "new"):
        found = open_cache(path)
        config = resolve(TrainConfig(device="cpu"), found, found.labels.classes)
        tables.append(load_dataset(found, config))
    one, two = tables
    assert one.ids == two.ids
    for mine, theirs in ((one.clips.audio, two.clips.audio), (cells(one), cells(two))):
        assert mine is not None
        assert theirs is not None
        assert np.array_equal(mine.numpy(), theirs.numpy())
