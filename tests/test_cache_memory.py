"""Small files that claim much: what reads them stays within a few times their size.

Each case is a cache of its own, looked at in a process of its own, whose peak memory is measured.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_media import TinyCache, tiny_cache

from cache.index_file import load_index, save_index
from cache.reader import open_cache
from cache.sealed import write_seal
from cache.shard import Failure, file_sha256, shard_name
from cache.verify import RECORD_FILE

CONSTANT_BYTES = 300 << 20
TIMES = 8
LOOK = """
import sys
from pathlib import Path
from cache.errors import CacheError
from cache.folder import read_identity
from cache.index_file import load_index
from cache.info import describe
from cache.reader import open_cache
from cache.repair import damaged_shards, without
from cache.verify import verify

folder = Path(sys.argv[1])

def plan():
    index = load_index(folder, read_identity(folder))
    without(index, damaged_shards(folder, index))

told = 0
for use in (lambda: describe(open_cache(folder)), plan, lambda: verify(folder).problems):
    try:
        told += bool(use())
    except CacheError as error:
        told += 1
(peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(told, int(peak.split()[1]) * 1024)
"""


def peak_bytes(folder: Path) -> int:
    """What looking at a cache takes; fails on anything but a sentence."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(folder)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, peak = map(int, done.stdout.split())
    assert told >= 1
    return peak


def put(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


def hole(file: h5py.File, name: str, count: int, dtype: str) -> None:
    """A dataset whose bytes are a hole in the file."""
    del file[name]
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((count,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, how)


def as_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def empty_ids(file: h5py.File) -> None:
    del file["rows/id"]
    file.create_dataset("rows/id", (1 << 28,), "S1")


def many_failures(file: h5py.File) -> None:
    count = 1_000_000
    for name in ("id", "stage", "message"):
        put(file, f"failures/{name}", np.full(count, b"x"))
    for name in ("attempt", "media_size", "media_mtime_ns"):
        put(file, f"failures/{name}", np.arange(count))


def many_ids(file: h5py.File) -> None:
    put(file, "rows/id", np.char.mod("%d", np.arange(3_000_000)).astype("S7"))


def origins(file: h5py.File) -> None:
    file["origin/made_by_json"] = as_bytes("[" + "[]," * 8_000_000 + "[]]")
    for group, count in (("rows", 2), ("failures", 1)):
        for name in ("created_ns", "made_by"):
            file[f"origin/{group}_{name}"] = np.zeros(count, np.int64)


SHARDS: dict[str, Callable[[h5py.File], object]] = {
    "empty ids, never written": empty_ids,
    "ids in a hole": lambda file: hole(file, "rows/id", 1 << 28, "S1"),
    "more ids than rows have room": many_ids,
    "failures of one byte": many_failures,
    "failures in a hole": lambda file: hole(file, "failures/id", 1 << 28, "S1"),
    "origins": origins,
}
INDEXES: dict[str, Callable[[h5py.File], object]] = {
    "ids in a hole": lambda file: hole(file, "clip/id", 1 << 28, "S1"),
    "failures": lambda file: put(file, "failures_json", as_bytes("[" + "{}," * 8_000_000 + "{}]")),
    "makers": lambda file: put(file, "made_by_json", as_bytes("[" + "[]," * 8_000_000 + "[]]")),
    "shards in a hole": lambda file: hole(file, "shard/name", 1 << 23, "S32"),
}


@pytest.fixture
def stored(tmp_path: Path) -> TinyCache:
    tiny = tiny_cache(tmp_path / "cache")
    tiny.write("a", "b", failures=[Failure("d", "audio", "no sound")])
    return tiny


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", SHARDS)
def test_shards(stored: TinyCache, kind: str) -> None:
    (path,) = (stored.folder / "shards").iterdir()
    with h5py.File(path, "r+") as file:
        SHARDS[kind](file)
    if "hole" not in kind:
        path.rename(path.with_name(shard_name(file_sha256(path))))
    assert peak_bytes(stored.folder) < CONSTANT_BYTES + TIMES * on_disk(stored.folder)


@pytest.mark.parametrize("name", ["format", "fingerprint", "provenance"])
def test_long_attributes(stored: TinyCache, name: str) -> None:
    (path,) = (stored.folder / "shards").iterdir()
    data = path.read_bytes()
    path.unlink()
    new = path.with_name("new")
    with h5py.File(io.BytesIO(data)) as file, h5py.File(new, "w", libver="latest") as other:
        for group in file:
            file.copy(group, other)
        for key, value in file.attrs.items():
            other.attrs[key] = np.bytes_(b"x" * (40 << 20)) if key == name else value
    new.rename(path.with_name(shard_name(file_sha256(new))))
    assert peak_bytes(stored.folder) < CONSTANT_BYTES + TIMES * on_disk(stored.folder)


@pytest.mark.parametrize("kind", INDEXES)
def test_indexes(stored: TinyCache, kind: str) -> None:
    path = stored.store_index()
    with h5py.File(path, "r+") as file:
        INDEXES[kind](file)
    write_seal(path)
    assert peak_bytes(stored.folder) < CONSTANT_BYTES + TIMES * on_disk(stored.folder)


@pytest.mark.parametrize("part", ["[],", '"",', "{},"])
def test_records(stored: TinyCache, part: str) -> None:
    text = '{"at": "now", "shards": 1, "clips": 2, "problems": 1, "damaged": {"x": [%s0]}}'
    (stored.folder / RECORD_FILE).write_text(text % (part * ((15 << 20) // len(part))))
    assert peak_bytes(stored.folder) < CONSTANT_BYTES + TIMES * on_disk(stored.folder)


def test_identity(stored: TinyCache) -> None:
    (stored.folder / "cache.json").write_text('{"config": [' + "[]," * 340_000 + "[]]}")
    assert peak_bytes(stored.folder) < CONSTANT_BYTES


def test_one_shard_s_wide_ids_do_not_widen_those_of_all(stored: TinyCache) -> None:
    (path,) = (stored.folder / "shards").iterdir()
    with h5py.File(path, "r+") as file:
        put(file, "rows/id", np.array([b"a", b"b"], "S4096"))
    path.rename(path.with_name(shard_name(file_sha256(path))))
    stored.write("c")
    found = open_cache(stored.folder)
    assert found.ids == ["a", "b", "c"]
    assert found.index.rows["id"].dtype.itemsize == 1
    assert len(found.read("audio/mel")) == 3


def test_what_is_large_in_earnest_is_read(tmp_path: Path) -> None:
    """A shard of failures alone, and provenances of the usual kind by the thousand."""
    tiny = tiny_cache(tmp_path / "cache")
    failures = [
        Failure(f"clip{n:05}", "audio", f"/data/AVE/clip{n:05}.mp4: expected sound, found none")
        for n in range(20_000)
    ]
    made_by = json.dumps({"machine": "x" * 20, "libraries": dict.fromkeys("abcdefgh", "1.2.3")})
    tiny.write("a", "b", failures=failures)
    tiny.store_index()
    found = open_cache(tiny.folder)
    assert not found.index.stale
    assert len(found.index.failures) == 20_000
    index = load_index(tiny.folder, tiny.identity)
    index.made_by[:] = [made_by.replace("x", str(n), 1) for n in range(5_000)]
    save_index(tiny.folder, tiny.identity, index)
    assert len(load_index(tiny.folder, tiny.identity).made_by) == 5_000
