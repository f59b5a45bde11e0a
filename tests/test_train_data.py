"""Cache → tensors: pooling, joining, leaks, refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_media import tiny_cache
from synthetic_cache import CONFIG, labels_for, make_cache

from cache import Cache, open_cache
from cache.common.errors import CacheError, ConfigError
from cache.format.fields import Rate
from cache.labels.store import write_labels
from train.config import TrainConfig
from train.data.dataset import load_dataset, resolve
from train.data.features import load_features, torch_device
from train.data.pooling import pool_steps
from train.model.fusion import FusionModel
from train.training.normalize import normalize

CPU = TrainConfig(device="cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(make_cache(tmp_path_factory.mktemp("cache"), clips=30, classes=3))


def resolved(cache: Cache, **changes: Any) -> TrainConfig:
    return resolve(CPU.revised(**changes), cache, cache.labels.classes)


def test_pooling_gives_mean_and_deviation_of_the_valid_steps_in_each_window() -> None:
    features = np.arange(10, dtype=np.float32)[None, :, None].repeat(2, 0)
    features[1, 5:] = np.nan
    pooled, valid = pool_steps([features], np.array([10, 5]), Rate(4.0), window_s=1.0, windows=3)
    np.testing.assert_allclose(pooled[0, :, 0], [1.5, 5.5, 8.5])
    np.testing.assert_allclose(pooled[1, :, 0], [1.5, 4.0, 0.0])
    of_four = float(np.std(range(4)))
    np.testing.assert_allclose(pooled[0, :, 1], [of_four, of_four, 0.5])
    np.testing.assert_allclose(pooled[1, :, 1], [of_four, 0.0, 0.0])
    np.testing.assert_array_equal(valid, [[True, True, True], [True, True, False]])


def test_pooling_takes_parts_as_stored_and_leaves_them_alone() -> None:
    """Half precision far from zero: the deviations must not drown in the means' rounding."""
    rng = np.random.default_rng(0)
    parts = [(rng.standard_normal((3, 43, width)) - 60).astype(np.float16) for width in (5, 1, 3)]
    steps = np.array([43, 20, 1])
    for part in parts:
        part[1, 20:] = part[2, 1:] = np.nan
    before = [part.copy() for part in parts]
    pooled, valid = pool_steps(parts, steps, Rate(10.0), window_s=0.5, windows=8)
    together = np.concatenate(parts, axis=2).astype(np.float64)
    window = np.minimum(np.arange(43) * 0.1 / 0.5, 7).astype(int)
    for clip, length in enumerate(steps):
        for k in range(8):
            inside = together[clip, :length][window[:length] == k]
            assert valid[clip, k] == (len(inside) > 0)
            means = inside.mean(0) if len(inside) else np.zeros(9)
            deviations = inside.std(0) if len(inside) else np.zeros(9)
            np.testing.assert_allclose(pooled[clip, k, :9], means, atol=2e-5)
            np.testing.assert_allclose(pooled[clip, k, 9:], deviations, atol=2e-5)
    for part, same in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part, same)


def test_features_arrive_as_cached(cache: Cache) -> None:
    clips = load_features(cache, resolved(cache), cache.ids, 3)
    row = 7
    maps = cache.read("video/maps", [row])[0]
    assert clips.maps is not None
    assert clips.audio is not None
    assert clips.maps.cells.dtype == torch.float16
    flat = maps.reshape(8, 576, 49)
    np.testing.assert_array_equal(clips.maps.cells[row].numpy(), flat.transpose(0, 2, 1))
    means = flat.astype(np.float32).mean(2)
    np.testing.assert_allclose(clips.maps.means[row].numpy(), means, rtol=1e-5, atol=1e-6)
    width = 120 + 64 + 12 + 7 + 6
    assert clips.audio.shape == (30, 20, 2 * width)
    hop_s = CONFIG["hop_samples"] / CONFIG["sample_rate_hz"]
    in_third = [k for k in range(431) if 1.0 <= k * hop_s < 1.5]
    at = 0
    for name in ("mfcc", "mel", "chroma", "contrast", "tonnetz"):
        raw = cache.read(f"audio/{name}", [row])[0].astype(np.float32)
        found = clips.audio[row, 2, at : at + raw.shape[1]].numpy()
        np.testing.assert_allclose(found, raw[in_third].mean(0), atol=2e-3)
        found = clips.audio[row, 2, width + at : width + at + raw.shape[1]].numpy()
        np.testing.assert_allclose(found, raw[in_third].std(0), atol=2e-3)
        at += raw.shape[1]
    np.testing.assert_allclose(clips.frame_time_s[row], cache.read("video/frame_time_s", [row])[0])
    np.testing.assert_allclose(clips.frame_span_s[row], 10 / 8)
    assert clips.step_time_s[2] == pytest.approx(1.25)


def test_a_frame_stands_for_its_share_of_what_a_clip_has(tmp_path: Path) -> None:
    tiny = tiny_cache(tmp_path / "cache")
    tiny.write("a", "b")
    cache = open_cache(tiny.folder)
    clips = load_features(cache, CPU, cache.ids, 3)
    valid_s, frames = cache.read("rows/valid_s"), clips.frame_time_s.shape[1]
    assert max(valid_s) < cache.clip_seconds
    np.testing.assert_allclose(clips.frame_span_s, valid_s / frames, rtol=1e-6)


def test_batches_are_selections_and_reuse_one_buffer(cache: Cache) -> None:
    clips = load_features(cache, resolved(cache), cache.ids, 3)
    rows = torch.tensor([5, 0, 5])
    batch = clips.batch(rows)
    assert clips.maps is not None
    assert clips.audio is not None
    assert batch.frames is not None
    assert batch.sound is not None
    cells = batch.frames.cells()
    assert cells.dtype == torch.float32
    assert torch.equal(cells, clips.maps.cells[rows].flatten(0, 1).float())
    assert torch.equal(batch.frames.means(), clips.maps.means[rows])
    assert torch.equal(batch.sound.features, clips.audio[rows])
    some = batch.frames.cells(torch.tensor([9, 2]))
    assert torch.equal(some, clips.maps.cells[[0, 5], [1, 2]].float())
    assert some.data_ptr() == cells.data_ptr()


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_one_modality_loads_one_stream(cache: Cache, modality: str) -> None:
    clips = load_features(cache, resolved(cache, modality=modality), cache.ids, 3)
    batch = clips.batch(torch.tensor([0]))
    assert (batch.sound is None) is (modality == "video")
    assert (batch.frames is None) is (modality == "audio")


def test_samples_join_labels_with_features(cache: Cache) -> None:
    dataset = load_dataset(cache, resolved(cache))
    labels = cache.labels
    for name, samples in dataset.splits.items():
        np.testing.assert_array_equal(samples.rows, labels.rows(name))
        for place, row in enumerate(samples.rows):
            assert dataset.clips.ids[samples.clip[place]] == labels.ids[row]
            assert samples.category[place] == labels.category[row]
            expected = [labels.start_s[row] / 10, labels.end_s[row] / 10]
            np.testing.assert_allclose(samples.interval[place], expected, rtol=1e-6)
    assert len(dataset.rows.used().rows("train")) == len(labels.rows("train"))


def test_an_id_with_two_rows_gives_two_samples_of_one_clip(tmp_path: Path) -> None:
    labels = labels_for(12, 3)
    labels.ids[1] = labels.ids[0]
    cache = open_cache(make_cache(tmp_path / "c", labels=labels))
    samples = load_dataset(cache, resolved(cache)).splits["train"]
    assert samples.clip[0] == samples.clip[1]
    assert samples.category[0] != samples.category[1]


def test_rows_without_features_are_named_and_left_out(tmp_path: Path) -> None:
    cache = open_cache(make_cache(tmp_path / "c", clips=12, missing=["clip00001", "clip00004"]))
    dataset = load_dataset(cache, resolved(cache))
    assert dataset.rows.without_features == ["clip00001", "clip00004"]
    assert sum(map(len, dataset.splits.values())) == 10


def test_leaks_are_reported_and_dropped_on_demand(tmp_path: Path) -> None:
    labels = labels_for(30, 3)
    row = {name: labels.rows(name)[0] for name in ("train", "val", "test")}
    second = labels.rows("train")[1]
    labels.ids[row["val"]] = labels.ids[row["train"]]
    labels.ids[row["test"]] = labels.ids[second]
    cache = open_cache(make_cache(tmp_path / "c", labels=labels))
    kept = load_dataset(cache, resolved(cache))
    assert set(kept.rows.leaks) == {("train", "val"), ("train", "test")}
    dropped = load_dataset(cache, resolved(cache, drop_leaks=True))
    expected = [r for r in labels.rows("train") if r not in (row["train"], second)]
    np.testing.assert_array_equal(dropped.splits["train"].rows, expected)
    np.testing.assert_array_equal(dropped.splits["val"].rows, kept.splits["val"].rows)
    assert len(dropped.rows.used().rows("train")) == len(expected)
    assert any("2 row(s) of train dropped" in note for note in dropped.rows.notes)


def test_normalizing_uses_the_training_rows_alone(cache: Cache) -> None:
    config = resolved(cache)
    dataset = load_dataset(cache, config)
    model = FusionModel(dataset.clips.shapes, config)
    normalize(model, dataset.clips, dataset.splits["train"])
    train = dataset.splits["train"].clip
    assert dataset.clips.audio is not None
    assert dataset.clips.maps is not None
    assert model.audio is not None
    assert model.video is not None
    audio = dataset.clips.audio[train].flatten(0, 1)
    torch.testing.assert_close(model.audio.mean, audio.mean(0))
    torch.testing.assert_close(model.audio.deviation, audio.std(0, correction=0))
    cells = dataset.clips.maps.cells[train].float().flatten(0, 2)
    torch.testing.assert_close(model.video.mean, cells.mean(0), atol=1e-4, rtol=1e-4)


def test_the_cache_decides_what_the_settings_leave_open(cache: Cache) -> None:
    config = resolved(cache)
    assert (config.num_classes, config.num_frames) == (3, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 28}, "--num-classes 3"),
        ({"num_frames": 16}, "--num-frames 8"),
    ],
)
def test_contradictions_are_refused_with_what_to_pass(
    cache: Cache, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved(cache, **changes)


def test_a_cache_of_one_modality_says_which_flag_to_pass(tmp_path: Path) -> None:
    cache = open_cache(make_cache(tmp_path / "c", clips=6, modalities="audio"))
    with pytest.raises(ConfigError, match="--modality audio"):
        resolved(cache)
    assert resolved(cache, modality="audio").num_frames is None


def test_a_cache_without_usable_rows_is_refused(tmp_path: Path) -> None:
    labels = labels_for(6, 3)
    cache = open_cache(make_cache(tmp_path / "c", labels=labels))
    write_labels(cache.path, dataclasses.replace(labels, ids=[f"other{n}" for n in range(6)]))
    with pytest.raises(CacheError, match="no label row"):
        load_dataset(cache, resolved(cache))


def test_too_little_memory_says_how_much_is_needed(cache: Cache) -> None:
    with pytest.raises(ConfigError, match=r"memory_gb.*stream them takes 0\.\d+ GB at least"):
        load_features(cache, resolved(cache, memory_gb=0.001), cache.ids, 3)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="cuda"):
        torch_device("cuda")
