"""Packages whose public names are loaded when somebody asks for them, and not before (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, rooms: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package; rooms: the module of each public name.

    To be given where `TYPE_CHECKING` is not set: else a type checker takes any name for one that
    is there.
    """

    def getattr_(name: str) -> object:
        if name not in rooms:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(rooms[name]), name)

    return getattr_
