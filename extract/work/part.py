"""`--part K/N`: the clips of one job of an array."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cache.common.errors import ConfigError

_PART = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


def parse_part(text: str) -> tuple[int, int]:
    """(K, N) of "K/N"; ConfigError unless 1 ≤ K ≤ N."""
    found = _PART.fullmatch(text)
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= numbers[0] <= numbers[1]:
        raise ConfigError(f"--part {text}: expected K/N with 1 ≤ K ≤ N, for example 3/16")
    return numbers


def ids_of_part(ids: Iterable[str], part: str) -> frozenset[str]:
    """The ids of a part: every Nth of the sorted ids, from the Kth on.

    They depend on the annotated ids alone, not on what is done, so that the parts are disjoint
    and complete whenever and wherever they run.
    """
    number, count = parse_part(part)
    return frozenset(sorted(set(ids))[number - 1 :: count])
