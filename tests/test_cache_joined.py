"""Several caches as one, by id: what all have, from the cache that has it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_cache import make_cache

from cache import Cache, CacheError, open_cache
from cache.format.fields import Field, Rate
from cache.joined import JoinedCache, open_caches
from cache.writer import CacheWriter, Origin


def opened(*paths: Path) -> Cache:
    return open_caches(shlex.join(map(str, paths)))


CLAP = Field("audio/clap", (10, 4), "float32", "1", Rate(1.0, 0.5))


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cache(tmp_path_factory.mktemp("joined") / "features", clips=40)


def other(path: Path, ids: list[str], **more: Any) -> Path:
    with CacheWriter(path, [CLAP], **more) as writer:
        for n, clip_id in reversed(list(enumerate(ids))):
            writer.add(clip_id, {"audio/clap": np.full((10, 4), n, np.float32)})
    return path


def test_the_clips_that_all_have(features: Path, tmp_path: Path) -> None:
    ids = open_cache(features).ids
    clap = other(tmp_path / "clap", [*ids[3:], "zz"])
    joined = opened(features, clap)
    assert isinstance(joined, JoinedCache)
    assert joined.ids == ids[3:]
    assert joined.lacking == {features: ["zz"], clap: ids[:3]}
    assert set(joined.fields) == {*open_cache(features).fields, "audio/clap"}
    assert joined.labels.equals(open_cache(features).labels)
    assert joined.fingerprint not in {one.fingerprint for one in joined.caches}


def test_rows_are_read_from_the_cache_that_has_them(features: Path, tmp_path: Path) -> None:
    whole = open_cache(features)
    clap = other(tmp_path / "clap", whole.ids[3:])
    joined = opened(features, clap)
    rows = [5, 0, 36]
    ids = [joined.ids[row] for row in rows]
    assert [joined.row(clip_id) for clip_id in ids] == rows
    mel = whole.read("audio/mel", [whole.row(clip_id) for clip_id in ids])
    np.testing.assert_array_equal(joined.read("audio/mel", rows), mel)
    assert joined.read("audio/clap", rows)[:, 0, 0].tolist() == rows
    seen = np.zeros(len(joined))
    for places, arrays in joined.by_shard(["audio/mel", "audio/clap"]):
        np.testing.assert_array_equal(arrays["audio/clap"][:, 0, 0], places)
        np.testing.assert_array_equal(arrays["audio/mel"], joined.read("audio/mel", places))
        seen[places] += 1
    assert (seen == 1).all()
    assert joined.jpegs(ids[0]) == whole.jpegs(ids[0])


def test_the_order_of_the_caches_decides_nothing_but_whose_labels(
    features: Path, tmp_path: Path
) -> None:
    whole = open_cache(features)
    clap = other(tmp_path / "clap", whole.ids)
    joined = opened(clap, features)
    assert joined.labels.equals(whole.labels)
    np.testing.assert_array_equal(joined.read("audio/mel"), whole.read("audio/mel"))


def test_one_cache_is_itself(features: Path) -> None:
    assert opened(features).fingerprint == open_cache(features).fingerprint


def test_what_does_not_belong_together_is_refused(features: Path, tmp_path: Path) -> None:
    ids = open_cache(features).ids
    clap, again = other(tmp_path / "clap", ids), other(tmp_path / "again", ids)
    with pytest.raises(CacheError, match="audio/clap stands in"):
        opened(features, clap, again)
    short = other(tmp_path / "short", ids, clip_seconds=5.0)
    with pytest.raises(CacheError, match="clip_seconds"):
        opened(features, short)
    none = other(tmp_path / "none", ["x", "y"])
    with pytest.raises(CacheError, match="no clip in common"):
        opened(features, none)


def test_a_clip_that_one_lacks_is_named_with_it(features: Path, tmp_path: Path) -> None:
    ids = open_cache(features).ids
    clap = other(tmp_path / "clap", ids[1:])
    joined = opened(features, clap)
    with pytest.raises(CacheError, match="clap: no features of the clip"):
        joined.row(ids[0])
    with pytest.raises(CacheError, match="no features"):
        joined.row("nobody")


def test_windows_of_recordings_are_joined(tmp_path: Path) -> None:
    for name, field in (("clap", CLAP), ("clip", Field("video/clip", (3,), "float32", "1"))):
        with CacheWriter(tmp_path / name, [field], hop_s=5.0) as writer:
            for clip_id in ("walk", "walk@5", "walk@10"):
                writer.add(clip_id, {field.name: np.ones(field.shape)}, origin=Origin(7, 8))
    joined = opened(tmp_path / "clap", tmp_path / "clip")
    assert joined.recordings == {"walk": [0, 2, 1]}
    assert joined.lengths_s[0].tolist() == [10.0] * 3
    assert joined.media_stamps[1].tolist() == [8] * 3
    assert len(set(joined.row_digests)) == 3
