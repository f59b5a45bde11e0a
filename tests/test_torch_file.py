"""Checkpoints and weights from strangers: what they claim, against the bytes that they have."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import resource
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cache import CacheError
from cache.common.torch_file import read_torch_file
from train.runs.checkpoint import CheckpointError, load

REPOSITORY = Path(__file__).parent.parent


def loaded(path: Path, legacy: bool = False) -> Any:
    return torch.load(read_torch_file(path, legacy), weights_only=True)


def saved(path: Path, value: object, **how: bool) -> Path:
    torch.save(value, path, **how)
    return path


def refused(path: Path, words: str, legacy: bool = False) -> None:
    with pytest.raises(CacheError, match=words) as caught:
        read_torch_file(path, legacy)
    assert str(caught.value).startswith(f"{path}: ")


def records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {one.filename: archive.read(one) for one in archive.infolist()}


def zipped(path: Path, files: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind, compresslevel=1) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("zipped_format", [True, False])
def test_what_torch_writes_is_read_as_it_is(tmp_path: Path, zipped_format: bool) -> None:
    layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    other = {
        **{str(kind): torch.ones(2, 3).to(kind) for kind in (torch.half, torch.int64, torch.bool)},
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "plain": [1, -2, 3.5, True, None, "text", (1, 2, 3, 4), {"nested": 10**12}],
    }
    for value in (layer.state_dict(), other):
        path = saved(tmp_path / "a.pth", value, _use_new_zipfile_serialization=zipped_format)
        found, plain = loaded(path, legacy=True), torch.load(path, weights_only=True)
        assert list(found) == list(plain)
        for name, wanted in plain.items():
            same = torch.equal(found[name], wanted) if isinstance(wanted, Tensor) else None
            assert found[name] == wanted if same is None else same
    if not zipped_format:
        refused(path, "neither the zip file")


def rebuilt(value: Tensor, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return value.as_strided(size, stride)


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_that_claim_more_than_is_stored_are_refused(tmp_path: Path, legacy: bool) -> None:
    one, many, path = torch.zeros(8), torch.zeros(10_000), tmp_path / "a.pth"
    for value, words in [
        (one[:1].expand(10**9), "repeats its numbers"),
        (rebuilt(one, (4, 4), (1, 1)), "repeats its numbers"),
        (rebuilt(one, (2, 3), (2, 2)), "repeats its numbers"),
        ([many.view(-1) for _ in range(9)], "claim more"),
    ]:
        refused(saved(path, value, _use_new_zipfile_serialization=not legacy), words, legacy)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3).to_sparse(),
        torch.zeros(3, device="meta"),
        bytearray(8),
        {1, 2},
        torch.nn.Linear(1, 1),
        torch.device("cpu"),
    ],
    ids=str,
)
def test_other_things_than_dense_tensors_are_refused(tmp_path: Path, value: object) -> None:
    path = saved(tmp_path / "a.pth", {"a": value})
    refused(path, "not a file of plain tensors")


class Calls:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Calls(os.getcwd),
        Calls(bytearray, 10**10),
        Calls(torch.Tensor, 10**10),
        Calls(eval, "1"),
        Calls(torch._utils._rebuild_tensor_v2, None, 0, (3,), (1,), False, OrderedDict()),
    ],
)
def test_calls_are_refused_before_they_cost_anything(tmp_path: Path, value: object) -> None:
    refused(saved(tmp_path / "a.pth", {"a": value}), "not a file of plain tensors")


def test_records_must_be_what_they_claim(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"a": torch.ones(1000)})
    whole, files = path.read_bytes(), records(path)
    data, text = "a/data/0", "a/data.pkl"
    refused(zipped(path, files, zipfile.ZIP_DEFLATED), "compressed")
    refused(zipped(path, {**files, data: b"1234"}), "more bytes than")
    refused(zipped(path, {**files, data: b"1" * 5000}), "another size")
    refused(zipped(path, {name: files[name] for name in files if name != data}), "more bytes than")
    refused(zipped(path, {data: files[data]}), "not those that torch.save writes")
    refused(zipped(path, {**files, "a/byteorder": b"big"}), "little-endian")
    refused(zipped(path, {**files, text: files[text] + b"."}), "behind its structure")
    refused(zipped(path, {**files, text: pickle.dumps("text", 4)}), "more than tensors")
    refused(zipped(path, {**files, text: bytes(1 << 25)}), "bytes of structure")
    refused(zipped(path, {**files, text: b"\x80\x02r\xff\xff\xff\x7f."}), "shared objects")
    refused(zipped(path, {**files, text: b"\x80\x02" + b"]" * 600_000 + b"."}), "objects")
    path.write_bytes(whole + b"more")
    refused(path, "end as torch.save")
    path.write_bytes(whole[:-30])
    refused(path, "not a file of plain tensors")
    twice = zipped(path, {**files, "a/data.pkk": b""}).read_bytes()
    path.write_bytes(twice.replace(b"a/data.pkk", b"a/data.pkl"))
    refused(path, "not those that torch.save writes")
    many = {f"a/x/{number:0200}": b"" for number in range(5000)}
    refused(zipped(path, {**files, **many}), "list of records")
    more = zipped(path, {**files, "a/else": b"x", "a/.data/serialization_id": b"1"})
    assert torch.equal(loaded(more)["a"], torch.ones(1000)), "what nothing refers to is not read"


def test_a_key_that_takes_for_ever_to_hash_is_refused(tmp_path: Path) -> None:
    key: object = ("ha",)
    for _ in range(100):
        key = (key, key)
    text = b"\x80\x02}(" + pickle.dumps(key, 2)[2:-1] + b"K\x01u."
    path = saved(tmp_path / "a.pth", {"a": torch.ones(3)})
    refused(zipped(path, {**records(path), "a/data.pkl": text}), "shared tuples")


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    os.mkfifo(path)
    refused(path, "expected a plain file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(path, "a link or a pipe")
    path.unlink()
    path.mkdir()
    refused(path, "expected a plain file")
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(1 << 40)  # nothing on the disk
    refused(path, "expected at most")
    path.unlink()
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        load(path)


BOMBS = ("repeated", "deflated", "laughs", "about", "sparse", "bytes")
# torch is imported once, and each file loaded by a child of its own: a peak is never lowered.
_MEASURE = """
import os, resource, sys
from pathlib import Path
import torch
from cache.common.errors import AvelError
from train.runs.checkpoint import load
torch.zeros(3).isfinite().all()
for path in sys.argv[1:]:
    if os.fork():
        assert os.wait()[1] == 0
        continue
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load(Path(path))
    except AvelError as error:
        print(error, file=sys.stderr)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def taken_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """For each bomb what it takes on disk, and the memory that loading it takes."""
    paths = [tmp_path_factory.mktemp(kind) / "a.pth" for kind in BOMBS]
    for kind, path in zip(BOMBS, paths, strict=True):
        bomb(kind, path)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *map(str, paths)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [int(line) * unit for line in done.stdout.splitlines()]
    on_disk = [path.stat().st_blocks * 512 for path in paths]
    return dict(zip(BOMBS, zip(on_disk, peaks, strict=True), strict=True))


def laughs(depth: int) -> object:
    value: object = "ha"
    for _ in range(depth):
        value = [value] * 10
    return value


def bomb(kind: str, path: Path) -> None:
    payload = {"format": "avel-model", "version": 1, "about": "{}"}
    if kind == "repeated":
        saved(path, {**payload, "model": {"gate.bias": torch.zeros(1).expand(10**10)}})
    elif kind == "deflated":
        saved(path, {**payload, "model": {"gate.bias": torch.zeros(1 << 27)}})
        zipped(path, records(path), zipfile.ZIP_DEFLATED)
    elif kind == "laughs":
        saved(path, {**payload, "version": laughs(12), "optimizer": laughs(12)})
    elif kind == "about":
        saved(path, {**payload, "about": "[" + "[]," * (1 << 22) + "0]"})
    elif kind == "sparse":
        saved(path, {**payload, "model": {}})
        with path.open("r+b") as file:
            file.truncate(1 << 33)
    elif kind == "bytes":
        saved(path, {**payload, "model": Calls(bytearray, 1 << 32)})


@pytest.mark.parametrize("kind", BOMBS)
def test_small_files_take_little_memory(kind: str, taken_bytes: dict[str, tuple[int, int]]) -> None:
    on_disk, taken = taken_bytes[kind]
    assert on_disk < 20e6
    assert taken < 5 * on_disk + 400e6


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, cut, repeated or put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 4, 8, 64))
        how = rng.randrange(5)
        if how == 0:
            changed[at : at + length] = rng.randbytes(length)
        elif how == 1:
            del changed[at : at + length]
        elif how == 2:
            changed[at:at] = changed[at : at + length] or b"0"
        elif how == 3:
            changed[at:at] = rng.randbytes(length)
        elif at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("legacy", [False, True])
def test_mutants_are_read_or_refused_with_a_sentence(tmp_path: Path, legacy: bool) -> None:
    rng, path = random.Random(17), tmp_path / "a.pth"
    payload = {"a": torch.ones(5), "b": [1, {"c": torch.zeros(2, 2)}], "text": "x" * 50}
    whole = saved(path, payload, _use_new_zipfile_serialization=not legacy).read_bytes()
    files = {} if legacy else records(path)
    counts = {"read": 0, "refused": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(300):
        if legacy or number % 3 == 0:
            path.write_bytes(mutated(whole, rng))
        else:
            name = "a/data.pkl" if number % 3 == 1 else rng.choice(list(files))
            zipped(path, {**files, name: mutated(files[name], rng)})
        try:
            checked = read_torch_file(path, legacy)
        except CacheError:
            counts["refused"] += 1
            continue
        try:
            torch.load(checked, weights_only=True)
            counts["read"] += 1
        except (RuntimeError, pickle.UnpicklingError, ValueError, EOFError, LookupError):
            counts["refused"] += 1  # torch may say no more often than we do
        assert isinstance(checked, io.BytesIO)
    assert min(counts.values()) > 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000 if sys.platform == "linux" else True


def test_what_torch_refuses_after_all_is_a_sentence_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"format": "avel-model", 3: laughs(2)})
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load(path)
