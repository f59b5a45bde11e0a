"""The order in time of a clip's pictures, read off their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal

# Of 1.0.25, the last two belong together: a number, and a time after it.
_NUMBER = re.compile(r"([0-9]+(?:[.,][0-9]+(?![0-9]|[.,][0-9]))?)")
_WHOLE_NUMBER = re.compile(r"-?[0-9]+(?:[.,][0-9]+)?")


def in_order(names: Iterable[str]) -> list[str]:
    """Names of pictures in natural order: frame_2 before frame_10, 0.25 before 0.5 before 10.0.

    A point (or comma) between digits is a decimal one, unless what follows it shows that it
    counts: take1.9, take1.10. A minus is a sign where all names are numbers, some of them not
    negative. Capital letters count as small ones. Of one name with several suffixes (1.jpg,
    1.png) the first is taken: it is one picture twice.
    """
    stems = {name.rpartition(".")[0]: name for name in sorted(names, reverse=True)}
    parts = {stem: _NUMBER.split(stem) for stem in stems}
    counting = _counting(parts.values())
    signed = all(map(_WHOLE_NUMBER.fullmatch, stems)) and not all(s[0] == "-" for s in stems)

    def key(stem: str) -> tuple[list[str | tuple[Decimal, Decimal]], str]:
        found: list[str | tuple[Decimal, Decimal]] = []
        for place, part in enumerate(parts[stem]):
            found.append(_value(part, place in counting) if place % 2 else part.casefold())
        if signed and found[0] == "-":
            found[:2] = ["", _value(f"-{parts[stem][1]}", counts=False)]
        return found, stem

    return [stems[stem] for stem in sorted(stems, key=key)]


def _value(text: str, counts: bool) -> tuple[Decimal, Decimal]:
    """A number as something to sort by; where its fraction counts, 1.9 is less than 1.10."""
    whole, _, fraction = text.replace(",", ".").partition(".")
    if counts:
        return Decimal(whole), Decimal(fraction or -1)
    return Decimal(f"{whole}.{fraction or 0}"), Decimal(0)


def _counting(names: Iterable[list[str]]) -> set[int]:
    """The places in split names whose "fractions" count: of several lengths, and one ends in 0.

    Times are written with a fixed number of digits or without zeros at the end.
    """
    fractions: dict[int, set[str]] = defaultdict(set)
    for parts in names:
        for place, part in enumerate(parts):
            fraction = part.replace(",", ".").partition(".")[2]
            if place % 2 and fraction:
                fractions[place].add(fraction)
    return {
        place
        for place, found in fractions.items()
        if len({len(text) for text in found}) > 1
        and any(len(text) > 1 and text.endswith("0") for text in found)
    }
