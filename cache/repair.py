"""Keep what is whole of a damaged cache, so that only what is lost is extracted again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.folder import set_aside
from cache.index import Index
from cache.index_file import load_index, save_index
from cache.schema import SHARD_FOLDER
from cache.shard import write_shard
from cache.verify import intact_clips, matches_name, read_record, settle_record


def damaged_shards(folder: Path, index: Index) -> dict[str, list[str]]:
    """Shards that can't be read or that the last `verify` found damaged, with the ids lost."""
    record = read_record(folder)
    noted = record["damaged"] if record else {}
    listed = {name: ids for name, ids in noted.items() if name in index.shards}
    unreadable: dict[str, list[str]] = {name: [] for name in index.damaged}
    return {**unreadable, **listed}


def without(index: Index, damaged: Mapping[str, Iterable[str]]) -> Index:
    """The index as if the lost rows of damaged shards were not there, to plan with."""
    names = list(index.shards)
    drop = np.zeros(len(index.rows), bool)
    for name in set(damaged) & set(names):
        lost = set(damaged[name])
        for place in np.flatnonzero(index.rows["shard"] == names.index(name)):
            drop[place] = index.rows["id"][place].decode() in lost
    return replace(index, rows=index.rows[~drop]) if drop.any() else index


def repair(folder: Path, identity: Mapping[str, Any], suspects: Iterable[str]) -> list[str]:
    """Replace damaged shards by their intact rows; call with the writer's lock held.

    `suspects` are names of shards that `verify` found damaged, or that can't be read; each is
    checked again. The damaged file is renamed to `.damaged`, for whoever wants to look at it.
    Returns a sentence for each shard: what was kept, which clips are to be extracted again.
    """
    index = load_index(folder, identity)
    suspects = list(suspects)
    told = []
    for name in suspects:
        if name in index.shards:
            if matches_name(folder / SHARD_FOLDER / name):
                continue  # repaired since, or never damaged
            told.append(_salvage(folder, identity, index, name))
        elif name in index.damaged:
            moved = set_aside(folder, name)
            told.append(f"{index.damaged[name]}; moved to {moved}, its clips are extracted again")
    index = load_index(folder, identity)
    save_index(folder, identity, index)
    settle_record(folder, suspects)
    return told


def _salvage(folder: Path, identity: Mapping[str, Any], index: Index, name: str) -> str:
    clips = list(intact_clips(folder / SHARD_FOLDER / name, name, index))
    reported = [one for one in index.reported if one.shard == name]
    lost = sorted({i for _, i, _ in index.members(name)} - {clip.id for clip in clips})
    if clips or reported:
        origins = index.origins(name)
        written = write_shard(folder, identity, clips, [one.failure for one in reported], origins)
        if written.name == name:  # the very bytes it had: they stand in its place now
            return f"{folder / SHARD_FOLDER / name}: was damaged, no row of it; written anew, whole"
    moved = set_aside(folder, name)
    again = f"to extract again: {', '.join(lost)}" if lost else "nothing to extract again"
    return f"{moved}: damaged; kept {len(clips)} whole rows of it in a new shard; {again}"
