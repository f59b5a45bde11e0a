"""Caches of format version 1 go on: everything that can be done with a cache, done with an old one.

`data/cache-v1` was made before version 2, with random weights, in two runs of
`python -m extract --weights random:0 --jobs 1` and the flags `small_media.SMALL_FLAGS`. The set is
that of `write_set(folder, clips=4, mp4=1)` with two events shortened, and a clip `torn` whose sound
is no WAV; the first run saw three of its clips, the second all. `packed.h5` is what `pack` made of
it, and `features.json` that of a run trained on it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
from small_media import CONFIG, assert_same_rows, random_row, resealed, write_set
from tiny_runs import FLAGS

from cache import Cache, open_cache
from cache import __main__ as cache_cli
from cache.check.verify import verify
from cache.common.errors import CacheError, ConfigError
from cache.format.identity import Identity, claim
from cache.format.shard import write_shard
from cache.share.merge import merge
from extract.features.declare import declare
from extract.identity import identity_for
from extract.one_clip import one_clip
from train import __main__ as train_cli
from train.runs import checkpoint
from train.runs.folders import BEST

Capture = pytest.CaptureFixture[str]
DATA = Path(__file__).parent / "data" / "cache-v1"
IDS = ["-clip 0", "-clip 3", "clip 1", "clip 2"]
FINGERPRINT = "63e20ced8b2c875f4b5ff34d1431a4ebaef15de4abdba6c88919feff52954783"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the cache that a test may change."""
    return Path(shutil.copytree(DATA / "cache", tmp_path / "old"))


def run(*arguments: object) -> int:
    return cache_cli.main([str(one) for one in arguments])


def still_old(found: Cache) -> None:
    """Every row of the cache, and its identity, as they were."""
    assert found.ids == IDS
    assert found.fingerprint == FINGERPRINT
    assert_same_rows(found, open_cache(DATA / "cache"))
    assert list(found.index.failures) == ["torn"]
    if not found.packed:
        text = (found.path / "cache.json").read_bytes()
        assert text == (DATA / "cache" / "cache.json").read_bytes()
    assert verify(found.path).problems == []


def test_its_rows_are_those_that_h5py_finds() -> None:
    found = open_cache(DATA / "cache")
    still_old(found)
    assert list(found.fields) == [
        *(f"audio/{name}" for name in ("mfcc", "mel", "chroma", "contrast", "tonnetz")),
        *("video/maps", "video/frame_time_s"),
    ]
    for path in (DATA / "cache" / "shards").glob("*.h5"):
        with h5py.File(path) as file:
            for row, clip_id in enumerate(file["rows/id"].asstr("utf-8")):
                for name, field in found.fields.items():
                    value = found.read(name, [found.row(clip_id)])[0]
                    assert value.tobytes() == file[name][row].tobytes()
                    assert file[name].attrs["unit"].decode() == field.unit


def test_it_is_shown(capsys: Capture) -> None:
    assert run("info", DATA / "cache") == 0
    shown = capsys.readouterr().out
    assert "format 1, features 2" in shown
    assert "audio/mfcc 44×12 float16" in shown
    assert "1 × audio: expected a readable WAV file" in shown
    assert run("diff", DATA / "cache", DATA / "packed.h5") == 0


def test_packed_and_unpacked(old: Path, tmp_path: Path) -> None:
    still_old(open_cache(DATA / "packed.h5"))
    assert run("unpack", DATA / "packed.h5", tmp_path / "unpacked") == 0
    still_old(open_cache(tmp_path / "unpacked"))
    for flags in ([], ["--compress"]):
        packed = tmp_path / f"p{len(flags)}.h5"
        assert run("pack", old, packed, *flags) == 0
        still_old(open_cache(packed))


def test_merged_with_others_of_its_kind(old: Path, tmp_path: Path) -> None:
    lost = next(iter(open_cache(old).index.shards))
    (old / "shards" / lost).unlink()
    (old / "index.h5").unlink()
    assert run("merge", old, DATA / "packed.h5", "--into", tmp_path / "merged") == 0
    still_old(open_cache(tmp_path / "merged"))
    assert run("merge", DATA / "cache", "--into", old) == 0
    still_old(open_cache(old))


def test_pushed_and_pulled(old: Path, tmp_path: Path) -> None:
    assert run("push", old, (tmp_path / "there").as_uri()) == 0
    still_old(open_cache(tmp_path / "there"))
    assert run("pull", (tmp_path / "there").as_uri(), tmp_path / "back") == 0
    still_old(open_cache(tmp_path / "back"))
    assert run("pull", (tmp_path / "there").as_uri(), tmp_path / "some", "--only", "test") == 0
    assert open_cache(tmp_path / "some").ids == ["clip 2"]


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_byte_is_found(old: Path, seed: int) -> None:
    shard = sorted((old / "shards").iterdir())[seed % 5]
    data = bytearray(shard.read_bytes())
    data[(seed * 4099 + 2048) % len(data)] ^= 4
    shard.write_bytes(data)
    assert run("verify", old) == 1


def test_repaired(old: Path, capsys: Capture) -> None:
    """A row whose bytes are gone is a failure; the others, and the version, stay."""
    found = open_cache(old)
    entry = found.index.clips["clip 1"]
    with h5py.File(found.shard_path(entry.shard)) as file:
        place = file["audio/mel"].id.get_offset()
    data = bytearray((old / "shards" / entry.shard).read_bytes())
    data[place] ^= 4
    (old / "shards" / entry.shard).write_bytes(data)
    assert run("repair", old) == 1
    assert "clip 1" in capsys.readouterr().out
    found = open_cache(old)
    assert found.ids == ["-clip 0", "-clip 3", "clip 2"]
    assert found.index.failures["clip 1"].stage == "damaged"
    assert verify(old).problems == []
    for shard in found.index.shards:
        with h5py.File(found.shard_path(shard)) as file:
            assert file.attrs["format_version"] == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the old cache, as it would be today."""
    run = tmp_path_factory.mktemp("trained") / "run"
    argv = ["fit", "--cache", str(DATA / "cache"), "--run", str(run), *FLAGS]
    assert train_cli.main(argv) == 0
    return run


def test_trained_on(trained: Path, tmp_path: Path) -> None:
    """And a run as older programs left it answers for it, and for media extracted today."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.copy(DATA / "features.json", run / "features.json")
    model, about, _ = checkpoint.load(run / BEST)
    assert about.feature_version == 2
    checkpoint.save(run / BEST, model, about.revised(feature_version=None))
    for name in ("cache", "packed.h5"):
        argv = ["predict", "--run", str(run), "--cache", str(DATA / name)]
        assert train_cli.main([*argv, "--out", str(tmp_path / name), "--pictures", "0"]) == 0
        answers: list[dict[str, Any]] = json.loads(
            (tmp_path / name / "predictions.json").read_text()
        )
        assert [one["id"] for one in answers] == IDS
    (clip_id,) = write_set(tmp_path / "set", clips=1, mp4=1)
    like, media = tmp_path / "like.json", tmp_path / "set" / f"{clip_id}.mp4"
    assert train_cli.main(["features", "--run", str(run), "--out", str(like)]) == 0
    assert one_clip([str(media), "--cache", str(tmp_path / "small"), "--like", str(like)]) == 0
    assert open_cache(tmp_path / "small").identity.format_version == 2
    argv = ["predict", "--run", str(run), "--cache", str(tmp_path / "small"), "--pictures", "0"]
    assert train_cli.main(argv) == 0
    first = {**json.loads(like.read_text()), "feature_version": 1}
    like.write_text(json.dumps(resealed(first)))
    with pytest.raises(ConfigError, match="extract the set again"):
        one_clip([str(media), "--cache", str(tmp_path / "other"), "--like", str(like)])


def test_it_is_not_merged_with_newer_ones(old: Path, tmp_path: Path) -> None:
    """Though their settings are the same, and the rows would fit."""
    found = open_cache(old)
    newer = dataclasses.replace(found.identity, format_version=2)
    claim(tmp_path / "newer", newer)
    write_shard(tmp_path / "newer", newer, [random_row("new", 1)])
    for sources in ([old, tmp_path / "newer"], [tmp_path / "newer", old]):
        with pytest.raises(CacheError, match=r"format version: \d here, \d in the cache"):
            merge([open_cache(source) for source in sources], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("feature_version", [1, 2])
def test_it_is_not_extended(tmp_path: Path, feature_version: int) -> None:
    config = CONFIG.revised(modalities="audio")
    identity = Identity(feature_version, config.resolved(""), declare(config), {}, 1)
    claim(tmp_path / "old", identity)
    with pytest.raises(ConfigError, match="to extend one of version 1, extract it anew") as caught:
        identity_for(tmp_path / "old", "random:0", config)
    assert ("feature code version: 2 here, 1" in str(caught.value)) == (feature_version == 1)
