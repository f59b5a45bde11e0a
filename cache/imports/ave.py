"""The AVE dataset's published features (Tian et al., ECCV 2018) as a cache.

Files of the dataset's authors, each with one dataset `avadataset` whose rows are those of
`Annotations.txt`: `audio_feature.h5` (R, 10, 128) VGGish, `visual_feature.h5` (R, 10, 7, 7, 512)
VGG-19 pool5, `labels.h5` (R, 10, 29) one-hot seconds with background last, `mil_labels.h5` (R, 29);
`train_order.h5`, `val_order.h5`, `test_order.h5` (dataset `order`) are row numbers. The clips of
the weakly supervised setting that have no event are `audio_feature_noisy.h5`,
`visual_feature_noisy.h5` and `labels_noisy.h5`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cache.common.errors import CacheError
from cache.common.plain import open_hdf5, plain_dataset, whole
from cache.format.fields import Field, Rate
from cache.format.schema import NO_SPLIT, SPLITS
from cache.imports.sources import Stack
from cache.labels.annotations import Labels, labels_of_rows
from cache.labels.files import AVE_FILE, Row, exists, read_ave

Array = npt.NDArray[Any]
SECONDS = 10
DATASET, ORDER = "avadataset", "order"
NOISY = "background"
"""How the ids of the clips without an event begin: the published files name none."""
_SECOND = Rate(1.0, 0.5)
_STREAMS = {
    "audio": ("audio_feature", Field("audio/vggish", (10, 128), "float32", "1", _SECOND)),
    "video": ("visual_feature", Field("video/vgg19", (10, 512, 7, 7), "float16", "1", _SECOND)),
}
_STORED = {"audio": (10, 128), "video": (10, 7, 7, 512)}
_SHOWN = 5


@dataclass(frozen=True)
class Published:
    """What is there: annotation rows in file order, the feature files, and what they hold.

    stacks: stream → the features' rows; noisy: the same of the clips without an event.
    """

    rows: list[Row]
    stacks: dict[str, Stack]
    noisy: dict[str, Stack]
    notes: list[str]

    @property
    def fields(self) -> list[Field]:
        """What a row of the cache holds."""
        return [_STREAMS[stream][1] for stream in self.stacks]

    @property
    def clips(self) -> list[tuple[str, str, int]]:
        """(id, "" or NOISY, row in those files) of each clip, an id once."""
        first = {row.id: number for number, row in reversed(list(enumerate(self.rows)))}
        found = [(clip_id, "", number) for clip_id, number in sorted(first.items(), key=_by_row)]
        count = min((stack.shape[0] for stack in self.noisy.values()), default=0)
        return found + [(f"{NOISY}-{n:03d}", NOISY, n) for n in range(count)]

    def features(self, kind: str, number: int) -> dict[str, Array]:
        """The arrays of a row by field name; maps as (T, C, H, W)."""
        stacks = self.noisy if kind == NOISY else self.stacks
        return {_STREAMS[s][1].name: arranged(s, stacks[s].row(number)) for s in self.stacks}

    def again(self) -> Iterator[tuple[int, int]]:
        """(row, the first row of the same id) of each row whose id has been before."""
        first: dict[str, int] = {}
        for number, row in enumerate(self.rows):
            if first.setdefault(row.id, number) != number:
                yield number, first[row.id]

    def labels(self) -> Labels:
        """The label table: 4,143 rows on 4,097 ids, with the official splits."""
        empty = [Row(i, "", 0.0, 0.0, 0) for i, kind, _ in self.clips if kind == NOISY]
        return labels_of_rows([*self.rows, *empty], "AVE's published features", self.notes)


def _by_row(item: tuple[str, int]) -> int:
    return item[1]


def arranged(stream: str, row: Array) -> Array:
    """A published row as a cache keeps it: maps have their channels before their cells."""
    return row.transpose(0, 3, 1, 2) if stream == "video" else row


def open_published(folder: Path, annotations: Path | None) -> Published:
    """Open and check the files of a folder; CacheError names what doesn't fit.

    Features of one stream alone will do. Labels are read from Annotations.txt (beside them, or
    `annotations`) and compared with `labels.h5` and `mil_labels.h5` where they are there.
    """
    path = annotations or folder / AVE_FILE
    if not exists(path):
        raise CacheError(
            f"{folder}: expected {AVE_FILE} of the AVE dataset there, found none; name it with "
            "--annotations"
        )
    rows = [replace(row, end_s=min(row.end_s, float(SECONDS))) for row in read_ave(path)]
    stacks, noisy = _stacks(folder, "", len(rows)), _stacks(folder, "_noisy", None)
    if not stacks:
        names = " or ".join(f"{name}.h5" for name, _ in _STREAMS.values())
        raise CacheError(f"{folder}: expected {names}, found neither")
    notes: list[str] = []
    if noisy and noisy.keys() != stacks.keys():
        notes.append(
            f"{' and '.join(sorted(noisy))} of the clips without an event alone: left out, since "
            f"the others have {' and '.join(sorted(stacks))}"
        )
        noisy = {}
    rows = _with_splits(folder, rows, notes)
    _check_labels(folder, rows, notes)
    return Published(rows, stacks, noisy, notes)


def _stacks(folder: Path, suffix: str, count: int | None) -> dict[str, Stack]:
    found = {}
    for stream, (name, _) in _STREAMS.items():
        path = folder / f"{name}{suffix}.h5"
        if not exists(path):
            continue
        stack = Stack(path, DATASET)
        shape = (stack.shape[0] if count is None else count, *_STORED[stream])
        if stack.shape != shape:
            raise CacheError(f"{path}: {DATASET} is {stack.shape}, expected {shape}")
        found[stream] = stack
    return found


def _table(path: Path, name: str) -> Array:
    with open_hdf5(path) as file:
        return whole(plain_dataset(file, name))


def _with_splits(folder: Path, rows: list[Row], notes: list[str]) -> list[Row]:
    """The rows in the splits that the order files give; each row in one at most."""
    split = np.full(len(rows), NO_SPLIT)
    for number, name in enumerate(SPLITS):
        path = folder / f"{name}_order.h5"
        if not exists(path):
            raise CacheError(f"{path}: expected the row numbers of {name}, found no such file")
        order = _table(path, ORDER).ravel()
        if order.dtype.kind not in "iu" or order.min() < 0 or order.max() >= len(rows):
            raise CacheError(f"{path}: expected row numbers from 0 to {len(rows) - 1}")
        if len(np.unique(order)) < len(order) or (split[order] != NO_SPLIT).any():
            raise CacheError(f"{path}: a row stands in it twice, or in another split as well")
        split[order] = number
    loose = int((split == NO_SPLIT).sum())
    if loose:
        notes.append(f"{loose} event(s) are in no split")
    return [replace(row, split=int(n)) for row, n in zip(rows, split, strict=True)]


def _check_labels(folder: Path, rows: Sequence[Row], notes: list[str]) -> None:
    """Compare the published labels with the annotations, row by row.

    The column of a class is its place among the classes of Annotations.txt, in order of first
    appearance; the last column is the background.
    """
    numbers = {name: n for n, name in enumerate(dict.fromkeys(row.category for row in rows))}
    category = np.array([numbers[row.category] for row in rows])
    time_s = np.arange(SECONDS)
    ends = np.array([[row.start_s, row.end_s] for row in rows])
    on = (time_s >= ends[:, :1]) & (time_s < ends[:, 1:])
    columns = np.arange(len(numbers) + 1)
    expected = {
        "labels": np.where(on, category[:, None], len(numbers))[:, :, None] == columns,
        "mil_labels": category[:, None] == columns,
        "labels_closs": on,
    }
    for name, marks in expected.items():
        path = folder / f"{name}.h5"
        if not exists(path):
            continue
        table = _table(path, DATASET)
        if table.shape != marks.shape:
            raise CacheError(f"{path}: {DATASET} is {table.shape}, expected {marks.shape}")
        same = ((table != 0) == marks).reshape(len(rows), -1).all(axis=1)
        wrong = np.flatnonzero(~same)
        if len(wrong):
            first = ", ".join(f"{rows[n].id} (row {n})" for n in wrong[:_SHOWN].tolist())
            raise CacheError(
                f"{path}: {len(wrong)} of {len(rows)} rows say something else than {AVE_FILE}: "
                f"{first}"
            )
        notes.append(f"{path.name} agrees with {AVE_FILE} in all {len(rows)} rows")
