"""Small files that claim much: what reads them stays within a few times their size.

Each case is a cache of its own; one process looks at one after the other and tells its peaks.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from small_media import TinyCache, tiny_cache

from cache import open_cache
from cache.check.verify import RECORD_FILE
from cache.format.index_file import load_index, save_index
from cache.format.sealed import write_seal
from cache.format.shard import Failure, file_sha256, shard_name

CONSTANT_BYTES = 300 << 20
TIMES = 8
LOOK = """
import contextlib, sys
from pathlib import Path
from cache import CacheError
from cache.format.identity import read_identity
from cache.format.index_file import load_index
from cache import describe
from cache import open_cache
from cache.check.repair import damaged_shards, without
from cache.check.verify import verify

def plan(folder):
    index = load_index(folder, read_identity(folder))
    without(index, damaged_shards(folder, index))

def look(folder):
    told = 0
    for use in (lambda: describe(open_cache(folder)), lambda: plan(folder), lambda: verify(folder)):
        try:
            told += bool(getattr(use(), "problems", False))
        except CacheError as error:
            told += 1
    return told

for folder in map(Path, sys.argv[1:]):
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    told = look(folder)
    (peak,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(folder.name, told, int(peak.split()[1]) * 1024)
"""


def put(file: h5py.File, name: str, values: npt.NDArray[Any]) -> None:
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


def as_bytes(text: str) -> npt.NDArray[np.uint8]:
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
    put(file, "rows/id", np.arange(3_000_000).astype("S7"))


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


def long_attribute(path: Path, name: str) -> None:
    """Of the size that only newer files can hold."""
    data = path.read_bytes()
    with h5py.File(io.BytesIO(data)) as file, h5py.File(path, "w", libver="latest") as other:
        for group in file:
            file.copy(group, other)
        for key, value in file.attrs.items():
            other.attrs[key] = np.bytes_(b"x" * (40 << 20)) if key == name else value


def record(part: str) -> str:
    head = '{"at": "now", "shards": 1, "clips": 2, "problems": 1, "damaged": {"x": ['
    return head + part * ((15 << 20) // len(part)) + "0]}}"


def small_cache(folder: Path) -> TinyCache:
    tiny = tiny_cache(folder)
    tiny.write("a", "b", failures=[Failure("d", "audio", "no sound")])
    return tiny


def only_shard(tiny: TinyCache) -> Path:
    (path,) = (tiny.folder / "shards").iterdir()
    return path


def named(path: Path) -> None:
    """Give a shard the name of its bytes."""
    path.rename(path.with_name(shard_name(file_sha256(path))))


def make_shard(tiny: TinyCache, change: Callable[[h5py.File], object], name: str) -> None:
    path = only_shard(tiny)
    with h5py.File(path, "r+") as file:
        change(file)
    if "hole" not in name:  # such a file takes long to hash, and is refused before
        named(path)


def make_index(tiny: TinyCache, change: Callable[[h5py.File], object]) -> None:
    path = tiny.store_index()
    with h5py.File(path, "r+") as file:
        change(file)
    write_seal(path)


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int, int]]:
    """For each case: how many looks ended in a sentence, the peak, and what it takes on disk."""
    root = tmp_path_factory.mktemp("memory")
    for name, change in SHARDS.items():
        make_shard(small_cache(root / f"shard {name}"), change, name)
    for name, change in INDEXES.items():
        make_index(small_cache(root / f"index {name}"), change)
    for name in ATTRIBUTES:
        path = only_shard(small_cache(root / f"attribute {name}"))
        long_attribute(path, name)
        named(path)
    for name, part in RECORDS.items():
        (small_cache(root / f"record {name}").folder / RECORD_FILE).write_text(record(part))
    identity = small_cache(root / "identity").folder / "cache.json"
    identity.write_text('{"config": [' + "[]," * 340_000 + "[]]}")
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *map(str, root.iterdir())],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (line.rsplit(" ", 2) for line in done.stdout.splitlines())
    return {name: (int(told), int(peak), on_disk(root / name)) for name, told, peak in lines}


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


ATTRIBUTES = ("format", "fingerprint", "provenance")
RECORDS = {"lists": "[],", "texts": '"",', "objects": "{},"}
CASES = [
    *(f"shard {name}" for name in SHARDS),
    *(f"index {name}" for name in INDEXES),
    *(f"attribute {name}" for name in ATTRIBUTES),
    *(f"record {name}" for name in RECORDS),
    "identity",
]


@pytest.mark.parametrize("case", CASES)
def test_memory_stays_near_the_files_size(
    peaks: dict[str, tuple[int, int, int]], case: str
) -> None:
    told, peak, size = peaks[case]
    assert peak < CONSTANT_BYTES + TIMES * size
    assert told or case.startswith("record")  # a record that is none is as good as no record


def test_one_shard_s_wide_ids_do_not_widen_those_of_all(tmp_path: Path) -> None:
    stored = small_cache(tmp_path / "cache")
    path = only_shard(stored)
    with h5py.File(path, "r+") as file:
        put(file, "rows/id", np.array([b"a", b"b"], "S4096"))
    named(path)
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
