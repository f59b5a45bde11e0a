"""Which clip of a demo set is shown: neither the best nor the worst, by rule.

Of the films of the test split whose event is shorter than the clip it is the middle one by tIoU,
where a wrong class counts 0: half are answered better, half worse.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.common.cli import Parser, exit_code, say
from cache.common.errors import ConfigError
from cache.common.strict_json import read_json
from extract.demo.__main__ import MP4_FOLDER
from extract.demo.scenes import CLIP_S


def chosen(data: Path, answered: Sequence[Mapping[str, Any]]) -> Path:
    """The film to show, by the answers to the test split (a run's predictions_test.json).

    Where no event is shorter than the clip, the middle one of all films. ConfigError without films.
    """
    films = {row["id"]: data / MP4_FOLDER / f"{row['id']}.mp4" for row in answered}
    there = [row for row in answered if films[row["id"]].is_file()]
    short = [row for row in there if row["end_s"] - row["start_s"] < CLIP_S]
    order = sorted(short or there, key=lambda row: (localized_iou(row), row["id"]))
    if not order:
        raise ConfigError(f"{data}: no film of the test split is there to be shown")
    return films[order[len(order) // 2]["id"]]


def localized_iou(row: Mapping[str, Any]) -> float:
    """tIoU of an answered event, 0 where its class is wrong."""
    start, end, first, last = (
        float(row[name]) for name in ("start_s", "end_s", "predicted_start_s", "predicted_end_s")
    )
    overlap = max(0.0, min(end, last) - max(start, first))
    union = (end - start) + (last - first) - overlap
    return overlap / union if row["category"] == row["predicted"] else 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: `python -m extract.demo.showcase DATA PREDICTIONS` prints a film's path."""
    return exit_code(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog="python -m extract.demo.showcase", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of the demo set")
    parser.add_argument("answers", type=Path, metavar="PREDICTIONS", help="predictions_test.json")
    given = parser.parse_args(argv)
    say(str(chosen(given.data, read_json(given.answers))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
