"""Command line of what goes between people: `merge`, `pack`, `unpack`, `push`, `pull`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cache.common.cli import Options, Parser, local_path, say
from cache.common.errors import CacheError
from cache.common.progress import Progress
from cache.labels.annotations import describe_changes
from cache.reader import open_cache
from cache.remote.cache import RemoteCache
from cache.remote.store import Remote
from cache.remote.web import WebRules
from cache.share.merge import merge
from cache.share.pack import pack
from cache.share.plan import CopyPlan
from cache.share.pull import PullOptions, plan_pull, pull
from cache.share.push import PushOptions, plan_push, push

_QUIET_S = 1.0
_URL = (
    "a folder, taken as it is given, or file://, ssh://user@host/path, s3://bucket/path, gs://, "
    "hf://, … (fsspec)"
)


def add_join_commands(command: Callable[[str, str], Parser]) -> None:
    """Add `merge`, `pack` and `unpack`."""
    one = command("merge", "join caches made with the same settings into one folder")
    one.add_argument("sources", type=local_path, nargs="+", metavar="CACHE")
    one.add_argument(
        "--into", type=local_path, required=True, metavar="FOLDER", help="new or existing"
    )
    one.add_argument(
        "--prefer",
        metavar="newest|CACHE",
        help="which row (or events) to keep of a clip that two caches hold with different bytes",
    )
    one.set_defaults(run=_merge)
    one = command("pack", "write a whole cache as one file to hand over")
    one.add_argument("cache", type=local_path, metavar="CACHE")
    one.add_argument("file", type=local_path, metavar="FILE.h5")
    one.add_argument(
        "--compress", action="store_true", help="about 22 %% smaller; pays below some 16 MB/s"
    )
    one.set_defaults(run=_pack)
    one = command("unpack", "turn a packed file back into a cache folder")
    one.add_argument("file", type=local_path, metavar="FILE.h5")
    one.add_argument("folder", type=local_path, metavar="FOLDER")
    one.set_defaults(run=_unpack)


def add_transfer_commands(command: Callable[[str, str], Parser]) -> None:
    """Add `push` and `pull`."""
    one = command("push", "send what the cache at URL lacks, shard by shard, proved on arrival")
    one.add_argument("cache", type=local_path, metavar="FOLDER")
    one.add_argument("url", metavar="URL", help=_URL)
    _add_common(one)
    one.add_argument(
        "--no-read-back", action="store_true", help="don't prove uploads by reading them back"
    )
    one.set_defaults(run=_push)
    one = command("pull", "fetch what is lacking here from the cache at URL, proved on arrival")
    one.add_argument("url", metavar="URL", help=f"{_URL}, http(s)://")
    one.add_argument("cache", type=local_path, metavar="FOLDER", help="new or existing")
    one.add_argument("--only", metavar="SPLIT[,SPLIT]", help="train, val, test: only their clips")
    one.add_argument(
        "--ids",
        type=local_path,
        metavar="FILE",
        help="only the clips (or whole recordings) listed, one id a line",
    )
    one.add_argument(
        "--min-rate",
        type=int,
        default=WebRules.min_rate,
        metavar="BYTES",
        help="give up on a web server that sends fewer a second over a minute (default 1000; 0: "
        "wait however slow it is)",
    )
    one.add_argument(
        "--allow-redirects",
        action="store_true",
        help="let a web server send us on to other hosts (never from https to http)",
    )
    _add_common(one)
    one.set_defaults(run=_pull)


def _add_common(command: Parser) -> None:
    command.add_argument(
        "--prefer",
        choices=("here", "there", "newest"),
        help="which row to keep of a clip that both hold with different bytes",
    )
    command.add_argument("--jobs", type=int, default=4, help="transfers at a time (default 4)")
    command.add_argument(
        "--dry-run", action="store_true", help="say what would move, in bytes, and stop"
    )


def _merge(arguments: Options) -> int:
    return _join(arguments.sources, arguments.into, arguments.prefer, "merge")


def _unpack(arguments: Options) -> int:
    if not arguments.file.is_file():
        raise CacheError(f"{arguments.file}: no such file; expected one that `pack` wrote")
    return _join([arguments.file], arguments.folder, None, "unpack")


def _join(sources: list[Path], into: Path, prefer: str | None, title: str) -> int:
    caches = [open_cache(path) for path in sources]
    total = len({clip_id for cache in caches for clip_id in cache.ids})
    with Progress(total, "clip", title, _QUIET_S) as progress:
        done = merge(caches, into, prefer, progress.add)
    settled = f", {len(done.settled)} conflicts settled by {prefer}" if done.settled else ""
    say(
        f"{into}: {done.clips} clips added, {done.kept} were there already, "
        f"{done.failures} failures added{settled}"
    )
    if done.changed_splits:
        say(f"splits    {describe_changes(done.changed_splits)}")
    return 0


def _pack(arguments: Options) -> int:
    cache = open_cache(arguments.cache)
    with Progress(len(cache), "clip", "pack", _QUIET_S) as progress:
        size = pack(cache, arguments.file, arguments.compress, progress.add)
    say(f"{arguments.file}: {len(cache)} clips, {size / 1e9:.2f} GB ({size / 2**30:.2f} GiB)")
    return 0


def _push(arguments: Options) -> int:
    cache = open_cache(arguments.cache)
    options = PushOptions(arguments.prefer, _jobs(arguments), not arguments.no_read_back)
    with RemoteCache(Remote(arguments.url)) as there:
        plan = plan_push(cache, there, options)
        say(_describe(plan))
        if arguments.dry_run:
            return 0
        with Progress(plan.bytes, "B", "push", _QUIET_S) as progress:
            push(cache, there, plan, options, progress.add)
    say(f"{there.remote.url}: has all {len(cache)} clips of {arguments.cache} now")
    return 0


def _pull(arguments: Options) -> int:
    only = tuple(name.strip() for name in arguments.only.split(",")) if arguments.only else ()
    ids = _ids(arguments.ids) if arguments.ids else None
    options = PullOptions(only, ids, arguments.prefer, _jobs(arguments))
    rules = WebRules(arguments.min_rate, arguments.allow_redirects)
    with RemoteCache(Remote(arguments.url, rules)) as there:
        plan = plan_pull(arguments.cache, there, options)
        say(_describe(plan))
        if arguments.dry_run:
            return 0
        with Progress(plan.bytes, "B", "pull", _QUIET_S) as progress:
            index = pull(arguments.cache, there, plan, options, progress.add)
    say(f"{arguments.cache}: {len(index.clips)} clips now")
    return 0


def _describe(plan: CopyPlan) -> str:
    """What would move, as text."""
    rows = sum(len(members) for shard in plan.new for _, members in shard.parts)
    files = len({name for shard in plan.new for name, _ in shard.parts})
    what = [f"{len(plan.whole)} whole shard(s)"] if plan.whole else []
    what += [f"{rows} clip(s) out of {files} shard(s)"] if rows else []
    what += ["the labels"] if plan.labels else []
    lines = [
        f"{plan.clips} clips to move, {plan.there_already} there already",
        f"{plan.bytes:,} bytes: {', '.join(what) or 'nothing'}",
    ]
    if plan.changed_splits:
        lines.append(f"splits: {describe_changes(plan.changed_splits)}")
    return "\n".join(lines + plan.notes)


def _jobs(arguments: Options) -> int:
    if not 1 <= arguments.jobs <= 64:
        raise CacheError(f"--jobs: expected 1 to 64, found {arguments.jobs}")
    return int(arguments.jobs)


def _ids(path: Path) -> frozenset[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CacheError(f"{path}: can't be read as a list of ids ({error})") from None
    found = frozenset(line.strip() for line in lines if line.strip())
    if not found:
        raise CacheError(f"{path}: expected one clip id a line, found none")
    return found
