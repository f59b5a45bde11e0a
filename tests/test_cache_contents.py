"""What a row may hold: finite numbers, times in the clip, and pictures that are what they say."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_media import CONFIG, picture, random_row, tiny_cache

import cache.format.shard
from cache import CacheError, open_cache
from cache.format.pictures import picture_limit, picture_problem
from cache.format.shard import Clip, clip_problem, write_shard
from extract.features.declare import declare

DECLARED = declare(CONFIG)


def bent(name: str, place: Any, value: float) -> Callable[[Clip], Clip]:
    """Change some numbers of an array of a row."""

    def change(clip: Clip) -> Clip:
        values = clip.features[name].copy()
        values[place] = value
        return dataclasses.replace(clip, features={**clip.features, name: values})

    return change


def field(**values: Any) -> Callable[[Clip], Clip]:
    return lambda clip: dataclasses.replace(clip, **values)


NAN, INF = float("nan"), float("inf")
PROBLEMS: dict[str, tuple[Callable[[Clip], Clip], str]] = {
    "NaN in a valid step": (bent("audio/mel", (0, 0), NAN), "audio/mel: expected finite"),
    "infinite sound": (bent("audio/mfcc", (0, 3), INF), "audio/mfcc: expected finite"),
    "number in a padded step": (bent("audio/chroma", (43, 0), 0.0), "audio/chroma: expected NaN"),
    "infinite map": (bent("video/maps", (1, 5, 0, 0), -INF), "video/maps: expected finite"),
    "frame time NaN": (bent("video/frame_time_s", 0, NAN), "frame_time_s: expected finite"),
    "frame time backwards": (bent("video/frame_time_s", 1, 0.0), "times that ascend"),
    "frame before the clip": (bent("video/frame_time_s", 0, -0.5), "times that ascend"),
    "frame after the clip": (bent("video/frame_time_s", 1, 1.5), "expected times in the clip"),
    "no steps": (field(audio_steps=0), "audio_steps: expected 1 to 44"),
    "more steps than there are": (field(audio_steps=45), "audio_steps: expected 1 to 44"),
    "nothing of it exists": (field(valid_s=0.0), "valid_s: expected more than 0"),
    "valid NaN": (field(valid_s=NAN), "valid_s"),
    "longer than the clip": (field(valid_s=1.5), "valid_s: expected at most 1.0"),
    "start NaN": (field(audio_start_s=NAN), "audio_start_s"),
    "start before": (field(audio_start_s=-1.0), "audio_start_s"),
    "no pictures": (field(jpegs=[]), "expected 2 pictures, found 0"),
    "another size": (field(jpegs=[picture(0), picture(0, 64)]), "picture 1: .*found 64×64"),
    "PostScript": (field(jpegs=[b"%!PS-Adobe-3.0"] * 2), "picture 0: expected a JPEG of 32×32"),
}


def row() -> Clip:
    clip = dataclasses.replace(random_row("a", 0), audio_steps=9)
    for name, values in clip.features.items():
        if name.startswith("audio/"):
            values[:9], values[9:] = 1.0, np.nan
    return bent("video/frame_time_s", slice(None), 0.25)(clip)


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_row_with_a_problem_is_named_and_not_written(tmp_path: Path, kind: str) -> None:
    change, reason = PROBLEMS[kind]
    tiny = tiny_cache(tmp_path / "cache")
    with pytest.raises(CacheError, match=f"the clip 'a' can't be stored: .*{reason}"):
        write_shard(tiny.folder, tiny.identity, [random_row("b", 1), change(row())])
    assert list((tiny.folder / "shards").iterdir()) == []


def test_what_a_clip_may_be() -> None:
    """A repeated frame, stamps rounded by less than a millisecond, silence, a full clip."""
    assert clip_problem(row(), DECLARED) == ""
    for change in (
        bent("video/frame_time_s", 0, -1e-6),
        bent("video/frame_time_s", 1, 1.0),
        bent("audio/mel", slice(0, 9), 0.0),
        bent("audio/mel", slice(0, 9), -100.0),
        field(valid_s=1.0 + 1e-5, media_s=NAN),
        field(audio_start_s=0.9),
    ):
        assert clip_problem(change(row()), DECLARED) == ""


@pytest.mark.parametrize("seed", range(5))
def test_numbers_are_checked(seed: int) -> None:
    assert clip_problem(random_row("a", seed), DECLARED) == ""
    assert clip_problem(bent("audio/mel", (0, 0), INF)(row()), DECLARED).startswith("audio/mel")


def encoded(size: tuple[int, int] = (32, 32), mode: str = "RGB", **how: Any) -> bytes:
    data = io.BytesIO()
    kind = how.pop("format", "JPEG")
    pixels = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    Image.fromarray(pixels).convert(mode).save(data, kind, **how)
    return data.getvalue()


@pytest.mark.parametrize(
    "how",
    [{}, {"quality": 95}, {"progressive": True}, {"subsampling": 0}, {"comment": b"hello"}],
)
def test_jpegs_of_any_encoder_will_do(how: dict[str, Any]) -> None:
    data = encoded(**how)
    assert picture_problem(data, 32) == ""
    assert "expected a JPEG of 224×224, found 32×32" in picture_problem(data, 224)
    assert picture_problem(picture(3), 32) == ""


def size_segment(data: bytes) -> tuple[int, bytes]:
    place = data.index(b"\xff\xc0")
    return place, data[place : place + 19]


def twice(data: bytes) -> bytes:
    """The size said again, larger: readers take the last."""
    place, segment = size_segment(data)
    again = segment[:5] + b"\x75\x30\x75\x30" + segment[9:]
    return data[: place + 19] + again + data[place + 19 :]


FOREIGN = {
    "nothing": b"",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n",
    "PNG": encoded(format="PNG"),
    "GIF": encoded(format="GIF"),
    "grey": encoded(mode="L"),
    "four colours": encoded(mode="CMYK"),
    "wide": encoded((64, 32)),
    "cut": encoded()[:-40],
    "markers alone": b"\xff\xd8\xff\xd9",
    "no size": encoded()[:20] + b"\xff\xd9",
    "size twice": twice(encoded()),
    "more in one file": encoded(
        format="MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))]
    ),
    "EXIF": encoded().replace(b"\xff\xe0", b"\xff\xe1", 1),
    "12 bits": encoded().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    "lossless": encoded().replace(b"\xff\xc0", b"\xff\xc3", 1),
    "long": encoded()[:-2] + bytes(picture_limit(32)) + b"\xff\xd9",
    "PostScript in a JPEG's ends": b"\xff\xd8%!PS\xff\xd9",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_everything_else_is_refused(kind: str) -> None:
    assert picture_problem(FOREIGN[kind], 32).startswith("expected a JPEG of 32×32, found")


def test_any_cut_or_bent_picture_is_told_or_has_the_right_size() -> None:
    """Never an exception; what passes opens as a JPEG of the declared size or not at all."""
    data, rng = encoded(), np.random.default_rng(0)
    for place in range(len(data)):
        assert picture_problem(data[:place], 32)
    for _ in range(500):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), 3):
            changed[place] = int(rng.integers(256))
        if not picture_problem(bytes(changed), 32):
            try:
                found = Image.open(io.BytesIO(changed), formats=["JPEG"])
            except (OSError, SyntaxError):
                continue
            assert found.size == (32, 32)


@pytest.mark.parametrize("kind", ["PostScript", "PNG", "size twice", "wide"])
def test_a_reader_gives_out_no_foreign_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """All that draws goes through `Cache.jpegs`."""
    tiny = tiny_cache(tmp_path / "cache")
    with monkeypatch.context() as careless:
        careless.setattr(cache.format.shard, "clip_problem", lambda *_: "")
        rows = [random_row("a", 0), field(jpegs=[picture(0), FOREIGN[kind]])(random_row("b", 1))]
        write_shard(tiny.folder, tiny.identity, rows)
    found = open_cache(tiny.folder)
    assert len(found.jpegs("a")) == 2
    with pytest.raises(CacheError, match="the clip 'b': video/jpeg: picture 1: expected a JPEG"):
        found.jpegs("b")
