"""Keep what is whole of a damaged cache, so that only what is lost is extracted again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cache.check.examine import Finding, Gone, examine, gone_shards, intact_clips
from cache.check.verify import read_record, settle_record
from cache.common.settings import canonical_json
from cache.format.identity import Identity, set_aside
from cache.format.index import Index, extend_index, joined, shard_files
from cache.format.index_file import INDEX_FILE, save_index, stored_index
from cache.format.schema import SHARD_FOLDER
from cache.format.shard import DAMAGED, Failure, Origin, write_shard


def damaged_shards(folder: Path, index: Index) -> dict[str, list[str]]:
    """Shards that can't be read or that the last `verify` found damaged, with the ids lost."""
    record = read_record(folder)
    noted = record["damaged"] if record else {}
    unreadable: dict[str, list[str]] = {name: [] for name in index.damaged}
    there = index.shards.keys() | index.damaged.keys()
    return {**unreadable, **{name: ids for name, ids in noted.items() if name in there}}


def without(index: Index, damaged: Mapping[str, Iterable[str]]) -> Index:
    """The index as if the clips whose rows are lost had never been there, to plan with.

    Older rows and failures of such a clip go too: what was superseded stays superseded.
    """
    lost = {
        clip_id
        for name, ids in damaged.items()
        for clip_id in ids
        if clip_id in index.clips and index.clips[clip_id].shard == name
    }
    if not lost:
        return index
    drop = np.isin(index.rows["id"], np.array([clip_id.encode() for clip_id in lost]))
    reported = [one for one in index.reported if one.failure.id not in lost]
    return replace(index, rows=index.rows[~drop], reported=reported)


def repair(folder: Path, identity: Identity, suspects: Iterable[str]) -> tuple[list[str], Index]:
    """Replace damaged shards by their intact rows; call with the writer's lock held.

    `suspects` are names of shards that `verify` found damaged; they and those of `damaged_shards`
    are checked again. The damaged file is renamed to `.damaged`, for whoever wants to look at it.
    A clip whose row is lost becomes a failure that is newer than its older rows: they don't come
    back. Returns a sentence for each shard (what was kept, which clips are to be extracted again)
    and the index as it is now.
    """
    # Read here, under the lock: whatever the caller knows may be older than the last writer.
    stored, files = stored_index(folder, identity), shard_files(folder)
    index = extend_index(stored, files, folder, identity)
    suspects = {*suspects, *damaged_shards(folder, index)}
    missing = gone_shards(stored, index)
    others = index.restricted(index.shards.keys() - suspects)
    findings = {
        name: examine(folder / SHARD_FOLDER / name, stored, identity)
        for name in sorted(suspects & files.keys())
    }
    known = [f.index.restricted({name}) for name, f in findings.items() if f.index is not None]
    index = joined(identity.declaration, [others, *known])
    told = []
    for name, finding in findings.items():
        path = folder / SHARD_FOLDER / name
        if finding.problem:
            told.append(_salvage(path, identity, index, finding))
        if finding.misled:
            told.append(f"{path}: {INDEX_FILE} said otherwise of it than it does; written anew")
    for name, gone in missing.items():
        _note_lost(folder, identity, name, gone)
        told.append(gone.problem(folder / SHARD_FOLDER / name))
    index = extend_index(others, shard_files(folder), folder, identity)
    save_index(folder, identity, index)
    settle_record(folder, suspects)
    return told, index


def _salvage(path: Path, identity: Identity, index: Index, finding: Finding) -> str:
    folder, name = path.parent.parent, path.name
    if finding.index is None:
        return (
            f"{finding.problem}; moved to {set_aside(folder, name)}, its clips are extracted "
            "again; where they have older rows, `make features` compares those with the media"
        )
    clips = list(intact_clips(path, finding.index))
    origins = finding.index.origins(name)
    failures = {one.failure.id: one.failure for one in finding.index.failed_in(name)}
    for clip_id, why in finding.lost.items():
        entry = index.clips.get(clip_id)
        if entry is not None and entry.shard == name:  # else a newer row or failure counts
            failures[clip_id] = Failure(clip_id, DAMAGED, f"{path}: the row of this clip: {why}")
            origins[clip_id] = _now(identity, entry.created_ns)
    if clips or failures:
        written = write_shard(folder, identity, clips, list(failures.values()), origins)
        if written.name == name:  # the very bytes it had: they stand in its place now
            return f"{path}: was damaged, no row of it; written anew, whole"
    moved, lost = set_aside(folder, name), finding.lost
    again = f"to extract again: {', '.join(lost)}" if lost else "nothing to extract again"
    return f"{moved}: damaged; kept {len(clips)} whole rows of it in a new shard; {again}"


def _note_lost(folder: Path, identity: Identity, name: str, gone: Gone) -> None:
    """Let what a file held that is gone be failures: older rows don't come back."""
    failures = [one.failure for one in gone.failures]
    origins = {one.failure.id: (one.created_ns, one.made_by) for one in gone.failures}
    path = folder / SHARD_FOLDER / name
    for clip_id, when in gone.rows.items():
        failures.append(Failure(clip_id, DAMAGED, f"{path}: the row of this clip: no such file"))
        origins[clip_id] = _now(identity, when)
    write_shard(folder, identity, [], failures, origins)


def _now(identity: Identity, before: int) -> Origin:
    """The origin of what is found out now, newer than `before`, whatever the clock says."""
    return max(time.time_ns(), before + 1), canonical_json(identity.provenance)
