"""Features that are not finite: training names the clip, wherever its features are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from synthetic_cache import CONFIG, labels_for

from cache import Cache, CacheError, open_cache
from cache.format import shard
from cache.format.finite import all_finite
from cache.format.identity import Identity, claim
from cache.format.shard import Clip
from cache.labels.store import write_labels
from extract.config import ExtractConfig
from extract.features.declare import declare
from train.config import TrainConfig
from train.data import features, reader
from train.data.dataset import load_dataset
from train.data.features import load_features

TINY = {"clip_seconds": 2.0, "n_mfcc": 2, "n_mels": 4, "num_frames": 2, "frame_size_px": 64}
SMALL = TrainConfig(
    device="cpu", audio_feat_dim=16, video_feat_dim=16, map_channels=8, num_heads=2, batch_size=2
)
CLIPS, BAD = 12, "clip00007"


def cache_with(folder: Path, name: str, value: float, place: int = 0) -> Cache:
    """A cache of ones in which one number of one clip is `value`."""
    settings = {**CONFIG, **TINY, "audio_profile": "librosa"}
    declared = declare(ExtractConfig.parse(settings))
    labels = labels_for(CLIPS, 2)
    labels.start_s[:], labels.end_s[:] = 0.0, 2.0
    identity = Identity(1, settings, declared, {"made_by": "test"})
    claim(folder, identity)
    write_labels(folder, labels)
    made = []
    for clip_id in labels.ids:
        features = {field.name: np.ones(field.shape, field.dtype) for field in declared.fields}
        if clip_id == BAD:
            features[name].reshape(-1)[place] = value
        pictures = [b"\xff\xd8\xff\xd9"] * 2
        made.append(Clip(clip_id, features, pictures, valid_s=2.0, media_s=2.0, audio_steps=80))
    with pytest.MonkeyPatch.context() as patch:  # as caches were written before rows were checked
        patch.setattr(shard, "clip_problem", lambda *_: "")
        shard.write_shard(folder, identity, made)
    return open_cache(folder)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("video/maps", np.nan),
        ("video/maps", -np.inf),
        ("video/frame_time_s", np.inf),
        ("audio/mel", np.nan),
        ("audio/mfcc", -np.inf),
    ],
)
def test_training_names_the_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float, streamed: bool
) -> None:
    cache = cache_with(tmp_path, name, value)
    if streamed:
        for module in (reader, features):
            monkeypatch.setattr(module, "PART_CLIPS", 3)
        monkeypatch.setattr(features, "_where", lambda *_: (6, "streamed", False))

    def read() -> None:
        dataset = load_dataset(cache, SMALL)
        assert dataset.clips.stream, "all in memory would have been read by now"
        list(dataset.clips.batches(torch.arange(len(dataset.clips.ids)), 4))

    with pytest.raises(CacheError, match=rf"the clip {BAD}: .*not finite.*cache verify"):
        read()


def test_steps_that_a_clip_does_not_have_may_hold_anything(tmp_path: Path) -> None:
    cache = cache_with(tmp_path, "audio/mel", np.nan, -1)
    audio = load_features(cache, SMALL, cache.ids, 2).audio
    assert audio is not None
    assert audio.isfinite().all()


def test_a_number_too_large_to_be_squared_names_the_clip_too(tmp_path: Path) -> None:
    cache = cache_with(tmp_path, "audio/mel", 1e30)
    with pytest.raises(CacheError, match=rf"the clip {BAD}: .*too large"):
        load_dataset(cache, SMALL)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_finite_says_what_numpy_says(dtype: type[np.floating[Any]]) -> None:
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    edges = [0.0, -0.0, info.max, info.min, info.tiny, info.smallest_subnormal, -info.tiny]
    values: npt.NDArray[Any] = np.array([*edges, *rng.standard_normal(50)], dtype).reshape(3, -1)
    assert all_finite(values)
    assert all_finite(values.T)
    assert all_finite(values[:0])
    for odd in (np.nan, -np.nan, np.inf, -np.inf):
        for place in range(values.size):
            bad = values.copy()
            bad.reshape(-1)[place] = odd
            assert not all_finite(bad)
            assert not all_finite(bad.T)
