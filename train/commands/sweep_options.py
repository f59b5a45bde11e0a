"""What `python -m train sweep` takes; loads no torch."""

from __future__ import annotations

from pathlib import Path

from cache.common.cli import Caches, Parser, count, folder

OUT = Path("runs/sweep")


def add(parser: Parser) -> None:
    """What `sweep` takes beside the settings of what is not searched."""
    parser.add_argument(
        "--cache", type=Path, action=Caches, required=True, help="feature cache; as in fit"
    )
    parser.add_argument(
        "--out",
        type=folder,
        default=OUT,
        help=f"the sweep's folder (default: {OUT}); named again, the sweep there goes on, on "
        "several machines as well, if they share the folder",
    )
    parser.add_argument(
        "--trials",
        type=count,
        default=60,
        help="how many there are to be in all, with those that are done (default: 60)",
    )
    parser.add_argument(
        "--jobs", type=count, help="trials at a time (default: one a core, on a GPU one)"
    )
    parser.add_argument(
        "--space", type=Path, help="JSON file of what to search (docs/search.md; default: its own)"
    )
    _trials(parser)


def _trials(parser: Parser) -> None:
    """How long a trial is, and what becomes of the best."""
    parser.add_argument(
        "--trial-seeds", type=count, default=2, help="a trial is their mean (default: 2)"
    )
    parser.add_argument(
        "--trial-epochs", type=count, help="epochs of a trial (default: a third of --epochs)"
    )
    parser.add_argument(
        "--again",
        type=count,
        default=5,
        help="so many of the best are trained again, in full, against the default (default: 5)",
    )
    parser.add_argument(
        "--fresh-seeds",
        type=count,
        default=3,
        help="with so many seeds that no trial had (default: 3; 5 tell more)",
    )
