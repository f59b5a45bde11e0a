"""Typed settings shared by both stages: validated, frozen, JSON in and out, one flag per field."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from cache.common.cli import Options, Parser, say
from cache.common.errors import ConfigError
from cache.common.strict_json import read_json

S = TypeVar("S", bound="Settings")
NO_PRESET = ""


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
        settings, problems = _validated(cls, values)
        if settings is None:
            raise ConfigError(f"{where}: {_explain(cls, problems)}")
        return settings

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


def _explain(cls: type[BaseModel], problems: Sequence[ErrorDetails]) -> str:
    """One sentence per problem, with the nearest known name for an unknown key."""
    sentences = []
    for problem in problems:
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
            sentences.append(f"unknown key {name!r}; {hint}")
        elif problem["type"] == "missing":
            sentences.append(f"{name} is required")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            found = f", found {repr(problem['input'])[:200]}" if name else ""
            sentences.append(f"{name}: {message}{found}" if name else message)
    return "; ".join(sentences)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def command_line(
    cls: type[S], argv: Sequence[str], *, prog: str, presets: Mapping[str, S] | None = None
) -> S:
    """Settings from the flags of a command that takes nothing else; see `chosen_settings`."""
    parser = Parser(prog, inspect.getdoc(cls), usage="%(prog)s [-h] [--SETTING VALUE ...]")
    add_settings(parser, cls, presets)
    return chosen_settings(parser, cls, parser.parse_args(argv), presets)


def add_settings(
    parser: Parser, cls: type[Settings], presets: Mapping[str, Settings] | None = None
) -> None:
    """Give a command a flag for each field of `cls`, beside --config, --preset, --print-config."""
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="JSON of any of these; flags win over it"
    )
    if presets:
        group.add_argument("--preset", choices=sorted(presets), help="start from a named set")
    group.add_argument("--print-config", action="store_true", help="print them as JSON and stop")
    for name, field in cls.model_fields.items():
        default = "required" if field.is_required() else f"default: {field.default}"
        text = f"{' '.join((field.description or '').split())} ({default})".replace("%", "%%")
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, default=argparse.SUPPRESS, help=text, **_takes(field.annotation))


def _takes(annotation: Any) -> dict[str, Any]:
    """How argparse is told what a field's flag takes."""
    kinds = get_args(annotation) or (annotation,)
    if get_origin(annotation) is Literal:
        return {"choices": kinds}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    names = ["None" if kind is type(None) else kind.__name__.upper() for kind in kinds]
    return {"metavar": "|".join(names)}


def chosen_settings(
    parser: Parser,
    cls: type[S],
    options: Options,
    presets: Mapping[str, S] | None = None,
    config: Path | None = None,
) -> S:
    """Settings from what `parser` read, on top of a JSON file (`config`, else that of --config).

    Precedence: flags over the JSON file over the preset (that of NO_PRESET where none is named)
    over the defaults. `--print-config`
    prints the result as JSON and ends. Flags that are missing, or don't go together, end the
    program with exit code 2; a bad file raises ConfigError.
    """
    below: dict[str, Any] = {}
    if presets and (named := options.preset or NO_PRESET) in presets:
        below = presets[named].model_dump()
    if path := config or options.config:
        # A link that somebody names on purpose is followed.
        below |= _json_object(Path(os.path.realpath(path)))
        _, problems = _validated(cls, below)
        if told := _explain(cls, [one for one in problems if one["type"] != "missing"]):
            raise ConfigError(f"{path}: {told}")
    flags = {name: getattr(options, name) for name in cls.model_fields if name in options}
    for name, value in flags.items():
        if value == "None" and type(None) in get_args(cls.model_fields[name].annotation):
            flags[name] = None
    settings, problems = _validated(cls, {**below, **flags})
    if settings is None:
        parser.error(_explain(cls, problems))
    if options.print_config:
        say(settings.to_json().rstrip("\n"))
        raise SystemExit(0)
    return settings


def _validated(cls: type[S], values: object) -> tuple[S | None, list[ErrorDetails]]:
    """Settings of those values, or what is wrong with them."""
    try:
        return cls.model_validate(values), []
    except ValidationError as error:
        return None, error.errors()


def _json_object(path: Path) -> dict[str, Any]:
    values = read_json(path, "expected a JSON object of settings")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values
