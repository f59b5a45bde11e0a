"""Typed settings shared by both stages: validated, frozen, JSON in and out, one flag per field."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import tyro
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from cache.common.cli import Parser, say
from cache.common.errors import ConfigError
from cache.common.strict_json import read_json

S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """A frozen set of named values that refuses keys it does not know.

    Subclasses declare typed fields with a docstring under each; the docstrings become the help
    texts of the command line.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def parse(cls, values: object, where: str = "settings") -> Self:
        """Validate a mapping; raises ConfigError naming every bad key and its nearest match."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{where}: " + _explain(cls, error)) from None

    @classmethod
    def from_json(cls, path: Path) -> Self:
        """Read a JSON object from `path`."""
        return cls.parse(_json_object(path), str(path))

    def revised(self, **changes: object) -> Self:
        """A validated copy with some fields changed."""
        return self.parse({**self.model_dump(), **changes})

    def to_json(self) -> str:
        """Readable JSON of every field, one per line."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    """One sentence per problem, with the nearest known name for an unknown key."""
    sentences = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
            sentences.append(f"unknown key {name!r}; {hint}")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = f", found {repr(problem['input'])[:200]}" if name else ""
            sentences.append(f"{name}: {message}{found}" if name else message)
    return "; ".join(sentences)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def command_line(
    cls: type[S],
    argv: Sequence[str],
    *,
    prog: str,
    presets: dict[str, S] | None = None,
) -> S:
    """Build settings from flags, on top of `--config FILE.json` or a named `--preset`.

    Precedence: flags over the JSON file over the preset over the defaults. `--print-config`
    prints the result as JSON and ends. Unknown flags end the program with exit code 2 and the
    nearest match.
    """
    first = Parser(prog=prog, add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--print-config", action="store_true")
    first.add_argument("--preset", choices=sorted(presets or {}))
    known, rest = first.parse_known_args(list(argv))
    start = presets[known.preset] if presets and known.preset else None
    if known.config is not None:
        below = start.model_dump() if start is not None else {}
        # A link that somebody names on purpose is followed.
        values = {**below, **_json_object(Path(os.path.realpath(known.config)))}
        start = _relaxed(cls, values).parse(values, str(known.config))
    text = f"{inspect.getdoc(cls)}\n\n--config FILE.json gives any of these fields; "
    text += "flags win over it. --print-config shows the result as JSON."
    if presets:
        text += f" --preset {'|'.join(sorted(presets))} starts from a named set."
    try:
        with _heard():
            given = cast(S, tyro.cli(cls, args=rest, prog=prog, description=text, default=start))
        settings = cls.model_validate(dict(given))
    except ValidationError as error:
        raise ConfigError("command line: " + _explain(cls, error)) from None
    if known.print_config:
        say(settings.to_json().rstrip("\n"))
        raise SystemExit(0)
    return settings


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Let what tyro says of arguments, which it repeats as they are, do a terminal no harm."""
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            yield
    finally:
        if words.getvalue():
            say(words.getvalue().rstrip("\n"), error=True)


def _relaxed(cls: type[S], values: dict[str, Any]) -> type[S]:
    """`cls` with the required fields that `values` lacks left for flags to give."""
    absent = {
        name: (field.annotation, tyro.MISSING)
        for name, field in cls.model_fields.items()
        if field.is_required() and name not in values
    }
    return create_model(cls.__name__, __base__=cls, **cast(dict[str, Any], absent))


def _json_object(path: Path) -> dict[str, Any]:
    values = read_json(path, "expected a JSON object of settings")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values
