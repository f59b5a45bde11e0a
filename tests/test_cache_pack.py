"""One file to hand over: nothing is lost on the way, and nothing in a stranger's is believed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from small_media import CONFIG, TinyCache, assert_same_rows, random_row, tiny_cache
from synthetic_cache import make_cache

from cache import Cache, CacheError, Labels, open_cache
from cache.check.verify import verify
from cache.common.atomic import TEMPORARY
from cache.format.sealed import write_seal
from cache.format.shard import Failure, write_shard
from cache.labels.store import write_labels
from cache.share.merge import merge
from cache.share.pack import pack
from extract.config import ExtractConfig
from train.config import TrainConfig
from train.data.dataset import load_dataset, resolve

BOTH_WAYS = pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
ROOT = Path(__file__).parent.parent


def some_labels(source: str) -> Labels:
    return Labels(
        ids=["a", "-é", "a"],
        classes=["Speech, man", "Bark"],
        category=np.array([1, 0, 0]),
        start_s=np.array([0.0, 0.25, 0.5]),
        end_s=np.array([1.0, 0.25, 0.75]),
        split=np.array([0, -1, 2], np.int8),
        source=source,
        notes=["one ü"],
    )


def full_cache(folder: Path, **changes: Any) -> TinyCache:
    """Superseded rows, failures (one retried, one since extracted), relabelled, two makers."""
    tiny = tiny_cache(folder, **changes)
    config = ExtractConfig.parse(
        {n: v for n, v in tiny.identity.config.items() if n in ExtractConfig.model_fields}
    )

    def rows(seed: int, *ids: str) -> list[Any]:
        made = [random_row(clip_id, seed + n, config) for n, clip_id in enumerate(ids)]
        sound_only = config.modalities == "audio"
        return [type(c)(**{**vars(c), "jpegs": []}) if sound_only else c for c in made]

    one, two = '{"machine":"one"}', '{"machine":"two","weights":"ü"}'
    failures = [Failure("f", "audio", "expected sound", 1, 5, 6), Failure("b", "video", "bad")]
    origins = dict.fromkeys(["a", "old", "f", "b"], (100, one))
    write_shard(folder, tiny.identity, rows(0, "a", "old"), failures, origins)
    again = [Failure("f", "audio", "expected söund", 2, 7, 8)]
    origins = {"old": (300, two), "b": (200, one), "-é": (300, two), "f": (250, two)}
    write_shard(folder, tiny.identity, rows(10, "old", "b", "-é"), again, origins)
    for source in ("first.csv", "second.csv"):
        write_labels(folder, some_labels(source))
    return tiny


def packed(tiny: TinyCache, target: Path, compress: bool = False) -> Cache:
    pack(open_cache(tiny.folder), target, compress)
    return open_cache(target)


def join(sources: Sequence[Path], target: Path) -> None:
    merge([open_cache(path) for path in sources], target)


def assert_same_cache(found: Cache, wanted: Cache) -> None:
    """Everything that counts: rows, pictures, failures, labels, their history, origins."""
    assert_same_rows(found, wanted)
    assert found.identity == wanted.identity
    assert found.index.failures == wanted.index.failures
    assert found.row_origins == wanted.row_origins
    assert found.failure_origins == wanted.failure_origins
    mine, theirs = found.stored_labels(), wanted.stored_labels()
    assert (mine is None) == (theirs is None)
    assert mine is None or theirs is None or mine.equals(theirs)


class TestLossless:
    @BOTH_WAYS
    @pytest.mark.parametrize("modalities", ["both", "audio", "video"])
    def test_there_and_back(self, tmp_path: Path, compress: bool, modalities: str) -> None:
        tiny = full_cache(tmp_path / "a", modalities=modalities)
        wanted = open_cache(tiny.folder)
        found = packed(tiny, tmp_path / "p.h5", compress)
        assert_same_cache(found, wanted)
        assert found.ids == ["-é", "a", "b", "old"]
        assert list(found.index.failures) == ["f"]
        assert bool(found.index.chunks) == compress
        assert found.label_history() == wanted.label_history()
        assert [entry["source"] for entry in found.label_history()] == ["first.csv"]
        join([tmp_path / "p.h5"], tmp_path / "back")
        assert_same_cache(open_cache(tmp_path / "back"), wanted)
        assert verify(tmp_path / "p.h5").problems == verify(tmp_path / "back").problems == []

    @BOTH_WAYS
    def test_an_empty_cache(self, tmp_path: Path, compress: bool) -> None:
        tiny = tiny_cache(tmp_path / "a")
        assert_same_cache(packed(tiny, tmp_path / "p.h5", compress), open_cache(tiny.folder))
        join([tmp_path / "p.h5"], tmp_path / "back")
        assert_same_cache(open_cache(tmp_path / "back"), open_cache(tiny.folder))

    @BOTH_WAYS
    def test_failures_alone(self, tmp_path: Path, compress: bool) -> None:
        tiny = tiny_cache(tmp_path / "a")
        tiny.write(failures=[Failure("f", "audio", "expected sound")])
        assert_same_cache(packed(tiny, tmp_path / "p.h5", compress), open_cache(tiny.folder))

    def test_untouched_shards_come_back_byte_for_byte(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a", modalities="video", num_frames=1)
        config = CONFIG.revised(modalities="video", num_frames=1)
        for number in range(2):
            clips = [random_row(f"{number}-{n:02}", n, config) for n in range(32)]
            write_shard(tiny.folder, tiny.identity, clips)
        packed(tiny, tmp_path / "p.h5", compress=True)
        join([tmp_path / "p.h5"], tmp_path / "back")
        before, after = (
            {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}
            for folder in (tiny.folder, tmp_path / "back")
        )
        assert before == after

    def test_a_pack_of_a_pack(self, tmp_path: Path) -> None:
        tiny = full_cache(tmp_path / "a")
        one = packed(tiny, tmp_path / "1.h5")
        pack(one, tmp_path / "2.h5", compress=True)
        pack(open_cache(tmp_path / "2.h5"), tmp_path / "3.h5")
        assert_same_cache(open_cache(tmp_path / "2.h5"), one)
        assert (tmp_path / "3.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()

    @BOTH_WAYS
    def test_plain_h5py_reads_it(self, tmp_path: Path, compress: bool) -> None:
        """The six lines of docs/format.md work on a pack as well."""
        tiny = full_cache(tmp_path / "a")
        found = packed(tiny, tmp_path / "p.h5", compress)
        with h5py.File(tmp_path / "p.h5") as file:
            ids = list(file["rows/id"].asstr("utf-8"))
            for name in found.fields:
                rows = [found.row(clip_id) for clip_id in ids]
                assert file[name][()].tobytes() == found.read(name, rows).tobytes(), name
            for row, clip_id in enumerate(ids):
                ends = [0, *file["video/jpeg_end"][()].ravel().tolist()]
                data = file["video/jpeg"][ends[2 * row] : ends[2 * row + 1]].tobytes()
                assert data == found.jpegs(clip_id)[0]

    def test_compression_pays_on_what_can_be_compressed(self, tmp_path: Path) -> None:
        cache = open_cache(make_cache(tmp_path / "a", clips=3, num_frames=2))
        sizes = [pack(cache, tmp_path / f"{way}.h5", way) for way in (False, True)]
        assert sizes[1] < 0.95 * sizes[0]
        assert sizes == [(tmp_path / f"{way}.h5").stat().st_size for way in (False, True)]

    @BOTH_WAYS
    def test_trains_like_its_folder(self, tmp_path: Path, compress: bool) -> None:
        folder = make_cache(tmp_path / "a", clips=8, classes=2, clip_seconds=1.0, num_frames=2)
        pack(open_cache(folder), tmp_path / "p.h5", compress)
        tables = []
        for path in (folder, tmp_path / "p.h5"):
            cache = open_cache(path)
            config = resolve(TrainConfig(device="cpu"), cache, cache.labels.classes)
            tables.append(load_dataset(cache, config))
        one, two = tables
        assert (one.ids, one.classes) == (two.ids, two.classes)
        for name in ("audio", "audio_valid", "maps", "frame_time_s", "frame_span_s"):
            mine, theirs = getattr(one.clips, name), getattr(two.clips, name)
            if name == "maps":
                mine, theirs = mine.cells, theirs.cells
            assert mine.numpy().tobytes() == theirs.numpy().tobytes(), name


class TestFlippedBits:
    @BOTH_WAYS
    @pytest.mark.parametrize("flips", [150, pytest.param(3000, marks=pytest.mark.slow)])
    def test_every_one_is_found(self, tmp_path: Path, compress: bool, flips: int) -> None:
        tiny = full_cache(tmp_path / "a")
        path = tmp_path / "p.h5"
        found = packed(tiny, path, compress)
        good = path.read_bytes()
        rng = np.random.default_rng(int(compress))
        for place in rng.integers(0, len(good), flips).tolist():
            bent = bytearray(good)
            bent[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bent)
            report = verify(path)
            assert len(report.problems) == 1, place
            assert set(report.damaged_ids) <= set(found.ids)
        path.write_bytes(good[:-1])
        assert len(verify(path).problems) == 1

    @BOTH_WAYS
    def test_the_row_that_it_hit_is_named(self, tmp_path: Path, compress: bool) -> None:
        tiny = full_cache(tmp_path / "a")
        path = tmp_path / "p.h5"
        found = packed(tiny, path, compress)
        good = path.read_bytes()
        layout = found.index.layout("p.h5")
        for clip_id in found.ids[1:3]:
            row = found.index.clips[clip_id].row
            for name in ("video/maps", "audio/mel", "rows/valid_s"):
                start, stop = layout.span(name, row, row + 1)
                bent = bytearray(good)
                bent[(start + stop) // 2] ^= 4
                path.write_bytes(bent)
                assert verify(path).damaged_ids == [clip_id], name
                with pytest.raises(CacheError, match=rf"checksums: {clip_id};|compressed row"):
                    pack(open_cache(path), tmp_path / "again.h5")
                assert not (tmp_path / "again.h5").exists()


def drop(file: h5py.File, name: str, values: Any = None, **options: Any) -> None:
    """Replace a dataset, or remove it."""
    del file[name]
    if values is not None or options:
        file.create_dataset(name, data=values, **options)


def chunk(column: int, value: int) -> Callable[[h5py.File], None]:
    def bend(file: h5py.File) -> None:
        file["chunks/video/maps"][1, column] = value

    return bend


def bomb(file: h5py.File) -> None:
    """A chunk that grows to 64 MB, in place of a row of some kB, as HDF5 would store it."""
    data = zlib.compress(bytes(1 << 26))
    dataset = file["video/maps"].id
    dataset.write_direct_chunk((1, 0, 0, 0, 0), data)
    info = dataset.get_chunk_info_by_coord((1, 0, 0, 0, 0))
    file["chunks/video/maps"][1] = info.byte_offset, info.size


def short_bomb(file: h5py.File) -> None:
    """As many bytes as a row may take when compressed, that grow a thousandfold."""
    size = file["chunks/video/maps"][1, 1]
    data = zlib.compress(bytes(900 * int(size)))
    assert len(data) <= size
    dataset = file["video/maps"].id
    dataset.write_direct_chunk((1, 0, 0, 0, 0), data)
    info = dataset.get_chunk_info_by_coord((1, 0, 0, 0, 0))
    file["chunks/video/maps"][1] = info.byte_offset, info.size


def json_text(name: str, text: str) -> Callable[[h5py.File], None]:
    return lambda file: drop(file, name, np.frombuffer(text.encode(), np.uint8))


def attribute(name: str, value: object, group: str = "/") -> Callable[[h5py.File], None]:
    def bend(file: h5py.File) -> None:
        del file[group].attrs[name]
        file[group].attrs[name] = value

    return bend


def twice(file: h5py.File) -> None:
    ids = file["rows/id"][()]
    ids[1] = ids[0]
    file["rows/id"][...] = ids


class TestStrangers:
    """Each pack here bears a right seal: whoever bends it can seal it again."""

    @pytest.mark.parametrize(
        ("bend", "why"),
        [
            (chunk(0, -1), "lie outside the file"),
            (chunk(1, -1), "lie outside the file"),
            (chunk(0, 1 << 40), "lie outside the file"),
            (chunk(1, 1 << 62), "lie outside the file"),
            (chunk(0, 2**63 - 1), "lie outside the file"),
            (chunk(1, 2**63 - 1), "lie outside the file"),
            (lambda f: drop(f, "chunks/video/maps"), "missing, or a link"),
            (lambda f: drop(f, "chunks/video/maps", np.zeros((3, 2), np.int64)), "expected int64"),
            (lambda f: drop(f, "chunks/video/maps", np.zeros((4, 2))), "expected int64"),
            (
                lambda f: drop(f, "chunks/video/maps", shape=(1 << 40, 2), dtype=np.int64),
                "claims more bytes|expected int64",
            ),
            (attribute("packed", 2), "a pack of version 2, this program reads 1"),
            (attribute("packed", "x"), "packed is no plain text|a pack of version"),
            (attribute("format", np.bytes_(b"other")), "not a packed cache"),
            (json_text("cache_json", "{"), "not a cache identity"),
            (json_text("cache_json", "[]"), "not a cache identity"),
            (json_text("cache_json", "[" * 100_000), "not a cache identity"),
            (json_text("cache_json", " " * (1 << 21)), "larger than any identity"),
            (lambda f: drop(f, "cache_json"), "missing, or a link"),
            (twice, "an id in two rows"),
            (json_text("origin/made_by_json", "{}"), "origins"),
            (json_text("origin/made_by_json", '[1, "y"]'), "provenance is no short text"),
            (json_text("origin/made_by_json", f'["{"x" * 40_000}"]'), "no short text"),
            (json_text("origin/made_by_json", "[" * 100_000), "origins"),
            (lambda f: drop(f, "origin/rows_made_by", np.full(4, 7)), "origins"),
            (lambda f: drop(f, "origin/rows_made_by", np.full(4, -1)), "impossible"),
            (lambda f: drop(f, "origin/rows_created_ns", np.full(4, 2**63 - 1)), "impossible"),
            (lambda f: drop(f, "origin/rows_created_ns", np.full(4, -1)), "impossible"),
            (lambda f: drop(f, "origin/rows_created_ns", np.zeros(2, np.int64)), "expected int64"),
            (lambda f: drop(f, "failures/attempt", np.zeros(9, np.int64)), "expected int64"),
            (lambda f: drop(f, "rows/sha256"), "missing, or a link"),
        ],
    )
    def test_are_refused(
        self, tmp_path: Path, bend: Callable[[h5py.File], object], why: str
    ) -> None:
        tiny = full_cache(tmp_path / "a")
        path = tmp_path / "p.h5"
        packed(tiny, path, compress=True)
        with h5py.File(path, "r+") as file:
            bend(file)
        write_seal(path)
        with pytest.raises(CacheError, match=why) as caught:
            open_cache(path)
        assert str(path) in str(caught.value)
        with pytest.raises(CacheError, match=why):
            join([path], tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert len(verify(path).problems) == 1

    @pytest.mark.parametrize(
        ("bend", "why"),
        [
            (bomb, "expected about"),
            (short_bomb, "doesn't give"),
            (chunk(0, 0), "is damaged"),
            (chunk(1, 0), "doesn't give"),
            (lambda f: f["video/jpeg_end"].write_direct(np.full((4, 2), 7)), "doesn't fit"),
        ],
    )
    def test_rows_are_refused_when_they_are_read(
        self, tmp_path: Path, bend: Callable[[h5py.File], object], why: str
    ) -> None:
        tiny = full_cache(tmp_path / "a")
        path = tmp_path / "p.h5"
        packed(tiny, path, compress=True)
        with h5py.File(path, "r+") as file:
            bend(file)
        write_seal(path)
        with pytest.raises(CacheError, match=why):
            join([path], tmp_path / "new")

    @pytest.mark.parametrize(
        ("bend", "why"),
        [
            (lambda f: drop(f, "labels/category", np.array([9, 0, 0])), "category is out of range"),
            (lambda f: drop(f, "labels/end_s", np.zeros(3)), "0 <= start <= end"),
            (lambda f: drop(f, "labels/start_s", np.full(3, np.nan)), "0 <= start <= end"),
            (attribute("sha256", np.bytes_(b"0" * 64), "labels"), "don't match their checksum"),
            (attribute("notes", np.bytes_(b"{"), "labels"), "the label table can't be read"),
            (lambda f: drop(f, "labels/split"), "missing, or a link"),
        ],
    )
    def test_labels(self, tmp_path: Path, bend: Callable[[h5py.File], object], why: str) -> None:
        tiny = full_cache(tmp_path / "a")
        path = tmp_path / "p.h5"
        found = packed(tiny, path)
        with h5py.File(path, "r+") as file:
            bend(file)
        write_seal(path)
        assert open_cache(path).ids == found.ids
        with pytest.raises(CacheError, match=why):
            _ = open_cache(path).labels
        with pytest.raises(CacheError, match=why):
            join([path], tmp_path / "new")
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize("kind", ["external", "soft", "virtual", "chunked"])
    def test_data_elsewhere(self, tmp_path: Path, kind: str) -> None:
        tiny = full_cache(tmp_path / "a")
        path, secret = tmp_path / "p.h5", tmp_path / "secret.h5"
        packed(tiny, path, compress=True)
        with h5py.File(path, "r+") as file, h5py.File(secret, "w") as other:
            values = other["x"] = file["rows/valid_s"][()]
            del file["rows/valid_s"]
            if kind == "external":
                file["rows/valid_s"] = h5py.ExternalLink("secret.h5", "x")
            elif kind == "soft":
                file["rows/valid_s"] = h5py.SoftLink("/rows/media_s")
            elif kind == "virtual":
                layout = h5py.VirtualLayout((4,), np.float64)
                layout[...] = h5py.VirtualSource(str(secret), "x", (4,))
                file.create_virtual_dataset("rows/valid_s", layout)
            else:
                file.create_dataset("rows/valid_s", data=values, chunks=(1,))
        write_seal(path)
        with pytest.raises(CacheError, match="refused"):
            open_cache(path)

    def test_not_a_pack(self, tmp_path: Path) -> None:
        tiny = tiny_cache(tmp_path / "a")
        shard = tiny.path(tiny.write("a"))
        (tmp_path / "text.h5").write_text("hello")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["x"] = 1
        for path, why in (
            (shard, "not a packed cache"),
            (tmp_path / "text.h5", "not a readable HDF5 file"),
            (tmp_path / "other.h5", "not a packed cache"),
        ):
            with pytest.raises(CacheError, match=why):
                open_cache(path)
            assert len(verify(path).problems) == 1

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        packed(full_cache(tmp_path / "a"), tmp_path / "p.h5")
        (tmp_path / "link.h5").symlink_to("p.h5")
        with pytest.raises(CacheError, match="a link or a pipe"):
            open_cache(tmp_path / "link.h5")


class TestTarget:
    def test_is_never_replaced(self, tmp_path: Path) -> None:
        cache = open_cache(full_cache(tmp_path / "a").folder)
        (tmp_path / "p.h5").write_text("mine")
        with pytest.raises(CacheError, match=r"p\.h5: exists already"):
            pack(cache, tmp_path / "p.h5")
        assert (tmp_path / "p.h5").read_text() == "mine"

    def test_has_to_end_in_h5(self, tmp_path: Path) -> None:
        cache = open_cache(full_cache(tmp_path / "a").folder)
        with pytest.raises(CacheError, match=r"ends in \.h5"):
            pack(cache, tmp_path / "p.zip")

    def test_in_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        cache = open_cache(full_cache(tmp_path / "a").folder)
        with pytest.raises(CacheError, match=r"none.*can't be written \(No such file"):
            pack(cache, tmp_path / "none" / "p.h5")

    def test_leftovers_of_a_killed_pack_go(self, tmp_path: Path) -> None:
        tiny = full_cache(tmp_path / "a")
        target = tmp_path / "p [1].h5"
        code = (
            "import os, sys; from pathlib import Path; import cache.share.pack as p\n"
            "from cache import open_cache\n"
            "p.pack(open_cache(sys.argv[1]), Path(sys.argv[2]), False, lambda n: os._exit(9))"
        )
        command = [sys.executable, "-c", code, str(tiny.folder), str(target)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == 9
        others = tmp_path / f"{TEMPORARY}other.h5"
        others.write_text("another writer's")
        assert len(list(tmp_path.glob(f"{TEMPORARY}*"))) == 2
        assert not target.exists()
        pack(open_cache(tiny.folder), target)
        assert list(tmp_path.glob(f"{TEMPORARY}*")) == [others]

    def test_an_unreadable_shard_is_not_passed_over(self, tmp_path: Path) -> None:
        tiny = full_cache(tmp_path / "a")
        tiny.path(tiny.write("z")).write_bytes(b"gone")
        with pytest.raises(CacheError, match=r"1 shard\(s\) of .* can't be read.*repair"):
            pack(open_cache(tiny.folder), tmp_path / "p.h5")

    def test_an_error_while_reading_leaves_nothing(self, tmp_path: Path) -> None:
        tiny = full_cache(tmp_path / "a")
        cache = open_cache(tiny.folder)
        shutil.rmtree(tiny.folder / "shards")
        with pytest.raises(CacheError, match="can't be read"):
            pack(cache, tmp_path / "p.h5")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]


FULL = """
import resource, sys
from pathlib import Path
from cache.__main__ import main
limits = [int(text) for text in sys.argv[3:]]
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for flags in ([], ["--compress"]):
        assert main(["pack", sys.argv[1], sys.argv[2], *flags]) == 2, limit
"""


class TestFullDisk:
    """HDF5 must not learn of it: it would fail again on closing, and crash at exit."""

    @pytest.fixture
    def large(self, tmp_path: Path) -> Path:
        return make_cache(tmp_path / "a", clips=6, clip_seconds=2.0)

    def test_a_limit_on_file_size(self, large: Path, tmp_path: Path) -> None:
        target = tmp_path / "out" / "p.h5"
        target.parent.mkdir()
        pack(open_cache(large), target, compress=True)
        size = target.stat().st_size
        target.unlink()
        limits = [str(n) for n in (1, 5000, size // 2, size - 5000, size - 1)]
        command = [sys.executable, "-c", FULL, str(large), str(target), *limits]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 2 * len(limits), done.stderr
        assert all("p.h5: can't be written (File too large): a limit" in line for line in lines)
        assert list(target.parent.iterdir()) == []

    def test_a_small_disk(self, large: Path, tmp_path: Path) -> None:
        """Its room is known before anything is written, so that no work is lost."""
        disk = tmp_path / "disk"
        disk.mkdir()
        command = f"{sys.executable} -m cache pack {large} {disk}/p.h5; ls -A {disk} >&2"
        mounted = f"mount -t tmpfs -o size=1m none {disk} || exit 77; {command}"
        done = (
            subprocess.run(
                ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mounted],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            if shutil.which("unshare")
            else None
        )
        if done is None or done.returncode == 77 or "unshare" in done.stderr:
            pytest.skip("needs leave to mount a small disk")
        (line,) = done.stderr.splitlines()
        assert "GB needed, only 0.00 GB free; make room" in line


def test_cache_json_of_a_pack_is_that_of_its_folder(tmp_path: Path) -> None:
    tiny = full_cache(tmp_path / "a")
    packed(tiny, tmp_path / "p.h5")
    with h5py.File(tmp_path / "p.h5") as file:
        text = file["cache_json"][()].tobytes()
    assert json.loads(text) == json.loads((tiny.folder / "cache.json").read_text())
