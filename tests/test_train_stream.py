"""Training beyond memory: the same as in memory up to the order of rows, whatever happens."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_cache import labels_for, make_cache
from tiny_runs import TINY
from torch import Tensor

from cache import Cache, open_cache
from cache.common.errors import CacheError, ConfigError
from train.commands import fit as fitting
from train.commands.evaluate import evaluate_run
from train.commands.plan import ABLATIONS, WHOLE, Job
from train.commands.predict import predict_cache
from train.commands.training import Trainings
from train.config import TrainConfig
from train.data import features, reader
from train.data import memory as memory_module
from train.data import stream as stream_module
from train.data.dataset import Dataset, Samples, load_dataset, resolve
from train.data.features import FeatureStore, load_features
from train.data.memory import free_host, room
from train.data.reader import FeatureReader
from train.data.stream import Stream, plan_epoch
from train.distributed import SINGLE_PROCESS
from train.model.fusion import FusionModel
from train.report import pictures
from train.runs.folders import BEST
from train.score.predict import predict
from train.training import loop
from train.training.normalize import normalize
from train.training.state import TrainState

CONFIG = TrainConfig(
    device="cpu",
    audio_feat_dim=32,
    video_feat_dim=32,
    map_channels=16,
    batch_size=8,
    epochs=2,
    num_heads=2,
)
CLIPS = 150

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reader, stream_module, features):
        monkeypatch.setattr(module, "PART_CLIPS", 4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    labels = labels_for(CLIPS, 3)
    labels.start_s[:] = np.minimum(labels.start_s / 10, 1.0)
    labels.end_s[:] = np.minimum(labels.start_s + 1, 2.0)
    labels.ids[1] = labels.ids[0]  # two events in one clip
    folder = tmp_path_factory.mktemp("stream") / "cache"
    return open_cache(make_cache(folder, labels=labels, **TINY))


@pytest.fixture
def tight(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget with room for 30 of the clips."""

    def where(
        cache: Cache, config: TrainConfig, device: torch.device, count: int, one: int
    ) -> tuple[int, str, bool]:
        return 30, "streamed", False

    monkeypatch.setattr(features, "_where", where)


def prepare(cache: Cache, **changes: Any) -> tuple[TrainConfig, Dataset]:
    config = resolve(CONFIG.revised(**changes), cache, cache.labels.classes)
    return config, load_dataset(cache, config)


def trainer(dataset: Dataset, config: TrainConfig) -> tuple[FusionModel, loop.Trainer]:
    torch.manual_seed(config.seed)
    model = FusionModel(dataset.clips.shapes, config)
    normalize(model, dataset.clips, dataset.splits["train"])
    rows = dataset.splits["train"]
    state = TrainState.begin(model, config, len(rows))
    return model, loop.Trainer(state, config, dataset.clips, rows)


def drawn_by(clips: FeatureStore, rows: Samples, size: int = 8, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    order = torch.randperm(len(rows))
    return [chosen.clone() for chosen, _ in clips.epoch(order, rows.clip, size)]


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    size=st.integers(1, 9),
    extra=st.integers(0, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_plan_draws_every_sample_once_from_clips_that_are_there(
    lengths: list[int], size: int, extra: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    clips = rng.permutation(2 * sum(lengths))[: sum(lengths)]
    parts = np.split(clips, np.cumsum(lengths)[:-1])
    clip = np.concatenate([clips, rng.choice(clips, rng.integers(0, 10))])
    slots = size + max(lengths) + extra
    plan = plan_epoch(rng.permutation(len(clip)), clip, parts, slots, size)
    assert sorted(plan.samples) == list(range(len(clip)))
    held, done = {}, 0
    for number in range(-(-len(clip) // size)):
        while done < len(plan.parts) and plan.before[done] <= number:
            for k, one in enumerate(plan.parts[done]):
                held[(plan.begins[done] + k) % slots] = one
            done += 1
        batch = plan.samples[number * size : (number + 1) * size]
        assert set(clip[batch]) <= set(held.values())
    assert done == len(plan.parts)


def test_a_batch_mixes_the_whole_window() -> None:
    parts = np.split(np.arange(4000), 125)
    order = np.random.default_rng(0).permutation(4000)
    plan = plan_epoch(order, np.arange(4000), parts, 1000, 32)
    assert plan.window > 850
    middle = plan.samples[1600:2400].reshape(-1, 32)
    apart = [len(np.unique(batch // 32)) for batch in middle]  # parts a batch is made of
    assert np.mean(apart) > 15
    again = plan_epoch(order, np.arange(4000), parts, 1000, 32)
    np.testing.assert_array_equal(plan.samples, again.samples)


def test_every_row_comes_once_an_epoch_in_another_order_each_time(
    cache: Cache, tight: None
) -> None:
    _, dataset = prepare(cache)
    rows = dataset.splits["train"]
    assert dataset.clips.stream
    first, same, other = (drawn_by(dataset.clips, rows, seed=seed) for seed in (0, 0, 1))
    for batches in (first, other):
        assert sorted(torch.cat(batches).tolist()) == list(range(len(rows)))
        assert {len(batch) for batch in batches[:-1]} == {8}
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert torch.cat(first).tolist() != torch.cat(other).tolist()


def test_streamed_training_equals_training_in_memory_in_the_same_order(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tight: None
) -> None:
    """Bit for bit: losses and weights, dropout and reversal included."""
    config, streamed = prepare(cache)
    one, ours = trainer(streamed, config)
    drawn, draw = [], Stream.epoch

    def recorded(*arguments: Any) -> Iterator[tuple[Tensor, int]]:
        for chosen, rows in draw(*arguments):
            drawn.append((chosen.clone(), rows))
            yield chosen, rows

    monkeypatch.setattr(Stream, "epoch", recorded)
    losses = [ours.train_epoch(epoch) for epoch in (1, 2)]
    monkeypatch.undo()
    _, loaded = prepare(cache)
    assert loaded.clips.stream is None
    other, theirs = trainer(loaded, config)
    for name in ("mean", "deviation"):  # equal but for rounding, which is another test's
        for kind in ("audio", "video"):
            getattr(other, kind).get_buffer(name).copy_(getattr(one, kind).get_buffer(name))
    half = len(drawn) // 2
    epochs = iter((drawn[:half], drawn[half:]))
    monkeypatch.setattr(FeatureStore, "epoch", lambda *_: (batch for batch in next(epochs)))
    assert losses == [theirs.train_epoch(epoch) for epoch in (1, 2)]
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_statistics_and_answers_are_those_of_memory(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, tight: None
) -> None:
    config, streamed = prepare(cache)
    model, _ = trainer(streamed, config)
    said = predict(model, streamed.clips, streamed.splits["val"].clip)
    monkeypatch.undo()
    _, loaded = prepare(cache)
    other, _ = trainer(loaded, config)
    for name in ("mean", "deviation"):
        for kind in ("audio", "video"):
            ours = getattr(model, kind).get_buffer(name)
            torch.testing.assert_close(ours, getattr(other, kind).get_buffer(name))
    same = predict(model, loaded.clips, loaded.splits["val"].clip)
    for field in dataclasses.fields(said):
        ours, theirs = getattr(said, field.name), getattr(same, field.name)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.system
def test_the_command_streams_ablations_seeds_and_pictures(
    cache: Cache,
    tight: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(pictures, "GALLERY", 2)
    config = CONFIG.revised(epochs=1)
    fitting.fit(cache.path, run, config, seeds=[0], ablations=True, pictures=1)
    assert "streamed" in capsys.readouterr().out
    for name in ABLATIONS:
        assert (run / name / "seed-0" / "report.html").exists()
    assert evaluate_run(run / "both", cache.path, "test", pictures=0)
    assert len(predict_cache(run / "both", cache.path, pictures=1)) == len(cache)


def test_a_resumed_streamed_run_equals_an_uninterrupted_one(
    cache: Cache, tight: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(name: str, resume: bool = False) -> None:
        config, dataset = prepare(cache)
        (tmp_path / name).mkdir(exist_ok=True)
        job = Job(name, config, WHOLE, None)
        kind = job.part, config.modality
        shared = Trainings(
            cache, {WHOLE: dataset}, {kind: dataset}, None, tmp_path, resume, 0, SINGLE_PROCESS
        )
        shared.run(job)

    original = loop.Trainer.train_epoch

    def stopped(self: loop.Trainer, epoch: int) -> list[float]:
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch)

    train("whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            train("parts")
    train("parts", resume=True)
    paths = [tmp_path / name / BEST for name in ("whole", "parts")]
    models = [torch.load(path, weights_only=True)["model"] for path in paths]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_shard_that_is_lost_within_an_epoch_is_one_error_and_no_thread_stays(
    cache: Cache, tight: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, dataset = prepare(cache)
    _, epochs = trainer(dataset, config)
    read, calls = FeatureReader._fetch, []

    def lose(self: FeatureReader, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 10:
            raise CacheError("shards/x.h5: gone")
        return read(self, *arguments)

    monkeypatch.setattr(FeatureReader, "_fetch", lose)
    with pytest.raises(CacheError, match="gone"):
        epochs.train_epoch(1)
    assert not [t for t in threading.enumerate() if t.name.startswith("avel-reading")]


def test_an_epoch_that_is_abandoned_leaves_no_thread(cache: Cache, tight: None) -> None:
    _, dataset = prepare(cache)
    batches = dataset.clips.epoch(torch.arange(90), dataset.splits["train"].clip[:90], 8)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("avel-reading")]


def test_the_mode_follows_from_the_budget_and_is_told(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(**changes: Any) -> FeatureStore:
        config = resolve(CONFIG.revised(**changes), cache, cache.labels.classes)
        return load_features(cache, config, cache.ids, 3)

    one = 4 * 2 * 35 * 4 + 2 * 576 * (4 * 2 + 4)
    assert "which fit" in load().mode
    assert "all are in memory" in load().mode
    cached = sum(spec.bytes_per_clip for spec in cache.fields.values())
    reading = (reader.AHEAD + reader.READERS + 1) * 4 * (2 * cached + one)
    clips = load(memory_gb=(reading + 40.5 * one) / 1e9)
    assert clips.stream
    assert clips.maps is not None
    assert clips.audio is not None
    assert clips.stream.slots == len(clips.maps.cells) == len(clips.audio) == 40
    assert "--memory-gb" in clips.mode
    assert "streamed from the disk, 40 clips at a time" in clips.mode
    with pytest.raises(ConfigError, match="raise --memory-gb"):
        load(memory_gb=reading / 1e9)
    monkeypatch.setattr(memory_module, "free_host", lambda: 1)
    with pytest.raises(ConfigError, match="stream them takes"):
        load()


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limit_counts(
    version: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kinds, _, limit, usage, cached = memory_module._VERSIONS[2 - version]
    monkeypatch.setattr(memory_module, "_VERSIONS", [(kinds, tmp_path, limit, usage, cached)])
    (tmp_path / "own").write_text(f"3:cpu:/elsewhere\n{2 - version}:{kinds}:/jobs/7\n")
    monkeypatch.setattr(memory_module, "_OWN_GROUPS", tmp_path / "own")
    job = tmp_path / "jobs" / "7"
    job.mkdir(parents=True)
    for group, most in ((tmp_path, 4_000_000), (job, 3_000_000)):
        (group / limit).write_text(f"{most}\n")
        (group / usage).write_text("2500000\n")
        (group / "memory.stat").write_text(f"anon 1\n{cached} 500000\n")
    assert free_host() == 1_000_000
    assert room(torch.device("cpu"), None) == 900_000
    assert room(torch.device("cpu"), 0.0001) == 100_000
    (job / limit).write_text("max\n")
    assert free_host() == 2_000_000
    (tmp_path / limit).unlink()
    assert free_host() > 10_000_000


def test_parts_that_stay_in_host_memory_are_read_once(
    cache: Cache, tight: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dataset = prepare(cache)
    stream = dataset.clips.stream
    assert stream is not None
    stream = dataclasses.replace(stream, reader=dataclasses.replace(stream.reader, kept={}))
    clips = dataclasses.replace(dataset.clips, stream=stream)
    rows = dataset.splits["train"]
    drawn_by(clips, rows)
    monkeypatch.setattr(FeatureReader, "_decoded", None)
    assert len(torch.cat(drawn_by(clips, rows, seed=1))) == len(rows)
