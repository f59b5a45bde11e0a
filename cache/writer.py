"""Write a cache of one's own: features that another program computed.

with CacheWriter("clap", [Field("audio/clap", (10, 512), "float32", "1", Rate(1.0, 0.5))]) as w:
    for clip_id, vectors in mine():           # (10, 512) each
        if clip_id not in w:
            w.add(clip_id, {"audio/clap": vectors})
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.format.fields import Field
from cache.format.identity import Identity
from cache.format.index import extend_index, shard_files
from cache.format.index_file import load_index, save_index
from cache.format.lock import claimed
from cache.format.names import check_id, one_form
from cache.format.schema import Declaration
from cache.format.shard import SHARD_CLIPS, Clip, Failure, clip_problem, write_shard

IMPORT_VERSION = 1
_SHARD_BYTES = 1 << 27
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Origin:
    """What a row was made from, by which a change is noticed: bytes and time of change (ns)."""

    size: int = 0
    mtime_ns: int = 0


class CacheWriter:
    """A cache folder opened for adding clips; use as a context manager.

    Clips are gathered to shards of up to 32, each of which is written whole or not at all: after
    a kill, what was finished is kept and the same program goes on. Being the cache's only writer
    is part of it (CacheError names the other one).

    Parameters
    ----------
    folder: made if it is not there; one made with other fields or another `about` is refused.
    fields: what a row holds; names are `audio/NAME` or `video/NAME`, shapes without the leading N.
    clip_seconds: length of a clip, s.
    hop_s: seconds from window to window, where clips are windows of recordings: an id is then the
        recording's, or `<recording>@<offset in s>`. None: each clip is a recording's beginning.
    about: what computed the features (model, version, weights), as plain values: in the
        fingerprint, so that rows of two versions are never mixed.

    Raises
    ------
    CacheError, ValueError: for fields that no cache can hold.
    """

    def __init__(
        self,
        folder: Path | str,
        fields: Sequence[Field],
        *,
        clip_seconds: float = 10.0,
        hop_s: float | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        declared = Declaration(clip_seconds, tuple(fields), hop_s=hop_s)
        config = {"imported": True, **(about or {})}
        self.identity = Identity(IMPORT_VERSION, config, declared, {"made_by": "cache.writer"})
        self._open = contextlib.ExitStack()
        self._clips: list[Clip] = []
        self._failures: list[Failure] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        self.identity = self._open.enter_context(claimed(self.folder, self.identity))
        self._index = load_index(self.folder, self.identity)
        self._added: set[str] = set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._open:
            if kind is None or issubclass(kind, KeyboardInterrupt):
                self.flush()
            index = extend_index(self._index, shard_files(self.folder), self.folder, self.identity)
            save_index(self.folder, self.identity, index)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._added or clip_id in self._index.clips

    def has(self, clip_id: str, origin: Origin) -> bool:
        """Whether the clip's row, or its failure, was made from this very file."""
        before = self._index.clips.get(clip_id) or self._index.failures.get(clip_id)
        here = (origin.size, origin.mtime_ns)
        return before is not None and (before.media_size, before.media_mtime_ns) == here

    def add(
        self,
        clip_id: str,
        features: Mapping[str, Array],
        *,
        valid_s: float | None = None,
        media_s: float = math.nan,
        origin: Origin | None = None,
    ) -> None:
        """Add a clip: an array for each field, brought to its dtype.

        An audio field with a rate may have fewer steps than declared: the sound ended there.
        valid_s: how much of the clip exists, s; default all. media_s: length that its media
        declares, s; NaN where that isn't known. A clip that is there is replaced.

        Raises
        ------
        CacheError: for an id, a shape or numbers (NaN, beyond the dtype) that can't be stored;
            nothing of the clip is written then, and the next one may follow.
        """
        clip_id = one_form(clip_id)
        if problem := check_id(clip_id):
            raise CacheError(problem)
        clip = replace(self._clip(clip_id, features, valid_s, origin or Origin()), media_s=media_s)
        if problem := clip_problem(clip, self.identity.declaration):
            raise CacheError(f"the clip {clip_id!r}: {problem}")
        self._clips.append(clip)
        self._added.add(clip_id)
        self._bytes += self.identity.declaration.row_bytes
        if len(self._clips) >= SHARD_CLIPS or self._bytes >= _SHARD_BYTES:
            self.flush()

    def fail(
        self, clip_id: str, message: str, origin: Origin | None = None, stage: str = "import"
    ) -> None:
        """Note that a clip has no features, and why: it is told by `info` and left out."""
        before = self._index.failures.get(clip_id)
        attempt, made = before.attempt + 1 if before else 1, origin or Origin()
        self._failures.append(Failure(clip_id, stage, message, attempt, made.size, made.mtime_ns))
        if len(self._failures) >= SHARD_CLIPS:
            self.flush()

    def flush(self) -> None:
        """Write what is gathered as a shard now."""
        if self._clips or self._failures:
            write_shard(self.folder, self.identity, self._clips, self._failures)
        self._clips, self._failures, self._bytes = [], [], 0

    def _clip(
        self, clip_id: str, given: Mapping[str, Array], valid_s: float | None, origin: Origin
    ) -> Clip:
        declared = self.identity.declaration
        names = [field.name for field in declared.fields]
        if set(given) != set(names):
            raise CacheError(
                f"the clip {clip_id!r}: expected arrays for {', '.join(names)}, found "
                f"{', '.join(sorted(map(str, given))) or 'none'}"
            )
        arrays, digest, steps = {}, hashlib.sha256(), 0
        for field in declared.fields:
            array, count = _fitted(clip_id, field, given[field.name])
            if field.has_steps and steps not in (0, count):
                raise CacheError(f"the clip {clip_id!r}: its audio fields differ in their steps")
            steps = count if field.has_steps else steps
            arrays[field.name] = array
            digest.update(array.data.cast("B") if array.size else b"")
        return Clip(
            id=clip_id,
            features=arrays,
            valid_s=declared.clip_seconds if valid_s is None else valid_s,
            audio_steps=steps,
            media_size=origin.size,
            media_mtime_ns=origin.mtime_ns,
            media_sha256=digest.digest(),
        )


def _fitted(clip_id: str, field: Field, given: Array) -> tuple[Array, int]:
    """An array as the field declares it, steps that are lacking as NaN; and how many it has."""
    array = np.asarray(given)
    if array.dtype.kind not in "iuf":
        raise CacheError(f"the clip {clip_id!r}: {field.name}: found {array.dtype}, no numbers")
    expected = array.shape[1:] == field.shape[1:] and array.ndim == len(field.shape)
    count = len(array) if array.ndim else 0
    enough = 0 < count <= field.shape[0] if field.has_steps else count == field.shape[0]
    if not (expected and enough):
        fewer = "at most " if field.has_steps else ""
        raise CacheError(
            f"the clip {clip_id!r}: {field.name}: expected {fewer}{field.shape}, found "
            f"{array.shape}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CacheError(f"the clip {clip_id!r}: {field.name}: holds NaN or infinity")
    kind = np.dtype(field.dtype)
    if kind.kind != "f" and (array != array.astype(kind)).any():
        raise CacheError(f"the clip {clip_id!r}: {field.name}: {kind} can't hold its numbers")
    with np.errstate(over="ignore"):
        whole = np.full(field.shape, np.nan, kind) if count < field.shape[0] else None
        fitted = np.ascontiguousarray(array.astype(kind))
    if kind.kind == "f" and not np.isfinite(fitted).all():
        raise CacheError(
            f"the clip {clip_id!r}: {field.name}: numbers up to {np.abs(array).max():.3g}, more "
            f"than {kind} holds; declare a wider dtype"
        )
    if whole is None:
        return fitted, count
    whole[:count] = fitted
    return whole, count
