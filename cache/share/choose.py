"""Decide which of several caches gives each clip, and in what pieces it can be moved.

Clip by clip: a row beats a failure, equal rows are one, and different rows of one clip are a
conflict that the caller settles. `merge`, `push` and `pull` all go by this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cache.common.errors import CacheError
from cache.format.names import one_form
from cache.format.row_table import Member, row_members, rows_by_file
from cache.format.shard import SHARD_CLIPS, Failure, Origin
from cache.reader import Cache


@dataclass
class Choice:
    """Which cache gives each clip.

    Attributes
    ----------
    rows: for each source, the ids whose rows it gives.
    failures: for each source, the ids whose failures it gives.
    age: ids that the target must see as newer than what it has, with the time to give them.
    settled: conflicts that `prefer` decided.
    """

    rows: list[list[str]]
    failures: list[list[str]]
    age: dict[str, int] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)


@dataclass
class Group:
    """Rows and failures that become one shard.

    parts: (file, rows of it); origins: when and by what each was made, by clip id.
    """

    parts: list[tuple[str, list[Member]]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)


def check_readable(cache: Cache) -> None:
    """Raise CacheError where a shard can't be read: its clips would be left out in silence."""
    damaged = cache.index.damaged
    if damaged:
        raise CacheError(
            f"{len(damaged)} shard(s) of {cache.path} can't be read, first: "
            f"{next(iter(damaged.values()))}; run `python -m cache repair` on that cache first"
        )


def choose(caches: Sequence[Cache], newest: bool, first: int | None) -> Choice:
    """Decide which cache gives each clip; the one that comes first of those that agree."""
    holders: dict[str, list[int]] = defaultdict(list)
    for number, cache in enumerate(caches):
        for clip_id in cache.ids:
            holders[clip_id].append(number)
    _refuse_two_spellings(holders)
    origins = [cache.row_origins() for cache in caches]
    digests = [list(map(bytes, cache.index.live.rows["sha256"])) for cache in caches]
    found = Choice([[] for _ in caches], [[] for _ in caches])
    conflicts = []
    for clip_id, numbers in holders.items():
        at = {n: caches[n].index.live.place(clip_id) for n in numbers}
        if len({digests[n][at[n]] for n in numbers}) == 1:
            winner = numbers[0]
        elif first is not None and first in numbers:
            winner = min(n for n in numbers if digests[n][at[n]] == digests[first][at[first]])
            found.settled.append(clip_id)
        elif newest:
            winner = max(numbers, key=lambda n: (origins[n][at[n]][0], digests[n][at[n]]))
            winner = min(n for n in numbers if digests[n][at[n]] == digests[winner][at[winner]])
            found.settled.append(clip_id)
        else:
            conflicts.append(clip_id)
            continue
        found.rows[winner].append(clip_id)
        if winner and 0 in numbers:
            found.age[clip_id] = max(origins[winner][at[winner]][0], origins[0][at[0]][0] + 1)
    if conflicts:
        raise CacheError(
            f"{len(conflicts)} clip(s) have different rows in these caches: "
            f"{', '.join(sorted(conflicts)[:10])}{' …' if len(conflicts) > 10 else ''}; settle it "
            "with --prefer (see --help); `python -m cache diff A B` shows in what they differ"
        )
    _choose_failures(caches, holders, found)
    return found


def _refuse_two_spellings(holders: Mapping[str, list[int]]) -> None:
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
    caches: Sequence[Cache], holders: Mapping[str, list[int]], found: Choice
) -> None:
    failing: dict[str, list[int]] = defaultdict(list)
    for number, cache in enumerate(caches):
        for clip_id in cache.index.failures:
            failing[clip_id].append(number)
    here = caches[0].failure_origins()
    for clip_id, numbers in failing.items():
        if clip_id not in holders:
            told = {n: vars(caches[n].index.failures[clip_id]) for n in numbers}
            # A rule on the content alone, so that the order of merging does not matter.
            rank = {n: (f["attempt"], f["media_mtime_ns"], str(f)) for n, f in told.items()}
            best = max(rank.values())
            winner = min(n for n in numbers if rank[n] == best)
            found.failures[winner].append(clip_id)
        if clip_id in here:  # what replaces a failure must be newer than it
            found.age[clip_id] = max(found.age.get(clip_id, 0), here[clip_id][0] + 1)


@dataclass
class Pieces:
    """What one cache gives, as it can be moved.

    whole: shards of which everything is wanted, by name, with their number of clips; groups: the
    rest, in pieces that make a shard each; single: the ids in them that have rows.
    """

    whole: dict[str, int]
    groups: list[Group]
    single: set[str]


def pieces(cache: Cache, choice: Choice, number: int) -> Pieces:
    """Whole shards where all of one is wanted of the source with this number, else its rows."""
    wanted, failed = set(choice.rows[number]), set(choice.failures[number])
    names = set() if cache.packed else _whole_shards(cache, choice, wanted, failed)
    whole = {}
    for name, rows in cache.index.live.by_file():
        if name in names:
            whole[name] = len(rows)
            wanted.difference_update(value.decode() for value in rows["id"].tolist())
    failed.difference_update(o.failure.id for o in cache.index.reported if o.shard in names)
    ordered = {name: whole[name] for name in sorted(whole)}
    return Pieces(ordered, _groups(cache, choice, wanted, failed), wanted)


def _whole_shards(cache: Cache, choice: Choice, wanted: set[str], failed: set[str]) -> set[str]:
    """Shards of which every row and every failure is wanted, as old as it is."""
    names = list(cache.index.shards)
    kept = set(names)
    for one in cache.index.reported:
        clip_id = one.failure.id
        last = cache.index.failures.get(clip_id) is one.failure  # not one of an earlier attempt
        if not last or clip_id not in failed or clip_id in choice.age:
            kept.discard(one.shard)
    found = set()
    for name, rows in rows_by_file(names, cache.index.rows):
        ids = [value.decode() for value in rows["id"].tolist()]
        if name in kept and all(i in wanted and i not in choice.age for i in ids):
            live = [cache.index.clips[i].shard == name for i in ids]
            if all(live):
                found.add(name)
    return found


def _groups(cache: Cache, choice: Choice, wanted: set[str], failed: set[str]) -> list[Group]:
    """What is left, in pieces that make a shard each.

    Rows that were made together stay together; small lots share a shard.
    """
    index, origins = cache.index, cache.row_origins()
    lots: dict[tuple[str, Origin], list[Member]] = defaultdict(list)
    for name, table in index.live.by_file():
        for member in row_members(table):
            if member[1] in wanted:
                when, made_by = origins[index.live.place(member[1])]
                lots[name, (choice.age.get(member[1], when), made_by)].append(member)
    found = [Group()]
    for (name, origin), lot in lots.items():
        for begin in range(0, len(lot), SHARD_CLIPS):
            part = lot[begin : begin + SHARD_CLIPS]
            if len(found[-1].origins) + len(part) > SHARD_CLIPS:
                found.append(Group())
            found[-1].parts.append((name, part))
            found[-1].origins.update((clip_id, origin) for _, clip_id, _ in part)
    for clip_id, (when, made_by) in cache.failure_origins().items():
        if clip_id in failed:
            if len(found[-1].origins) >= SHARD_CLIPS:
                found.append(Group())
            found[-1].failures.append(index.failures[clip_id])
            found[-1].origins[clip_id] = choice.age.get(clip_id, when), made_by
    return [group for group in found if group.origins]
