"""Command line: `python -m cache info|verify FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cache.annotations import Labels
from cache.errors import AvelError
from cache.folder import read_labels
from cache.reader import Cache, open_cache
from cache.schema import SPLITS
from cache.verify import verify


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 fine, 1 damage found, 2 an error)."""
    parser = argparse.ArgumentParser(
        prog="python -m cache",
        description="Look at a feature cache, or prove that it is whole.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("info", "what is in it, how big, made by what, labels, splits, failures"),
        ("verify", "read every byte and compare it with its checksums; exit code 1 on damage"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("folder", type=Path, help="the cache folder")
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "info":
            print(describe(open_cache(arguments.folder)))
            return 0
        return _verify(arguments.folder)
    except AvelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _verify(folder: Path) -> int:
    total = sum(path.stat().st_size for path in (folder / "shards").glob("*.h5"))
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", delay=0.5) as bar:
        report = verify(folder, bar.update)
    for problem in report.problems:
        print(problem)
    state = "damaged" if report.problems else "whole"
    print(f"{folder}: {state}; {report.clips} clips in {report.shards} shards checked")
    if report.damaged_ids:
        print(f"{len(report.damaged_ids)} clip(s) to extract again")
    return 1 if report.problems else 0


def describe(cache: Cache) -> str:
    """Everything worth knowing about a cache, on one screen."""
    size = sum(shard.size for shard in cache.index.shards.values())
    hours = sum(entry.valid_s for entry in cache.index.clips.values()) / 3600
    lines = [
        f"cache        {cache.path}",
        f"clips        {len(cache)} in {len(cache.index.shards)} shards, {hours:.2f} h of media",
        f"size         {size / 1e9:.2f} GB ({size / 2**30:.2f} GiB), "
        f"{size / max(1, len(cache)) / 1e3:.0f} kB per clip",
        f"fingerprint  {cache.fingerprint[:16]}…",
        "settings     " + ", ".join(f"{name}={value}" for name, value in cache.config.items()),
        "made by      " + ", ".join(f"{name} {value}" for name, value in cache.provenance.items()),
        "arrays       " + ", ".join(f"{f.name} {f.shape} {f.dtype}" for f in cache.fields.values()),
    ]
    labels = read_labels(cache.path)
    lines += _describe_labels(cache, labels) if labels else ["labels       none"]
    lines.append(f"failures     {len(cache.index.failures)}")
    for failure in list(cache.index.failures.values())[:10]:
        lines.append(f"  {failure.id} ({failure.stage}): {failure.message}")
    for problem in cache.index.damaged.values():
        lines.append(f"damaged      {problem}")
    return "\n".join(lines)


def _describe_labels(cache: Cache, labels: Labels) -> list[str]:
    shorter = int(np.sum(labels.end_s - labels.start_s < cache.config["clip_seconds"]))
    lacking = sum(clip_id not in cache for clip_id in labels.ids)
    lines = [
        f"labels       {len(labels)} events of {len(labels.classes)} classes in "
        f"{len(set(labels.ids))} clips ({labels.source}); {shorter} shorter than the clip; "
        f"{lacking} without features",
        "splits       "
        + ", ".join(f"{name} {len(labels.rows(name))}" for name in SPLITS)
        + f", none {int(np.sum(labels.split < 0))}",
    ]
    for (a, b), ids in labels.leaks().items():
        lines.append(f"leak         {len(ids)} id(s) in both {a} and {b}")
    count = Counter(labels.category.tolist())
    lines.append(
        "classes      " + ", ".join(f"{name} {count[n]}" for n, name in enumerate(labels.classes))
    )
    return [*lines, *(f"note         {note}" for note in labels.notes)]


if __name__ == "__main__":
    raise SystemExit(main())
