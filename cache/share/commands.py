"""Command line of `push` and `pull`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cache.common.cli import Options, Parser, local_path, say
from cache.common.errors import CacheError
from cache.common.progress import Progress
from cache.reader import open_cache
from cache.remote.cache import RemoteCache
from cache.remote.store import Remote
from cache.remote.web import WebRules
from cache.share.pull import PullOptions, plan_pull, pull
from cache.share.push import PushOptions, plan_push, push

_URL = (
    "a folder, taken as it is given, or file://, ssh://user@host/path, s3://bucket/path, gs://, "
    "hf://, … (fsspec)"
)


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
        "--ids", type=local_path, metavar="FILE", help="only the clips listed, one id a line"
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


def _push(arguments: Options) -> int:
    cache = open_cache(arguments.cache)
    options = PushOptions(arguments.prefer, _jobs(arguments), not arguments.no_read_back)
    with RemoteCache(Remote(arguments.url)) as there:
        move = plan_push(cache, there, options)
        say(move.describe())
        if arguments.dry_run:
            return 0
        with Progress(move.bytes, "B", "push", quiet_s=1.0) as progress:
            push(cache, there, move, options, progress.add)
    say(f"{there.remote.url}: has all {len(cache)} clips of {arguments.cache} now")
    return 0


def _pull(arguments: Options) -> int:
    only = tuple(name.strip() for name in arguments.only.split(",")) if arguments.only else ()
    ids = _ids(arguments.ids) if arguments.ids else None
    options = PullOptions(only, ids, arguments.prefer, _jobs(arguments))
    rules = WebRules(arguments.min_rate, arguments.allow_redirects)
    with RemoteCache(Remote(arguments.url, rules)) as there:
        move = plan_pull(arguments.cache, there, options)
        say(move.describe())
        if arguments.dry_run:
            return 0
        with Progress(move.bytes, "B", "pull", quiet_s=1.0) as progress:
            pull(arguments.cache, there, move, options, progress.add)
    say(f"{arguments.cache}: {len(open_cache(arguments.cache))} clips now")
    return 0


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
