"""How small, and how fast to read, a cache gets with each HDF5 filter: a table, one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/compare_compression.py --cache features

Takes clips spread over a real cache and writes each feature dataset with one chunk a clip through
every filter that h5py has built in, and through hdf5plugin's where that is installed. All are
lossless; every read is compared with what was written. Filters run on one thread.

ratio      raw bytes / stored bytes; "all" is over the feature datasets, without the pictures
write      MB/s of raw bytes, from memory to a closed file (page cache, not flushed)
read       MB/s of raw bytes from a warm page cache: the median of --repeats; "×" is against the
           plain contiguous dataset
pays       MB/s of the link below which sending the smaller file saves time: first when the sender
           packs for one receiver (write and read count), then when packing is free

"Huffman" is what zlib calls Z_HUFFMAN_ONLY: gzip that looks for no repetitions. Any HDF5 reads it
with the gzip filter. "own" reads the stored chunks and inflates them in Python, into no more memory
than the row is known to need, on one or two threads (×1, ×2).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

for variable in ("OMP_NUM_THREADS", "BLOSC_NTHREADS"):  # hdf5plugin reads them when imported
    os.environ.setdefault(variable, "1")
try:
    import hdf5plugin
except ImportError:
    hdf5plugin = None

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cache import Cache, open_cache  # noqa: E402

Array = npt.NDArray[Any]
NAME = "values"


@dataclass(frozen=True)
class Way:
    """One way to store a dataset, and one to read it.

    `filters` are h5py's options, one chunk a clip (None: contiguous). `strategy`: zlib's, for
    chunks that are deflated here instead of by HDF5. `threads`: read with our own inflater, on so
    many threads; 0 leaves it to HDF5.
    """

    name: str
    filters: Mapping[str, Any] | None = field(default_factory=dict)
    strategy: int | None = None
    threads: int = 0


def ways() -> list[Way]:
    """Everything to compare; the first is what the others are held against."""
    found = [Way("contiguous", None), Way("chunked"), Way("lzf", {"compression": "lzf"})]
    found.append(Way("shuffle, lzf", {"shuffle": True, "compression": "lzf"}))
    for level in (1, 4, 6):
        gzip = {"compression": "gzip", "compression_opts": level}
        found += [
            Way(f"gzip {level}", gzip),
            Way(f"shuffle, gzip {level}", {"shuffle": True, **gzip}),
        ]
    gzip = {"shuffle": True, "compression": "gzip", "compression_opts": 4}
    found += [Way(f"shuffle, gzip 4, own ×{n}", gzip, threads=n) for n in (1, 2)]
    huffman = partial(Way, filters=gzip, strategy=zlib.Z_HUFFMAN_ONLY)
    found.append(huffman("shuffle, Huffman"))
    found += [huffman(f"shuffle, Huffman, own ×{n}", threads=n) for n in (1, 2)]
    return found + plugin_ways()


def plugin_ways() -> list[Way]:
    """hdf5plugin's filters, if it is installed."""
    if hdf5plugin is None:
        print("hdf5plugin is not installed: built-in filters only", file=sys.stderr)
        return []
    zstd = hdf5plugin.Zstd(clevel=3)
    found = [Way("zstd 3 °", zstd), Way("shuffle, zstd 3 °", {"shuffle": True, **zstd})]
    for codec in ("lz4", "zstd"):
        found.append(Way(f"bitshuffle {codec} °", hdf5plugin.Bitshuffle(cname=codec)))
        for order in ("shuffle", "bitshuffle"):
            flag = getattr(hdf5plugin.Blosc2, order.upper())
            options = hdf5plugin.Blosc2(cname=codec, clevel=5, filters=flag)
            found.append(Way(f"blosc2 {codec} {order} °", options))
    return found


def deflate(values: Array, strategy: int) -> bytes:
    """What HDF5's shuffle and gzip filters make of a chunk, with a strategy HDF5 can't choose."""
    planes = values.reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T
    packer = zlib.compressobj(4, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL + 1, strategy)
    return packer.compress(np.ascontiguousarray(planes).data) + packer.flush()


def inflate(dataset: h5py.Dataset, row: int, out: Array) -> None:
    """Undo `deflate` into `out` of one clip, never holding more than its size."""
    corner = (row,) + (0,) * (dataset.ndim - 1)
    if dataset.id.get_chunk_info_by_coord(corner).size > 2 * out.nbytes + 1024:
        raise ValueError(f"row {row}: its chunk is larger than its values")
    skipped, data = dataset.id.read_direct_chunk(corner)
    unpacker = zlib.decompressobj()
    planes = unpacker.decompress(data, out.nbytes + 1)
    if skipped or len(planes) != out.nbytes or not unpacker.eof:
        raise ValueError(f"row {row}: its chunk doesn't hold {out.nbytes} bytes")
    flat = out.reshape(-1).view(np.uint8).reshape(-1, out.itemsize)
    for place, plane in enumerate(np.frombuffer(planes, np.uint8).reshape(out.itemsize, -1)):
        flat[:, place] = plane  # eight times as fast as the transpose in one go


def write(path: Path, values: Array, way: Way) -> float:
    """Store a dataset; returns the seconds until the file is closed."""
    started = time.perf_counter()
    with h5py.File(path, "w", libver="latest") as file:
        if way.filters is None:
            file.create_dataset(NAME, data=values)
        elif way.strategy is None:
            file.create_dataset(NAME, data=values, chunks=(1, *values.shape[1:]), **way.filters)
        else:
            shape, chunk = values.shape, (1, *values.shape[1:])
            dataset = file.create_dataset(NAME, shape, values.dtype, chunks=chunk, **way.filters)
            for row, clip in enumerate(values):
                corner = (row,) + (0,) * (values.ndim - 1)
                dataset.id.write_direct_chunk(corner, deflate(clip, way.strategy))
    return time.perf_counter() - started


def read(path: Path, out: Array, way: Way) -> float:
    """Read the dataset into `out`; returns the seconds, opening the file included."""
    started = time.perf_counter()
    with h5py.File(path, "r", locking=False) as file:
        dataset = file[NAME]
        if not way.threads:
            dataset.read_direct(out)
        else:
            with ThreadPoolExecutor(way.threads) as pool:
                rows = range(len(out))
                list(pool.map(partial(inflate, dataset), rows, out))
    return time.perf_counter() - started


def measure(folder: Path, values: Array, way: Way, repeats: int) -> dict[str, float]:
    """Stored bytes, and seconds to write and to read, of one dataset stored one way."""
    path = folder / "dataset.h5"
    write_s = statistics.median(write(path, values, way) for _ in range(min(repeats, 3)))
    out = np.zeros_like(values)
    seconds = []
    for _ in range(repeats):
        out.view(np.uint8).fill(255)
        seconds.append(read(path, out, way))
        if not np.array_equal(out.view(np.uint8), values.view(np.uint8)):
            raise SystemExit(f"{way.name}: what was read is not what was written")
    with h5py.File(path, "r") as file:
        stored = file[NAME].id.get_storage_size()
    return {"bytes": stored, "write_s": write_s, "read_s": statistics.median(seconds)}


def compare(data: Mapping[str, Array], repeats: int) -> dict[str, dict[str, Any]]:
    """All ways over all datasets: ratios, MB/s, and the link speed below which each pays."""
    raw = sum(values.nbytes for values in data.values())
    table: dict[str, dict[str, Any]] = {}
    plain: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ways():
            runs = {n: measure(Path(folder), values, way, repeats) for n, values in data.items()}
            total = {key: sum(run[key] for run in runs.values()) for key in runs[next(iter(runs))]}
            plain = plain or total
            saved = raw - total["bytes"]
            reading = total["read_s"] - plain["read_s"]
            packing = total["write_s"] - plain["write_s"]
            table[way.name] = {
                "ratios": {n: data[n].nbytes / run["bytes"] for n, run in runs.items()},
                "ratio": raw / total["bytes"],
                "write_MB_per_s": raw / total["write_s"] / 1e6,
                "read_MB_per_s": raw / total["read_s"] / 1e6,
                "read_relative": plain["read_s"] / total["read_s"],
                "pays_below_MB_per_s": link_speed(saved, reading + packing),
                "pays_below_MB_per_s_packed": link_speed(saved, reading),
            }
            print(f"{way.name}: {raw / total['bytes']:.3f}", file=sys.stderr)
    return table


def link_speed(saved: float, seconds: float) -> float | None:
    """MB/s at which sending `saved` bytes takes `seconds`; None when nothing is saved or lost."""
    return saved / seconds / 1e6 if saved > 0 and seconds > 0 else None


def pictures(cache: Cache, ids: list[str]) -> dict[str, float]:
    """The JPEGs' size, and what gzip 6 makes of all of them in one go."""
    data = b"".join(picture for clip_id in ids for picture in cache.jpegs(clip_id))
    return {"bytes": len(data), "gzip_ratio": len(data) / max(1, len(zlib.compress(data, 6)))}


def markdown(table: Mapping[str, Mapping[str, Any]], names: list[str]) -> str:
    """The table for people; ° needs hdf5plugin."""
    heads = ["filter", *(name.split("/")[1] for name in names), "all", "write", "read", "×"]
    lines = ["| " + " | ".join([*heads, "pays", "packed once"]) + " |"]
    lines.append("|---" + "|---:" * (len(heads) + 1) + "|")
    for name, row in table.items():
        cells = [name, *(f"{row['ratios'][key]:.2f}" for key in names), f"{row['ratio']:.3f}"]
        cells += [f"{row['write_MB_per_s']:.0f}", f"{row['read_MB_per_s']:.0f}"]
        cells.append(f"{row['read_relative']:.2f}")
        for key in ("pays_below_MB_per_s", "pays_below_MB_per_s_packed"):
            cells.append("–" if row[key] is None else f"{row[key]:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rounded(value: Any) -> Any:
    """Floats of a JSON tree at four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Take the clips, store and read them each way, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="timed reads; the median counts")
    options = parser.parse_args()
    cache = open_cache(options.cache)
    rows = np.unique(np.linspace(0, len(cache) - 1, options.clips).astype(np.int64))
    names = [spec.name for spec in cache.fields.values() if math.prod(spec.shape) > 64]
    data = {name: cache.read(name, rows) for name in names}
    table = compare(data, options.repeats)
    jpeg = pictures(cache, [cache.ids[row] for row in rows])
    print(markdown(table, names), file=sys.stderr)
    result = {
        "benchmark": "compare_compression",
        "clips": len(rows),
        "raw_bytes": {name: values.nbytes for name, values in data.items()},
        "pictures": jpeg,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "hdf5plugin": hdf5plugin.version if hdf5plugin else None,
        "filters": table,
    }
    print(json.dumps(rounded(result)))


if __name__ == "__main__":
    main()
