"""Rows by their place in a file: each stacked dataset is one run of bytes, so row r of it is too.

The places come from the index (which has them from HDF5), so that a reader goes to the bytes
directly: with `pread` on a disk, with a range request at the other end of a network. Nothing is
copied on the way, and HDF5's global lock is not taken.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.common.plain import open_plain
from cache.format.compression import inflate
from cache.format.fields import Field
from cache.format.pictures import picture_limit
from cache.format.schema import JPEG_BYTES, JPEG_END, Declaration, row_digest
from cache.format.shard import Clip, hashed_arrays

Array = npt.NDArray[Any]
Range = tuple[int, int]
Fetch = Callable[[Sequence[Range]], Sequence[bytes]]
_VECTORS = 512  # buffers in one preadv call; systems allow 1,024


@dataclass(frozen=True)
class Layout:
    """Where one file keeps its rows.

    Attributes
    ----------
    declared: what a row holds.
    offsets: the first byte of each dataset.
    chunks: for a dataset that is compressed, (N, 2) int64: first byte and length of each row.
    """

    declared: Declaration
    offsets: Mapping[str, int]
    chunks: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    @property
    def fields(self) -> Mapping[str, Field]:
        """The datasets that have one row a clip, by name."""
        return self.declared.row_layout

    def pieces(self, name: str, rows: npt.NDArray[np.int64]) -> list[Range]:
        """Ascending rows as [first, stop) parts that can be read in one go."""
        if name in self.chunks:
            return [(row, row + 1) for row in rows.tolist()]
        return runs(rows)

    def span(self, name: str, first: int, stop: int) -> Range:
        """The bytes [start, stop) of one of `pieces`."""
        size, begin = self.fields[name].bytes_per_clip, self.offsets[name]
        if name not in self.chunks:
            return begin + first * size, begin + stop * size
        start, length = self.chunks[name][first].tolist()
        if not 0 <= length <= size + size // 8 + 64:
            raise CacheError(
                f"{name}: a compressed row of {length:,} bytes, expected about {size:,}"
            )
        return start, start + length

    def decode(self, name: str, data: bytes) -> Array:
        """The rows in the bytes of a span: (n, …)."""
        spec = self.fields[name]
        if name in self.chunks:
            data = inflate(data, spec)
        return np.frombuffer(data, spec.dtype).reshape(-1, *spec.shape)


def make_layout(
    declared: Declaration,
    offsets: Iterable[int],
    chunks: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> Layout:
    """A layout from the offsets in the order of `stored_names`."""
    places = dict(zip(declared.stored_names, map(int, offsets), strict=True))
    return Layout(declared, places, chunks or {})


def runs(rows: npt.NDArray[np.int64]) -> list[Range]:
    """Ascending row numbers as [first, stop) runs of neighbours."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, breaks) if len(part)]


class RowFile:
    """A shard or pack opened for reading rows. Use as a context manager."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout
        with _told(path):
            self._descriptor = open_plain(path)
            self._size = os.fstat(self._descriptor).st_size

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Done with the file."""
        os.close(self._descriptor)

    def fetch(self, ranges: Sequence[Range]) -> list[bytes]:
        """The bytes of each range; CacheError where the file ends before."""
        # Before reading: a place that a stranger's index names costs no memory and no overflow.
        if any(not 0 <= start <= stop <= self._size for start, stop in ranges):
            raise self._ends_early()
        with _told(self.path):
            parts = [os.pread(self._descriptor, stop - start, start) for start, stop in ranges]
        if any(
            len(part) != stop - start for part, (start, stop) in zip(parts, ranges, strict=True)
        ):
            raise self._ends_early()
        return parts

    def read_into(self, name: str, rows: npt.NDArray[np.int64], out: Sequence[Array]) -> None:
        """Read row rows[k] of a dataset into the contiguous array out[k], for every k."""
        if name in self.layout.chunks:
            for target, row in zip(out, rows.tolist(), strict=True):
                (data,) = self.fetch([self.layout.span(name, row, row + 1)])
                target[...] = self.layout.decode(name, data).reshape(target.shape)
            return
        size = self.layout.fields[name].bytes_per_clip
        place = 0
        for first, stop in runs(rows):
            for begin in range(first, stop, _VECTORS):
                count = min(_VECTORS, stop - begin)
                views = [a.data.cast("B") for a in out[place : place + count]]
                start = self.layout.span(name, begin, begin + count)[0]
                self._fill(views, start, count * size)
                place += count

    def read(self, name: str, rows: npt.NDArray[np.int64]) -> Array:
        """The given ascending rows of a dataset: (len(rows), …)."""
        spec = self.layout.fields[name]
        block = np.empty((len(rows), *spec.shape), spec.dtype)
        parts = runs(rows)
        if name in self.layout.chunks or len(parts) > 1:
            self.read_into(name, rows, [block[n : n + 1] for n in range(len(rows))])
        elif parts:
            start, stop = self.layout.span(name, *parts[0])
            self._fill([block.data.cast("B")], start, stop - start)
        return block

    def _fill(self, views: list[memoryview], start: int, size: int) -> None:
        if not 0 <= start <= start + size <= self._size:
            raise self._ends_early()
        with _told(self.path):
            while size:  # once, but for a signal or more than 2 GiB
                done = os.preadv(self._descriptor, views, start)
                if not done:
                    raise self._ends_early()
                views = _after(views, done)
                start, size = start + done, size - done

    def _ends_early(self) -> CacheError:
        return CacheError(
            f"{self.path}: ends before its rows do: it was cut or damaged; run "
            "`python -m cache verify` on the cache"
        )


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the system says against reading, a bad sector for one, into a CacheError."""
    try:
        yield
    except OSError as error:
        raise CacheError(f"{path}: can't be read ({error.strerror or error})") from None


def _after(views: list[memoryview], count: int) -> list[memoryview]:
    for place, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[place + 1 :]]
        count -= len(view)
    return []


def read_clips(
    fetch: Fetch, layout: Layout, members: Sequence[tuple[int, str, bytes]], where: str
) -> list[Clip]:
    """The whole rows of some clips: `members` are (row, id, SHA-256 of the row).

    A clip whose bytes don't give its checksum is left out; so what comes back is proved.
    """
    members = sorted(members)
    rows = np.array([row for row, _, _ in members], np.int64)
    pictures = _jpegs(fetch, layout, rows, where) if layout.declared.pictures else None
    names = [name for name in layout.fields if name != JPEG_END]
    pieces = [(name, piece) for name in names for piece in layout.pieces(name, rows)]
    parts = fetch([layout.span(name, *piece) for name, piece in pieces])
    columns: dict[str, list[Array]] = {name: [] for name in names}
    for (name, _), part in zip(pieces, parts, strict=True):
        columns[name].extend(layout.decode(name, part))
    found = []
    for place, (_, clip_id, sha256) in enumerate(members):
        values = {name: columns[name][place] for name in names}
        clip = _clip(clip_id, values, pictures[place] if pictures else [])
        if row_digest(clip_id, hashed_arrays(clip)) == sha256:
            found.append(clip)
    return found


def proved_clips(
    fetch: Fetch, layout: Layout, members: Sequence[tuple[int, str, bytes]], where: str
) -> list[Clip]:
    """`read_clips`, or CacheError naming the clips whose bytes did not give their checksums."""
    clips = read_clips(fetch, layout, members, where)
    lost = sorted({clip_id for _, clip_id, _ in members} - {clip.id for clip in clips})
    if lost:
        raise CacheError(
            f"{where}: the rows of {len(lost)} clip(s) don't match their checksums: "
            f"{', '.join(lost[:10])}; run `python -m cache repair` on that cache first"
        )
    return clips


def read_jpegs(fetch: Fetch, layout: Layout, row: int, where: str) -> list[bytes]:
    """The F encoded pictures of one clip; none in a cache without pictures."""
    if layout.declared.pictures is None:
        return []
    return _jpegs(fetch, layout, np.array([row], np.int64), where)[0]


def jpeg_bounds(
    fetch: Fetch, layout: Layout, rows: npt.NDArray[np.int64], where: str
) -> npt.NDArray[np.int64]:
    """Where each clip's pictures begin and end in `video/jpeg`: (n, F + 1), ascending in a row."""
    pictures = layout.declared.pictures
    assert pictures is not None
    # A picture begins where the one before it ends, so the number before is needed as well.
    spans = [layout.span(JPEG_END, row, row + 1) for row in rows.tolist()]
    first = layout.offsets[JPEG_END]
    tables = fetch([(start - 8 if start > first else start, stop) for start, stop in spans])
    bounds = np.zeros((len(rows), pictures.count + 1), np.int64)
    for row, table in zip(bounds, tables, strict=True):
        ends = np.frombuffer(table, np.int64)
        row[-len(ends) :] = ends
    lengths = np.diff(bounds, axis=1)
    longest = picture_limit(pictures.side_px)  # one that is longer is refused before it is read
    if np.any(bounds < 0) or np.any(lengths < 0) or np.any(lengths > longest):
        raise CacheError(f"{where}: {JPEG_END} doesn't fit {JPEG_BYTES}: it is damaged")
    return bounds


def _jpegs(
    fetch: Fetch, layout: Layout, rows: npt.NDArray[np.int64], where: str
) -> list[list[bytes]]:
    bounds = jpeg_bounds(fetch, layout, rows, where)
    begin = layout.offsets[JPEG_BYTES]
    blocks = fetch([(begin + int(row[0]), begin + int(row[-1])) for row in bounds])
    return [
        [block[a - row[0] : b - row[0]] for a, b in pairwise(row)]
        for row, block in zip(bounds, blocks, strict=True)
    ]


def _clip(clip_id: str, values: Mapping[str, Array], pictures: Sequence[bytes]) -> Clip:
    row = {name.removeprefix("rows/"): value for name, value in values.items() if "rows/" in name}
    return Clip(
        id=clip_id,
        features={name: value for name, value in values.items() if "rows/" not in name},
        jpegs=pictures,
        media_sha256=row.pop("media_sha256").tobytes(),
        **{name: value.item() for name, value in row.items() if name != "sha256"},
    )
