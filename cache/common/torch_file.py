"""Files of PyTorch tensors from strangers, looked through before torch sees a byte of them.

torch.load with weights_only=True executes nothing, but it takes the memory that a file claims: a
deflated record, a tensor that repeats one number a billion times, a list of lists of lists. Here
everything that a file claims is compared with the bytes that it has, with the standard library
alone, and what was compared is handed on.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cache.common.errors import CacheError
from cache.common.plain import open_plain

MAX_FILE_BYTES = 1 << 30
MAX_PICKLE_BYTES = 1 << 24
_MAX_OPCODES = 500_000
_MAX_SHARED_TUPLES = 16
_MAX_LIST_BYTES = 1 << 20
"""Of a zip's list of records: some ten thousand."""
_SHARED = 4
"""Tensors may share storage, but not claim more than so many times the file's bytes."""
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that torch wrote before version 1.6: its magic number, pickled."""
_OPCODES = frozenset(
    name
    for line in (
        *("PROTO STOP MARK NONE NEWTRUE NEWFALSE", "BININT BININT1 BININT2 LONG1 BINFLOAT"),
        *("BINUNICODE EMPTY_DICT EMPTY_LIST", "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3"),
        *("APPEND APPENDS SETITEM SETITEMS", "BINPUT LONG_BINPUT BINGET LONG_BINGET"),
        "GLOBAL BINPERSID REDUCE BUILD",
    )
    for name in line.split()
)
_ITEM_BYTES = {
    **dict.fromkeys(("Double", "Long"), 8),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Char", "Byte", "Bool"), 1),
}
_BAD = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error, EOFError, NotImplementedError),
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
)


def read_torch_file(path: Path, legacy: bool = False) -> BinaryIO:
    """A file of plain tensors, in memory, ready for torch.load with weights_only=True.

    Takes about twice the file's size in memory. Raises CacheError for links, pipes and devices,
    compressed records, anything but dense tensors of plain numbers in dicts and lists with
    numbers and texts, and for tensors that claim more than the file has; FileNotFoundError and
    other errors of the system pass. `legacy`: also the format of torch before 1.6.
    """
    with os.fdopen(open_plain(path), "rb") as file, warnings.catch_warnings():
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise CacheError(f"{path}: {size:,} bytes, expected at most {MAX_FILE_BYTES:,}")
        try:
            warnings.simplefilter("ignore")  # of texts in opcodes that are refused
            begin = file.read(len(_LEGACY))
            if legacy and begin == _LEGACY:
                return _checked_legacy(file, size)
            if not begin.startswith(b"PK"):
                raise CacheError("neither the zip file that torch.save writes, nor like one")
            return _checked_zip(file, size)
        except (CacheError, *_BAD) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise CacheError(f"{path}: not a file of plain tensors ({told})") from None


def _checked_zip(file: BinaryIO, size: int) -> BinaryIO:
    """The records that its tensors need, each compared with its claims, as a new zip file."""
    _check_list(file, size)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(one.compress_type or one.file_size != one.compress_size for one in records):
            raise CacheError("its records are compressed; expected them as torch.save stores them")
        if sum(one.file_size for one in records) > size:
            raise CacheError("its records claim more bytes than the file has")
        folder = records[0].filename.partition("/")[0] if records else ""
        sizes = {one.filename: one.file_size for one in records}
        if len(sizes) != len(records) or f"{folder}/data.pkl" not in sizes:
            raise CacheError("its records are not those that torch.save writes")
        _at_most(sizes[f"{folder}/data.pkl"], MAX_PICKLE_BYTES, "bytes of structure")
        text = archive.read(f"{folder}/data.pkl")
        sketch = _Sketch()
        sketch.read(text)
        sketch.check(size)
        for key, storage in sketch.storages.items():
            if sizes.get(f"{folder}/data/{key}") != storage.items * storage.item_bytes:
                raise CacheError(f"its record data/{key[:40]} has another size than it claims")
        order = f"{folder}/byteorder"
        if sizes.get(order, 6) != 6 or (order in sizes and archive.read(order) != b"little"):
            raise CacheError("expected little-endian numbers")
        checked = io.BytesIO()
        with zipfile.ZipFile(checked, "w") as copy:
            copy.writestr("archive/data.pkl", text)
            copy.writestr("archive/byteorder", b"little")
            for key in sketch.storages:
                copy.writestr(f"archive/data/{key}", archive.read(f"{folder}/data/{key}"))
            copy.writestr("archive/version", b"3\n")
    checked.seek(0)
    return checked


def _check_list(file: BinaryIO, size: int) -> None:
    """Refuse a list of records that is itself too large to be read: it has no limit otherwise."""
    file.seek(max(0, size - 98))
    tail = file.read()
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise CacheError("a zip file that doesn't end as torch.save ends one; cut off?")
    (length,) = struct.unpack("<L", tail[-10:-6])
    if tail[-42:-38] == b"PK\6\7" and len(tail) == 98:  # a second list, for large files
        (longer,) = struct.unpack("<Q", tail[40:48])
        length = longer if length == 0xFFFFFFFF else max(length, longer)
    _at_most(length, _MAX_LIST_BYTES, "bytes of list of records")


def _checked_legacy(file: BinaryIO, size: int) -> BinaryIO:
    """The whole file, whose five pickles (the third is the content) have been looked through."""
    file.seek(0)
    file = io.BytesIO(file.read())  # which gives no more than it has, however much is asked for
    sketch, built = _Sketch(), None
    for _ in range(5):
        begin = file.tell()
        sketch.look(file, MAX_PICKLE_BYTES)
        file.seek(begin)
        built = sketch.follow(io.BytesIO(file.read(sketch.length)))
    sketch.check(size)
    if not isinstance(built, list) or sorted(built) != sorted(sketch.storages):
        raise CacheError("it lists other numbers than its tensors are made of")
    file.seek(0)
    return file


@dataclass(frozen=True)
class _Storage:
    """So many numbers of so many bytes."""

    items: int
    item_bytes: int


class _Name:
    """What a pickle may name: calling it checks the arguments, and does nothing else."""

    def __init__(self, name: str, call: Any = None) -> None:
        self.name, self.call = name, call

    def __call__(self, *values: Any) -> Any:
        if self.call is None:
            raise CacheError(f"{self.name} is called")
        return self.call(*values)

    def __setstate__(self, state: Any) -> None:
        raise CacheError(f"{self.name} is changed")


class _Dict(dict[Any, Any]):
    """An OrderedDict; attributes, of which state dicts have some, are left out."""

    def __setstate__(self, state: Any) -> None:
        pass


@dataclass
class _Sketch:
    """What a pickle builds, but without the tensors: their sizes are compared instead."""

    storages: dict[str, _Storage] = field(default_factory=dict)
    claimed_bytes: int = 0
    length: int = 0

    def read(self, data: bytes) -> None:
        """One pickle that fills `data`."""
        self.look(io.BytesIO(data), len(data))
        if self.length != len(data):
            raise CacheError("there is something behind its structure")
        self.follow(io.BytesIO(data))

    def look(self, file: BinaryIO, limit: int) -> None:
        """Go through a pickle's opcodes, without following them; sets `length`."""
        begin, before, tuples, shared = file.tell(), "", set(), 0
        for count, (opcode, value, _) in enumerate(pickletools.genops(file)):
            if opcode.name not in _OPCODES:
                raise CacheError(f"it holds more than tensors, numbers and texts: {opcode.name}")
            if opcode.name.endswith("BINPUT"):
                _at_most(int(value or 0), _MAX_OPCODES, "shared objects")
                if before.startswith("TUPLE"):
                    tuples.add(value)
            # A tuple of tuples of the same tuple is as good as endless where it is hashed as a key.
            shared += opcode.name.endswith("BINGET") and value in tuples
            _at_most(shared, _MAX_SHARED_TUPLES, "shared tuples")
            _at_most(count, _MAX_OPCODES, "objects")
            _at_most(file.tell() - begin, limit, "bytes of structure")
            before = opcode.name
        self.length = file.tell() - begin

    def follow(self, file: BinaryIO) -> Any:
        """Build what the opcodes say, with sizes for tensors."""
        names = {
            "collections OrderedDict": _Name("OrderedDict", _Dict),
            "torch._utils _rebuild_tensor_v2": _Name("a tensor", self._tensor),
            "torch._utils _rebuild_parameter": _Name("a parameter", lambda data, *_: data),
            **{f"torch {name}Storage": _Name(name) for name in _ITEM_BYTES},
        }

        class Follower(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                if f"{module} {name}" not in names:
                    raise CacheError(f"it names {module}.{name}, and could run code")
                return names[f"{module} {name}"]

            persistent_load = staticmethod(self._storage)

        return Follower(file).load()

    def check(self, size: int) -> None:
        """Compare with the size of the file."""
        stored = sum(one.items * one.item_bytes for one in self.storages.values())
        if stored > size or self.claimed_bytes > _SHARED * size:
            raise CacheError("its tensors claim more bytes than the file has")

    def _storage(self, claim: Any) -> _Storage:
        kind, of, key, location, items, *view = claim
        if kind != "storage" or any(view) or not isinstance(of, _Name):
            raise CacheError("a tensor's numbers are not described as torch.save does")
        if not (isinstance(key, str) and key.isdecimal() and isinstance(location, str)):
            raise CacheError("a tensor's numbers are not named as torch.save does")
        _whole(items)
        found = _Storage(items, _ITEM_BYTES[of.name])
        if self.storages.setdefault(key, found) != found:
            raise CacheError(f"it describes the numbers {key[:40]} in two ways")
        return found

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any
    ) -> tuple[int, ...]:
        if not isinstance(storage, _Storage) or len(size) != len(stride) or len(size) > 16:
            raise CacheError("a tensor is not described as torch.save does")
        _whole(offset, *size, *stride)
        if 0 not in size and offset + _extent(size, stride) > storage.items:
            raise CacheError("a tensor claims more numbers than are stored")
        count = 1
        for length in size:
            count *= length
        self.claimed_bytes += count * storage.item_bytes
        return tuple(size)


def _extent(size: Sequence[int], stride: Sequence[int]) -> int:
    """Stored numbers from a tensor's first to its last, none of which may stand in two places."""
    extent = 1
    for step, length in sorted(zip(stride, size, strict=True)):
        if length > 1:
            if step < extent:
                raise CacheError("a tensor repeats its numbers")
            extent += (length - 1) * step
    return extent


def _whole(*values: Any) -> None:
    if any(type(value) is not int or not 0 <= value < 1 << 60 for value in values):
        raise CacheError("a tensor's sizes are no whole numbers")


def _at_most(value: int, limit: int, what: str) -> None:
    if value > limit:
        raise CacheError(f"{value:,} {what}, expected at most {limit:,}")
