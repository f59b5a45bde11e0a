"""Command line of features that others computed: `import` and `import-ave`."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.common.cli import Options, Parser, count, local_path, number, say
from cache.common.errors import CacheError
from cache.common.plain import read_plain
from cache.common.progress import Progress
from cache.common.strict_json import loads
from cache.format.fields import Field, Rate
from cache.format.schema import Declaration
from cache.imports.ave import NOISY, Published, open_published
from cache.imports.sources import Item, items_of
from cache.labels.store import write_labels
from cache.writer import CacheWriter, Origin

_SPEC_BYTES = 1 << 20
_SHOWN = 10
_UNREADABLE = (CacheError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
_IMPORT = """Turn features that another program computed into a cache: everything that works on a
cache (info, verify, merge, pack, push, pull, training) works on it.

SOURCE is a folder with one .npy or .npz a clip, named by its id; or an HDF5 file with a dataset
(or a group of datasets) for each id; or, with --dataset and --ids, one stacked array (N, …) in it.

Examples:
  python -m cache import clap/ --into clap --field audio/clap --rate 1 --about "CLAP 630k"
  python -m cache import clip.h5 --into clip --field video/clip --rate 1
  python -m cache import all.h5 --dataset features --ids ids.txt --into vggish --field audio/vggish
  python -m cache import both/ --into both --spec fields.json

fields.json: {"clip_seconds": 10.0, "fields": [{"name": "audio/clap", "shape": [10, 512],
"dtype": "float32", "unit": "1", "clock": {"rate_hz": 1.0, "first_s": 0.5}}, …]}; in an .npz or a
group, a field's array has its name after the slash."""


def add_import_commands(command: Callable[..., Parser]) -> None:
    """Add `import` and `import-ave`."""
    one = command("import", "turn features that another program computed into a cache")
    one.description = _IMPORT
    one.add_argument("source", type=local_path, metavar="SOURCE")
    one.add_argument("--into", type=local_path, required=True, metavar="FOLDER")
    what = one.add_mutually_exclusive_group(required=True)
    what.add_argument("--field", metavar="audio/NAME|video/NAME", help="the one field's name")
    what.add_argument("--spec", type=local_path, metavar="FILE", help="several fields, as JSON")
    one.add_argument("--rate", type=number, metavar="HZ", help="steps a second (default: no time)")
    one.add_argument("--first", type=number, default=0.0, metavar="S", help="time of step 0, s")
    one.add_argument("--steps", type=count, help="steps of a whole clip (default: by the rate)")
    one.add_argument("--dtype", default="", help="float16, float32, … (default: as it is found)")
    one.add_argument("--unit", default="1", help="unit of the numbers (default 1: none)")
    one.add_argument("--clip-seconds", type=number, default=10.0, help="default 10")
    one.add_argument("--about", default="", help="what computed them; rows of two are not mixed")
    one.add_argument("--dataset", default="", help="name of one stacked array in an HDF5 file")
    one.add_argument("--ids", type=local_path, metavar="FILE", help="its rows' ids, one a line")
    one.set_defaults(run=_import)
    one = command("import-ave", "the AVE dataset's published features (VGGish, VGG-19) as a cache")
    one.add_argument("source", type=local_path, metavar="DIR", help="with audio_feature.h5, …")
    one.add_argument("--into", type=local_path, required=True, metavar="FOLDER")
    one.add_argument("--annotations", type=local_path, help="default: DIR/Annotations.txt")
    one.set_defaults(run=_import_ave)


def _import(arguments: Options) -> int:
    path: Path = arguments.source
    if arguments.spec:
        declared = _spec(arguments.spec)
        clip_seconds, fields = declared.clip_seconds, declared.fields
        items = items_of(path, _keys(fields), arguments.dataset, arguments.ids)
    else:
        key = arguments.field.partition("/")[2]
        items = items_of(path, [key], arguments.dataset, arguments.ids)
        clip_seconds, fields = arguments.clip_seconds, (_field(arguments, items, key),)
    about = {"about": arguments.about} if arguments.about else {}
    try:
        writer = CacheWriter(arguments.into, fields, clip_seconds=clip_seconds, about=about)
    except (TypeError, ValueError) as error:
        raise CacheError(f"these fields can't be stored: {error}") from None
    for field in fields:
        say(f"field     {field.name}: {field.dtype} {field.shape}, {_clock(field)}")
    with writer:
        todo = [item for item in items if not writer.has(item.id, item.origin)]
        say(f"clips     {len(items)}: done {len(items) - len(todo)}, to do {len(todo)}")
        _copy(writer, todo)
        failed = sum(item.id not in writer for item in items)
    return _conclude(arguments.into, len(items), failed)


def _keys(fields: Sequence[Field]) -> list[str]:
    return [field.name.partition("/")[2] for field in fields]


def _copy(writer: CacheWriter, todo: Sequence[Item]) -> None:
    names = {key: f.name for f in writer.identity.declaration.fields for key in _keys([f])}
    with Progress(len(todo), "clip", "import", 1.0) as progress:
        for item in todo:
            try:
                arrays = {names[key]: array for key, array in item.read().items()}
                writer.add(item.id, arrays, origin=item.origin)
            except _UNREADABLE as error:
                say(f"failed    {item.id} ({item.where}): {error}", error=True, one_line=True)
                writer.fail(item.id, f"{item.where}: {error}", item.origin)
            progress.add(1)


def _field(arguments: Options, items: Sequence[Item], key: str) -> Field:
    """The one field, its width and dtype as the first array that can be read has them."""
    for item in items:
        try:
            found = np.asarray(item.read()[key])
        except _UNREADABLE:
            continue
        return _declared(arguments, found)
    raise CacheError(f"{arguments.source}: none of its {len(items)} clips can be read")


def _declared(arguments: Options, found: np.ndarray[Any, Any]) -> Field:
    shape, clock = tuple(found.shape), None
    if arguments.rate is not None:
        if not 0 < arguments.rate * arguments.clip_seconds < 1e9 or not shape:
            raise CacheError(
                f"--rate {arguments.rate:g}: expected more than 0, and arrays of steps"
            )
        whole = math.ceil(round((arguments.clip_seconds - arguments.first) * arguments.rate, 6))
        shape = (arguments.steps or max(whole, 1), *shape[1:])
        clock = Rate(arguments.rate, arguments.first)
    return Field(arguments.field, shape, arguments.dtype or str(found.dtype), arguments.unit, clock)


def _spec(path: Path) -> Declaration:
    try:
        record = loads(read_plain(path, _SPEC_BYTES))
        if not isinstance(record, dict):
            raise TypeError("no object")
        fields = [{"unit": "1", "clock": None, **dict(one)} for one in record["fields"]]
        fields = [{**one, "stream": str(one["name"]).partition("/")[0]} for one in fields]
        fields = [{**one, "clock": one["clock"] and _filled(one["clock"])} for one in fields]
        return Declaration.parse(
            {"pictures": None, "clip_seconds": 10.0, **record, "fields": fields}
        )
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CacheError(f"{path}: not a declaration of fields ({error}); see --help") from None


def _filled(clock: dict[str, Any]) -> dict[str, Any]:
    return clock if "times" in clock else {"first_s": 0.0, **clock}


def _clock(field: Field) -> str:
    if isinstance(field.clock, Rate):
        return f"{field.clock.rate_hz:g} steps a second from {field.clock.first_s:g} s"
    return "no time axis" if field.clock is None else f"at the times in {field.clock.times}"


def _conclude(folder: Path, clips: int, failed: int) -> int:
    say(f"finished  {clips - failed} of {clips} clips in {folder}; {failed} failed")
    return 1 if failed else 0


def _import_ave(arguments: Options) -> int:
    found = open_published(arguments.source, arguments.annotations)
    labels = found.labels()
    clips = found.clips
    events = sum(kind != NOISY for _, kind, _ in clips)
    say(f"labels    {labels.counted()} on {events} ids, {len(labels.classes)} classes")
    for note in found.notes:
        say(f"note      {note}")
    for field in found.fields:
        say(f"field     {field.name}: {field.dtype} {field.shape}, {_clock(field)}")
    about = {"about": "AVE's published features (Tian et al., ECCV 2018)"}
    with CacheWriter(arguments.into, found.fields, about=about) as writer:
        write_labels(arguments.into, labels)
        _copy_ave(writer, found)
        failed = sum(clip_id not in writer for clip_id, _, _ in clips)
    _tell_again(found)
    return _conclude(arguments.into, len(clips), failed)


def _copy_ave(writer: CacheWriter, found: Published) -> None:
    origins = {
        kind: Origin(
            sum(one.origin.size for one in stacks.values()),
            max((one.origin.mtime_ns for one in stacks.values()), default=0),
        )
        for kind, stacks in (("", found.stacks), (NOISY, found.noisy))
    }
    todo = [clip for clip in found.clips if not writer.has(clip[0], origins[clip[1]])]
    say(f"clips     {len(found.clips)}: done {len(found.clips) - len(todo)}, to do {len(todo)}")
    with Progress(len(todo), "clip", "import", 1.0) as progress:
        for clip_id, kind, number in todo:
            try:
                writer.add(clip_id, found.features(kind, number), origin=origins[kind])
            except CacheError as error:
                say(f"failed    {error}", error=True, one_line=True)
                writer.fail(clip_id, f"row {number}: {error}", origins[kind])
            progress.add(1)


def _tell_again(found: Published) -> None:
    """Say whether rows of one id have one clip's features, as they should."""
    pairs = list(found.again())
    other = [
        number
        for number, first in pairs
        for stack in found.stacks.values()
        if not np.array_equal(stack.row(number).copy(), stack.row(first))
    ]
    if pairs:
        say(
            f"note      {len(pairs)} row(s) are of ids that stood before; the features of the "
            f"first row are kept; {len(set(other))} of them had others"
            + (f" (rows {', '.join(map(str, sorted(set(other))[:_SHOWN]))})" if other else "")
        )
