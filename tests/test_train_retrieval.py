"""Which picture a sound belongs to: scores by hand, the common space, streams, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic_cache import labels_for, make_cache
from tiny_runs import FLAGS, TINY

from cache import open_cache
from cache.common.strict_json import read_json
from train.__main__ import main
from train.config import TrainConfig
from train.data.dataset import Dataset, load_dataset, resolve
from train.data.maps import FrameMaps
from train.model.fusion import FusionModel
from train.runs.looks import count_looks
from train.score.metrics import Events
from train.score.retrieval import (
    CommonSpace,
    cosines,
    localization_accuracy,
    localized,
    recalls,
    recalls_of_chance,
)
from train.score.streams import streams
from train.training.normalize import normalize

CLIP_S = 10.0


def test_recalls_by_hand() -> None:
    likeness = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.5, 0.5, 0.5]])
    found = recalls(likeness)
    assert found["recall@1"] == pytest.approx(1 / 3)
    assert found["recall@5"] == found["recall@10"] == 1
    assert found["median_rank"] == 2, "ranks 1, 2 and, of equals, the last: 3"
    assert set(recalls(np.zeros((0, 0))).values()) == {None}


def test_chance_is_what_drawn_orders_have() -> None:
    rng = np.random.default_rng(0)
    drawn = [recalls(rng.random((12, 12))) for _ in range(400)]
    for name, expected in recalls_of_chance(12).items():
        values = [one[name] for one in drawn]
        assert np.mean(np.array(values, np.float64)) == pytest.approx(expected, abs=0.3)
    assert recalls_of_chance(3)["recall@5"] == 1


def test_what_both_streams_share_is_found_whatever_else_they_hold() -> None:
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((600, 3))
    audio = np.hstack([shared @ rng.standard_normal((3, 5)), 4 * rng.standard_normal((600, 4))])
    video = np.hstack([7 * rng.standard_normal((600, 6)), shared @ rng.standard_normal((3, 8))])
    audio, video = np.hstack([audio, np.ones((600, 1))]), video + 5
    space = CommonSpace.of(audio[:500], video[:500])
    found = recalls(cosines(space.heard(audio[500:]), space.seen(video[500:])))
    assert found["recall@1"] is not None
    assert found["recall@1"] > 0.3 > 10 * (recalls_of_chance(100)["recall@1"] or 1)
    np.testing.assert_array_equal(CommonSpace.of(audio[:500], video[:500]).audio[1], space.audio[1])
    np.testing.assert_allclose(np.linalg.norm(space.heard(audio), axis=1), 1)


def test_seconds_are_found_where_they_are_most_alike() -> None:
    target = np.eye(6)
    assert localized(target[2:4], target, 2, 2)
    assert not localized(target[2:4], target, 1, 2)
    assert localized(np.ones((2, 6)), target, 0, 2), "of equals the first"


def test_localization_takes_events_shorter_than_their_clip() -> None:
    marks = np.tile(np.eye(10), (5, 1, 1))
    truth = Events(
        np.array([0, 1, 2, 0, -1]),
        np.array([0.0, 2.2, np.nan, 4.1, 0.0]),
        np.array([10.0, 4.8, np.nan, 4.3, 0.0]),
    )
    found = localization_accuracy(marks, marks, truth, CLIP_S)
    assert found == {"audio_to_video": 1, "video_to_audio": 1, "chance": 1 / 8, "events": 1}
    none = localization_accuracy(marks[:1], marks[:1], truth.of(np.array([0])), CLIP_S)
    assert none["audio_to_video"] is None
    assert none["events"] == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {**TINY, "clip_seconds": CLIP_S, "num_frames": 8, "frame_size_px": 128}
    place = tmp_path_factory.mktemp("retrieval") / "cache"
    return make_cache(place, labels=labels_for(30, 3), **settings)


@pytest.fixture
def known(folder: Path) -> tuple[FusionModel, Dataset]:
    cache = open_cache(folder)
    config = TrainConfig(events="single", device="cpu", audio_feat_dim=16, video_feat_dim=24)
    config = resolve(config, cache, cache.labels.classes)
    dataset = load_dataset(cache, config)
    torch.manual_seed(0)
    model = FusionModel(dataset.clips.shapes, config)
    normalize(model, dataset.clips, dataset.splits["train"])
    return model, dataset


def test_streams_are_of_the_clips_asked_for_and_apart(known: tuple[FusionModel, Dataset]) -> None:
    model, dataset = known
    clips, rows = dataset.clips, torch.tensor([5, 0, 3, 5])
    found = streams(model, clips, rows)
    assert found.audio.shape == (4, 10, 16)
    assert found.video.shape == (4, 10, 24)
    assert found.heard.all()
    alone = streams(model, clips, rows[1:2])
    np.testing.assert_allclose(alone.audio[0], found.audio[1], atol=1e-5)
    np.testing.assert_allclose(found.video[0], found.video[3], atol=1e-5)
    assert clips.audio is not None
    clips.audio[:] = 0
    silent = streams(model, clips, rows)
    np.testing.assert_array_equal(silent.video, found.video)
    assert not np.allclose(silent.audio, found.audio)


def test_streams_know_no_time(known: tuple[FusionModel, Dataset]) -> None:
    """Where all frames are alike, all seconds are: by the time alone any would be found again."""
    model, dataset = known
    assert isinstance(dataset.clips.maps, FrameMaps)
    frames = dataset.clips.maps
    frames.cells[:] = frames.cells[:, :1]
    frames.means[:] = frames.means[:, :1]
    video = streams(model, dataset.clips, torch.arange(4)).video
    np.testing.assert_allclose(video, np.repeat(video[:, :1], 10, axis=1), atol=1e-5)
    assert not np.allclose(video[0], video[1])


def words(cache: Path, run: Path) -> list[str]:
    return ["--cache", str(cache), "--run", str(run)]


def test_a_run_is_scored_and_looks_at_test_count(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["fit", *words(folder, run), *FLAGS, "--seeds", "2"]) == 0
    capsys.readouterr()
    for split, looks in (("val", 0), ("test", 1)):
        assert main(["retrieve", *words(folder, run), "--split", split]) == 0
        told = capsys.readouterr().out
        assert "6 clips with an event, 2 model(s)" in told
        assert "sound → picture" in told
        assert "which seconds" in told
        found = read_json(run / "seed-0" / f"retrieval_{split}.json")
        assert found["chance"]["recall@1"] == pytest.approx(1 / 6)
        assert 0 <= found["audio_to_video"]["recall@5"] <= 1
        assert count_looks(run / "seed-0") == looks
    assert main(["retrieve", *words(folder, run), "--split", "val"]) == 0
    assert read_json(run / "seed-1" / "retrieval_val.json")["clips"] == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--modality", "audio"], "found modality audio"),
        (["--events", "several"], "events several"),
    ],
)
def test_other_runs_are_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    run = tmp_path / "run"
    assert main(["fit", *words(folder, run), *FLAGS, *flags]) == 0
    capsys.readouterr()
    assert main(["retrieve", *words(folder, run)]) == 2
    assert message in capsys.readouterr().err
