"""What is in a cache, for people on one screen and for scripts as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from cache.check.verify import read_record
from cache.common.cli import printable
from cache.common.strict_json import loads
from cache.format.schema import SPLITS
from cache.format.windows import beyond_clips
from cache.labels.annotations import Labels, some, without_an_event
from cache.reader import Cache

_SHOWN = 5


def facts_of(cache: Cache) -> dict[str, Any]:
    """Everything worth knowing about a cache as plain values; reads no features."""
    index, live = cache.index, cache.index.live.rows
    size = sum(facts.size for facts in index.shards.values())
    valid_s = live["valid_s"][np.isfinite(live["valid_s"])]  # what is not, `verify` names
    labels = cache.stored_labels()
    return {
        "path": str(cache.path),
        "form": "one file" if cache.packed else "folder",
        "compressed": bool(index.chunks),
        "clips": len(cache),
        "shards": len(index.shards),
        "media_hours": round(_covered_s(cache) / 3600, 3),
        "recordings": _recordings(cache),
        "shorter_clips": int(np.sum(valid_s < cache.clip_seconds)),
        "bytes": size,
        "fingerprint": cache.fingerprint,
        "format_version": cache.identity.format_version,
        "feature_version": cache.identity.feature_version,
        "config": cache.config,
        "made_by": _made_by(cache),
        "arrays": {f.name: {"shape": f.shape, "dtype": f.dtype} for f in cache.fields.values()},
        "labels": _labels(cache, labels) if labels else None,
        "failures": _failures(cache),
        "health": _health(cache),
    }


def _covered_s(cache: Cache) -> float:
    """Seconds of media that are in clips, each once; what isn't finite `verify` names."""
    valid_s = np.nan_to_num(cache.index.live.rows["valid_s"], nan=0.0, posinf=0.0, neginf=0.0)
    if cache.declaration.hop_s is None:
        return float(valid_s.sum())
    covered_s = 0.0
    for rows in cache.recordings.values():
        seen_s = 0.0
        for row in rows:
            offset_s = cache.windows[row].offset_s
            end_s = offset_s + float(valid_s[row])
            covered_s += max(0.0, end_s - max(offset_s, seen_s))
            seen_s = max(seen_s, end_s)
    return covered_s


def _recordings(cache: Cache) -> dict[str, Any]:
    """How many recordings there are, and of how many what is in no clip, by their own account."""
    if cache.declaration.hop_s is not None:
        return {"count": len(cache.recordings), "hop_s": cache.declaration.hop_s}
    media_s = cache.index.live.rows["media_s"]
    longer, unseen_s = beyond_clips(media_s, cache.clip_seconds)
    return {"count": len(cache), "hop_s": None, "longer": longer, "unseen_s": round(unseen_s, 1)}


def _made_by(cache: Cache) -> list[dict[str, Any]]:
    """What made the rows, each with how many clips it made, the most first."""
    count = Counter(text for _, text in cache.row_origins)
    return [{**_object(text), "clips": clips} for text, clips in count.most_common()]


def _object(text: str) -> dict[str, Any]:
    try:
        return dict(loads(text))
    except (ValueError, TypeError, RecursionError):
        return {"unreadable": text[:80]}


def _labels(cache: Cache, labels: Labels) -> dict[str, Any]:
    whole, splits = ~labels.background, {name: labels.rows(name) for name in SPLITS}
    events, *table = (
        np.bincount(labels.category[rows][whole[rows]], minlength=len(labels.classes)).tolist()
        for rows in (np.arange(len(labels)), *splits.values())
    )
    per_class = {
        name: {"events": events[n], **{split: table[k][n] for k, split in enumerate(SPLITS)}}
        for n, name in enumerate(labels.classes)
    }
    shorter = whole & (labels.end_s - labels.start_s < cache.clip_seconds)
    return {
        "source": labels.source,
        "events": int(whole.sum()),
        "clips": len(set(labels.ids)),
        "shorter_events": int(np.sum(shorter)),
        "without_an_event": {name: int(np.sum(~whole[rows])) for name, rows in splits.items()}
        | {"clips": len({i for i, known in zip(labels.ids, whole, strict=True) if not known})},
        "without_features": len({*labels.ids}.difference(cache.recordings)),
        "without_labels": len({*cache.recordings}.difference(labels.ids)),
        "splits": {n: len(rows) for n, rows in splits.items()}
        | {"none": int(np.sum(labels.split < 0))},
        "leaks": {f"{a}/{b}": ids for (a, b), ids in labels.leaks().items()},
        "classes": per_class,
        "notes": labels.notes,
        "replaced": cache.label_history(),
    }


def _failures(cache: Cache) -> dict[str, Any]:
    found: dict[str, Any] = {"clips": len(cache.index.failures), "by_reason": {}}
    for failure in cache.index.failures.values():
        # The text begins with the file's path; what follows is the reason.
        reason = failure.message.split(": ", 1)[-1][:80]
        entry = found["by_reason"].setdefault(f"{failure.stage}: {reason}", [])
        entry.append(failure.id)
    return found


def _health(cache: Cache) -> dict[str, Any]:
    record = None if cache.packed else read_record(cache.path)
    known = set(cache.index.shards)
    damaged = {n: ids for n, ids in (record or {}).get("damaged", {}).items() if n in known}
    return {
        "verified": record["at"] if record else None,
        "shards_then": record["shards"] if record else None,
        "problems_then": record["problems"] if record else None,
        "damaged": {**damaged, **{name: [] for name in cache.index.damaged}},
        "unreadable": cache.index.damaged,
        "index": "stale" if cache.index.stale else "current",
    }


def describe(cache: Cache) -> str:
    """Everything worth knowing about a cache, on one screen."""
    facts = printable(facts_of(cache))
    size, clips = facts["bytes"], facts["clips"]
    form = f"{facts['form']}, compressed" if facts["compressed"] else facts["form"]
    lines = [
        f"cache        {facts['path']} ({form})",
        f"clips        {clips} in {facts['shards']} shards, {facts['media_hours']:.2f} h of media"
        f", {facts['shorter_clips']} shorter than {cache.clip_seconds:g} s",
        *_describe_recordings(facts["recordings"]),
        f"size         {size / 1e9:.2f} GB ({size / 2**30:.2f} GiB), "
        f"{size / max(1, clips) / 1e3:.0f} kB per clip",
        f"fingerprint  {facts['fingerprint'][:16]}…, format {facts['format_version']}, "
        f"features {facts['feature_version']}",
        "settings     "
        + _wrapped(f"{name}={_short(value)}" for name, value in facts["config"].items()),
    ]
    for made in facts["made_by"][:_SHOWN]:
        values = ", ".join(f"{k} {_short(v)}" for k, v in made.items() if v and k != "clips")
        lines.append(f"made by      {_wrapped(values.split(', '))} ({made['clips']} clips)")
    if len(facts["made_by"]) > _SHOWN:
        lines.append(f"             … and {len(facts['made_by']) - _SHOWN} more; --json lists all")
    arrays = (f"{f.name} {'×'.join(map(str, f.shape))} {f.dtype}" for f in cache.fields.values())
    lines.append("arrays       " + _wrapped(arrays))
    lines += _describe_labels(facts["labels"]) if facts["labels"] else ["labels       none"]
    return "\n".join(lines + _describe_failures(facts["failures"]) + _describe_health(facts))


def _describe_recordings(recordings: dict[str, Any]) -> list[str]:
    if recordings["hop_s"] is not None:
        every = f"a clip every {recordings['hop_s']:g} s"
        return [f"recordings   {recordings['count']}, {every}; their hours are counted once"]
    if recordings["longer"]:
        return [
            f"recordings   {recordings['longer']} are longer than a clip: "
            f"{recordings['unseen_s']:,.0f} s of them are not looked at (make features HOP= does)"
        ]
    return []


def _describe_labels(labels: dict[str, Any]) -> list[str]:
    empty = labels["without_an_event"]
    inside = {
        n: f" ({empty[n]} without an event)" if empty.get(n) else "" for n in labels["splits"]
    }
    lines = [
        f"labels       {labels['events']} events of {len(labels['classes'])} classes"
        + (f" and {without_an_event(empty['clips'])}" if empty["clips"] else "")
        + " in "
        f"{labels['clips']} clips, {labels['shorter_events']} shorter than the clip, "
        f"{labels['without_features']} clips without features"
        + (f", {labels['without_labels']} without labels" if labels["without_labels"] else ""),
        f"             {labels['source']}",
        "splits       "
        + ", ".join(f"{name} {n}{inside[name]}" for name, n in labels["splits"].items()),
    ]
    for pair, ids in labels["leaks"].items():
        lines.append(
            f"leak         {len(ids)} id(s) in both {pair.replace('/', ' and ')}: {some(ids)}"
        )
    counts = (f"{name} {row['events']}" for name, row in labels["classes"].items())
    lines.append("classes      " + _wrapped(counts))
    lines += [f"note         {note}" for note in labels["notes"][:_SHOWN]]
    if len(labels["notes"]) > _SHOWN:
        lines.append(f"             … and {len(labels['notes']) - _SHOWN} more; --json lists all")
    for old in labels["replaced"][-3:]:
        lines.append(
            f"relabelled   {old.get('until')}: before it {old.get('events')} events, "
            f"{old.get('source')}"
        )
    return lines


def _describe_failures(failures: dict[str, Any]) -> list[str]:
    lines = [f"failures     {failures['clips']}"]
    reasons = sorted(failures["by_reason"].items(), key=lambda item: -len(item[1]))
    for reason, ids in reasons[:_SHOWN]:
        lines.append(f"  {len(ids):>4} × {reason} ({some(ids)})")
    if len(reasons) > _SHOWN:
        lines.append(f"  … and {len(reasons) - _SHOWN} more reasons; --json lists all")
    return lines


def _describe_health(facts: dict[str, Any]) -> list[str]:
    health = facts["health"]
    if health["damaged"]:
        lost = some(sorted({i for ids in health["damaged"].values() for i in ids}))
        lines = [
            f"health       DAMAGED: {len(health['damaged'])} shard(s), clips {lost or 'none'}; "
            "`make features` mends that"
        ]
    elif facts["form"] == "one file":
        lines = ["health       not known here; `python -m cache verify` reads every byte"]
    elif health["problems_then"]:
        lines = [
            f"health       {health['problems_then']} problem(s) when verified at "
            f"{health['verified']}; `python -m cache verify` names them"
        ]
    elif health["verified"]:
        new = facts["shards"] - health["shards_then"]
        later = f"; {new} shard(s) since" if new > 0 else ""
        lines = [f"health       whole when verified at {health['verified']}{later}"]
    else:
        lines = ["health       never verified; `python -m cache verify` reads every byte"]
    if health["index"] == "stale":
        lines.append("             the index is stale; the next `make features` renews it")
    unreadable = [f"unreadable   {text}" for text in health["unreadable"].values()]
    return [*lines, *unreadable[:_SHOWN]]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:16]}…" if len(text) == 64 else text[:200]


def _wrapped(parts: Any, width: int = 100) -> str:
    """Parts joined by commas, broken into lines that begin under the first."""
    lines, line = [], ""
    for part in parts:
        if line and len(line) + len(part) + 15 > width:
            lines.append(line + ",")
            line = part
        else:
            line = f"{line}, {part}" if line else part
    return "\n             ".join([*lines, line])
