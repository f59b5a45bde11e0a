"""How closely two caches of the same clips agree, feature by feature: a table, and one JSON line.

    python benchmarks/compare_layouts.py features_mp4 features_processed

relative  |a − b| / |b − mean of b over the clip's steps|, over all valid numbers of a clip: 0 is
          equal, 1 is as far apart as the feature varies within the clip
cosine    of the two, as one long vector each

Median over clips, and the worst clip.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cache import Cache, open_cache  # noqa: E402

Array = npt.NDArray[Any]
BLOCK = 64


def relative(a: Array, b: Array) -> float:
    """Distance of (steps, …) `a` from `b` in units of how `b` varies over its steps."""
    spread = float(np.linalg.norm(b - b.mean(axis=0)))
    return float(np.linalg.norm(a - b)) / max(spread, float(np.finfo(np.float32).tiny))


def cosine(a: Array, b: Array) -> float:
    """Cosine between two arrays taken as vectors; 1 for two zero vectors."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a.ravel() @ b.ravel()) / lengths if lengths else float(np.array_equal(a, b))


def compare(a: Cache, b: Cache, name: str, ids: list[str]) -> dict[str, Any]:
    """Agreement of one dataset over the clips that both caches have."""
    found: list[tuple[float, float, float, str]] = []
    for place in range(0, len(ids), BLOCK):
        block = ids[place : place + BLOCK]
        rows = [cache.read(name, [cache.row(clip_id) for clip_id in block]) for cache in (a, b)]
        for clip_id, left, right in zip(block, *rows, strict=True):
            flat = [side.reshape(len(side), -1).astype(np.float64) for side in (left, right)]
            valid = np.isfinite(flat[0]).all(axis=1) & np.isfinite(flat[1]).all(axis=1)
            x, y = flat[0][valid], flat[1][valid]
            largest = float(np.abs(x - y).max(initial=0.0))
            found.append((relative(x, y), cosine(x, y), largest, clip_id))
    distances, cosines, largest_differences, _ = zip(*found, strict=True)
    worst = max(found)
    return {
        "relative_median": float(np.median(distances)),
        "relative_p95": float(np.quantile(distances, 0.95)),
        "relative_worst": worst[0],
        "cosine_median": float(np.median(cosines)),
        "cosine_worst": min(cosines),
        "largest_difference": max(largest_differences),
        "worst_clip": worst[3],
    }


def main() -> None:
    """Compare every feature dataset that both caches have."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path, metavar="CACHE_A")
    parser.add_argument("b", type=Path, metavar="CACHE_B")
    options = parser.parse_args()
    a, b = open_cache(options.a), open_cache(options.b)
    ids = [clip_id for clip_id in a.ids if clip_id in b]
    if not ids:
        raise SystemExit(f"{options.a} and {options.b} have no clip in common")
    names = [name for name in a.fields if name in b.fields]
    table = {name: compare(a, b, name, ids) for name in names}
    steps = [
        cache.read("rows/audio_steps", [cache.row(clip_id) for clip_id in ids]) for cache in (a, b)
    ]
    print(f"{len(ids)} clips in both, {len(a)} and {len(b)} in each", file=sys.stderr)
    heads = ("relative", "95 %", "worst", "cosine", "worst", "largest diff.", "worst clip")
    print(f"{'feature':20}" + "".join(f"{head:>15}" for head in heads), file=sys.stderr)
    for name, row in table.items():
        cells = "".join(f"{v:15.5f}" if isinstance(v, float) else f"{v:>15}" for v in row.values())
        print(f"{name:20}{cells}", file=sys.stderr)
    result = {
        "benchmark": "compare_layouts",
        "clips": len(ids),
        "same_fingerprint": a.fingerprint == b.fingerprint,
        "clips_with_other_audio_steps": int(np.sum(steps[0] != steps[1])),
        "features": table,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
