"""What a run would do: wanted against found against done. Light enough for a warm run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache.common.atomic import check_room
from cache.common.cli import printable, say
from cache.common.errors import CacheError, ConfigError
from cache.format.index import Index
from cache.format.shard import Failure
from cache.format.windows import Window, beyond_clips
from cache.labels.annotations import Labels, some
from cache.labels.store import read_labels
from extract.config import ExtractConfig
from extract.features.declare import declare
from extract.finding import LOOKED_FOR, elsewhere
from extract.parallel.job import Workers
from extract.recordings import Recording, find_recordings
from extract.sources import MediaSource
from extract.stretches import stretches

JPEG_BYTES_GUESS = 9_000
_SHOWN = 5
_PART = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass
class Plan:
    """What a run would do.

    Attributes
    ----------
    wanted: clip ids of the labels, in file order, each once.
    recordings: the ids of the labels, in file order; keys alone.
    sources: media found, by id.
    done: ids whose features are there and whose media has not changed, as far as it can be seen.
    failed: ids that failed before with this same media, left alone unless asked.
    todo: sources to extract now.
    missing: ids with neither features nor media.

    Where recordings give windows, ids are those of windows; of a recording that is missing, or
    that can't be looked at, its own.
    """

    wanted: list[str]
    sources: dict[str, MediaSource]
    done: list[str] = field(default_factory=list)
    failed: dict[str, Failure] = field(default_factory=dict)
    todo: list[MediaSource] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    changed: int = 0
    recordings: dict[str, None] = field(default_factory=dict)

    @property
    def to_do(self) -> int:
        """How many clips there are to extract now."""
        return sum(len(source.clip_ids) for source in self.todo)


def stored_labels(folder: Path) -> Labels | None:
    """The cache's labels; damaged ones count as none, since the annotations are at hand."""
    try:
        return read_labels(folder)
    except CacheError as error:
        say(f"note      {error}; which splits the ids were in is lost", error=True)
        return None


def cut_seconds(config: ExtractConfig) -> float | None:
    """Where events are cut: the clip's end; nowhere where clips are windows of recordings."""
    return config.clip_seconds if config.hop_seconds is None else None


def parse_part(text: str) -> tuple[int, int]:
    """(K, N) of "K/N", one job of an array; ConfigError unless 1 ≤ K ≤ N."""
    found = _PART.fullmatch(text)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= numbers[0] <= numbers[1]:
        raise ConfigError(f"--part {text}: expected K/N with 1 ≤ K ≤ N, for example 3/16")
    return numbers


def ids_of_part(ids: Iterable[str], part: str) -> frozenset[str]:
    """The ids of a part: every Nth of the sorted ids, from the Kth on.

    They depend on the annotated ids alone, not on what is done, so that the parts are disjoint
    and complete whenever and wherever they run.
    """
    number, count = parse_part(part)
    return frozenset(sorted(set(ids))[number - 1 :: count])


def make_plan(
    labels: Labels,
    sources: dict[str, MediaSource],
    index: Index,
    retry: bool,
    part: Collection[str] | None = None,
    config: ExtractConfig | None = None,
) -> Plan:
    """Compare what is wanted (all, or the ids of a part) with what is there."""
    ids = [i for i in dict.fromkeys(labels.ids) if part is None or i in part]
    return plan_ids(ids, sources, index, retry, config)


def plan_ids(
    ids: Iterable[str],
    sources: dict[str, MediaSource],
    index: Index,
    retry: bool,
    config: ExtractConfig | None = None,
) -> Plan:
    """Compare clips, or recordings, with what is there.

    Media is looked up, not opened; but where `config` has a hop, recordings are whose length no
    row tells.
    """
    ids = list(ids)
    plan = Plan(ids, sources, recordings=dict.fromkeys(ids))
    if config is not None and config.hop_seconds is not None:
        plan.wanted = []
        for recording in find_recordings(ids, sources, index, config):
            _add_recording(plan, recording, index, retry)
        return plan
    for clip_id in plan.wanted:
        source = sources.get(clip_id)
        if _add_clip(plan, clip_id, source, index, retry) and source is not None:
            plan.todo.append(source)
    return plan


def _add_clip(
    plan: Plan, clip_id: str, source: MediaSource | None, index: Index, retry: bool
) -> bool:
    """Note what there is of a clip; whether it is to be made now."""
    entry, failure = index.clips.get(clip_id), index.failures.get(clip_id)
    before = entry or failure
    same = source is None or (before is not None and source.made(before))
    unseen = source is None or source.problem != ""
    if entry is not None and (same or unseen):
        plan.done.append(clip_id)
    elif source is None:
        plan.missing.append(clip_id)
    elif failure is not None and same and not retry:
        plan.failed[clip_id] = failure
    else:
        plan.changed += before is not None and not same
        return True
    return False


def _add_recording(plan: Plan, recording: Recording, index: Index, retry: bool) -> None:
    """Note what there is of each window of a recording, and which stretches are to be made."""
    if recording.refusal is not None:
        plan.wanted.append(recording.id)
        plan.failed[recording.id] = recording.refusal
        return
    for stretch in stretches(recording.offsets_s, recording.config):
        ids = [Window(recording.id, offset_s).clip_id for offset_s in stretch]
        plan.wanted += ids
        wanted = [i for i in ids if _add_clip(plan, i, recording.source, index, retry)]
        if wanted and recording.source is not None:
            gone = recording.gone if stretch[-1] == recording.offsets_s[-1] else ()
            source = replace(recording.source, offsets_s=stretch, wanted=tuple(wanted), gone=gone)
            plan.todo.append(source)


def describe_plan(
    plan: Plan, data: Path, folder: Path, config: ExtractConfig, workers: Workers
) -> str:
    """The plan as text: counts, disk, device, workers; what was chosen among several files."""
    needed = plan.to_do * bytes_per_clip(config)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    lines = [
        _counted(plan, config),
        f"          done {len(plan.done)}, failed before {len(plan.failed)}, to do {plan.to_do}"
        + (f" ({plan.changed} of them because their media changed)" if plan.changed else ""),
        f"disk      {needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free in {folder}",
    ]
    if plan.todo:
        lines.append(f"device    {workers.device}, {workers.described}")
    # A name may have a line end in it, but no line of its own.
    lines += [printable(line) for line in (*_choices(plan), *_missing(plan, data))]
    need = f"{needed / 1e9:.2f} GB needed for {plan.to_do} clips"
    check_room(place, needed, need, " or choose another CACHE folder")
    return "\n".join(lines)


def _counted(plan: Plan, config: ExtractConfig) -> str:
    """How many clips, and of how much the media is there."""
    if config.hop_seconds is None:
        found = sum(clip_id in plan.sources for clip_id in plan.wanted)
        return f"clips     {len(plan.wanted)}: media found {found}, missing {len(plan.missing)}"
    found = len(plan.recordings.keys() & plan.sources.keys())
    return (
        f"clips     {len(plan.wanted)}, every {config.hop_seconds:g} s of "
        f"{len(plan.recordings)} recordings: media found {found}, missing {len(plan.missing)}"
    )


def unseen(index: Index, config: ExtractConfig) -> str:
    """How much of recordings is in no clip, as far as rows tell; "" for nothing."""
    if config.hop_seconds is not None:
        return ""
    count, seconds = beyond_clips(index.live.rows["media_s"], config.clip_seconds)
    if not count:
        return ""
    return (
        f"note      {count} recording{'s are' if count > 1 else ' is'} longer than a clip: "
        f"{seconds:,.0f} s of them are not looked at; --hop-seconds (make features HOP=) takes "
        "clips of all of it"
    )


def _choices(plan: Plan) -> list[str]:
    """What a person should know of the media taken, and of media that can't be seen."""
    sources = [plan.sources[clip_id] for clip_id in plan.recordings if clip_id in plan.sources]
    notes = [f"{source.id}: {source.note}" for source in sources if source.note]
    done = set(plan.done)
    notes += [
        f"{source.id}: its features are kept; {source.path}: {source.problem}"
        for source in sources
        if source.problem and source.id in done
    ]
    more = len(notes) - _SHOWN
    return [f"note      {note}" for note in notes[:_SHOWN]] + (
        [f"note      and {more} more notes of this kind"] if more > 0 else []
    )


def _missing(plan: Plan, data: Path) -> list[str]:
    """Which clips have no media, where it was looked for, and where it may be."""
    if not plan.missing:
        return []
    folder = data.parent if data.is_file() else data
    lines = [f"missing   {some(plan.missing)}", f"          looked in {folder} for {LOOKED_FOR}"]
    near = elsewhere(data, plan.missing)
    if near:
        shown = some([f"{clip_id}: {path}" for clip_id, path in near.items()])
        lines.append(
            f"          {len(near)} may be there under another name: {shown}. Name the folder that "
            "holds the media with --data (and the labels with --annotations); an id is a file's "
            "name without its suffix, small and capital letters as they are"
        )
    return lines


def bytes_per_clip(config: ExtractConfig) -> int:
    """About how many bytes a clip's row takes."""
    declared = declare(config)
    pictures = declared.pictures.count if declared.pictures else 0
    return declared.row_bytes + pictures * JPEG_BYTES_GUESS
