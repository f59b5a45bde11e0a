"""How sure scores and differences are, as text: what stands in brackets, and over how many clips.

An estimate here is a mapping with the fields of `train.score.intervals.Estimate`, as results hold
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from train.score.named import FEWEST_CLIPS, LEVEL, RESAMPLES

Estimates = Mapping[str, Mapping[str, Any]]
TOO_FEW = "too few to tell"
_ROUNDING = 6e-4  # of a score with three decimals
_LEVEL = f"{LEVEL:.0%}".replace("%", " %")


def beside(scores: Mapping[str, str], estimates: Estimates) -> dict[str, str]:
    """Scores as text, with the interval in brackets beside each that has one.

    An estimate that is not of the score that it would stand beside is left out.
    """
    return {
        name: f"{text} {bracket(estimates[name])}"
        if name in estimates and _is_of(text, estimates[name])
        else text
        for name, text in scores.items()
    }


def _is_of(text: str, one: Mapping[str, Any]) -> bool:
    number = text.split(" ")[0]
    return number != "–" and abs(float(number) - one["mean"]) < _ROUNDING


def bracket(one: Mapping[str, Any]) -> str:
    """The interval of a score, or why there is none."""
    if one["low"] is not None:
        return f"[{one['low']:.3f}, {one['high']:.3f}]"
    return f"[{TOO_FEW}]" if one["clips"] < FEWEST_CLIPS else "[all alike]"


def difference(one: Mapping[str, Any]) -> str:
    """A difference with its interval; with a word where it might as well be 0."""
    text = f"{one['mean']:+.3f}"
    if one["low"] is None:
        return f"{text} {TOO_FEW} ({one['clips']} clips)"
    text += f" [{one['low']:+.3f}, {one['high']:+.3f}]"
    holds_none = one["low"] <= 0 <= one["high"]
    return f"{text} {TOO_FEW} ({one['clips']} clips)" if holds_none else text


def legend(estimates: Estimates) -> str:
    """What the brackets beside scores mean, and n; "" where there are none."""
    if "segment_f1" in estimates:
        one = estimates["segment_f1"]
        return (
            f"in brackets: {_LEVEL} interval over {one['clips']} recordings with {one['events']} "
            f"events, drawn anew {RESAMPLES:,} times"
        )
    if "miou" not in estimates:
        return ""
    whole, short = estimates["miou"], estimates.get("short_miou", {"clips": 0, "events": 0})
    return (
        f"in brackets: {_LEVEL} interval over {whole['clips']} clips with {whole['events']} events "
        f"({short['clips']} clips with {short['events']} shorter than the clip), drawn anew "
        f"{RESAMPLES:,} times"
    )


DIFFERENCES = (
    f"differences, paired by clip, with {_LEVEL} intervals; “{TOO_FEW}” where one holds 0, and "
    f"where fewer than {FEWEST_CLIPS} clips carry it"
)
"""What a table of differences shows."""
