"""How often each command reads the index of a cache: once a folder, but for what is told here."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from remote_places import LABELS
from small_media import TinyCache, tiny_cache

import cache.check.verify
import cache.format.index_file
import cache.remote.cache
from cache.__main__ import main
from cache.format.identity import Identity
from cache.format.index import Index
from cache.format.index_file import parse_index


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts reads of `index.h5`, by the name of its folder."""
    found: Counter[str] = Counter()

    def counting(path: Path, identity: Identity) -> Index:
        found[path.parent.name.partition("-")[0]] += 1
        return parse_index(path, identity)

    for module in (cache.format.index_file, cache.check.verify, cache.remote.cache):
        monkeypatch.setattr(module, "parse_index", counting)
    return found


@pytest.fixture
def a(tmp_path: Path) -> TinyCache:
    """Three clips and a stored index."""
    return stored(tmp_path / "a", "a", "b", "c")


def stored(folder: Path, *ids: str, seed: int = 0) -> TinyCache:
    tiny = tiny_cache(folder, LABELS)
    tiny.write(*ids, seed=seed)
    tiny.store_index()
    return tiny


@pytest.mark.parametrize(
    "command", ["info", "verify", "pack", "diff", "merge", "push to a folder", "pull"]
)
def test_commands_read_an_index_once(
    a: TinyCache, tmp_path: Path, loads: Counter[str], command: str
) -> None:
    b = stored(tmp_path / "b", "d", "e", seed=5).folder
    line = {
        "info": [str(a.folder)],
        "verify": [str(a.folder)],
        "pack": [str(a.folder), str(tmp_path / "p.h5")],
        "diff": [str(a.folder), str(b)],
        "merge": [str(a.folder), "--into", str(b)],
        "push to a folder": [str(a.folder), str(b)],
        "pull": [str(b), str(a.folder)],
    }[command]
    loads.clear()
    assert main([command.partition(" ")[0], *line]) == (1 if command == "diff" else 0)
    one = {"info", "verify", "pack"}
    expected = {"a": 1} if command in one else {"a": 1, "b": 1}
    if command == "push to a folder":  # once to plan; then before and after each writing of it
        expected = {"a": 1, "avel": 3}
    elif command == "pull":
        expected = {"a": 1, "avel": 1}
    assert loads == expected


def test_repair_reads_it_before_under_the_lock_and_to_prove_it(
    a: TinyCache, loads: Counter[str]
) -> None:
    loads.clear()
    assert main(["repair", str(a.folder)]) == 0
    assert loads == {"a": 3}
