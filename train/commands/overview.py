"""What `watch`, `runs` and `report` take: the commands that read runs alone; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.common.cli import Parser, folder


def report(argv: Sequence[str]) -> None:
    """Compare runs."""
    parser = Parser(
        "python -m train report", "Scores of several runs side by side (mean ± sd over seeds)."
    )
    parser.add_argument("runs", type=Path, nargs="+", help="runs, or folders of seeds or of folds")
    split(parser)
    parser.add_argument(
        "--format",
        choices=("text", "markdown", "csv", "latex"),
        default="text",
        help="csv has all scores, markdown and latex (booktabs) the headline ones",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it, instead of printing it")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write a page as well: curves, differences, clips"
    )
    options = parser.parse_args(argv)
    from train.commands.report import show_report

    show_report(options.runs, options.split, options.format, options.out, options.page)


def watch(argv: Sequence[str]) -> None:
    """Show how far a training is."""
    parser = Parser(
        "python -m train watch",
        "How far a training is: curves, best epoch, time left, why it ended. On a terminal it "
        "follows until the end or Ctrl-C, which stops no training.",
    )
    parser.add_argument(
        "run", type=folder, nargs="?", help="run, or folder of seeds or folds (default: the newest)"
    )
    parser.add_argument("--once", action="store_true", help="say it once, and don't follow")
    options = parser.parse_args(argv)
    from train.commands.watch import watch as show

    show(options.run, options.once)


def runs(argv: Sequence[str]) -> None:
    """List runs."""
    parser = Parser(
        "python -m train runs",
        "All runs under a folder, a line each: when, scores, settings that differ from the "
        "defaults. Those that can't be compared stand apart.",
    )
    parser.add_argument(
        "folder", type=folder, nargs="?", default=Path("runs"), help="default: runs"
    )
    parser.add_argument(
        "--sort", default="when", metavar="SCORE", help="miou, segment_accuracy, … (default: when)"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="only runs with this setting, as learning_rate=1e-3; given several times: with all",
    )
    parser.add_argument("--csv", metavar="FILE", help="all scores and settings; -: print them")
    split(parser)
    options = parser.parse_args(argv)
    from train.commands.runs import list_runs

    list_runs(options.folder, options.split, options.sort, options.where, options.csv)


def split(parser: Parser) -> None:
    """Which rows are looked at."""
    parser.add_argument(
        "--split", choices=["val", "test"], default="val", help="rows to look at (default: val)"
    )
