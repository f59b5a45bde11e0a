"""`index.h5`: the index as stored. Derived, so a damaged one is not trusted but made anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache.common.atomic import replace_file
from cache.common.errors import CacheError
from cache.common.plain import (
    encode_text,
    open_hdf5,
    plain_dataset,
    read_attribute,
    reading,
    whole,
    write_text,
)
from cache.common.strict_json import loads
from cache.format.fields import MAX_ROW_BYTES
from cache.format.identity import Identity
from cache.format.index import Index, Reported, ShardFacts, extend_index, is_shard_name, shard_files
from cache.format.names import check_id
from cache.format.row_table import COLUMNS, row_table
from cache.format.schema import MAX_ID_BYTES, Declaration
from cache.format.sealed import check_seal, sealed_image
from cache.format.shard import END_OF_TIME_NS, Failure

INDEX_FILE = "index.h5"
_VERSION = 4


def load_index(folder: Path, identity: Identity) -> Index:
    """Read the index, and any shard that it does not cover. Writes nothing."""
    known = stored_index(folder, identity)
    return extend_index(known, shard_files(folder), folder, identity)


def stored_index(folder: Path, identity: Identity) -> Index | None:
    """What `index.h5` says, be it so or not; None where it is missing or damaged."""
    try:
        return parse_index(folder / INDEX_FILE, identity)
    except (CacheError, OSError):
        return None  # the shards say the same


def save_index(folder: Path, identity: Identity, index: Index) -> None:
    """Store the index. Call with the writer's lock held."""
    replace_file(folder / INDEX_FILE, render_index(identity, index))


def render_index(identity: Identity, index: Index) -> bytes:
    """The bytes of an `index.h5`: rows sorted by id, so that opening it sorts nothing."""
    names = list(index.shards)
    number = {name: place for place, name in enumerate(names)}
    facts = list(index.shards.values())
    failures = [
        {**vars(one.failure), "shard": number[one.shard], "when": one.created_ns, "by": one.made_by}
        for one in index.reported
    ]
    rows = index.rows[np.argsort(index.rows["id"], kind="stable")]
    width = len(identity.declaration.stored_names)
    arrays = {
        "shard/name": encode_text(names),
        "shard/size": np.array([fact.size for fact in facts], np.int64),
        "shard/offset": np.array([fact.offsets for fact in facts], np.int64).reshape(-1, width),
        "shard/id_place": np.array([fact.ids for fact in facts], np.int64).reshape(-1, 2),
        "made_by_json": np.frombuffer(json.dumps(index.made_by).encode(), np.uint8),
        "failures_json": np.frombuffer(json.dumps(failures).encode(), np.uint8),
        **{f"clip/{name}": np.ascontiguousarray(rows[name]) for name in ("id", *COLUMNS)},
    }

    def fill(file: h5py.File) -> None:
        write_text(file, "fingerprint", identity.fingerprint)
        file.attrs["version"] = _VERSION
        for name, array in arrays.items():
            file[name] = array

    return sealed_image(fill)


def parse_index(path: Path, identity: Identity) -> Index:
    """The index in a file; CacheError when it is damaged, foreign, or of another version."""
    check_seal(path)
    with open_hdf5(path) as file, reading(path, "the index"):
        if read_attribute(file, "version") != _VERSION:
            raise CacheError(f"{path}: an index of another release")
        if read_attribute(file, "fingerprint") != identity.fingerprint:
            raise CacheError(f"{path}: the index of another cache")
        names = [value.decode() for value in whole(plain_dataset(file, "shard/name")).tolist()]
        if len(set(names)) != len(names) or not all(map(is_shard_name, names)):
            raise CacheError(f"{path}: names files that are no shards; refused")
        facts = _facts(file, len(names), len(identity.declaration.stored_names))
        ids = whole(plain_dataset(file, "clip/id"))
        _check_ids(path, ids)
        columns = {name: _column(file, f"clip/{name}", len(ids), *_kind(name)) for name in COLUMNS}
        rows = row_table(ids, **columns)
        _check_places(path, facts, rows, identity.declaration)
        reported = _failures(path, names, whole(plain_dataset(file, "failures_json")).tobytes())
        made_by = _made_by(file, rows)
        shards = dict(zip(names, facts, strict=True))
        return Index(identity.declaration, shards, rows, reported, made_by)


def _kind(name: str) -> tuple[Any, tuple[int, ...]]:
    base = np.dtype(COLUMNS[name])
    return base.base, base.shape


def _column(
    file: h5py.File, name: str, count: int, dtype: Any, shape: tuple[int, ...] = ()
) -> np.ndarray[Any, Any]:
    values = whole(plain_dataset(file, name))
    if values.dtype != np.dtype(dtype) or values.shape != (count, *shape):
        raise CacheError(f"{file.filename}: {name} is {values.dtype} {values.shape}; refused")
    return values


def _facts(file: h5py.File, count: int, width: int) -> list[ShardFacts]:
    sizes = _column(file, "shard/size", count, np.int64).tolist()
    places = _column(file, "shard/offset", count, np.int64, (width,)).tolist()
    ids = [[0, 0]] * count  # earlier releases wrote none
    if "shard/id_place" in file:
        ids = _column(file, "shard/id_place", count, np.int64, (2,)).tolist()
    rows = zip(sizes, places, ids, strict=True)
    return [ShardFacts(size, tuple(o), (first, width)) for size, o, (first, width) in rows]


def _made_by(file: h5py.File, rows: np.ndarray[Any, Any]) -> list[str]:
    found = loads(whole(plain_dataset(file, "made_by_json")).tobytes())
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise CacheError(f"{file.filename}: made_by_json is no list of texts; refused")
    numbers = rows["made_by"]
    if len(rows) and not 0 <= numbers.min() <= numbers.max() < len(found):
        raise CacheError(f"{file.filename}: a row is made by nothing listed; refused")
    return found


def _check_places(
    path: Path, facts: Sequence[ShardFacts], rows: np.ndarray[Any, Any], declared: Declaration
) -> None:
    """Refuse rows beyond their file, and more of them than it has room for."""
    shard, row = rows["shard"], rows["row"].astype(np.int64)
    if len(rows) and not 0 <= shard.min() <= shard.max() < len(facts):
        raise CacheError(f"{path}: names a shard that it doesn't list; refused")
    if not facts:
        return
    count = np.zeros(len(facts), np.int64)
    np.maximum.at(count, shard, row + 1)
    width = {name: field.bytes_per_clip for name, field in declared.row_layout.items()}
    widths = np.array([width.get(name, 0) for name in declared.stored_names])
    offset, size = np.array([f.offsets for f in facts]), np.array([f.size for f in facts])
    inside = (offset >= 0) & (count[:, None] * widths <= size[:, None] - offset)
    pictures = rows["jpeg_bytes"]
    if len(rows) and not 0 <= pictures.min() <= pictures.max() <= MAX_ROW_BYTES:
        raise CacheError(f"{path}: has rows with impossible pictures; refused")
    when = rows["created_ns"]
    if len(rows) and not 0 <= when.min() <= when.max() < END_OF_TIME_NS:
        raise CacheError(f"{path}: has rows of an impossible time; refused")
    if (len(rows) and row.min() < 0) or size.min() < 0 or not inside.all():
        raise CacheError(f"{path}: has rows beyond the end of their file; refused")
    if np.any(np.bincount(shard, minlength=len(facts)) > count):
        raise CacheError(f"{path}: names a row twice; refused")


def _failures(path: Path, names: Sequence[str], text: bytes) -> list[Reported]:
    found = []
    for entry in loads(text):
        shard, when, by = names[entry.pop("shard")], entry.pop("when"), entry.pop("by")
        failure = Failure(**entry)
        values = [*vars(failure).values(), when, by]
        if [type(value) for value in values] != [str] * 3 + [int] * 4 + [str]:
            raise CacheError(f"{path}: has a failure of other types than a failure has; refused")
        problem = check_id(failure.id)
        numbers = all(-(2**63) <= value < 2**63 for value in values[3:6])
        if problem or not (numbers and 0 <= when < END_OF_TIME_NS):
            raise CacheError(f"{path}: {problem or 'has an impossible number'}; refused")
        found.append(Reported(shard, failure, when, by))
    return found


def _check_ids(path: Path, ids: np.ndarray[Any, Any]) -> None:
    """Refuse ids that `check_id` refuses, without a Python call for each of 200,000 plain ones."""
    if ids.dtype.kind != "S" or ids.ndim != 1:
        raise CacheError(f"{path}: clip/id is not a list of texts")
    if ids.dtype.itemsize > MAX_ID_BYTES:
        raise CacheError(f"{path}: has an id longer than {MAX_ID_BYTES} bytes; refused")
    if not len(ids):
        return
    data = np.ascontiguousarray(ids).view(np.uint8).reshape(len(ids), -1)
    plain = (data > 0x20) & (data < 0x7F) & (data != ord("/")) & (data != ord("\\"))
    # Plain characters, then the padding; one dot or two at the start may be "." or "..".
    filled = np.arange(data.shape[1]) < np.char.str_len(ids)[:, None]
    doubtful = (plain != filled).any(axis=1) | (data[:, 0] == ord(".")) | ~filled[:, 0]
    for value in ids[doubtful].tolist():
        problem = check_id(value.decode())
        if problem:
            raise CacheError(f"{path}: {problem}; refused")
