"""What a run keeps of its making, and what is told from it when the run is used again.

record.json      for each time it was started: code, libraries, device, command, when
trained_on.h5    the label rows that it was trained (train) and selected (val) on, stored like the
                 labels of a cache
seen_before.h5   where it began from another run's weights: the clips that those have seen, stored
                 likewise; their ids alone count

Runs of older versions have neither: what they have seen, and by which code, can't be known.
"""

from __future__ import annotations

import datetime
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cache import Labels
from cache.common.atomic import replace_file
from cache.common.errors import CacheError, ConfigError
from cache.common.plain import open_hdf5
from cache.format.names import one_form
from cache.format.schema import BACKGROUND
from cache.format.sealed import check_seal, sealed_image
from cache.labels.store import fill_labels, labels_of
from train.runs import code
from train.runs import folders as runs
from train.runs.checkpoint import About
from train.runs.folders import HANDED, RECORD_FILE, weights_file
from train.runs.making import Init, Making, Session

ROWS_FILE, EARLIER_FILE = "trained_on.h5", "seen_before.h5"
_LabelRow = tuple[str, str, float, float]


@dataclass(frozen=True)
class Record:
    """What a run was trained on and how; `making` is None where that can't be known.

    Then `rows` are those that a run on the cache at hand would be trained on. earlier: ids (NFC) of
    the clips that the weights it began from were trained or selected on.
    """

    rows: Labels
    making: Making | None
    earlier: frozenset[str] = frozenset()

    @property
    def knows_seen(self) -> bool:
        """Whether it is known which clips the run has seen."""
        making = self.making
        return making is not None and (making.init is None or making.init.seen_known)

    def ids(self, split: str) -> set[str]:
        """Ids (NFC) of the clips that the run was trained ("train") or selected ("val") on."""
        return {one_form(self.rows.ids[row]) for row in self.rows.rows(split)}

    def seen(self, split: str) -> set[str]:
        """The same; whatever the weights it began from have seen counts as trained on."""
        return self.ids(split) | (self.earlier if split == "train" else frozenset())

    def all_seen(self) -> frozenset[str]:
        """Ids (NFC) of all clips that its weights depend on."""
        return frozenset(self.seen("train") | self.seen("val"))

    def other_code(self) -> list[str]:
        """The modules that differ from those that the run was trained with."""
        now, sessions = code.digests(), [] if self.making is None else self.making.sessions
        return sorted({name for s in sessions for name, _ in s.code.items() ^ now.items()})


def start(
    run: Path,
    rows: Labels,
    device: torch.device,
    processes: int,
    epochs: int,
    before: Making | None = None,
    init: tuple[Init, frozenset[str]] | None = None,
) -> None:
    """Write the record of a run that begins, or add to that (`before`) of one that is resumed.

    epochs: how many are planned. init: whose weights it begins with, and the ids that those have
    seen.
    """
    if before is None:
        _write_rows(run / ROWS_FILE, rows)
        if init is not None:
            _write_rows(run / EARLIER_FILE, _as_rows(init[1], init[0].run))
    commit, dirty = code.commit()
    session = Session(
        started=_now(),
        epochs=epochs,
        command=[word.encode("utf-8", "replace").decode() for word in sys.argv],
        device=_name(device),
        processes=processes,
        version=code.version(),
        commit=commit,
        dirty=dirty,
        code=code.digests(),
        libraries=code.libraries(),
    )
    making = Making(
        sessions=[*(before.sessions if before else []), session],
        init=before.init if before else init and init[0],
    )
    runs.write_json(run / RECORD_FILE, making.model_dump(mode="json"))


def end(run: Path, why: str, well: bool = True) -> None:
    """Note that the run's last session ended, why, and whether well."""
    making = Making.of(run)
    if making is None:
        return  # the run of an older version, resumed
    *others, last = making.sessions
    last = last.revised(ended=_now() if well else None, ended_because=why)
    making = Making(sessions=[*others, last], init=making.init)
    runs.write_json(run / RECORD_FILE, making.model_dump(mode="json"))


def read(run: Path, about: About) -> Record | None:
    """A run's record; None for a run of an older version. ConfigError for one that is damaged."""
    path, rows_path = run / RECORD_FILE, run / ROWS_FILE
    there = [place.exists() or place.is_symlink() for place in (path, rows_path)]
    if not any(there):
        return None
    if not all(there):
        raise ConfigError(
            f"{rows_path if there[0] else path}: missing, though its other half is there; copy the "
            "run's folder again, or delete both to use it as a run whose making is not known"
        )
    making = Making.of(run)
    assert making is not None
    rows, earlier = _read_rows(rows_path), frozenset[str]()
    if making.init is not None:
        earlier = frozenset(map(one_form, _read_rows(run / EARLIER_FILE).ids))
    if rows.classes != about.classes or not making.sessions:
        raise ConfigError(f"{rows_path}: it is not of this run: its classes are others")
    return Record(rows, making, earlier)


def _write_rows(path: Path, rows: Labels) -> None:
    replace_file(path, sealed_image(lambda file: fill_labels(file, rows, [])))


def _read_rows(path: Path) -> Labels:
    try:
        check_seal(path)
        with open_hdf5(path) as file:
            return labels_of(file)
    except (CacheError, OSError) as error:
        raise ConfigError(f"{error}; copy the run's folder again") from None


def _as_rows(ids: Iterable[str], source: str) -> Labels:
    """Ids as a label table of one class."""
    named = sorted(ids)
    none = np.zeros(len(named))
    return Labels(
        ids=named,
        classes=["seen"],
        category=none.astype(np.int64),
        start_s=none,
        end_s=none,
        split=none.astype(np.int8),
        source=source,
    )


def seen(records: Sequence[Record], ids: Iterable[str]) -> dict[str, list[str]]:
    """Which of the ids any of the runs was trained on ("train"), or else selected on ("val")."""
    named = {clip_id: one_form(clip_id) for clip_id in ids}
    before = {split: set().union(*(r.seen(split) for r in records)) for split in ("train", "val")}
    before["val"] -= before["train"]
    return {
        split: sorted(clip_id for clip_id, name in named.items() if name in known)
        for split, known in before.items()
    }


def is_own(record: Record, labels: Labels) -> bool:
    """Whether labels hold all rows that the run was trained and selected on, in those splits."""
    return all(not (_rows(record.rows, s) - _rows(labels, s)) for s in ("train", "val"))


def check_same_rows(run: Path, classes: Sequence[str], before: Labels | None, now: Labels) -> None:
    """Raise ConfigError, naming what differs, unless a run would be resumed on the same rows.

    before: its rows, or None where they are not known: then its classes alone are compared.
    """
    advice = "Relabel the cache back to resume it, or train anew into another --run"
    if [*map(one_form, classes)] != [*map(one_form, now.classes)]:
        raise ConfigError(
            f"{run}: can't be resumed: its classes are {_differing(classes, now.classes)}; the "
            f"cache has {_differing(now.classes, classes)}. {advice}"
        )
    for split in ("train", "val"):
        if before is None:
            continue
        old, new = _rows(before, split), _rows(now, split)
        parts = [
            f"{sum(rows.values())} row(s) {what} ({_some(rows)})"
            for rows, what in ((old - new, "gone"), (new - old, "new"))
            if rows
        ]
        if parts:
            raise ConfigError(
                f"{run}: can't be resumed: the rows of {split} are not those it was trained with: "
                f"{', '.join(parts)}. {advice}"
            )


def cautions(run: Path, record: Record | None) -> list[str]:
    """What a person should know before a run is used: that its code or its making differ."""
    if record is None:
        handed = weights_file(run).name == HANDED
        why = "handed over without" if handed else "made by an older version, which kept no"
        return [
            f"{why} record: which clips it has seen, and by which code it was trained, "
            "can't be known; the cache's own splits are believed"
        ]
    others = record.other_code()
    if not others or record.making is None:
        return []
    last = record.making.sessions[-1]
    then = code.described(last.version, last.commit, last.dirty)
    now = code.described(code.version(), *code.commit())
    return [
        "the code has changed since it was trained, in "
        f"{', '.join(f'{name}.py' for name in others)}: its answers and scores may not be those it "
        f"had (then {then}; now {now})"
    ]


def _rows(labels: Labels, split: str) -> Counter[_LabelRow]:
    return Counter(
        (
            one_form(labels.ids[row]),
            one_form(labels.classes[labels.category[row]]) if labels.category[row] >= 0 else "",
            -1.0 if labels.weak[row] else round(float(labels.start_s[row]), 4),
            -1.0 if labels.weak[row] else round(float(labels.end_s[row]), 4),
        )
        for row in labels.rows(split)
        if labels.category[row] >= BACKGROUND
    )


def _differing(mine: Sequence[str], others: Sequence[str]) -> str:
    """The first few classes that stand in another place there, with their numbers."""
    far = [
        f"{number}: {name}"
        for number, name in enumerate(mine)
        if number >= len(others) or one_form(others[number]) != one_form(name)
    ]
    named = ", ".join(far[:8]) or "the same but for more"
    return named + (", …" if len(far) > 8 else "")


def _some(rows: Counter[_LabelRow]) -> str:
    named = [
        (f"{i}: {name}" + (f" {start:g}–{end:g} s" if start >= 0 else ""))
        if name
        else f"{i}: no event"
        for i, name, start, end in sorted(rows)[:5]
    ]
    return "; ".join(named) + ("; …" if len(rows) > 5 else "")


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device.type}: {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
