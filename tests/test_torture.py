import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from synthetic_cache import make_cache

from cache import Cache, open_cache
from cache.format.identity import read_identity
from cache.format.index_file import load_index, save_index
from cache.share.pack import pack

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SMALL: dict[str, Any] = {
    "clip_seconds": 0.1,
    "n_mfcc": 1,
    "n_mels": 1,
    "num_frames": 1,
    "resize_px": 64,
    "frame_size_px": 64,
}


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import torture_checks

    return torture_checks


@pytest.fixture
def expected(tmp_path: Path) -> Cache:
    folder = make_cache(tmp_path / "expected", clips=40, **SMALL)
    identity = read_identity(folder)
    save_index(folder, identity, load_index(folder, identity))
    return open_cache(folder)


@pytest.fixture
def target(tmp_path: Path, expected: Cache) -> Path:
    return Path(shutil.copytree(expected.path, tmp_path / "target"))


def a_shard(folder: Path) -> Path:
    return sorted((folder / "shards").glob("*.h5"))[0]


def flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_sound_target_passes(checks: ModuleType, target: Path, expected: Cache) -> None:
    before = checks.state_of(target)
    assert checks.lost(before, target) == []
    assert checks.incomplete(target, expected, remote=True) == []


def test_a_shard_that_is_gone_is_told(checks: ModuleType, target: Path, expected: Cache) -> None:
    before = checks.state_of(target)
    a_shard(target).unlink()
    assert len(checks.lost(before, target)) == 1
    assert "the index lists it" in checks.damaged(target, expected, remote=False)[0]
    told = checks.incomplete(target, expected, remote=False)
    assert any("only in A" in text for text in told)


def test_a_damaged_shard_is_told(checks: ModuleType, target: Path, expected: Cache) -> None:
    flip(a_shard(target))
    assert "does not match its name" in checks.damaged(target, expected, remote=False)[0]


def test_a_damaged_shard_is_told_before_there_is_an_identity(
    checks: ModuleType, target: Path, expected: Cache
) -> None:
    flip(a_shard(target))
    (target / "cache.json").unlink()
    assert len(checks.damaged(target, expected, remote=True)) == 1


def test_rows_that_nobody_asked_for_are_told(
    checks: ModuleType, target: Path, expected: Cache, tmp_path: Path
) -> None:
    other = open_cache(make_cache(tmp_path / "other", clips=30, **SMALL))
    assert "only in B" in checks.damaged(target, other, remote=False)[0]


def test_temporary_files_are_told(checks: ModuleType, target: Path, expected: Cache) -> None:
    (target / "shards" / ".writing-x.h5").touch()
    (target / ".working-1").touch()
    assert checks.damaged(target, expected, remote=False) == []
    assert len(checks.incomplete(target, expected, remote=False)) == 2


def test_an_index_of_shards_that_did_not_arrive_is_told(
    checks: ModuleType, target: Path, expected: Cache
) -> None:
    a_shard(target).unlink()
    assert "the index lists it" in checks.damaged(target, expected, remote=False)[0]
    assert "not there" in checks.damaged(target, expected, remote=True)[0]


def test_a_damaged_pack_and_a_leftover_beside_it_are_told(
    checks: ModuleType, expected: Cache, tmp_path: Path
) -> None:
    (tmp_path / "packs").mkdir()
    target = tmp_path / "packs" / "pack.h5"
    pack(expected, target)
    assert checks.incomplete(target, expected, remote=False) == []
    (target.parent / ".writing-pack.h5-x").touch()
    assert "left over" in checks.incomplete(target, expected, remote=False)[0]
    flip(target)
    assert "checksum" in checks.damaged(target, expected, remote=False)[0]


def test_changed_sources_are_told(checks: ModuleType, target: Path) -> None:
    before = checks.digests([target])
    assert checks.changed(before, [target]) == []
    flip(target / "labels.h5")
    a_shard(target).unlink()
    (target / "new").touch()
    assert len(checks.changed(before, [target])) == 3


@pytest.mark.slow
def test_the_script_kills_every_command(tmp_path: Path) -> None:
    line = [sys.executable, str(BENCHMARKS / "torture.py"), "--demo-clips", "12", "--kills", "10"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 10
    assert {name: count["kills"] for name, count in result["commands"].items()} == dict.fromkeys(
        ("extract", "merge", "pack", "push", "pull"), 2
    )
    assert result["lost"] == result["damaged"] == result["violations"] == 0
