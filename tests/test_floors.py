"""Imports run down: from room to room as tests/floors.py says, and to where a thing is defined."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from floors import FLOORS

ROOT = Path(__file__).parent.parent


def modules(*tops: str) -> dict[str, Path]:
    """The files of some folders, by the dotted names under which they are imported."""
    paths = sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


OURS = modules(*FLOORS)
EVERYTHING = modules(*FLOORS, "tests", "benchmarks")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> list[tuple[str, str]]:
    return list(imports(tree(path)))


def imports(source: ast.Module) -> Iterator[tuple[str, str]]:
    """Each module of ours that a source imports, at whatever depth, with the name taken from it.

    The name is "" where the module itself is meant.
    """
    for node in ast.walk(source):
        pairs: list[tuple[str, str]] = []
        if isinstance(node, ast.Import):
            pairs = [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports have the whole name"
            pairs = [(str(node.module), alias.name) for alias in node.names]
        for module, name in pairs:
            if module.split(".")[0] in FLOORS:
                inner = f"{module}.{name}"
                yield (inner, "") if inner in OURS else (module, name)


def room_of(module: str) -> tuple[str, str]:
    """Package and room; the package's own `__init__` is its face, which has no room: ""."""
    return (module.split(".")[0], (module + ".").split(".")[1])


def floor_of(module: str) -> int:
    """The number of the floor; the face stands above all."""
    stage, room = room_of(module)
    if not room:
        return len(FLOORS[stage])
    (number,) = [number for number, rooms in enumerate(FLOORS[stage]) if room in rooms]
    return number


@functools.cache
def defined(path: Path) -> set[str]:
    """The names that a module gives to something of its own, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_every_room_has_one_floor() -> None:
    rooms = [(stage, room) for stage, floors in FLOORS.items() for row in floors for room in row]
    assert sorted(rooms) == sorted({room_of(module) for module in OURS if "." in module})


def test_imports_are_found_wherever_they_hide() -> None:
    source = "def f():\n    import train.training.loop\nfrom cache import reader, open_cache\n"
    found = {("train.training.loop", ""), ("cache.reader", ""), ("cache", "open_cache")}
    assert set(imports(ast.parse(source))) == found


@pytest.mark.parametrize("stage", FLOORS)
def test_imports_run_down(stage: str) -> None:
    up = [
        f"{module} imports {other}"
        for module, path in OURS.items()
        for other, _ in imports_of(path)
        if room_of(module)[0] == room_of(other)[0] == stage
        if room_of(module) != room_of(other) and floor_of(module) < floor_of(other)
    ]
    assert not up


@pytest.mark.parametrize("stage", FLOORS)
def test_rooms_make_no_circle(stage: str) -> None:
    below: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for module, path in OURS.items():
        for other, _ in imports_of(path):
            if room_of(module)[0] == room_of(other)[0] == stage:
                below.setdefault(room_of(module), set()).add(room_of(other))
    try:
        TopologicalSorter({room: rooms - {room} for room, rooms in below.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {error.args[1]}")


def test_a_thing_is_imported_from_its_owner() -> None:
    """From the module that defines it, or from the package's face; tests see what is private."""
    for module, path in EVERYTHING.items():
        for other, name in imports_of(path):
            assert other in OURS, f"{module} imports {other}, which is not there"
            if not name or (other in FLOORS and not module.startswith(f"{other}.")):
                continue
            assert name in defined(OURS[other]), f"{module} takes {name} from {other}"
            private = name.startswith("_") and not module.startswith("tests.")
            assert not private, f"{module} takes {name}, which {other} keeps for itself"
