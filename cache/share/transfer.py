"""What push and pull share: what is to be moved, several pieces at a time, and whose labels win."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cache.common.cli import printable
from cache.common.errors import CacheError
from cache.format.identity import refusal
from cache.labels.annotations import Labels, changed_splits, describe_changes
from cache.labels.store import labels_sha256
from cache.reader import Cache
from cache.share.choose import Choice, Group, choose, pieces

T = TypeVar("T")
_SHOWN_CHARACTERS = 200


@dataclass
class Move:
    """What a push or pull moves.

    Attributes
    ----------
    whole: shards that travel as files, with their sizes.
    parts: rows that travel without the rest of their shard.
    clips: how many clips that brings; there_already: how many of the giver's need no move.
    bytes: of features, pictures and row tables, exactly.
    labels: whether the label table is taken over.
    """

    whole: dict[str, int]
    parts: list[Group]
    clips: int
    there_already: int
    bytes: int
    labels: bool = False
    notes: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """The plan as text."""
        rows = sum(len(members) for group in self.parts for _, members in group.parts)
        shards = len({name for group in self.parts for name, _ in group.parts})
        pieces = [f"{len(self.whole)} whole shard(s)"] if self.whole else []
        pieces += [f"{rows} clip(s) out of {shards} shard(s)"] if rows else []
        pieces += ["the labels"] if self.labels else []
        lines = [
            f"{self.clips} clips to move, {self.there_already} there already",
            f"{self.bytes:,} bytes: {', '.join(pieces) or 'nothing'}",
        ]
        return "\n".join(lines + self.notes)


def plan_move(giver: Cache, receiver: Cache | None, prefer: int | None, newest: bool) -> Move:
    """What `receiver` needs of what `giver` has; `prefer` 0 is the receiver, 1 the giver.

    Raises CacheError when their settings differ, and for unsettled conflicts.
    """
    if receiver is not None and receiver.fingerprint != giver.fingerprint:
        raise CacheError(refusal(receiver.path, giver.identity, receiver.identity))
    if receiver is None:
        failures = list(giver.index.failures)
        choice = Choice([[], list(giver.ids)], [[], failures])
    else:
        choice = choose([receiver, giver], newest, prefer)
    found, clips = pieces(giver, choice, 1), len(choice.rows[1])
    sizes = {name: giver.index.shards[name].size for name in found.whole}
    return Move(
        whole=sizes,
        parts=found.groups,
        clips=clips,
        there_already=len(giver) - clips,
        bytes=sum(sizes.values()) + rows_bytes(giver, found.single),
    )


def rows_bytes(giver: Cache, ids: Collection[str]) -> int:
    """Bytes of features, row tables and pictures of some clips."""
    live = giver.index.live
    pictures = sum(int(live.rows["jpeg_bytes"][live.place(clip_id)]) for clip_id in ids)
    return len(ids) * giver.declaration.row_bytes + pictures


def takes_labels(
    giver: Cache, receiver: Cache | None, prefer: int | None, move: Move, other: str
) -> bool:
    """Whether the giver's labels replace the receiver's: where it has none, or older ones."""
    theirs = giver.stored_labels()
    ours = None if receiver is None else receiver.stored_labels()
    if theirs is None or receiver is None or ours is None:
        return theirs is not None
    if labels_sha256(ours) == labels_sha256(theirs):
        return False
    if _replaced(giver, ours) or prefer == 1:
        if changes := changed_splits(ours, theirs):
            move.notes.append(f"splits: {describe_changes(changes)}")
        return True
    if not _replaced(receiver, theirs) and prefer is None:
        move.notes.append(
            f"the labels differ ({_named(ours)}, {len(ours)} events, against {_named(theirs)}, "
            f"{len(theirs)} events) and stay as they are; --prefer {other} replaces them"
        )
    return False


def _named(labels: Labels) -> str:
    return str(printable(labels.source[:_SHOWN_CHARACTERS]))


def _replaced(cache: Cache, labels: Labels) -> bool:
    """Whether a cache's labels came to stand where these stood."""
    digest = labels_sha256(labels)
    return any(entry.get("sha256") == digest for entry in cache.label_history())


def side_by_side(jobs: int, tasks: Iterable[Callable[[], T]]) -> list[T]:
    """Run tasks in `jobs` threads; after the first error no other begins."""
    stop = threading.Event()

    def run(task: Callable[[], T]) -> list[T]:
        if stop.is_set():
            return []
        try:
            return [task()]
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return [value for values in pool.map(run, tasks) for value in values]
        finally:
            stop.set()  # Ctrl-C reaches this thread alone


def preference(prefer: str | None, giver: str, receiver: str) -> tuple[int | None, bool]:
    """`--prefer` as the number of the side (0 receiver, 1 giver) and whether the newest wins."""
    sides: Mapping[str | None, Sequence[Any]] = {
        None: (None, False),
        "newest": (None, True),
        giver: (1, False),
        receiver: (0, False),
    }
    if prefer not in sides:
        raise CacheError(f"prefer: expected here, there or newest, found {prefer!r}")
    side, newest = sides[prefer]
    return side, newest
