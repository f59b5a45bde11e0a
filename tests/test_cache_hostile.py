"""Caches from strangers: refused in one sentence, nothing outside opened, memory bounded."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from small_media import CONFIG, TinyCache, resealed, tiny_cache, version1_record

from cache import CacheError, Labels, open_cache
from cache.check.repair import damaged_shards, repair, without
from cache.check.verify import RECORD_FILE, read_record, verify
from cache.common.strict_json import loads
from cache.format.compression import deflate, inflate
from cache.format.fields import Field
from cache.format.identity import read_identity
from cache.format.index import Index
from cache.format.index_file import load_index, parse_index
from cache.format.lock import writer_lock
from cache.format.sealed import write_seal
from cache.format.shard import Failure, file_sha256, shard_name
from cache.labels.store import read_labels

LABELS = Labels(
    ids=["a", "b"],
    classes=["Bark"],
    category=np.array([0, 0]),
    start_s=np.array([0.0, 0.5]),
    end_s=np.array([1.0, 1.0]),
    split=np.array([0, 1], np.int8),
    source="events.csv",
)
DEEP = "[" * 100_000
IDS = {
    "parent": b"../x",
    "dots": b"..",
    "absolute": b"/etc/passwd",
    "backslash": b"a\\b",
    "NUL": b"a\0b",
    "newline": b"a\nb",
    "terminal escape": b"\x1b[2Jx",
    "override": "a\u202eb".encode(),
    "long": b"x" * 10_000,
    "empty": b"",
    "no UTF-8": b"\xff\xfe",
}


@pytest.fixture(autouse=True)
def _never_hangs() -> Iterator[None]:
    """A pipe or device that is read after all ends the test, not the night."""

    def stop(*_: object) -> None:
        raise TimeoutError("something was waited for")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def stored(tmp_path: Path) -> TinyCache:
    """One shard with two clips and a failure, labels, an index."""
    tiny = tiny_cache(tmp_path / "cache", LABELS)
    tiny.write("a", "b", failures=[Failure("d", "audio", "no sound")])
    tiny.store_index()
    return tiny


class Watch:
    """Notices whoever opens a file, HDF5 too: asks the kernel (inotify)."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        if libc.inotify_add_watch(self._descriptor, os.fsencode(path), 0x20) < 0:
            pytest.skip("no inotify here")

    def opened(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def outside(stored: TinyCache, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Files beyond the cache that would do if they were opened; fails if one was."""
    watches: list[Watch] = []

    def make(name: str) -> Path:
        watches.append(Watch(tmp_path / name))
        return tmp_path / name

    yield make
    assert not any(watch.opened() for watch in watches)
    for watch in watches:
        watch.close()


def only_shard(tiny: TinyCache) -> Path:
    (path,) = (tiny.folder / "shards").glob("*.h5")
    return path


def bend_shard(tiny: TinyCache, change: Callable[[h5py.File], object]) -> Path:
    """Change a shard as a stranger can: name and bytes agree, and no index is at hand."""
    path = only_shard(tiny)
    with h5py.File(path, "r+") as file:
        change(file)
    (tiny.folder / "index.h5").unlink()
    return path.rename(path.with_name(shard_name(file_sha256(path))))


def refused_shard(tiny: TinyCache, path: Path, reason: str) -> None:
    """The shard is named with the reason, by reading and by verifying; nothing of it is used."""
    found = open_cache(tiny.folder)
    assert found.ids == []
    problem = found.index.damaged[path.name]
    assert reason in problem
    assert problem.isprintable()
    assert len(problem) < 600
    report = verify(tiny.folder)
    assert list(report.damaged) == [path.name]
    assert reason in report.problems[0]


def put(name: str, **how: Any) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **how)

    return change


def link(name: str, target: object) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return change


class TestLinks:
    """Each points at data that is right in every way but its place."""

    @pytest.mark.parametrize("name", ["audio/mel", "audio", "rows", "rows/id", "failures/id"])
    def test_external_link(
        self, stored: TinyCache, outside: Callable[[str], Path], tmp_path: Path, name: str
    ) -> None:
        (tmp_path / "o.h5").write_bytes(only_shard(stored).read_bytes())
        target = outside("o.h5")
        path = bend_shard(stored, link(name, h5py.ExternalLink(str(target), f"/{name}")))
        refused_shard(stored, path, "missing, or a link elsewhere")

    def test_the_watch_sees_hdf5_follow_a_link(self, stored: TinyCache, tmp_path: Path) -> None:
        """Else the tests here would prove nothing."""
        (tmp_path / "o.h5").write_bytes(only_shard(stored).read_bytes())
        watch = Watch(tmp_path / "o.h5")
        path = bend_shard(stored, link("audio", h5py.ExternalLink(str(tmp_path / "o.h5"), "audio")))
        assert not watch.opened()
        with h5py.File(path) as file:
            assert file["audio/mel"].shape[0] == 2
        assert watch.opened()
        watch.close()

    def test_external_storage(
        self, stored: TinyCache, outside: Callable[[str], Path], tmp_path: Path
    ) -> None:
        with h5py.File(only_shard(stored)) as file:
            values = file["audio/mel"][()]
        (tmp_path / "raw").write_bytes(values.tobytes())
        target = [(str(outside("raw")), 0, values.nbytes)]
        change = put("audio/mel", shape=values.shape, dtype=values.dtype, external=target)
        refused_shard(stored, bend_shard(stored, change), "audio/mel is not stored contiguously")

    def test_virtual_source(
        self, stored: TinyCache, outside: Callable[[str], Path], tmp_path: Path
    ) -> None:
        (tmp_path / "o.h5").write_bytes(only_shard(stored).read_bytes())
        target = outside("o.h5")

        def change(file: h5py.File) -> None:
            shape, dtype = file["audio/mel"].shape, file["audio/mel"].dtype
            del file["audio/mel"]
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(target), "audio/mel", shape)
            file.create_virtual_dataset("audio/mel", layout)

        refused_shard(stored, bend_shard(stored, change), "audio/mel is not stored contiguously")

    @pytest.mark.parametrize("target", ["/audio/mel", "/other"])
    def test_soft_links_and_their_loops(self, stored: TinyCache, target: str) -> None:
        def change(file: h5py.File) -> None:
            file.move("audio/mel", "other")
            file["audio/mel"] = h5py.SoftLink(target)

        refused_shard(stored, bend_shard(stored, change), "missing, or a link elsewhere")

    @pytest.mark.parametrize("name", ["category", "history_json"])
    def test_labels(
        self, stored: TinyCache, outside: Callable[[str], Path], tmp_path: Path, name: str
    ) -> None:
        path = stored.folder / "labels.h5"
        (tmp_path / "o.h5").write_bytes(path.read_bytes())
        with h5py.File(path, "r+") as file:
            link(name, h5py.ExternalLink(str(outside("o.h5")), name))(file)
        write_seal(path)
        cache = open_cache(stored.folder)
        with pytest.raises(CacheError, match=f"{name} is missing, or a link elsewhere"):
            _ = cache.labels, cache.label_history()

    @pytest.mark.parametrize("name", ["clip/row", "clip", "shard", "failures_json"])
    def test_index(
        self, stored: TinyCache, outside: Callable[[str], Path], tmp_path: Path, name: str
    ) -> None:
        path = stored.folder / "index.h5"
        (tmp_path / "o.h5").write_bytes(path.read_bytes())
        refused_index(stored, link(name, h5py.ExternalLink(str(outside("o.h5")), name)), "link")


BENT_DATA: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "huge shape": (put("rows/valid_s", shape=(2**50,), dtype="f8"), "rows/valid_s"),
    "chunked": (put("rows/valid_s", data=np.zeros(2), chunks=(2,)), "not stored contiguously"),
    "bomb": (
        put("audio/mel", data=np.zeros((2, 44, 8), "f2"), chunks=(2, 44, 8), compression="gzip"),
        "audio/mel is not stored contiguously",
    ),
    "reference": (put("rows/media_size", shape=(2,), dtype=h5py.ref_dtype), "no plain data"),
    "region": (put("rows/media_size", shape=(2,), dtype=h5py.regionref_dtype), "no plain data"),
    "vlen": (put("rows/media_size", shape=(2,), dtype=h5py.vlen_dtype("i8")), "no plain data"),
    "vlen text": (put("rows/id", shape=(2,), dtype=h5py.string_dtype()), "no plain data"),
    "compound": (put("rows/media_size", data=np.zeros(2, [("x", "i8")])), "no plain data"),
    "opaque": (put("rows/media_size", data=np.zeros(2, "V8")), "no plain data"),
    "bool": (put("rows/media_size", data=np.zeros(2, bool)), "no plain data"),
    "complex": (put("rows/valid_s", data=np.zeros(2, "c16")), "no plain data"),
    "wider": (put("rows/audio_steps", data=np.zeros(2, "i8")), "expected int32"),
    "big-endian": (put("rows/media_size", data=np.zeros(2, ">i8")), "expected int64"),
    "shape": (put("rows/media_sha256", data=np.zeros((2, 31), "u1")), "expected uint8 (2, 32)"),
    "fewer rows": (put("rows/sha256", data=np.zeros((1, 32), "u1")), "expected uint8 (2, 32)"),
    "scalar": (put("rows/id", data=np.bytes_(b"a")), "not a list of short texts"),
    "no data": (put("rows/id", dtype="S4", data=h5py.Empty("S4")), "rows/id"),
    "never written": (put("audio/mel", shape=(2, 44, 8), dtype="f2"), "never written"),
    "time as text": (lambda f: f.attrs.__setitem__("created_ns", np.bytes_(b"x")), "created_ns"),
    "late time": (lambda f: f.attrs.__setitem__("created_ns", np.uint64(2**64 - 1)), "created_ns"),
    "early time": (lambda f: f.attrs.__setitem__("created_ns", -1), "created_ns"),
    "fingerprint": (
        lambda f: f.attrs.__setitem__("fingerprint", np.bytes_(b"\x1b[2J")),
        "another cache",
    ),
    "no attribute": (lambda f: f.attrs.__delitem__("provenance"), "provenance"),
    "failures": (put("failures/attempt", data=np.zeros(9, "i8")), "failures/attempt"),
}


@pytest.mark.parametrize("kind", BENT_DATA)
def test_bent_data(stored: TinyCache, kind: str) -> None:
    change, reason = BENT_DATA[kind]
    refused_shard(stored, bend_shard(stored, change), reason)


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("name", ["rows/id", "failures/id"])
def test_ids_in_a_shard(stored: TinyCache, name: str, kind: str) -> None:
    ids = [IDS[kind]] if name == "failures/id" else [b"a", IDS[kind]]
    path = bend_shard(stored, put(name, data=np.array(ids, f"S{max(1, *map(len, ids), 1)}")))
    refused_shard(stored, path, path.name)


@pytest.mark.parametrize("kind", IDS)
def test_ids_in_labels(stored: TinyCache, kind: str) -> None:
    path = stored.folder / "labels.h5"
    with h5py.File(path, "r+") as file:
        put("id", data=np.array([b"a", IDS[kind]]))(file)
    write_seal(path)
    with pytest.raises(CacheError, match=r"labels\.h5") as caught:
        _ = open_cache(stored.folder).labels
    assert "checksum" not in str(caught.value)  # refused for what it says, not for being edited
    assert str(caught.value).isprintable()
    assert any("labels.h5" in problem for problem in verify(stored.folder).problems)


def refused_index(tiny: TinyCache, change: Callable[[h5py.File], object], reason: str = "") -> None:
    """A rightly sealed index with wrong content is not believed: the shards say what is so."""
    path = tiny.folder / "index.h5"
    before = dict(load_index(tiny.folder, tiny.identity).clips)
    with h5py.File(path, "r+") as file:
        change(file)
    write_seal(path)
    with pytest.raises(CacheError) as caught:
        parse_index(path, tiny.identity)
    assert str(caught.value).isprintable()
    assert reason in str(caught.value)
    found = open_cache(tiny.folder)
    assert found.index.stale
    assert dict(found.index.clips) == before
    for name in found.fields:
        found.read(name)
    (problem,) = verify(tiny.folder).problems
    assert "index.h5" in problem


@pytest.mark.parametrize("kind", IDS)
def test_ids_in_the_index(stored: TinyCache, kind: str) -> None:
    refused_index(stored, put("clip/id", data=np.array([b"a", IDS[kind]])))


@pytest.mark.parametrize("kind", sorted(IDS))
def test_ids_of_failures_in_the_index(stored: TinyCache, kind: str) -> None:
    text = "\ud800" if kind == "no UTF-8" else IDS[kind].decode("utf-8")
    refused_index(stored, bend_failure(id=text))


def as_bytes(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def bend_failure(**changes: object) -> Callable[[h5py.File], object]:
    """Change the failure in an index and nothing else."""

    def change(file: h5py.File) -> None:
        (entry,) = json.loads(file["failures_json"][()].tobytes())
        put("failures_json", data=as_bytes(json.dumps([{**entry, **changes}])))(file)

    return change


def test_a_failure_in_the_index_can_be_changed_rightly(stored: TinyCache) -> None:
    """Else the tests below could fail to be refused for what they change."""
    with h5py.File(stored.folder / "index.h5", "r+") as file:
        bend_failure(id="e")(file)
    write_seal(stored.folder / "index.h5")
    assert list(load_index(stored.folder, stored.identity).failures) == ["e"]


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"id": ["d"]},
        {"message": [1]},
        {"attempt": float("nan")},
        {"attempt": "1"},
        {"media_size": 2**70},
        {"shard": 99},
        {"shard": None},
        {"when": -1},
        {"when": 2**62},
    ],
)
def test_bent_failure_in_the_index(stored: TinyCache, changes: dict[str, object]) -> None:
    refused_index(stored, bend_failure(**changes))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("made_by_json", "no JSON"),
        ("made_by_json", DEEP),
        ("made_by_json", '{"0": "x"}'),
        ("made_by_json", "[[1]]"),
        ("made_by_json", "[]"),
        ("failures_json", "no JSON"),
        ("failures_json", DEEP),
        ("failures_json", "7"),
        ("failures_json", "[7]"),
    ],
)
def test_json_in_the_index(stored: TinyCache, name: str, text: str) -> None:
    refused_index(stored, put(name, data=as_bytes(text)))


def poke(name: str, values: object) -> Callable[[h5py.File], object]:
    def change(file: h5py.File) -> None:
        file[name][...] = values

    return change


@pytest.mark.parametrize(
    "change",
    [
        poke("shard/offset", 10**9),
        poke("shard/offset", 2**63 - 1),
        poke("shard/offset", -1),
        poke("clip/row", [0, 5000]),
        poke("clip/row", [0, 2**31 - 1]),
        poke("clip/row", [0, -1]),
        poke("clip/row", [0, 0]),
        poke("clip/shard", [0, 1]),
        poke("clip/shard", [0, -1]),
        poke("clip/made_by", 5),
        poke("clip/created_ns", -1),
        poke("clip/created_ns", [0, 2**62]),
        poke("clip/created_ns", 2**63 - 1),
        poke("shard/size", -1),
        put("shard/name", data=np.array([b"../x.h5"])),
        put("shard/name", data=np.array([b"/etc/passwd"])),
        put("shard/name", data=np.array([b"0" * 32 + b".h5"] * 2)),
        put("shard/size", data=np.array([[1.0]])),
        put("shard/offset", data=np.zeros((1, 3), "i8")),
        put("clip/id", data=np.array([[b"a", b"b"]])),
        put("clip/id", data=np.array([b"a"])),
        put("clip/row", data=np.array([0.0, np.nan])),
        put("clip/media_size", data=np.array([np.nan, 1e300])),
        put("clip/sha256", data=np.zeros((2, 16), "u1")),
        put("clip/row", shape=(2**46,), dtype="i4"),
    ],
)
def test_bent_index(stored: TinyCache, change: Callable[[h5py.File], object]) -> None:
    refused_index(stored, change)


def test_an_index_with_a_place_inside_the_file_but_not_its_rows(stored: TinyCache) -> None:
    """Told before any number comes out: what stands there are no checksums of these rows."""
    path = stored.folder / "index.h5"
    with h5py.File(path, "r+") as file:
        poke("shard/offset", 8)(file)
    write_seal(path)
    found = open_cache(stored.folder)
    for name in found.fields:
        with pytest.raises(CacheError, match="other rows than the cache's index says"):
            found.read(name)
    with pytest.raises(CacheError, match="other rows than the cache's index says"):
        found.jpegs("a")


@pytest.mark.parametrize("text", ["no JSON", DEEP, "7", "[[", "\x1b[2J"])
@pytest.mark.parametrize("name", ["notes", "history_json"])
def test_json_in_labels(stored: TinyCache, name: str, text: str) -> None:
    path = stored.folder / "labels.h5"
    with h5py.File(path, "r+") as file:
        if name == "notes":
            file.attrs[name] = np.bytes_(text[:60_000].encode())
        else:
            put(name, data=as_bytes(text))(file)
    write_seal(path)
    cache = open_cache(stored.folder)
    with pytest.raises(CacheError, match=r"labels\.h5") as caught:
        _ = cache.labels, cache.label_history()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip_seconds", 1e12),
        ("clip_seconds", 10**400),
        ("clip_seconds", float("inf")),
        ("clip_seconds", "a" * 100_000),
        ("clip_seconds", [1.0]),
        ("clip_seconds", None),
        ("clip_seconds", True),
        ("num_frames", 10**9),
        ("num_frames", "8"),
        ("num_frames", -1),
        ("num_frames", 2.5),
        ("hop_samples", 0),
        ("hop_samples", -1),
        ("hop_samples", float("nan")),
        ("hop_samples", 1e-300),
        ("hop_samples", "512"),
        ("n_mels", 10**12),
        ("n_mfcc", {}),
        ("frame_size_px", 10**9),
        ("frame_size_px", 0),
        ("backbone", "huge"),
        ("backbone", []),
    ],
)
def test_absurd_settings(stored: TinyCache, name: str, value: object) -> None:
    config = {**stored.identity.config, name: value}
    (stored.folder / "cache.json").write_text(json.dumps(resealed(version1_record(config))))
    for use in (open_cache, verify):
        with pytest.raises(CacheError, match="not a cache identity"):
            use(stored.folder)


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        '{"format": "avel-cache", "format_version": "\\u001b[2J"}',
        '{"format": "\\u001b[2J"}',
        "[1, 2]",
        '[["format", "avel-cache"]]',
        "\xff",
        '{"format": "avel-cache", "format_version": 1, "config": [], "feature_version": 1}',
        '{"format": "avel-cache", "format_version": 1, "config": "\\ud800"}',
        "9" * 10_000,
    ],
)
def test_identity_that_is_none(stored: TinyCache, text: str) -> None:
    (stored.folder / "cache.json").write_text(text, encoding="latin-1")
    with pytest.raises(CacheError, match=r"cache\.json") as caught:
        open_cache(stored.folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("provenance", [[], "x", None])
def test_provenance_that_is_no_object(stored: TinyCache, provenance: object) -> None:
    record = {**stored.identity.record(), "provenance": provenance}
    (stored.folder / "cache.json").write_text(json.dumps(record))
    with pytest.raises(CacheError, match="provenance"):
        open_cache(stored.folder)


KINDS = ["link", "pipe", "folder", "endless"]


def replace_by(path: Path, kind: str, target: Path) -> None:
    path.unlink()
    if kind == "link":
        path.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", KINDS)
class TestSpecialFiles:
    """What stands in a file's place, be it a link to a good copy, is not opened."""

    @pytest.fixture
    def bent(
        self, stored: TinyCache, kind: str, tmp_path: Path, outside: Callable[[str], Path]
    ) -> Callable[[Path], TinyCache]:
        def bend(path: Path) -> TinyCache:
            (tmp_path / "copy").write_bytes(path.read_bytes())
            replace_by(path, kind, outside("copy"))
            return stored

        return bend

    def test_identity(self, stored: TinyCache, bent: Callable[[Path], TinyCache]) -> None:
        bent(stored.folder / "cache.json")
        for use in (open_cache, verify, read_identity):
            with pytest.raises(CacheError, match=r"cache\.json.*refused"):
                use(stored.folder)

    def test_labels(self, stored: TinyCache, bent: Callable[[Path], TinyCache]) -> None:
        bent(stored.folder / "labels.h5")
        with pytest.raises(CacheError, match=r"labels\.h5.*refused"):
            read_labels(stored.folder)
        assert open_cache(stored.folder).ids == ["a", "b"]
        with pytest.raises(CacheError, match=r"labels\.h5.*refused"):
            _ = open_cache(stored.folder).label_history()
        assert "labels.h5" in verify(stored.folder).problems[0]

    def test_index(self, stored: TinyCache, bent: Callable[[Path], TinyCache]) -> None:
        bent(stored.folder / "index.h5")
        assert open_cache(stored.folder).ids == ["a", "b"]
        assert "index.h5" in verify(stored.folder).problems[0]

    @pytest.mark.parametrize("indexed", [True, False])
    def test_shard(
        self, stored: TinyCache, bent: Callable[[Path], TinyCache], indexed: bool, kind: str
    ) -> None:
        path = only_shard(stored)
        bent(path)
        if indexed:  # an index that agrees with the size that is found
            with h5py.File(stored.folder / "index.h5", "r+") as file:
                file["shard/size"][...] = 2**40 if kind == "pipe" else path.lstat().st_size
            write_seal(stored.folder / "index.h5")
        else:
            (stored.folder / "index.h5").unlink()
        found = open_cache(stored.folder)
        for clip_id in found.ids:
            with pytest.raises(CacheError, match=path.name):
                found.read("audio/mel", [found.row(clip_id)])
            with pytest.raises(CacheError, match=path.name):
                found.jpegs(clip_id)
        assert list(verify(stored.folder).damaged) == [path.name]


def test_a_folder_of_shards_that_is_a_link(
    stored: TinyCache, outside: Callable[[str], Path], tmp_path: Path
) -> None:
    shards = stored.folder / "shards"
    path = only_shard(stored)
    shards.rename(tmp_path / "elsewhere")
    outside(f"elsewhere/{path.name}")
    (tmp_path / "elsewhere" / ".writing-x").write_text("not ours")
    shards.symlink_to(tmp_path / "elsewhere")
    for use in (open_cache, verify):
        with pytest.raises(CacheError, match="a link, expected a folder"):
            use(stored.folder)
    with writer_lock(stored.folder):
        assert (tmp_path / "elsewhere" / ".writing-x").exists()


RECORDS: dict[str, str] = {
    "parent": '{"../outside.h5": ["a"], "../../outside.h5": []}',
    "absolute": '{"/etc/hostname": [], "OUTSIDE": []}',
    "NUL": '{"a\\u0000b": ["a"]}',
    "good shard": '{"SHARD": ["a", "b", "\\ud800", "../x", ""]}',
    "types": '{"SHARD": 7}',
    "numbers": '{"SHARD": [1, null, [1e400]]}',
    "list": '["SHARD"]',
    "deep": DEEP,
}


class TestRecord:
    """`verified.json` is a hint where to look; nothing is moved on its word."""

    def everything(self, folder: Path) -> dict[str, object]:
        return {
            str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
            for path in folder.rglob("*")
            if path.is_file() and path.name not in {RECORD_FILE, ".lock", "index.h5"}
        }

    @pytest.mark.parametrize("kind", RECORDS)
    def test_nothing_is_moved_or_lost(self, stored: TinyCache, tmp_path: Path, kind: str) -> None:
        (tmp_path / "outside.h5").write_text("precious")
        text = RECORDS[kind].replace("SHARD", only_shard(stored).name)
        text = text.replace("OUTSIDE", str(tmp_path / "outside.h5"))
        head = '"at": "now", "shards": 1, "clips": 2, "problems": 1'
        (stored.folder / RECORD_FILE).write_text(f'{{{head}, "damaged": {text}}}')
        before = self.everything(tmp_path)
        index = load_index(stored.folder, stored.identity)
        damaged = damaged_shards(stored.folder, index)
        assert set(damaged) <= set(index.shards)
        assert set(without(index, damaged).clips) <= {"a", "b"}
        with writer_lock(stored.folder):
            assert repair(stored.folder, stored.identity, damaged)[0] == []
        assert self.everything(tmp_path) == before
        assert open_cache(stored.folder).ids == ["a", "b"]

    @pytest.mark.parametrize(
        "text", ["", "no JSON", "7", DEEP, '{"damaged": {}, "at": 1, "shards": 1e400}', "\xff"]
    )
    def test_what_is_no_record_is_none(self, stored: TinyCache, text: str) -> None:
        (stored.folder / RECORD_FILE).write_text(text, encoding="latin-1")
        assert read_record(stored.folder) is None

    @pytest.mark.parametrize("kind", KINDS)
    def test_special_files(
        self, stored: TinyCache, tmp_path: Path, outside: Callable[[str], Path], kind: str
    ) -> None:
        (tmp_path / "copy").write_text("{}")
        (stored.folder / RECORD_FILE).write_text("")
        replace_by(stored.folder / RECORD_FILE, kind, outside("copy"))
        assert read_record(stored.folder) is None


class TestInflate:
    SPEC = Field("audio/mel", (44, 8), "float16", "dB")

    def row(self) -> npt.NDArray[np.float16]:
        return np.random.default_rng(0).standard_normal((44, 8)).astype(np.float16)

    def test_round_trip(self) -> None:
        assert inflate(deflate(self.row()), self.SPEC) == self.row().tobytes()

    def test_a_bomb_is_stopped_at_a_row(self) -> None:
        bomb = zlib.compress(bytes(1 << 28), 1)
        started = time.process_time()
        with pytest.raises(CacheError, match="doesn't give 704 bytes"):
            inflate(bomb, self.SPEC)
        assert time.process_time() - started < 0.1  # inflating all of it takes longer

    @pytest.mark.parametrize("size", [0, 1, 703, 705, 1408])
    def test_a_row_of_another_size(self, size: int) -> None:
        with pytest.raises(CacheError, match="doesn't give 704 bytes"):
            inflate(zlib.compress(bytes(size)), self.SPEC)

    def test_cut_bent_and_foreign_streams(self) -> None:
        data = deflate(self.row())
        for place in range(len(data)):
            with pytest.raises(CacheError, match="compressed row"):
                inflate(data[:place], self.SPEC)
        for bent in (b"no stream", data[1:], b"\0" * 50, data[:-1] + bytes([data[-1] ^ 1])):
            with pytest.raises(CacheError, match="compressed row"):
                inflate(bent, self.SPEC)


USE = """
import resource, sys
from pathlib import Path
import numpy, h5py
from cache import CacheError
from cache import open_cache
from cache.check.verify import verify

now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 27),) * 2)
for folder in map(Path, sys.argv[1:]):
    told = []
    for use in (
        lambda: told.extend(open_cache(folder).index.damaged.values()),
        lambda: open_cache(folder).labels,
        lambda: told.extend(verify(folder).problems),
    ):
        try:
            use()
        except CacheError as error:
            told.append(str(error))
    print(folder.name, len(told), told)
"""


def claim_terabytes(path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """A dataset whose bytes are really there: a hole in the file, which takes no room."""
    with h5py.File(path, "r+") as file:
        del file[name]
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        kind = h5py.h5t.py_create(np.dtype(dtype))
        h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), how)


def test_memory_is_bounded(tmp_path: Path) -> None:
    """Each in 128 MiB of memory: claims without bytes, and holes of 160 MiB and many gigabytes."""

    def cache(name: str) -> TinyCache:
        tiny = tiny_cache(tmp_path / name, LABELS)
        tiny.write("a", "b")
        tiny.store_index()
        return tiny

    with (cache("json").folder / "cache.json").open("r+b") as file:
        file.truncate(100 << 30)
    config = CONFIG.resolved("0" * 64)
    text = json.dumps(resealed(version1_record({**config, "clip_seconds": "x" * 900_000})))
    (cache("text").folder / "cache.json").write_text(text)
    for name in ("rows/id", "rows/valid_s"):
        tiny = cache(name.replace("/", "-"))
        claim_terabytes(only_shard(tiny), name, (1 << 30,), "S8" if name == "rows/id" else "f8")
        (tiny.folder / "index.h5").unlink()
    claim_terabytes(cache("labels").folder / "labels.h5", "category", (20 << 20,), "i8")
    write_seal(tmp_path / "labels" / "labels.h5")
    claim_terabytes(cache("index").folder / "index.h5", "clip/row", (40 << 20,), "i4")
    write_seal(tmp_path / "index" / "index.h5")
    done = subprocess.run(
        [sys.executable, "-c", USE, *map(str, sorted(tmp_path.iterdir()))],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert int(line.split()[1]) >= 1, line


def test_a_stranger_cannot_make_the_index_object_large(stored: TinyCache) -> None:
    """Ids by the thousand that all name the same row would be read a thousand times."""
    count = 5000

    def change(file: h5py.File) -> None:
        for name in file["clip"]:
            values = file[f"clip/{name}"][:1]
            put(f"clip/{name}", data=np.repeat(values, count, axis=0))(file)
        put("clip/id", data=np.array([f"x{n:05d}" for n in range(count)], "S6"))(file)

    refused_index(stored, change, "names a row twice")


def test_ids_of_commas_are_texts_all_the_same(tmp_path: Path) -> None:
    """What takes memory is counted, not what looks like it inside a text."""
    tiny = tiny_cache(tmp_path / "cache")
    ids = [f"{',:[{' * 60}{n}" for n in range(20)]
    tiny.write(ids[0], failures=[Failure(i, "audio", f'"{i}" \\') for i in ids[1:]])
    found = parse_index(tiny.store_index(), tiny.identity)
    assert sorted(found.failures) == sorted(ids[1:])
    assert verify(tiny.folder).problems == []
    for text in (f"[{'[],' * 10_000}[]]", '["' + '\\"' * 10_000 + "," * 10_000, '"[' * 10_000):
        with pytest.raises(ValueError, match=r"parts|Expecting|Unterminated|Extra"):
            loads(text)


def test_an_empty_index_is_fine(tmp_path: Path) -> None:
    tiny = tiny_cache(tmp_path / "cache")
    found = parse_index(tiny.store_index(), tiny.identity)
    assert isinstance(found, Index)
    assert len(found.clips) == 0
