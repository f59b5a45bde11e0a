"""Write one shard: whole or not at all.

A shard is the unit of work, commit, resume, transfer and repair. It is written under a temporary
name, hashed, flushed to disk, and renamed to the first 32 hex digits of its own SHA-256, so its
name proves its content and two shards with one name are the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from cache.common.atomic import plain_folder, replace_file
from cache.common.errors import CacheError
from cache.common.plain import encode_text, open_plain, write_text
from cache.common.settings import canonical_json
from cache.format.contents import bounds_problem, features_problem, pictures_problem, shapes_problem
from cache.format.identity import Identity
from cache.format.schema import (
    FORMAT,
    JPEG_BYTES,
    JPEG_END,
    MAX_MESSAGE_BYTES,
    ROW_FIELDS,
    SHARD_FOLDER,
    Declaration,
    row_digest,
)
from cache.format.sealed import hdf5_image

Array = npt.NDArray[Any]
SHARD_CLIPS = 32
"""Clips that a shard is meant to hold, at most."""
END_OF_TIME_NS = 2**62
"""No row or failure is made as late as this (in the year 2116): what says so is refused."""
Origin = tuple[int, str]
"""When a row or failure was made (ns since 1970), and what made it (provenance, JSON text)."""


@dataclass(frozen=True)
class Clip:
    """One clip's finished row.

    `features` holds an array for each name of the declared fields, without the leading N;
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


def clip_problem(clip: Clip, declared: Declaration) -> str:
    """What is wrong with a row, as a sentence that names the dataset, or "" where nothing is.

    `declared` says shapes and dtypes, the clip's end, and the size of the pictures.
    """
    if problem := shapes_problem(clip.features, declared):
        return problem
    if not 0 < clip.valid_s < math.inf:
        return f"valid_s: expected more than 0 s, found {clip.valid_s}"
    if not 0 <= clip.audio_start_s < math.inf:
        return f"audio_start_s: expected 0 s or more, found {clip.audio_start_s}"
    return (
        features_problem(clip.features, clip.audio_steps, declared)
        or bounds_problem(clip.features, clip.valid_s, declared)
        or pictures_problem(clip.jpegs, declared.pictures)
    )


DAMAGED = "damaged"
"""The stage of a failure that `repair` wrote: the clip had a row, and is to be extracted again."""


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
    identity: Identity,
    clips: Sequence[Clip],
    failures: Sequence[Failure] = (),
    origins: Mapping[str, Origin] | None = None,
) -> Written:
    """Write clips and failures as one shard of the cache folder `folder`, atomically.

    `origins` gives, by clip id, when and by what rows were made that are copied; the others are
    made now. A kill at any instant leaves either the whole shard or a temporary file that the next
    writer removes. Raises CacheError for a row that `clip_problem` finds fault with, and when the
    disk is full.
    """
    now = time.time_ns(), canonical_json(identity.provenance)
    for clip in clips:
        problem = clip_problem(clip, identity.declaration)
        if problem:
            raise CacheError(f"the clip {clip.id!r} can't be stored: {problem}")
    by_row = [(origins or {}).get(clip.id, now) for clip in clips]
    by_failure = [(origins or {}).get(failure.id, now) for failure in failures]
    if max([*by_row, *by_failure], default=now)[0] >= END_OF_TIME_NS:
        raise CacheError(
            f"{folder}: what is there of {', '.join((origins or {}).keys())[:200]} says it was "
            "made in the year 2116 and nothing can be newer; use another folder, or a clock that "
            "is right"
        )

    def fill(file: h5py.File) -> None:
        write_attributes(file, identity, max([*by_row, *by_failure], default=now))
        if len({*by_row, *by_failure}) > 1:
            write_origins(file, by_row, by_failure)
        _write_clips(file, identity.declaration, clips)
        write_failures(file, failures)

    image = hdf5_image(fill)
    name = shard_name(hashlib.sha256(image).hexdigest())
    replace_file(plain_folder(folder / SHARD_FOLDER) / name, image)
    return Written(name, len(clips), len(failures), len(image))


def shard_name(sha256: str) -> str:
    """The name of a shard whose bytes have this hex digest."""
    return f"{sha256[:32]}.h5"


def is_named_by(name: str, data: bytes) -> bool:
    """Whether bytes are those of the shard with this name."""
    return shard_name(hashlib.sha256(data).hexdigest()) == name


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a regular file's bytes."""
    with os.fdopen(open_plain(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_attributes(file: h5py.File, identity: Identity, origin: Origin) -> None:
    """Write what a shard, or a pack, says of itself."""
    created_ns, provenance = origin
    write_text(file, "format", FORMAT)
    write_text(file, "fingerprint", identity.fingerprint)
    write_text(file, "config", canonical_json(identity.config))
    write_text(file, "provenance", provenance)
    file.attrs["format_version"] = identity.format_version
    file.attrs["feature_version"] = identity.feature_version
    file.attrs["created_ns"] = created_ns


def write_origins(file: h5py.File, by_row: Sequence[Origin], by_failure: Sequence[Origin]) -> None:
    """Write when and by what each row and failure was made, where that is not one for all."""
    made_by = list(dict.fromkeys(text for _, text in (*by_row, *by_failure)))
    number = {text: place for place, text in enumerate(made_by)}
    file["origin/made_by_json"] = np.frombuffer(json.dumps(made_by).encode(), np.uint8)
    for group, part in (("rows", by_row), ("failures", by_failure)):
        file[f"origin/{group}_created_ns"] = np.array([when for when, _ in part], np.int64)
        file[f"origin/{group}_made_by"] = np.array([number[text] for _, text in part], np.int64)


def _write_clips(file: h5py.File, declared: Declaration, clips: Sequence[Clip]) -> None:
    file["rows/id"] = encode_text([clip.id for clip in clips])
    for spec in ROW_FIELDS:
        if spec.name not in {"rows/sha256", "rows/media_sha256"}:
            name = spec.name.removeprefix("rows/")
            file[spec.name] = np.array([getattr(clip, name) for clip in clips], spec.dtype)
    digests = b"".join(row_digest(clip.id, hashed_arrays(clip)) for clip in clips)
    file["rows/sha256"] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    media = b"".join(clip.media_sha256 for clip in clips)
    file["rows/media_sha256"] = np.frombuffer(media, np.uint8).reshape(-1, 32)
    for spec in declared.fields:
        # Contiguous: a clip's row is one run of bytes, read at the disk's rate, and there is no
        # chunk table for a hostile file to bend.
        empty = np.empty((0, *spec.shape), spec.dtype)
        stacked = np.stack([clip.features[spec.name] for clip in clips]) if clips else empty
        write_text(file.create_dataset(spec.name, data=stacked), "unit", spec.unit)
    if declared.pictures is not None:
        sizes = [len(picture) for clip in clips for picture in clip.jpegs]
        pictures = b"".join(picture for clip in clips for picture in clip.jpegs)
        file[JPEG_BYTES] = np.frombuffer(pictures, np.uint8)
        ends = np.cumsum(sizes, dtype=np.int64)
        file[JPEG_END] = ends.reshape(len(clips), declared.pictures.count)


def write_failures(file: h5py.File, failures: Sequence[Failure]) -> None:
    """Write the clips that failed, into a shard or a pack."""
    group = file.create_group("failures")
    group["id"] = encode_text([failure.id for failure in failures])
    group["stage"] = encode_text([failure.stage for failure in failures])
    group["message"] = encode_text([failure.message for failure in failures], MAX_MESSAGE_BYTES)
    for name in ("attempt", "media_size", "media_mtime_ns"):
        group[name] = np.array([getattr(failure, name) for failure in failures], np.int64)


def hashed_arrays(clip: Clip) -> dict[str, Array]:
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
