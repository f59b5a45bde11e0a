"""All packages write files in one way, `cache.common.atomic`; who does otherwise is named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
OTHERWISE = {
    "cache/common/atomic.py": "the one way itself",
    "cache/common/cli.py": "sends what is left of the output nowhere",
    "cache/format/lock.py": "a lock is a file that stays, and is never read as content",
    "cache/share/pack.py": "writes into the temporary file that cache.atomic made",
    "cache/format/sealed.py": "seals a temporary file before it gets its name",
    "cache/remote/store.py": "writes to a store, under a temporary name there",
    "cache/remote/cache.py": "writes in a scratch folder of its own",
    "cache/common/torch_file.py": "makes a zip file in memory",
    "extract/demo/__main__.py": "makes a new folder of synthetic media",
    "train/sweep/journal.py": "a journal of many writers, and locks",
    "extract/parallel/job.py": "writes notes in a scratch folder of its own",
}
_WRITES = {
    *("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "imwrite", "savetxt"),
    *("copyfile", "copy2", "copytree", "tofile"),
}
_FLAGS = {"O_CREAT", "O_WRONLY", "O_RDWR", "O_APPEND", "O_TRUNC"}


def _writes(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
    if name in {"open", "File", "fdopen", "ZipFile"}:
        modes = any(len(text) <= 3 and set(text) & set("wax+") for text in texts)
        flags = {n.attr for v in values for n in ast.walk(v) if isinstance(n, ast.Attribute)}
        return modes or bool(flags & _FLAGS)
    if name == "savefig":
        return not any(keyword.arg == "format" for keyword in call.keywords)
    return isinstance(function, ast.Attribute) and name in _WRITES


def writers(source: str) -> Iterator[int]:
    """Lines that open something for writing."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _writes(node):
            yield node.lineno


def test_files_are_written_in_one_way() -> None:
    for package in ("cache", "extract", "train"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            name = path.relative_to(REPOSITORY).as_posix()
            found = list(writers(path.read_text(encoding="utf-8")))
            assert not found or name in OTHERWISE, f"{name}: lines {found}: use cache.atomic"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("open(p, 'w')", 1),
        ("p.open(mode='ab')", 1),
        ("p.open('rb')", 0),
        ("p.write_text(t)", 1),
        ("write_text(file, name, text)", 0),
        ("figure.savefig(path)", 1),
        ("figure.savefig(buffer, format='png')", 0),
        ("h5py.File(p, 'r+')", 1),
        ("os.open(p, os.O_RDONLY)", 0),
        ("os.open(p, os.O_WRONLY | os.O_CREAT)", 1),
    ],
)
def test_the_search_finds_what_writes(source: str, count: int) -> None:
    assert len(list(writers(source))) == count
