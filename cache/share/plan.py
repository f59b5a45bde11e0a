"""What is to be copied into one cache from others; `merge`, `push` and `pull` all go by this.

Clip by clip: a row beats a failure, equal rows are one (the first, see `alike`), and different rows
are a conflict that the caller settles. Where all of a shard is wanted, it is copied as the file it
is; what is wanted of other shards becomes new ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from cache.common.errors import CacheError
from cache.format.identity import Identity, refusal
from cache.format.names import one_form
from cache.format.row_table import RowPlace, row_members
from cache.format.shard import SHARD_CLIPS, Clip, Failure, Origin, Written, write_shard
from cache.reader import Cache
from cache.share.alike import alike

T = TypeVar("T")


class WholeShard(NamedTuple):
    """A shard that is copied as a file: whose, its name, its clips that count, its bytes."""

    giver: Cache
    name: str
    clips: int
    size: int


@dataclass
class NewShard:
    """Rows and failures that become one shard.

    parts: (file of the giver, rows of it); origins: when and by what each was made, by clip id;
    bytes: of features, row tables and pictures.
    """

    giver: Cache
    parts: list[tuple[str, list[RowPlace]]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    bytes: int = 0

    def write(
        self,
        folder: Path,
        identity: Identity,
        read: Callable[[str, list[RowPlace]], list[Clip]],
    ) -> Written:
        """Write it into a cache folder, all in it as old as it was; `read` gives the rows."""
        clips = [clip for name, members in self.parts for clip in read(name, members)]
        return write_shard(folder, identity, clips, self.failures, self.origins)


@dataclass
class CopyPlan:
    """What is to be copied.

    Attributes
    ----------
    receiver: the cache that it is for; None where there is none yet.
    whole, new: the shards that it comes to.
    clips, failures: how many of them that brings.
    there_already: how many clips of the givers need no copy; kept: how many rows of the receiver
        stay, those that no giver has among them.
    settled: conflicts that a preference decided.
    labels: whether the giver's label table is taken over; changed_splits: ids that are in another
        split by the labels than they were, with both; notes: sentences for people.
    """

    receiver: Cache | None
    whole: list[WholeShard] = field(default_factory=list)
    new: list[NewShard] = field(default_factory=list)
    clips: int = 0
    failures: int = 0
    there_already: int = 0
    kept: int = 0
    settled: list[str] = field(default_factory=list)
    labels: bool = False
    changed_splits: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of features, pictures and row tables, exactly."""
        return sum(shard.size for shard in self.whole) + sum(shard.bytes for shard in self.new)


def plan_copy(
    receiver: Cache | None,
    givers: Sequence[Cache],
    prefer: Cache | None = None,
    newest: bool = False,
    only: Collection[str] | None = None,
) -> CopyPlan:
    """What `receiver` needs of what `givers` have (of the ids in `only`, where that is given).

    Conflicts are settled for the cache `prefer`, or else for the `newest` row; CacheError names
    those that stay, and settings of the receiver that differ.
    """
    for giver in givers:
        if receiver is not None and receiver.fingerprint != giver.fingerprint:
            raise CacheError(refusal(receiver.path, giver.identity, receiver.identity))
    caches = ({} if receiver is None else {0: receiver}) | dict(enumerate(givers, 1))
    choice = _choose_rows(caches, prefer, newest, only)
    _choose_failures(caches, choice, only)
    plan = CopyPlan(receiver, settled=choice.settled, kept=len(choice.rows[0]))
    for number, giver in enumerate(givers, 1):
        _add(plan, giver, choice.rows[number], choice.failures[number], choice.age)
    plan.there_already = choice.offered - plan.clips
    return plan


def preferred(prefer: str | None, caches: Mapping[str, Cache | None]) -> Cache | None:
    """The one of some named caches that `--prefer` says; None for "newest", and for none."""
    if prefer is None or prefer == "newest":
        return None
    if prefer not in caches:
        expected = ", ".join(caches)
        raise CacheError(f"prefer: expected newest or one of {expected}, found {prefer!r}")
    return caches[prefer]


@dataclass
class _Choice:
    """Which cache gives each clip; caches are numbered, the receiver is 0.

    rows, failures: the ids that each gives; offered: how many clips the givers have; age: ids that
    the receiver must see as newer than what it has, with the time to give; settled: see `CopyPlan`.
    """

    rows: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    failures: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    offered: int = 0
    age: dict[str, int] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)


def _choose_rows(
    caches: Mapping[int, Cache], prefer: Cache | None, newest: bool, only: Collection[str] | None
) -> _Choice:
    """Which cache gives the row of each clip; the one that comes first of those that agree."""
    holders = _holders({number: _made(cache) for number, cache in caches.items()}, only)
    _refuse_two_spellings(holders)
    choice = _Choice(offered=sum(max(made) > 0 for made in holders.values()))
    conflicts = []
    for clip_id, made in holders.items():
        best = min(made)
        if len({digest for _, digest in made.values()}) > 1:
            named = [number for number in made if caches[number] is prefer]
            if named or newest:
                best = named[0] if named else max(made, key=made.__getitem__)
                choice.settled.append(clip_id)
            elif alike([caches[number] for number in made], clip_id):
                made = {number: (when, b"") for number, (when, _) in made.items()}
            else:
                conflicts.append(clip_id)
                continue
        winner = next(number for number, (_, digest) in made.items() if digest == made[best][1])
        choice.rows[winner].add(clip_id)
        if winner and 0 in made:
            choice.age[clip_id] = max(made[winner][0], made[0][0] + 1)
    if conflicts:
        raise CacheError(
            f"{len(conflicts)} clip(s) have different rows in these caches: "
            f"{', '.join(sorted(conflicts)[:10])}{' …' if len(conflicts) > 10 else ''}; settle it "
            "with --prefer (see --help); `python -m cache diff A B` shows in what they differ"
        )
    return choice


def _made(cache: Cache) -> Iterable[tuple[str, tuple[int, bytes]]]:
    """(id, (when its row was made, SHA-256 of the row)) of each clip."""
    times = (when for when, _ in cache.row_origins)
    return zip(cache.ids, zip(times, cache.row_digests, strict=True), strict=True)


def _holders(
    held: Mapping[int, Iterable[tuple[str, T]]], only: Collection[str] | None
) -> dict[str, dict[int, T]]:
    """What caches hold of each id, by number, ascending; of givers, ids in `only` alone count."""
    found: dict[str, dict[int, T]] = defaultdict(dict)
    for number, items in held.items():
        for clip_id, item in items:
            if number == 0 or only is None or clip_id in only:
                found[clip_id][number] = item
    return found


def _refuse_two_spellings(holders: Mapping[str, Collection[int]]) -> None:
    """Raise CacheError for ids of two caches that differ in the form of characters alone.

    They name one clip, which would stand twice in what is joined, and in two splits maybe.
    """
    spelled = {one_form(i): i for i in holders if not i.isascii() and one_form(i) != i}
    twice = [
        form
        for form, other in spelled.items()
        if form in holders and not set(holders[form]) & set(holders[other])
    ]
    if twice:
        raise CacheError(
            f"{len(twice)} clip(s) stand in these caches under two spellings (é as one character, "
            f"or as e and an accent): {', '.join(sorted(twice)[:10])}; one of the caches was made "
            "by an earlier release: extract its set again"
        )


def _choose_failures(
    caches: Mapping[int, Cache], choice: _Choice, only: Collection[str] | None
) -> None:
    """Which cache gives the failure of each clip that has no row."""
    failing = _holders({n: cache.index.failures.items() for n, cache in caches.items()}, only)
    with_rows = set().union(*choice.rows.values())
    here = caches[0].failure_origins if 0 in caches else {}
    for clip_id, said in failing.items():
        if clip_id not in with_rows:
            # A rule on the content alone, so that the order of merging does not matter.
            rank = {n: (f.attempt, f.media_mtime_ns, str(vars(f))) for n, f in said.items()}
            winner = max(rank, key=rank.__getitem__)  # of equal ones the first
            choice.failures[winner].add(clip_id)
        if clip_id in here:  # what replaces a failure must be newer than it
            choice.age[clip_id] = max(choice.age.get(clip_id, 0), here[clip_id][0] + 1)


def _add(
    plan: CopyPlan, giver: Cache, rows: set[str], failures: set[str], age: Mapping[str, int]
) -> None:
    """Add what one cache gives: whole shards where all of one is wanted, else new ones."""
    plan.clips += len(rows)
    plan.failures += len(failures)
    whole = {} if giver.packed else _whole_shards(giver, rows, failures, age)
    for name, ids in sorted(whole.items()):
        plan.whole.append(WholeShard(giver, name, len(ids), giver.index.shards[name].size))
        rows.difference_update(ids)
    failures -= {one.failure.id for one in giver.index.reported if one.shard in whole}
    plan.new += _new_shards(giver, rows, failures, age)


def _whole_shards(
    giver: Cache, rows: set[str], failures: set[str], age: Mapping[str, int]
) -> dict[str, list[str]]:
    """Shards of which every row and every failure is wanted, as old as it is, with their ids."""
    index = giver.index
    kept = set(index.shards)
    for one in index.reported:
        clip_id = one.failure.id
        last = index.failures.get(clip_id) is one.failure  # not one of an earlier attempt
        if not last or clip_id not in failures or clip_id in age:
            kept.discard(one.shard)
    held = np.bincount(index.rows["shard"], minlength=len(index.shards))  # superseded rows too
    count = dict(zip(index.shards, held.tolist(), strict=True))
    found = {}
    as_it_is = rows - age.keys()
    for name, table in index.live.by_file():
        ids = [value.decode() for value in table["id"].tolist()]
        if name in kept and len(ids) == count[name] and as_it_is.issuperset(ids):
            found[name] = ids
    return found


def _new_shards(
    giver: Cache, rows: set[str], failures: set[str], age: Mapping[str, int]
) -> list[NewShard]:
    """Rows and failures in pieces that make a shard each.

    Rows that were made together stay together; small lots share a shard.
    """
    live, width = giver.index.live, giver.declaration.row_bytes
    lots: dict[tuple[str, Origin], list[tuple[RowPlace, int]]] = defaultdict(list)
    for name, table in live.by_file():
        for member, pictures in zip(row_members(table), table["jpeg_bytes"].tolist(), strict=True):
            if member[1] in rows:
                when, made_by = giver.row_origins[live.place(member[1])]
                origin = age.get(member[1], when), made_by
                lots[name, origin].append((member, width + pictures))
    found = [NewShard(giver)]
    for (name, origin), lot in lots.items():
        for begin in range(0, len(lot), SHARD_CLIPS):
            members, sizes = zip(*lot[begin : begin + SHARD_CLIPS], strict=True)
            if len(found[-1].origins) + len(members) > SHARD_CLIPS:
                found.append(NewShard(giver))
            found[-1].parts.append((name, list(members)))
            found[-1].origins.update((clip_id, origin) for _, clip_id, _ in members)
            found[-1].bytes += sum(sizes)
    for clip_id, (when, made_by) in giver.failure_origins.items():
        if clip_id in failures:
            if len(found[-1].origins) >= SHARD_CLIPS:
                found.append(NewShard(giver))
            found[-1].failures.append(giver.index.failures[clip_id])
            found[-1].origins[clip_id] = age.get(clip_id, when), made_by
    return [shard for shard in found if shard.origins]
