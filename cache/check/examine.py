"""One shard looked into: its bytes against its name, every row against its own checksum and the
rule of what a row may hold, and the stored index against what the shard itself says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.common.errors import CacheError
from cache.format.identity import Identity
from cache.format.index import Index, Reported, summarize
from cache.format.row_table import RowPlace
from cache.format.rows import RowFile, read_clips
from cache.format.schema import Declaration
from cache.format.shard import Clip, clip_problem, file_sha256, shard_name

_BLOCK_BYTES = 1 << 25
_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """What a shard turned out to be.

    Attributes
    ----------
    index: where its rows are: by its own word, if its bytes prove that, else by the stored
        index's; None where neither says anything.
    problem: what is wrong with it, "" where it is whole.
    lost: why a row can't be used, by clip id.
    misled: whether the stored index says otherwise of it than it does itself.
    """

    index: Index | None
    problem: str = ""
    lost: dict[str, str] = field(default_factory=dict)
    misled: bool = False


def examine(path: Path, stored: Index | None, identity: Identity) -> Finding:
    """Read every byte of a shard and check it; `stored` is the cache's index, where it has one."""
    name = path.name
    known = stored if stored is not None and name in stored.shards else None
    unreadable = ""
    try:
        own = summarize(path, identity)
    except CacheError as error:
        own, unreadable = None, str(error)
    if own is None and known is None:  # before its bytes are read: it may claim any number of them
        return Finding(None, f"{unreadable} (its clips are not known)")
    whole = matches_name(path)
    index = own if whole and own else known or own
    assert index is not None
    lost = lost_rows(path, index)
    misled = bool(whole and own and known and known.account(name) != own.account(name))
    if not whole:
        where = f"rows {', '.join(lost)}" if lost else "the file's structure, no clip's row"
        return Finding(index, f"{path}: its bytes don't match its name; damaged: {where}", lost)
    if unreadable:
        return Finding(index, unreadable, lost)
    if not lost:
        return Finding(index, misled=misled)
    shown = "; ".join(f"{i}: {why}" for i, why in list(lost.items())[:_SHOWN])
    more = " …" if len(lost) > _SHOWN else ""
    return Finding(
        index, f"{path}: {len(lost)} row(s) of it can't be used: {shown}{more}", lost, misled
    )


@dataclass
class Gone:
    """What a file of rows held that is not there, though the stored index lists it.

    rows: when each row was made that nothing newer stands for, by clip id; failures: the same.
    """

    rows: dict[str, int] = field(default_factory=dict)
    failures: list[Reported] = field(default_factory=list)

    def problem(self, path: Path) -> str:
        """What is lost, as a sentence."""
        failed = sorted(one.failure.id for one in self.failures)
        parts = [f"rows {', '.join(sorted(self.rows))}"] if self.rows else []
        parts += [f"failures {', '.join(failed)}"] if failed else []
        return f"{path}: not there, though the index lists it; lost: {'; '.join(parts)}"


def gone_shards(stored: Index | None, here: Index) -> dict[str, Gone]:
    """Files that the stored index lists and that are not among those found, with what is lost.

    What stands elsewhere, as old or newer, is not: a repair that was killed has moved it there.
    """
    names = stored.shards.keys() - here.shards.keys() - here.damaged.keys() if stored else ()
    if stored is None or not names:
        return {}
    newest = {one.failure.id: one.created_ns for one in here.reported}
    for clip_id, when in zip(
        here.rows["id"].tolist(), here.rows["created_ns"].tolist(), strict=True
    ):
        newest[clip_id.decode()] = max(when, newest.get(clip_id.decode(), 0))
    found = {name: Gone() for name in sorted(names)}
    for name, rows in stored.live.by_file():
        for row in rows if name in found else ():
            clip_id, when = row["id"].decode(), int(row["created_ns"])
            if newest.get(clip_id, -1) < when:
                found[name].rows[clip_id] = when
    for one in stored.reported:
        last = stored.failures.get(one.failure.id) is one.failure
        if one.shard in found and last and newest.get(one.failure.id, -1) < one.created_ns:
            found[one.shard].failures.append(one)
    return {name: gone for name, gone in found.items() if gone.rows or gone.failures}


def check_shard(path: Path, identity: Identity) -> None:
    """Raise CacheError, naming the clips, for a shard that is not whole."""
    problem = examine(path, None, identity).problem
    if problem:
        raise CacheError(f"{problem}; run `python -m cache repair` on that cache first")


def matches_name(shard: Path) -> bool:
    """Whether a shard can be read and its bytes give its name."""
    try:
        return shard_name(file_sha256(shard)) == shard.name
    except (CacheError, OSError):  # a link, a pipe, a bad sector
        return False


def checked_rows(path: Path, index: Index) -> Iterator[tuple[str, Clip | None, str]]:
    """(id, row, "") of each row of a file that can be used, (id, None, why) of the others.

    One after the other, wherever else the file is damaged.
    """
    members, layout = index.members(path.name), index.layout(path.name)
    size = max(1, _BLOCK_BYTES // layout.declared.row_bytes)
    try:
        with RowFile(path, layout) as file:
            for begin in range(0, len(members), size):
                yield from _checked(file, members[begin : begin + size], index.declared)
    except (CacheError, OSError) as error:
        yield from ((clip_id, None, str(error)) for _, clip_id, _ in members)


def _checked(
    file: RowFile, members: Sequence[RowPlace], declared: Declaration
) -> Iterator[tuple[str, Clip | None, str]]:
    why = "its bytes don't give its checksum"
    try:
        found = read_clips(file.fetch, file.layout, members, str(file.path))
    except CacheError as error:
        if len(members) > 1:  # a picture table may be damaged, or the file end before it
            for member in members:
                yield from _checked(file, [member], declared)
            return
        found, why = [], str(error)
    clips = {clip.id: clip for clip in found}
    for _, clip_id, _ in members:
        clip = clips.get(clip_id)
        problem = clip_problem(clip, declared) if clip else why
        yield clip_id, None if problem else clip, problem


def intact_clips(path: Path, index: Index) -> Iterator[Clip]:
    """The rows of a file that can be used."""
    return (clip for _, clip, _ in checked_rows(path, index) if clip)


def lost_rows(path: Path, index: Index) -> dict[str, str]:
    """Why rows of a file can't be used, by clip id, sorted; without those that have another."""
    intact, lost = set(), {}
    for clip_id, clip, why in checked_rows(path, index):
        if clip:
            intact.add(clip_id)
        else:
            lost[clip_id] = why
    return {clip_id: lost[clip_id] for clip_id in sorted(lost.keys() - intact)}
