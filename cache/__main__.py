"""Command line: `python -m cache info | verify | repair | merge | pack | … CACHE`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cache.check.info import describe, facts_of
from cache.check.repair import repair
from cache.check.verify import verify, write_record
from cache.common.cli import Options, Parser, count, exit_code, local_path, say
from cache.common.errors import CacheError
from cache.common.progress import Progress
from cache.format.identity import read_identity
from cache.format.index import shard_files
from cache.format.lock import writer_lock
from cache.format.shard import DAMAGED
from cache.reader import open_cache
from cache.share.commands import add_join_commands, add_transfer_commands
from cache.share.diff import describe_difference, difference
from cache.share.relabel import add_relabel

_QUIET_S = 1.0
_EPILOG = """A cache is a folder that `make features` made, or one file that `pack` wrote; where a
command takes CACHE, both will do unless it says folder. Exit codes: 0 fine, 1 damage or a
difference found, 2 an error, 130 stopped by Ctrl-C. docs/sharing.md shows whole days of work."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    return int(arguments.run(arguments))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m cache",
        description="Look at a feature cache, prove that it is whole, join, hand over, relabel it.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> Parser:
        return commands.add_parser(name, help=text, description=text)

    _add_looking(
        command("info", "what is in it, on one screen: size, origin, labels, health"), _info
    )
    one = command("verify", "read every byte and compare it with its checksums; needs no media")
    _add_looking(one, _verify, json_too=False)
    one = command(
        "repair", "keep what is whole of damaged shards; `make features` extracts the rest again"
    )
    _add_looking(one, _repair, json_too=False)
    one = command("diff", "name what differs between two caches: settings, clips, events")
    one.add_argument("a", type=local_path, metavar="A")
    _add_looking(one, _diff, name="B")
    one.add_argument(
        "--limit", type=count, default=10, help="clips shown of each kind (default 10)"
    )
    add_join_commands(command)
    add_relabel(command)
    add_transfer_commands(command)
    return parser


def _add_looking(command: Parser, run: object, name: str = "CACHE", json_too: bool = True) -> None:
    command.add_argument("cache", type=local_path, metavar=name)
    if json_too:
        command.add_argument("--json", action="store_true", help="all of it as JSON, for scripts")
    command.set_defaults(run=run)


def _info(arguments: Options) -> int:
    cache = open_cache(arguments.cache)
    say(json.dumps(facts_of(cache), indent=2) if arguments.json else describe(cache))
    return 0


def _verify(arguments: Options) -> int:
    path: Path = arguments.cache
    total = path.stat().st_size if path.is_file() else sum(shard_files(path).values())
    with Progress(total, "B", "verify", _QUIET_S) as progress:
        report = verify(path, progress.add)
    for problem in report.problems:
        say(problem, one_line=True)
    state = "damaged" if report.problems else "whole"
    say(f"{path}: {state}; {report.clips} clips in {report.shards} shards checked")
    if report.damaged_ids and not path.is_file():
        say(f"{len(report.damaged_ids)} clip(s) to extract again: `make features` does that")
    elif report.damaged_ids:
        say(f"damaged rows: {', '.join(report.damaged_ids)}; get the file anew from its maker")
    if not path.is_file():
        try:
            write_record(path, report)
        except CacheError as error:
            say(f"note      the result can't be noted in the cache: {error}", error=True)
    return 1 if report.problems else 0


def _repair(arguments: Options) -> int:
    folder: Path = arguments.cache
    if folder.is_file():
        raise CacheError(f"{folder}: a packed file is never changed; get it anew from its maker")
    identity = read_identity(folder)
    with Progress(sum(shard_files(folder).values()), "B", "verify", _QUIET_S) as progress:
        report = verify(folder, progress.add)
    with writer_lock(folder):
        told, index = repair(folder, identity, report.damaged)
        for sentence in told:
            say(sentence, one_line=True)
    after = verify(folder)  # from the disk: what was repaired is to be proved
    write_record(folder, after)
    for problem in after.problems:
        say(problem, one_line=True)
    lost = [i for i, failure in index.failures.items() if failure.stage == DAMAGED]
    unknown = f", and those of {len(report.unknown)} shard(s), which nobody knows"
    say(
        f"{folder}: {len(index.clips)} clips; {len(lost)} lost, to extract again"
        f"{unknown if report.unknown else ''}"
    )
    return 1 if lost or report.unknown or after.problems else 0


def _diff(arguments: Options) -> int:
    found = difference(open_cache(arguments.a), open_cache(arguments.cache))
    if arguments.json:
        say(json.dumps(asdict(found), indent=2))
    else:
        say(describe_difference(found, arguments.limit))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
