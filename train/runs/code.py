"""Which code is running: its commit, where it is a checkout, and digests of what decides numbers.

A digest is of a module's syntax tree without docstrings: comments, docstrings and layout don't
change it, everything else does.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parents[1]
DECIDING = (
    "data/batch", "data/dataset", "data/features", "data/fields", "data/folds", "data/maps",
    "data/pooling", "data/reader", "data/settled", "data/splice", "data/stream", "data/targets",
    "model/fusion", "model/layers", "runs/recordings", "runs/timelines", "score/calibrate",
    "score/decode", "score/detection", "score/events", "score/intervals", "score/matching",
    "score/metrics", "score/named", "score/predict", "score/presence", "score/ranking",
    "score/read_off", "score/recordings", "score/retrieval", "score/seconds", "score/streams",
    "score/summary", "score/timeline", "training/also_test", "training/begin", "training/choice",
    "training/cuda_graph", "training/loop", "training/normalize", "training/settle",
    "training/several", "training/state", "training/validate", "training/weak",
)  # fmt: skip
"""The modules of this package that stand between a cache and a run's weights and scores; what
prints, draws and writes is not among them."""
_LIBRARIES = ("numpy", "scipy", "scikit-learn", "h5py", "pydantic")
_DISTRIBUTION = "avel-two-stage"
_GIT_SECONDS = 20


def digests() -> dict[str, str]:
    """16 hex digits for each module that decides a run's numbers, as they were at first asking."""
    return dict(_digests(FOLDER))


@functools.cache
def _digests(folder: Path) -> dict[str, str]:
    return {name: source_digest((folder / f"{name}.py").read_text("utf-8")) for name in DECIDING}


def source_digest(source: str) -> str:
    """16 hex digits of what a module does, whatever its comments, docstrings and layout."""
    return hashlib.sha256(json.dumps(_plain(ast.parse(source))).encode()).hexdigest()[:16]


def one_digest(modules: dict[str, str]) -> str:
    """16 hex digits of all modules together."""
    return hashlib.sha256(json.dumps(modules, sort_keys=True).encode()).hexdigest()[:16]


def _plain(node: Any) -> Any:
    """A syntax tree as lists. Empty fields are left out: versions of Python add such."""
    if isinstance(node, list):
        return [_plain(part) for part in node if not _is_text(part)]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Constant):
        return ["Constant", repr(node.value)]
    fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
    return [type(node).__name__, *((name, _plain(value)) for name, value in fields)]


def _is_text(node: Any) -> bool:
    """Whether a statement is a text that stands by itself: a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that this code runs from and whether tracked files were changed.

    (None, None) where it is none, for example because the package is installed.
    """
    if _git("ls-files", "--error-unmatch", f"runs/{Path(__file__).name}") is None:
        return None, None  # no git, no checkout, or a checkout of something else around us
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "HEAD"), None if changed is None else bool(changed)


def _git(*words: str) -> str | None:
    """What git says of this folder's checkout, or None where it can't."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def version() -> str:
    """This package's version."""
    return _version(_DISTRIBUTION)


def described(version: str, commit: str | None, dirty: bool | None) -> str:
    """Code in a few words: its commit, or its version where there is none."""
    if commit is None:
        return f"version {version}"
    return f"commit {commit[:12]}" + (", with changes that are not committed" if dirty else "")


def libraries() -> dict[str, str]:
    """Versions of what the numbers depend on beside this package."""
    others = {name: _version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "torch": torch.__version__, **others}


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
