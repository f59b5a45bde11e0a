"""What strangers declare in `cache.json`: taken where it is sound and small, else refused."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_media import CONFIG, TinyCache, resealed, tiny_cache

from cache import CacheError, open_cache
from cache.check.verify import verify
from cache.format.fields import MAX_ROW_BYTES
from cache.format.identity import Identity
from cache.format.schema import MAX_FIELDS
from extract.features.declare import declare

DECLARED = declare(CONFIG)
Record = dict[str, Any]


def record_of(cache: TinyCache) -> Record:
    found: Record = json.loads((cache.folder / "cache.json").read_text())
    return found


def field(name: str, **changes: Any) -> Callable[[Record], None]:
    """Change what is declared of a field."""

    def change(record: Record) -> None:
        next(one for one in record["fields"] if one["name"] == name).update(changes)

    return change


def top(**changes: Any) -> Callable[[Record], None]:
    return lambda record: record.update(changes)


def more(*fields: Record) -> Callable[[Record], None]:
    return lambda record: record["fields"].extend(copy.deepcopy(fields))


NEW = {
    "name": "audio/new",
    "stream": "audio",
    "shape": [3],
    "dtype": "float32",
    "unit": "1",
    "clock": None,
}
STEADY = {"rate_hz": 43.06640625, "first_s": 0.0}
HOSTILE: dict[str, Callable[[Record], None]] = {
    "no fields": top(fields=[]),
    "fields are no list": top(fields={}),
    "fields are texts": top(fields=["audio/mel"]),
    "a field without a name": more({}),
    "more fields than any cache": more(
        *({**NEW, "name": f"audio/n{n}"} for n in range(MAX_FIELDS))
    ),
    "a name twice": more({**NEW, "name": "audio/mel"}),
    "a key too many": more({**NEW, "code": "x"}),
    "a huge axis": field("audio/mel", shape=[1 << 40, 8]),
    "huge together": field("video/maps", shape=[2, 1 << 20, 1 << 20, 1]),
    "many axes": field("video/maps", shape=[2] + [1] * 40),
    "no axis": field("video/maps", shape=[]),
    "a negative axis": field("audio/mel", shape=[-44, -8]),
    "an empty axis": field("audio/mel", shape=[44, 0]),
    "an axis that is true": field("audio/mel", shape=[44, True]),
    "an axis of a half": field("audio/mel", shape=[44, 8.0]),
    "an axis that is a text": field("audio/mel", shape=["44", 8]),
    "a shape that is a number": field("audio/mel", shape=44),
    "a shape that is a text": field("audio/mel", shape="44"),
    "objects": field("audio/mel", dtype="object"),
    "texts": field("audio/mel", dtype="S8"),
    "another order of bytes": field("audio/mel", dtype=">f2"),
    "a dtype that is a list": field("audio/mel", dtype=["float16"]),
    "a list of dtypes": field("audio/mel", dtype=[["a", "float16"]]),
    "whole numbers that would be NaN": field("audio/mel", dtype="int16"),
    "a unit that is none": field("audio/mel", unit=None),
    "a unit that steers a terminal": field("audio/mel", unit="\x1b[2J"),
    "a unit that is a book": field("audio/mel", unit="dB" * 10_000),
    "another stream": field("audio/mel", stream="video"),
    "a stream of its own": more({**NEW, "name": "smell/new", "stream": "smell"}),
    **{
        f"the name {name!r}": more({**NEW, "name": name})
        for name in (
            *("", "audio", "audio/", "/audio/new", "audio/../new", "audio/a/b", "audio/.", "new"),
            *("audio/new\n", "audio/ä", "audio/new ", "audio/" + "n" * 65, "../audio/new", 3, None),
        )
    },
    "rows of its own": more({**NEW, "name": "rows/id", "stream": "rows"}),
    "in the place of the pictures": more({**NEW, "name": "video/jpeg", "stream": "video"}),
    "in the place of their ends": more({**NEW, "name": "video/jpeg_end", "stream": "video"}),
    "a clock that is a text": field("audio/mel", clock="rate_hz"),
    "an empty clock": field("audio/mel", clock={}),
    "two clocks": field("audio/mel", clock={**STEADY, "times": "video/frame_time_s"}),
    "a clock of its own": field("audio/mel", clock={"ticks": 3}),
    "a rate of 0": field("audio/mel", clock={**STEADY, "rate_hz": 0}),
    "a rate backwards": field("audio/mel", clock={**STEADY, "rate_hz": -43.0}),
    "a rate that is true": field("audio/mel", clock={**STEADY, "rate_hz": True}),
    "a rate that is a text": field("audio/mel", clock={**STEADY, "rate_hz": "43"}),
    "a rate that no one can hear": field("audio/mel", clock={**STEADY, "rate_hz": 1e300}),
    "a first time of a year": field("audio/mel", clock={**STEADY, "first_s": 3e7}),
    "two rates": field("audio/mel", clock={**STEADY, "rate_hz": 50.0}),
    "two numbers of steps": field("audio/mel", shape=[43, 8]),
    "times that are not there": field("video/maps", clock={"times": "video/times"}),
    "times of the other stream": field("video/maps", clock={"times": "audio/mel"}),
    "times that are a number": field("video/maps", clock={"times": 3}),
    "times that are a list": field("video/maps", clock={"times": ["video/frame_time_s"]}),
    "times of its own": field("video/frame_time_s", clock={"times": "video/frame_time_s"}),
    "times that are not precise": field("video/frame_time_s", dtype="float16"),
    "times of other frames": field("video/frame_time_s", shape=[3]),
    "times in a table": field("video/frame_time_s", shape=[2, 1]),
    "clips of no length": top(clip_seconds=0),
    "clips of a year": top(clip_seconds=3e7),
    "clips that are a text": top(clip_seconds="x" * 100_000),
    "clips that are true": top(clip_seconds=True),
    "pictures that are a list": top(pictures=[2, 32]),
    "pictures without a side": top(pictures={"count": 2}),
    "pictures as wide as a street": top(pictures={"count": 2, "side_px": 1 << 30}),
    "as many pictures as stars": top(pictures={"count": 1 << 60, "side_px": 32}),
    "pictures of no side": top(pictures={"count": 2, "side_px": 0}),
    "nothing said of pictures": lambda record: record.pop("pictures") and None,
    "a key too many beside": top(code="x"),
    "a book of settings": top(config={"a": "b" * 40_000}),
    "settings that are a list": top(config=[]),
    "features of a text": top(feature_version="1"),
    "a format that is true": top(format_version=True),
    "a format to come": top(format_version=3),
}


@pytest.fixture
def stored(tmp_path: Path) -> TinyCache:
    tiny = tiny_cache(tmp_path / "cache")
    tiny.write("a", "b")
    return tiny


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_no_cache_declares_is_refused(stored: TinyCache, kind: str) -> None:
    """Though its fingerprint is right, and before anything of that size is made."""
    record = record_of(stored)
    del record["sha256"]
    HOSTILE[kind](record)
    if "pictures" in record:
        record = resealed(record)
    (stored.folder / "cache.json").write_text(json.dumps(record))
    for use in (open_cache, verify):
        with pytest.raises(CacheError, match=r"cache\.json"):
            use(stored.folder)


@pytest.mark.parametrize(
    "clock", ['{"rate_hz": NaN, "first_s": 0.0}', '{"rate_hz": 43.0, "first_s": Infinity}']
)
def test_clocks_that_are_no_numbers(stored: TinyCache, clock: str) -> None:
    record = record_of(stored)
    record["fields"][0]["clock"] = "HERE"
    text = json.dumps(record).replace('"HERE"', clock)
    (stored.folder / "cache.json").write_text(text)
    with pytest.raises(CacheError, match="finite number"):
        open_cache(stored.folder)


def test_a_megabyte_of_fields(stored: TinyCache) -> None:
    record = record_of(stored)
    record["fields"] = [{**NEW, "name": f"audio/n{n}"} for n in range(9_500)]
    text = json.dumps(record)
    assert 900_000 < len(text) < 1 << 20
    (stored.folder / "cache.json").write_text(text)
    with pytest.raises(CacheError, match=f"at most {MAX_FIELDS}"):
        open_cache(stored.folder)


@pytest.mark.parametrize("seed", range(300))
def test_declarations_are_taken_or_refused(seed: int) -> None:
    """Any part of one replaced by any other thing: a CacheError, or a declaration within bounds."""
    rng = random.Random(seed)
    record = Identity(1, {}, DECLARED, {}).record()
    parts: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            parts.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(record)
    odd: list[Any] = [
        *(None, True, 0, -1, 1, 2, 1 << 62, 0.5, 1e308, "", "audio/x", "video/frame_time_s"),
        *("x" * 999, [], {}, [1, 2], {"times": "audio/mel"}, {"rate_hz": 1.0}, [[]], "\x1b"),
    ]
    for _ in range(rng.choice([1, 2])):
        holder, key = rng.choice(parts)
        holder[key] = rng.choice(odd)
    with contextlib.suppress(CacheError):
        assert Identity.parse(resealed(record), "x").declaration.row_bytes <= MAX_ROW_BYTES
