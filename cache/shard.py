"""One shard: written whole or not at all, and read back with suspicion.

A shard is the unit of work, commit, resume, transfer and repair. It is written under a temporary
name, hashed, flushed to disk, and renamed to the first 32 hex digits of its own SHA-256, so its
name proves its content and two shards with one name are the same file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.annotations import check_id
from cache.errors import CacheError
from cache.plain import plain_dataset, read_attribute, reading, write_text
from cache.schema import (
    FORMAT,
    FORMAT_VERSION,
    JPEG_BYTES,
    JPEG_END,
    MAX_MESSAGE_BYTES,
    ROW_FIELDS,
    Field,
    feature_fields,
    row_digest,
)
from cache.settings import canonical_json

Array = npt.NDArray[Any]
TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Clip:
    """One clip's finished row.

    `features` holds an array for each name of `schema.feature_fields`, without the leading N;
    `jpegs` one encoded picture per frame (empty without video).
    """

    id: str
    features: Mapping[str, Array]
    jpegs: Sequence[bytes] = ()
    valid_s: float = 0.0
    media_s: float = float("nan")
    audio_steps: int = 0
    audio_start_s: float = 0.0
    media_size: int = 0
    media_mtime_ns: int = 0
    media_sha256: bytes = bytes(32)


@dataclass(frozen=True)
class Failure:
    """A clip that gave no features: where it failed, why, and at which attempt."""

    id: str
    stage: str
    message: str
    attempt: int = 1
    media_size: int = 0
    media_mtime_ns: int = 0


@dataclass(frozen=True)
class Written:
    """What a worker reports back: the shard's name and counts, never arrays."""

    name: str
    clips: int
    failures: int
    bytes: int


def write_shard(
    folder: Path,
    identity: Mapping[str, Any],
    clips: Sequence[Clip],
    failures: Sequence[Failure] = (),
) -> Written:
    """Write clips and failures as one shard of the cache folder `folder`, atomically.

    `identity` is the content of `cache.json`. A kill at any instant leaves either the whole
    shard or a temporary file that the next writer removes.
    """
    shards = folder / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, suffix=".h5", dir=shards)
    os.close(handle)
    path = Path(temporary)
    try:
        with h5py.File(path, "w") as file:
            _write_attributes(file, identity)
            _write_clips(file, feature_fields(identity["config"]), clips)
            _write_failures(file, failures)
        path.chmod(0o644)
        digest = file_sha256(path)
        size = path.stat().st_size
        sync(path)
        name = f"{digest[:32]}.h5"
        path.replace(shards / name)
        sync(shards)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Written(name, len(clips), len(failures), size)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_attributes(file: h5py.File, identity: Mapping[str, Any]) -> None:
    write_text(file, "format", FORMAT)
    write_text(file, "fingerprint", identity["fingerprint"])
    write_text(file, "config", canonical_json(identity["config"]))
    write_text(file, "provenance", canonical_json(identity.get("provenance", {})))
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["feature_version"] = identity["feature_version"]
    file.attrs["created_ns"] = time.time_ns()


def _write_clips(file: h5py.File, fields: list[Field], clips: Sequence[Clip]) -> None:
    file["rows/id"] = encode_text([clip.id for clip in clips])
    for spec in ROW_FIELDS:
        if spec.name not in {"rows/sha256", "rows/media_sha256"}:
            name = spec.name.removeprefix("rows/")
            file[spec.name] = np.array([getattr(clip, name) for clip in clips], spec.dtype)
    digests = b"".join(row_digest(clip.id, _hashed(clip)) for clip in clips)
    file["rows/sha256"] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    media = b"".join(clip.media_sha256 for clip in clips)
    file["rows/media_sha256"] = np.frombuffer(media, np.uint8).reshape(-1, 32)
    for spec in fields:
        for clip in clips:
            array = clip.features[spec.name]
            if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
                raise ValueError(
                    f"{clip.id}: {spec.name} is {array.dtype} {array.shape}, "
                    f"the format says {spec.dtype} {spec.shape}"
                )
        # Contiguous: a clip's row is one run of bytes, read at the disk's rate, and there is no
        # chunk table for a hostile file to bend.
        empty = np.empty((0, *spec.shape), spec.dtype)
        stacked = np.stack([clip.features[spec.name] for clip in clips]) if clips else empty
        write_text(file.create_dataset(spec.name, data=stacked), "unit", spec.unit)
    frames = next((spec.shape[0] for spec in fields if spec.name == "video/maps"), 0)
    if frames:
        sizes = [len(picture) for clip in clips for picture in clip.jpegs]
        pictures = b"".join(picture for clip in clips for picture in clip.jpegs)
        file[JPEG_BYTES] = np.frombuffer(pictures, np.uint8)
        file[JPEG_END] = np.cumsum(sizes, dtype=np.int64).reshape(len(clips), frames)


def _write_failures(file: h5py.File, failures: Sequence[Failure]) -> None:
    group = file.create_group("failures")
    group["id"] = encode_text([failure.id for failure in failures])
    group["stage"] = encode_text([failure.stage for failure in failures])
    group["message"] = encode_text([failure.message for failure in failures], MAX_MESSAGE_BYTES)
    for name in ("attempt", "media_size", "media_mtime_ns"):
        group[name] = np.array([getattr(failure, name) for failure in failures], np.int64)


def encode_text(values: Iterable[str], limit: int | None = None) -> Array:
    """Fixed-length UTF-8 bytes, cut at whole characters: no object dtypes in the file."""
    encoded = [value.encode("utf-8", "replace") for value in values]
    if limit is not None:
        encoded = [value[:limit].decode("utf-8", "ignore").encode() for value in encoded]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def _hashed(clip: Clip) -> dict[str, Array]:
    """Everything of a row that `rows/sha256` protects, as stored."""
    arrays = dict(clip.features)
    for spec in ROW_FIELDS:
        name = spec.name.removeprefix("rows/")
        if spec.name == "rows/media_sha256":
            arrays[spec.name] = np.frombuffer(clip.media_sha256, np.uint8)
        elif spec.name != "rows/sha256":
            arrays[spec.name] = np.asarray(getattr(clip, name), spec.dtype)
    for number, picture in enumerate(clip.jpegs):
        arrays[f"{JPEG_BYTES}/{number}"] = np.frombuffer(picture, np.uint8)
    return arrays


class Shard:
    """A shard opened for reading. Use as a context manager.

    Raises CacheError when the file is no shard of this cache, or holds anything that a shard
    written by this project can't: links, external or virtual storage, other dtypes or shapes.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        try:
            self._file = h5py.File(path, "r", locking=False)
        except OSError as error:
            raise CacheError(f"{path}: not a readable HDF5 file ({error})") from None
        try:
            self._check_identity(identity)
            self.fields = {spec.name: spec for spec in feature_fields(identity["config"])}
            self.ids = [value.decode("utf-8", "replace") for value in self._text("rows/id")]
            for problem in filter(None, map(check_id, self.ids)):
                raise CacheError(f"{path}: {problem}; refused")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def created_ns(self) -> int:
        """When the shard was written, ns since 1970; the newest row of an id counts."""
        return int(read_attribute(self._file, "created_ns"))

    def read(self, name: str, rows: slice | npt.NDArray[np.int64] | None = None) -> Array:
        """A dataset by its documented name: (len(rows), …)."""
        with reading(self.path, name):
            values: Array = self.dataset(name)[slice(None) if rows is None else rows]
        return values

    def read_into(self, name: str, out: Array) -> None:
        """Read a whole dataset into `out` (N, …) without a copy between."""
        if out.size:
            self.dataset(name).read_direct(out)

    def dataset(self, name: str) -> h5py.Dataset:
        """The checked h5py dataset of a feature or row field."""
        spec = self.fields.get(name) or {field.name: field for field in ROW_FIELDS}.get(name)
        if spec is None:
            raise CacheError(f"{self.path}: no dataset {name!r}; it has {', '.join(self.fields)}")
        return self._checked(name, (len(self.ids), *spec.shape), np.dtype(spec.dtype))

    def jpegs(self, row: int) -> list[bytes]:
        """The F encoded pictures of one clip."""
        if "video/maps" not in self.fields:
            return []
        frames = self.fields["video/maps"].shape[0]
        table = self._checked(JPEG_END, (len(self.ids), frames), np.dtype(np.int64))
        data = self._checked(JPEG_BYTES, None, np.dtype(np.uint8))
        with reading(self.path, JPEG_BYTES):
            ends = np.concatenate([[0], table[()].ravel()])
            if np.any(np.diff(ends) < 0) or ends[-1] != data.size or data.ndim != 1:
                raise CacheError(f"{self.path}: {JPEG_END} doesn't fit {JPEG_BYTES}")
            cells = range(row * frames, (row + 1) * frames)
            return [data[ends[cell] : ends[cell + 1]].tobytes() for cell in cells]

    def failures(self) -> list[Failure]:
        """The clips that failed in this shard."""
        texts = [self._text(f"failures/{name}") for name in ("id", "stage", "message")]
        with reading(self.path, "failures"):
            numbers = [
                self._checked(f"failures/{name}", texts[0].shape, np.dtype(np.int64))[()]
                for name in ("attempt", "media_size", "media_mtime_ns")
            ]
            return [
                Failure(*(text.decode("utf-8", "replace") for text in row[:3]), *map(int, row[3:]))
                for row in zip(*texts, *numbers, strict=True)
            ]

    def damaged_rows(self) -> list[str]:
        """Ids whose stored bytes no longer match their checksum."""
        stored = self.read("rows/sha256")
        return [
            clip_id
            for row, clip_id in enumerate(self.ids)
            if row_digest(clip_id, self._row_arrays(row)) != stored[row].tobytes()
        ]

    def _row_arrays(self, row: int) -> dict[str, Array]:
        names = [*self.fields, *(spec.name for spec in ROW_FIELDS if spec.name != "rows/sha256")]
        arrays = {name: np.asarray(self.dataset(name)[row]) for name in names}
        if "video/maps" in self.fields:
            for number, picture in enumerate(self.jpegs(row)):
                arrays[f"{JPEG_BYTES}/{number}"] = np.frombuffer(picture, np.uint8)
        return arrays

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        with reading(self.path, "format"):
            known = "format" in self._file.attrs
        if not known or read_attribute(self._file, "format") != FORMAT:
            raise CacheError(f"{self.path}: not a shard of a feature cache")
        found = str(read_attribute(self._file, "fingerprint"))
        if found != identity["fingerprint"]:
            raise CacheError(
                f"{self.path}: a shard of another cache: its fingerprint is {found[:16]}…, "
                f"this cache's is {identity['fingerprint'][:16]}…"
            )

    def _text(self, name: str) -> Array:
        dataset = self._checked(name, None, None)
        with reading(self.path, name):
            if dataset.dtype.kind != "S" or dataset.ndim != 1 or dataset.dtype.itemsize > 4096:
                raise CacheError(f"{self.path}: {name} is not a list of short texts")
            values: Array = dataset[()]
        return values

    def _checked(
        self, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any] | None
    ) -> h5py.Dataset:
        dataset = plain_dataset(self._file, name)
        with reading(self.path, name):
            if (shape is not None and dataset.shape != shape) or dtype not in (None, dataset.dtype):
                raise CacheError(
                    f"{self.path}: {name} is {dataset.dtype} {dataset.shape}, "
                    f"expected {dtype} {shape}"
                )
        return dataset
