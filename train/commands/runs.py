"""`python -m train runs`: all runs under a folder, a line each, to be told apart and compared."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cache.common.atomic import replace_file
from cache.common.cli import line_width, say
from cache.common.errors import ConfigError
from train.config import TrainConfig
from train.report import listing
from train.runs.listing import listed


def list_runs(root: Path, split: str, sort: str, where: Sequence[str], csv: str | None) -> None:
    """Print the runs under a folder, or write them as CSV (to "-": print that).

    where: `name=value` of settings that runs must have, all of them. Raises ConfigError for a name
    that isn't known, with the nearest that is.
    """
    if sort not in listing.SORTS:
        raise ConfigError(f"--sort {sort}: no such score{_near(sort, listing.SORTS)}")
    wanted = dict(map(parsed, where))
    found = [one for one in listed(root, split) if not wanted or one.matches(wanted)]
    groups = listing.ordered(found, sort)
    if csv is not None:
        text = listing.table(groups)
        if csv != "-":
            replace_file(Path(csv), text.encode("utf-8", "replace"))
            return say(f"{len(found)} runs: {csv}")
        return say(text.rstrip("\n"))
    if not found:
        return say(f"{root}: no runs" + (f" with {', '.join(where)}" if where else ""))
    return say(listing.text(groups, sort, line_width()))


def parsed(word: str) -> tuple[str, Any]:
    """The name and the value of a setting, from `name=value`."""
    name, equals, text = word.partition("=")
    name = name.strip().replace("-", "_")
    if not equals:
        raise ConfigError(f"--where {word}: expected NAME=VALUE, as learning_rate=1e-3")
    if name not in TrainConfig.model_fields:
        raise ConfigError(
            f"--where {word}: no setting is called so{_near(name, TrainConfig.model_fields)}"
        )
    kind: TypeAdapter[Any] = TypeAdapter(TrainConfig.model_fields[name].annotation or Any)
    try:
        return name, kind.validate_python(None if text == "None" else text)
    except ValidationError as error:
        raise ConfigError(f"--where {word}: {name}: {error.errors()[0]['msg']}") from None


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, [*known], n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
