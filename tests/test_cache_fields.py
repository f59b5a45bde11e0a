"""What `cache.json` declares."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import soundfile
from small_media import CONFIG, RATE_HZ, noise, random_row, tiny_cache

from cache import open_cache
from cache.check.verify import verify
from cache.common.errors import ConfigError
from cache.format import version1
from cache.format.fields import Field, Rate, Times
from cache.format.identity import Identity, claim
from cache.format.schema import Declaration, Pictures
from cache.format.shard import Clip, clip_problem, write_shard
from cache.share.merge import merge
from extract.config import ExtractConfig
from extract.features import declare as declaring
from extract.features import extractor
from extract.features.audio import audio_features
from extract.features.declare import declare
from extract.sources import file_source
from train.config import TrainConfig
from train.data.features import load_features


def test_it_is_what_is_read_again() -> None:
    """For every kind of setting; version 1 derives the same from the settings."""
    for changes in (
        {},
        {"modalities": "audio"},
        {"modalities": "video"},
        {"audio_profile": "librosa"},
        {"backbone": "large", "frame_size_px": 33, "resize_px": 40},
        {"hop_samples": 441, "clip_seconds": 3.3},
    ):
        config = CONFIG.revised(**changes)
        declared = declare(config)
        assert Declaration.parse(json.loads(json.dumps(declared.record()))) == declared
        assert version1.declared_by(config.resolved("0" * 64)) == declared


def test_a_cache_says_what_it_holds(tmp_path: Path) -> None:
    record = json.loads((tiny_cache(tmp_path / "cache").folder / "cache.json").read_text())
    assert list(record) == [
        *("format", "format_version", "feature_version", "fingerprint", "clip_seconds"),
        *("fields", "pictures", "config", "provenance", "sha256"),
    ]
    assert (record["format_version"], record["clip_seconds"]) == (2, 1.0)
    assert record["pictures"] == {"count": 2, "side_px": 32}
    shown = {one["name"]: one for one in record["fields"]}
    assert shown["audio/mel"] == {
        "name": "audio/mel",
        "stream": "audio",
        "shape": [44, 8],
        "dtype": "float16",
        "unit": "dB",
        "clock": {"rate_hz": 43.06640625, "first_s": 0.0},
    }
    assert shown["video/maps"]["clock"] == {"times": "video/frame_time_s"}
    assert shown["video/frame_time_s"]["clock"] is None


def test_the_page_on_the_format_shows_one() -> None:
    page = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
    record = json.loads(page.split("```json\n")[1].split("```")[0])
    declared = Declaration.parse(record)
    assert {**record, **declared.record()} == record
    config, provenance = record["config"], record["provenance"]
    identity = Identity(record["feature_version"], config, declared, provenance)
    assert [*identity.record(), "sha256"] == list(record)
    known = {one.name: one for one in declare(ExtractConfig()).fields}
    assert all(known[one.name] == one for one in declared.fields)


OWN = Declaration(
    2.0,
    (
        Field("audio/loudness", (20, 1), "float64", "dB", Rate(10.0, 0.05)),
        Field("audio/name", (16,), "uint8", "letters"),
        Field("video/boxes", (3, 4), "int32", "px", Times("video/shots_s")),
        Field("video/shots_s", (3,), "float64", "s"),
    ),
)


def own_clip(clip_id: str = "a", **changes: Any) -> Clip:
    loudness = np.full((20, 1), np.nan)
    loudness[:15] = 1.0
    features = {
        "audio/loudness": loudness,
        "audio/name": np.arange(16, dtype=np.uint8),
        "video/boxes": np.arange(12, dtype=np.int32).reshape(3, 4),
        "video/shots_s": np.array([0.0, 0.5, 2.0]),
    }
    return Clip(clip_id, {**features, **changes}, valid_s=2.0, audio_steps=15)


def test_fields_that_nobody_knew_are_stored_and_read(tmp_path: Path) -> None:
    """Other shapes, dtypes and names; no pictures. Nothing in the cache needs to know them."""
    identity = Identity(7, {"model": "own", "modalities": 3}, OWN, {"by": "me"})
    folder = tmp_path / "own"
    claim(folder, identity)
    written = write_shard(folder, identity, [own_clip("a"), own_clip("b")])
    found = open_cache(folder)
    assert verify(folder).problems == []
    assert (found.ids, found.clip_seconds, found.jpegs("a")) == (["a", "b"], 2.0, [])
    for name, values in own_clip().features.items():
        assert found.read(name).tobytes() == values.tobytes() * 2
    with h5py.File(folder / "shards" / written.name) as file:
        assert file["video/boxes"].attrs["unit"].decode() == "px"
        assert "jpeg" not in file["video"]
    merge([open_cache(folder)], tmp_path / "merged")
    assert open_cache(tmp_path / "merged").identity == identity


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"audio/loudness": np.ones((20, 1))}, "expected NaN in the steps after 15"),
        ({"audio/loudness": np.full((20, 1), np.nan)}, "expected finite"),
        ({"audio/loudness": np.ones((20, 2))}, "the format says"),
        ({"video/boxes": np.ones((3, 4))}, "the format says int32"),
        ({"video/shots_s": np.array([0.0, 2.0, 1.0])}, "video/shots_s: expected times that ascend"),
        ({"video/shots_s": np.array([0.0, 1.0, 2.5])}, "video/shots_s: expected times in the clip"),
    ],
)
def test_what_was_declared_is_held_to(changes: dict[str, Any], reason: str) -> None:
    assert clip_problem(own_clip(), OWN) == ""
    assert reason in clip_problem(own_clip(**changes), OWN)


def test_whether_pictures_are_declared_decides(tmp_path: Path) -> None:
    jpegs = random_row("a", 0).jpegs
    clip = dataclasses.replace(own_clip(), jpegs=jpegs)
    assert "expected 0 pictures, found 2" in clip_problem(clip, OWN)
    pictured = dataclasses.replace(OWN, pictures=Pictures(2, 32))
    assert clip_problem(clip, pictured) == ""
    identity = Identity(1, {}, pictured, {})
    claim(tmp_path / "own", identity)
    write_shard(tmp_path / "own", identity, [clip])
    assert open_cache(tmp_path / "own").jpegs("a") == list(jpegs)


def test_settings_that_no_cache_can_store() -> None:
    config = ExtractConfig(clip_seconds=3600, num_frames=256, frame_size_px=2048, resize_px=2048)
    with pytest.raises(ConfigError, match="268,435,456 bytes; choose shorter clips"):
        declare(config)


def test_a_new_feature_is_declared_and_computed_in_extract_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line of cache or train names it: it is stored, verified and trained from."""
    fields, features = declaring.audio_fields, audio_features

    def one_more_field(config: ExtractConfig) -> list[Field]:
        found = fields(config)
        return [*found, dataclasses.replace(found[0], name="audio/power", shape=(44, 1))]

    def one_more_feature(waveform: Any, config: ExtractConfig) -> dict[str, Any]:
        found = features(waveform, config)
        return {**found, "power": found["mel"].mean(axis=1, keepdims=True)}

    monkeypatch.setattr(declaring, "audio_fields", one_more_field)
    monkeypatch.setattr(extractor, "audio_features", one_more_feature)
    config = CONFIG.revised(modalities="audio")
    soundfile.write(tmp_path / "a.wav", noise(1.0), RATE_HZ, "PCM_16")
    clip = extractor.Extractor(config, "imagenet", "cpu")(file_source(tmp_path / "a.wav"))
    identity = Identity(3, config.resolved(""), declare(config), {})
    claim(tmp_path / "cache", identity)
    write_shard(tmp_path / "cache", identity, [clip])
    assert verify(tmp_path / "cache").problems == []
    found = open_cache(tmp_path / "cache")
    settings = TrainConfig(modality="audio", device="cpu", num_classes=2)
    clips = load_features(found, settings, ["a"], 2)
    assert clips.shapes.audio_features == 2 * (12 + 8 + 12 + 7 + 6 + 1)
    mean = found.read("audio/power").astype(np.float64).mean()
    assert clips.audio is not None
    assert clips.audio[0, :, 45].mean().item() == pytest.approx(mean, rel=0.02)


@pytest.mark.parametrize(("rate_hz", "hop"), [(22050, 512), (8000, 220), (48000, 441), (16000, 7)])
def test_steps_of_whole_hops_are_as_long_as_computed_from_the_hop(rate_hz: int, hop: int) -> None:
    assert Rate(rate_hz / hop).step_s == hop / rate_hz
