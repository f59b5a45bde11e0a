"""Any fields: coarse clocks, vectors, grids, caches joined; what becomes of them in a model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cache import Labels
from cache.common.errors import CacheError, ConfigError
from cache.format.fields import Field, Rate, Times
from cache.joined import open_caches
from cache.labels.store import write_labels
from cache.writer import CacheWriter
from train.commands.fit import fit
from train.config import TrainConfig
from train.data.dataset import Dataset, load_dataset, resolve
from train.data.fields import inputs_of
from train.data.pooling import interpolate
from train.model.fusion import FusionModel
from train.training.normalize import normalize

CLIPS = 40
SMALL = TrainConfig(
    device="cpu", audio_feat_dim=16, video_feat_dim=16, map_channels=8, num_heads=2, epochs=2,
    batch_size=8,
)  # fmt: skip
FINE = Field("audio/fine", (100, 4), "float32", "1", Rate(10.0))
OTHER = Field("audio/other", (100, 3), "float32", "1", Rate(10.0))
COARSE = Field("audio/coarse", (10, 5), "float32", "1", Rate(1.0, 0.5))
VECTOR = Field("audio/vector", (6,), "float32", "1")
TIMES = Field("video/time_s", (8,), "float64", "s")
MAPS = Field("video/maps", (8, 12, 3, 3), "float16", "1", Times("video/time_s"))
WIDE = Field("video/wide", (5, 7, 2, 6), "float32", "1", Rate(0.5, 1.0))
CLIP = Field("video/clip", (10, 9), "float32", "1", Rate(1.0, 0.5))
STILL = Field("video/still", (4,), "float32", "1")


def values(field: Field, clip: int) -> npt.NDArray[Any]:
    if field is TIMES:
        return np.linspace(0.6, 9.4, 8)
    seed = sum(map(ord, field.name)) * 1000 + clip
    made = np.random.default_rng(seed).standard_normal(field.shape) + clip % 4
    return made.astype(field.dtype)


def cache_of(
    path: Path, fields: Sequence[Field], labelled: bool = True, clips: int = CLIPS
) -> Path:
    with CacheWriter(path, fields) as writer:
        for n in range(clips):
            writer.add(f"c{n:02d}", {field.name: values(field, n) for field in fields})
    if labelled:
        at = np.arange(CLIPS)
        start = np.where(at % 3, at % 5, 0).astype(np.float64)
        labels = Labels(
            ids=[f"c{k:02d}" for k in range(CLIPS)],
            classes=["a", "b", "c", "d"],
            category=(at % 4).astype(np.int64),
            start_s=start,
            end_s=np.where(at % 3, start + 4, 10.0),
            split=np.where(at < 24, 0, np.where(at < 32, 1, 2)).astype(np.int8),
        )
        write_labels(path, labels)
    return path


def loaded(path: Path | str, **changes: Any) -> Dataset:
    cache = open_caches(path)
    config = resolve(SMALL.revised(**changes), cache, cache.labels.classes)
    return load_dataset(cache, config)


def model_of(data: Dataset, **changes: Any) -> FusionModel:
    torch.manual_seed(0)
    frames = data.clips.frame_time_s.shape[1]
    config = SMALL.revised(num_classes=4, num_frames=frames or None, **changes)
    model = FusionModel(data.clips.shapes, config)
    normalize(model, data.clips, data.splits["train"])
    return model.eval()


def joined_name(*paths: Path) -> Path:
    return Path(shlex.join(map(str, paths)))


def test_joined_training_is_that_of_one_cache_with_all_fields(tmp_path: Path) -> None:
    one = cache_of(tmp_path / "one", [FINE, OTHER, VECTOR, MAPS, TIMES, CLIP])
    a = cache_of(tmp_path / "a", [FINE, MAPS, TIMES])
    b = cache_of(tmp_path / "b", [OTHER], labelled=False)
    c = cache_of(tmp_path / "c", [VECTOR, CLIP], labelled=False)
    whole, joined = loaded(one), loaded(joined_name(a, b, c))
    assert whole.clips.audio is not None
    assert joined.clips.audio is not None
    assert torch.equal(whole.clips.audio, joined.clips.audio)
    told = []
    for number, name in enumerate((one, joined_name(a, b, c))):
        run = tmp_path / f"run{number}"
        fit(name, run, SMALL, pictures=0)
        scores = json.loads((run / "metrics_val.json").read_text())["scores"]
        told.append((scores, json.loads((run / "history.json").read_text())))
    first, second = ({**dict(scores), "losses": _losses(history)} for scores, history in told)
    assert first == second


def _losses(history: list[dict[str, float]]) -> list[float]:
    return [epoch["train_loss"] for epoch in history]


@pytest.mark.parametrize("memory_gb", [None, 0.00105])
def test_streamed_or_in_memory_a_batch_is_the_same(tmp_path: Path, memory_gb: float | None) -> None:
    a = cache_of(tmp_path / "a", [FINE, MAPS, TIMES])
    c = cache_of(tmp_path / "c", [COARSE, CLIP], labelled=False)
    data = loaded(joined_name(a, c), memory_gb=memory_gb, batch_size=2)
    model, found = model_of(data), {}
    with torch.inference_mode():
        for places, batch in data.clips.batches(torch.arange(CLIPS), 8):
            for place, logits in zip(places.tolist(), model(batch).logits, strict=True):
                found[place] = logits
    assert sorted(found) == list(range(CLIPS))
    again = model_of(loaded(joined_name(a, c)))
    with torch.inference_mode():
        wanted = again(loaded(joined_name(a, c)).clips.batch(torch.arange(CLIPS))).logits
    torch.testing.assert_close(torch.stack([found[n] for n in range(CLIPS)]), wanted)


def test_the_columns_of_sound(tmp_path: Path) -> None:
    fine_cache = cache_of(tmp_path / "fine", [FINE, MAPS, TIMES])
    more = cache_of(tmp_path / "more", [COARSE, VECTOR], labelled=False)
    data = loaded(joined_name(fine_cache, more))
    audio = data.clips.audio
    assert audio is not None
    assert data.clips.shapes.audio_features == audio.shape[2] == 4 + 5 + 6 + 4
    fine = values(FINE, 7).reshape(20, 5, 4)
    np.testing.assert_allclose(audio[7, :, :4], fine.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(audio[7, :, 15:], fine.std(axis=1), atol=1e-5)
    coarse = values(COARSE, 7)
    np.testing.assert_allclose(audio[7, 0, 4:9], coarse[0])  # held: 0.25 s is before the first
    np.testing.assert_allclose(
        audio[7, 2, 4:9], 0.25 * coarse[0] + 0.75 * coarse[1], atol=1e-5
    )  # 1.25 s, between 0.5 and 1.5 s
    np.testing.assert_array_equal(audio[7, 13, 9:15], values(VECTOR, 7))


def test_a_step_counts_where_all_fields_have_it(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "coarse", [COARSE]) as writer:
        for n in range(CLIPS):
            writer.add(f"c{n:02d}", {COARSE.name: values(COARSE, n)[: 3 if n == 1 else 10]})
    fine = cache_of(tmp_path / "fine", [FINE])
    data = loaded(joined_name(fine, tmp_path / "coarse"), modality="audio")
    assert data.clips.audio_valid[0].all()
    assert data.clips.audio_valid[1].tolist() == [True] * 6 + [False] * 14
    assert data.clips.audio is not None
    assert not data.clips.audio[1, 6:].any()


def test_vectors_are_frames_without_spatial_attention(tmp_path: Path) -> None:
    data = loaded(cache_of(tmp_path / "c", [FINE, CLIP]))
    assert data.clips.shapes.grid == (1, 1)
    assert data.clips.frame_time_s[0].tolist() == [k + 0.5 for k in range(10)]
    output = model_of(data)(data.clips.batch(torch.arange(4)), return_attention=True)
    assert "spatial" not in output.attention
    assert output.attention["video"].shape == (4, 2, 10, 10)


def test_maps_of_another_grid_come_first_and_others_stand_beside(tmp_path: Path) -> None:
    data = loaded(cache_of(tmp_path / "c", [FINE, CLIP, STILL, WIDE]))
    shapes = data.clips.shapes
    assert (shapes.map_channels, shapes.grid, shapes.beside) == (7, (2, 6), 9 + 4)
    frames = data.clips.batch(torch.tensor([3])).frames
    assert frames is not None
    assert frames.time_s[0].tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]
    seen = frames.means()[0]
    np.testing.assert_allclose(seen[:, :7], values(WIDE, 3).mean(axis=(2, 3)), atol=1e-6)
    clip = values(CLIP, 3)
    np.testing.assert_allclose(seen[1, 7:16], (clip[2] + clip[3]) / 2, atol=1e-6)  # 3.0 s
    np.testing.assert_array_equal(seen[4, 16:], values(STILL, 3))
    output = model_of(data)(data.clips.batch(torch.arange(4)), return_attention=True)
    assert output.attention["spatial"].shape == (4, 5, 2, 6)


def test_beside_features_are_normalized_with_their_own_statistics(tmp_path: Path) -> None:
    data = loaded(cache_of(tmp_path / "c", [FINE, CLIP, MAPS, TIMES]))
    model = model_of(data)
    assert model.video is not None
    train = torch.arange(24)
    frames = data.clips.batch(train).frames
    assert frames is not None
    beside = frames.means()[..., 12:].flatten(0, 1)
    torch.testing.assert_close(model.video.mean[12:], beside.mean(dim=0), atol=1e-4, rtol=1e-4)
    spread = beside.std(dim=0, correction=0)
    torch.testing.assert_close(model.video.deviation[12:], spread, atol=1e-4, rtol=1e-4)


def test_fields_are_chosen_by_name(tmp_path: Path) -> None:
    cache = open_caches(cache_of(tmp_path / "c", [FINE, OTHER, MAPS, TIMES, CLIP]))
    inputs = inputs_of(cache, SMALL.revised(fields="audio/other, video/clip"))
    assert [field.name for field in inputs.sound] == ["audio/other"]
    assert inputs.frames is not None
    assert inputs.frames.name == "video/clip"
    assert inputs.names == ["audio/other", "video/clip"]
    both = inputs_of(cache, SMALL)
    assert both.names == ["audio/fine", "audio/other", "video/maps", "video/time_s", "video/clip"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("audio/finer,video/maps", "did you mean audio/fine?"),
        ("qqq", "it has audio/fine, video/maps"),
        ("audio/fine", "--modality audio"),
        ("video/time_s,audio/fine", "no 'video/time_s'"),
    ],
)
def test_fields_that_can_not_be_chosen_are_refused(
    tmp_path: Path, names: str, message: str
) -> None:
    cache = open_caches(cache_of(tmp_path / "c", [FINE, MAPS, TIMES]))
    with pytest.raises(ConfigError) as caught:
        inputs_of(cache, SMALL.revised(fields=names))
    assert message in str(caught.value)


@pytest.mark.parametrize("several", [False, True])
def test_class_fields_change_the_class_and_never_the_place(tmp_path: Path, several: bool) -> None:
    parts = [cache_of(tmp_path / "a", [FINE, MAPS, TIMES])]
    parts += [cache_of(tmp_path / f.name[-5:], [f], labelled=False) for f in (OTHER, COARSE)]
    data = loaded(joined_name(*parts), class_fields="audio/coarse, audio/other")
    shapes, clips = data.clips.shapes, torch.arange(CLIPS)
    assert data.clips.audio is not None
    assert (shapes.audio_features, shapes.class_only) == (2 * 4, 2 * 3 + 5)
    assert data.clips.audio.shape[2] == shapes.sound_features == 19
    model = model_of(data, events="several" if several else "single")
    before = model(data.clips.batch(clips))
    data.clips.audio[:, :, 8:] += 1.0
    after = model(data.clips.batch(clips))
    assert torch.equal(before.gate_logits, after.gate_logits)
    assert torch.equal(before.interval, after.interval)
    assert not torch.allclose(before.logits, after.logits, atol=1e-3)
    if several:
        assert before.each is not None
        assert after.each is not None
        assert not torch.allclose(before.each, after.each, atol=1e-3)


def test_a_run_with_class_fields_is_stored_and_answers(tmp_path: Path) -> None:
    from train.commands.predict import predict_cache

    cache = cache_of(tmp_path / "a", [FINE, VECTOR, MAPS, TIMES])
    fit(cache, tmp_path / "run", SMALL.revised(class_fields="audio/vector"), pictures=0)
    assert len(predict_cache(tmp_path / "run", cache, pictures=0)) == CLIPS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("audio/vectorr", "class_fields: .* has no 'audio/vectorr'; did you mean audio/vector?"),
        ("video/maps", "video/maps in .* is video, expected sound"),
        ("audio/fine audio/vector", "tells the class alone, and none is left that tells when"),
    ],
)
def test_class_fields_that_can_not_be_are_refused(tmp_path: Path, names: str, message: str) -> None:
    cache = open_caches(cache_of(tmp_path / "c", [FINE, VECTOR, MAPS, TIMES], clips=1))
    with pytest.raises(ConfigError, match=message):
        inputs_of(cache, SMALL.revised(class_fields=names))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Field("audio/wide", (4097,), "float16", "1"), "at most 4,096"),
        (Field("video/x", (8, 4), "float32", "1"), "has no clock"),
    ],
)
def test_fields_that_can_not_be_read_are_refused(
    tmp_path: Path, field: Field, message: str
) -> None:
    cache = open_caches(cache_of(tmp_path / "c", [FINE, MAPS, TIMES, field], clips=1))
    with pytest.raises(CacheError, match=message):
        inputs_of(cache, SMALL)


def test_interpolation_gives_the_very_values_at_the_steps() -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((3, 5, 2)).astype(np.float32)
    time_s = np.sort(rng.random((3, 5)), axis=1)
    found = interpolate(array, time_s, np.full(3, 5), time_s)
    np.testing.assert_array_equal(found, array)
    short = interpolate(array, time_s, np.array([2, 5, 1]), np.full((3, 1), 2.0))
    np.testing.assert_array_equal(short[:, 0], array[[0, 1, 2], [1, 4, 0]])


def test_a_run_is_drawn_scored_and_answers_whatever_its_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from train.commands.evaluate import evaluate_run
    from train.commands.predict import predict_cache

    a = cache_of(tmp_path / "a", [FINE])
    b = cache_of(tmp_path / "b", [CLIP], labelled=False, clips=CLIPS - 1)
    name = joined_name(a, b)
    fit(name, tmp_path / "run", SMALL, pictures=1)
    assert "1 clip(s) left out that" in capsys.readouterr().out
    evaluate_run(tmp_path / "run", name, "test", pictures=1)
    found = predict_cache(tmp_path / "run", name, pictures=1)
    assert len(found) == CLIPS - 1
    with pytest.raises(CacheError, match="trained on other features"):
        predict_cache(tmp_path / "run", a, pictures=0)


def test_a_joined_run_says_how_a_clip_is_answered(tmp_path: Path) -> None:
    from train.runs.clip_features import wanted

    a = cache_of(tmp_path / "a", [FINE])
    b = cache_of(tmp_path / "b", [CLIP], labelled=False)
    fit(joined_name(a, b), tmp_path / "run", SMALL, pictures=0)
    with pytest.raises(ConfigError, match="trained on 2 caches, joined"):
        wanted(tmp_path / "run")
