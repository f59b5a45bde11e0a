"""A cache of one's own, row by row: what is kept, what is refused, and going on after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cache import CacheError, open_cache
from cache.check.verify import verify
from cache.format.fields import Field, Rate
from cache.writer import CacheWriter, Origin

CLAP = Field("audio/clap", (10, 4), "float32", "1", Rate(1.0, 0.5))
CLIP = Field("video/clip", (3,), "float16", "1")


def vectors(seed: int, steps: int = 10) -> npt.NDArray[Any]:
    return np.random.default_rng(seed).standard_normal((steps, 4)).astype(np.float32)


def test_what_is_added_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "clap"
    with CacheWriter(folder, [CLAP, CLIP], about={"model": "m"}) as writer:
        for n in range(40):  # more than a shard
            writer.add(f"clip{n:02d}", {"audio/clap": vectors(n), "video/clip": np.arange(3) + n})
    cache = open_cache(folder)
    assert len(cache) == 40
    np.testing.assert_array_equal(cache.read("audio/clap", [7])[0], vectors(7))
    np.testing.assert_array_equal(cache.read("video/clip", [39])[0], [39, 40, 41])
    assert not verify(folder).problems
    assert cache.config == {"imported": True, "model": "m"}


def test_a_shorter_sound_has_fewer_steps(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c", [CLAP]) as writer:
        writer.add("short", {"audio/clap": vectors(1, steps=4)}, valid_s=4.0)
    cache = open_cache(tmp_path / "c")
    row = cache.read("audio/clap")[0]
    assert cache.read("rows/audio_steps").tolist() == [4]
    assert np.isnan(row[4:]).all()
    assert np.isfinite(row[:4]).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (vectors(0)[:, :3], "expected at most (10, 4), found (10, 3)"),
        (np.concatenate([vectors(0), vectors(1)]), "found (20, 4)"),
        (vectors(0)[:0], "found (0, 4)"),
        (np.float32(1), "found ()"),
        (np.where(np.arange(40).reshape(10, 4) == 5, np.nan, 1.0), "NaN or infinity"),
        (np.full((10, 4), 1e300), "more than float32 holds"),
        (np.full((10, 4), "a"), "no numbers"),
    ],
)
def test_what_can_not_be_stored_is_refused_and_the_next_follows(
    tmp_path: Path, array: npt.NDArray[Any], message: str
) -> None:
    with CacheWriter(tmp_path / "c", [CLAP]) as writer:
        with pytest.raises(CacheError) as caught:
            writer.add("bad", {"audio/clap": array})
        writer.add("good", {"audio/clap": vectors(2)})
    assert "'bad'" in str(caught.value)
    assert message in str(caught.value)
    assert open_cache(tmp_path / "c").ids == ["good"]


def test_an_integer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    tokens = Field("audio/tokens", (2,), "uint8", "1")
    with CacheWriter(tmp_path / "c", [tokens]) as writer:
        with pytest.raises(CacheError, match="uint8 can't hold"):
            writer.add("a", {"audio/tokens": np.array([1, 256])})
        writer.add("b", {"audio/tokens": np.array([1, 255])})


def add_and_die(folder: Path, count: int) -> None:
    with CacheWriter(folder, [CLAP]) as writer:
        for n in range(count):
            writer.add(f"clip{n:02d}", {"audio/clap": vectors(n)}, origin=Origin(n, 1))
        raise RuntimeError("killed")


def test_it_goes_on_after_a_stop_and_replaces(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(RuntimeError, match="killed"):
        add_and_die(folder, 33)
    with CacheWriter(folder, [CLAP]) as writer:
        assert "clip31" in writer  # the shard that was whole
        assert "clip32" not in writer
        assert writer.has("clip03", Origin(3, 1))
        assert not writer.has("clip03", Origin(3, 2))
        writer.add("clip03", {"audio/clap": vectors(99)}, origin=Origin(3, 2))
    cache = open_cache(folder)
    np.testing.assert_array_equal(cache.read("audio/clap", [cache.row("clip03")])[0], vectors(99))


def test_failures_are_told_by_the_cache(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c", [CLAP]) as writer:
        writer.add("a", {"audio/clap": vectors(0)})
        writer.fail("b", "no such file", Origin(5, 6))
    failure = open_cache(tmp_path / "c").index.failures["b"]
    assert (failure.stage, failure.message, failure.media_size) == ("import", "no such file", 5)


def test_other_fields_or_another_model_are_refused(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c", [CLAP], about={"model": "one"}) as writer:
        writer.add("a", {"audio/clap": vectors(0)})
    for fields, about in (([CLAP], {"model": "two"}), ([CLIP], {"model": "one"})):
        with pytest.raises(CacheError, match="other settings"):
            CacheWriter(tmp_path / "c", fields, about=about).__enter__()


@pytest.mark.parametrize("clip_id", ["", "a/b", "..", "x" * 256, "a\nb"])
def test_ids_are_checked(tmp_path: Path, clip_id: str) -> None:
    with CacheWriter(tmp_path / "c", [CLAP]) as writer, pytest.raises(CacheError):
        writer.add(clip_id, {"audio/clap": vectors(0)})
