"""Training end to end on small caches: learning, resume, checkpoints."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from synthetic_cache import labels_for, make_cache
from torch import Tensor

from cache import Cache, open_cache
from cache.common import atomic
from cache.common.errors import ConfigError
from cache.format.schema import BACKGROUND
from train.commands.fit import fit as fit_run
from train.config import TrainConfig
from train.data.batch import Batch
from train.data.dataset import Dataset, load_dataset, resolve
from train.model.fusion import FusionModel
from train.runs.checkpoint import About, CheckpointError, load, save
from train.runs.folders import BEST, LAST
from train.score.calibrate import Calibration, grid_of
from train.score.decode import Evidence
from train.score.metrics import classification, localization
from train.score.named import CRITERION
from train.score.predict import TrainingError, events, predict
from train.training import loop
from train.training import validate as validation
from train.training.choice import kept_epoch
from train.training.cuda_graph import StepGraph
from train.training.loop import Trainer
from train.training.normalize import normalize
from train.training.state import History, TrainState
from train.training.validate import shares_of_seconds, validate

SMALL = TrainConfig(
    device="cpu",
    audio_feat_dim=32,
    video_feat_dim=32,
    map_channels=16,
    batch_size=8,
    learning_rate=3e-3,
    epochs=4,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(make_cache(tmp_path_factory.mktemp("cache"), clips=30, classes=3))


def prepare(cache: Cache, config: TrainConfig) -> tuple[FusionModel, Dataset, About]:
    config = resolve(config, cache, cache.labels.classes)
    dataset = load_dataset(cache, config, ("train", "val"))
    torch.manual_seed(config.seed)
    model = FusionModel(dataset.clips.shapes, config)
    normalize(model, dataset.clips, dataset.splits["train"])
    return model, dataset, About.of(config, dataset, cache)


def trainer_of(model: FusionModel, dataset: Dataset, config: TrainConfig) -> Trainer:
    rows = dataset.splits["train"]
    return Trainer(TrainState.begin(model, config, len(rows)), config, dataset.clips, rows)


def train(
    cache: Cache, config: TrainConfig, run: Path, resume: bool = False
) -> tuple[History, FusionModel]:
    run.mkdir(exist_ok=True)
    model, dataset, about = prepare(cache, config)
    return loop.train_model(model, dataset, about, run, resume), model


def without_time(history: History) -> History:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


@pytest.mark.parametrize(
    ("modality", "miou"), [("both", 0.9), ("audio", 0.9), ("video", 0.8)]
)  # frames alone are 1.25 s apart
def test_sixteen_clips_are_learned_by_heart_and_their_events_placed(
    tmp_path: Path, modality: str, miou: float
) -> None:
    labels = labels_for(16, 4)
    labels.split[:] = 0
    cache = open_cache(
        make_cache(tmp_path / "c", labels=labels, hop_samples=2048, frame_size_px=128)
    )
    config = SMALL.revised(modality=modality, dropout=0.0, label_smoothing=0.0, weight_decay=0.0)
    config = resolve(config, cache, labels.classes)
    dataset = load_dataset(cache, config, ("train",))
    torch.manual_seed(0)
    model = FusionModel(dataset.clips.shapes, config)
    rows = dataset.splits["train"]
    normalize(model, dataset.clips, rows)
    trainer = trainer_of(model, dataset, config)
    for epoch in range(50):
        trainer.train_epoch(epoch)
    truth = events(rows, 10.0)
    said = predict(model, dataset.clips, rows.clip)
    for name, guess in said.read_off(Calibration(grid_s=1.0), 10.0).items():
        assert classification(truth, guess)["top1"] == 1.0
        found = localization(truth, guess)["miou"]
        assert found is not None
        assert found > miou, name
        np.testing.assert_allclose(guess.probability.sum(axis=1), 1, atol=1e-5)


def test_a_model_trained_both_ways_is_asked_both_ways(cache: Cache) -> None:
    model, dataset, about = prepare(cache, SMALL.revised(reversed_share=0.5, average_epochs=0.0))
    rows = dataset.splits["train"]
    both = predict(model, dataset.clips, rows.clip)
    model.config = about.config.revised(reversed_share=0.0)
    forwards = predict(model, dataset.clips, rows.clip)
    clips = dataset.clips
    assert clips.audio is not None
    turned = dataclasses.replace(
        clips,
        audio=clips.audio.flip(1),
        audio_valid=clips.audio_valid.flip(1),
        frame_time_s=10.0 - clips.frame_time_s,
    )
    backwards = predict(model, turned, rows.clip)
    probability = (forwards.probability + backwards.probability) / 2
    np.testing.assert_allclose(both.probability, probability, atol=1e-5)
    np.testing.assert_allclose(both.on, (forwards.on + backwards.on[:, ::-1]) / 2, atol=1e-5)
    cells = (forwards.cells + backwards.cells[:, ::-1]) / 2
    np.testing.assert_allclose(both.cells, cells, atol=1e-5)
    np.testing.assert_allclose(
        both.start_s, (forwards.start_s + 10 - backwards.end_s) / 2, atol=1e-4
    )


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    cache: Cache, tmp_path: Path
) -> None:
    config = SMALL.revised(selection="best")  # else the learning rate depends on the last epoch
    whole, model = train(cache, config, tmp_path / "whole")
    train(cache, config.revised(epochs=2), tmp_path / "parts")
    parts, resumed = train(cache, config, tmp_path / "parts", resume=True)
    assert without_time(parts) == without_time(whole)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    best = [load(tmp_path / run / BEST)[0].state_dict() for run in ("whole", "parts")]
    assert all(torch.equal(value, best[1][name]) for name, value in best[0].items())


def test_a_run_that_is_stopped_within_an_epoch_loses_only_that_epoch(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = train(cache, SMALL, tmp_path / "whole")
    original, calls = Trainer.train_step, []

    def stop_later(self: Trainer, *arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 8:  # three steps an epoch: in the third
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", stop_later)
    with pytest.raises(KeyboardInterrupt):
        train(cache, SMALL, tmp_path / "parts")
    monkeypatch.undo()
    assert len(list((tmp_path / "parts").iterdir())) == 2
    parts, _ = train(cache, SMALL, tmp_path / "parts", resume=True)
    assert without_time(parts) == without_time(whole)


def test_seeds_matter_and_repeat(cache: Cache, tmp_path: Path) -> None:
    one, _ = train(cache, SMALL.revised(epochs=1), tmp_path / "a")
    same, _ = train(cache, SMALL.revised(epochs=1), tmp_path / "b")
    other, _ = train(cache, SMALL.revised(epochs=1, seed=7), tmp_path / "c")
    assert without_time(one) == without_time(same)
    assert one[0]["train_loss"] != other[0]["train_loss"]


def test_the_best_epoch_is_kept_and_patience_ends_training(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.3, 0.6, 0.5, 0.6, 0.9])  # of equals the first is the best
    decodings = iter(["interval", "gate", "interval", "interval"])
    monkeypatch.setattr(
        loop,
        "validate",
        lambda *_: (
            {
                "val_class_loss": 0.0,
                "val_top1": 0.0,
                "val_miou": 0.0,
                f"val_{CRITERION}": next(scores),
            },
            {"decoding": next(decodings)},
        ),
    )
    config = SMALL.revised(selection="best", epochs=9, patience=2)
    config = config.revised(scheduler_patience=0, scheduler_factor=0.1)
    history, _ = train(cache, config, tmp_path / "run")
    assert len(history) == 4
    assert kept_epoch(history, config) == 2
    about = load(tmp_path / "run" / BEST)[1]
    assert (about.epoch, about.score, about.decoding) == (2, 0.6, "gate")
    rates = [entry["learning_rate"] for entry in history]
    assert rates == pytest.approx([3e-3, 3e-3, 3e-3, 3e-4])


def test_a_resumed_run_lowers_its_rate_when_it_would_have(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(*scores: float) -> None:
        values, others = iter(scores), dict.fromkeys(("val_class_loss", "val_top1", "val_miou"), 0)
        monkeypatch.setattr(
            loop, "validate", lambda *_: ({**others, f"val_{CRITERION}": next(values)}, {})
        )

    config = SMALL.revised(selection="best", scheduler_patience=1, scheduler_factor=0.1)
    scored(0.6, 0.5)
    train(cache, config.revised(epochs=2), tmp_path)
    scored(0.4, 0.3)
    history, _ = train(cache, config, tmp_path, resume=True)
    rates = [entry["learning_rate"] for entry in history]
    assert rates == pytest.approx([3e-3, 3e-3, 3e-3, 3e-4])


def test_the_average_is_what_is_validated_and_kept(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(model: FusionModel, *rest: Any) -> tuple[dict[str, float], dict[str, Any]]:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return validate(model, *rest)

    monkeypatch.setattr(loop, "validate", watched)
    train(cache, SMALL.revised(epochs=1), tmp_path)
    now, _, payload = load(tmp_path / LAST)
    kept = load(tmp_path / BEST)[0].state_dict()
    for name, value in payload["average"].items():
        assert torch.equal(seen[0][name], value), name
        assert torch.equal(kept[name], value), name
    assert not torch.equal(now.classify.weight, kept["classify.weight"])


def test_the_last_weights_are_kept_while_the_rate_falls(cache: Cache, tmp_path: Path) -> None:
    config = SMALL.revised(epochs=10, patience=1)
    history, _ = train(cache, config, tmp_path)
    rates = [entry["learning_rate"] / config.learning_rate for entry in history]
    assert rates == pytest.approx([1.0] * 4 + [0.5] * 2 + [0.25] * 2 + [0.1] * 2)
    about = load(tmp_path / BEST)[1]
    assert (about.epoch, kept_epoch(history, config)) == (10, 10)
    assert about.calibration != Calibration()
    assert about.calibration.grid_s == grid_of(cache.labels.start_s, cache.labels.end_s)


def test_validation_chooses_the_decoding(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = train(cache, SMALL.revised(epochs=1), tmp_path / "run")
    config = resolve(SMALL, cache, cache.labels.classes)
    dataset = load_dataset(cache, config, ("train", "val"))
    truth = events(dataset.splits["val"], 10.0)
    right, inside = np.eye(3)[truth.category], shares_of_seconds(truth, 10.0)

    def said(gate_is_right: bool) -> Evidence:
        start_s = truth.end_s if gate_is_right else truth.start_s
        on = inside if gate_is_right else 1 - inside
        return Evidence(right, start_s, truth.end_s, on, np.repeat(on, 10, axis=1))

    for name, other in (("gate", "interval"), ("interval", "gate")):
        monkeypatch.setattr(validation, "predict", lambda *_, n=name: said(n == "gate"))
        values, chosen = validate(model, dataset, 1.0)
        assert chosen["decoding"] == name
        assert values[f"val_{name}_{CRITERION}"] == values[f"val_{CRITERION}"]
        assert values[f"val_{name}_{CRITERION}"] > 0.9 > values[f"val_{other}_{CRITERION}"]
    monkeypatch.setattr(validation, "predict", lambda *_: said(True))
    model.config = model.config.revised(gate_weight=0.0)
    assert validate(model, dataset, 1.0)[1]["decoding"] == "interval", (
        "an untrained gate is not asked"
    )


def test_clips_are_spliced_by_default_where_some_have_no_event(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def spliced(batch: Batch, *given: Any) -> Batch:
        shares.append(given[2])
        return batch

    monkeypatch.setattr(loop, "splice", spliced)
    model, dataset, about = prepare(cache, SMALL)
    rows = dataset.splits["train"]
    trainer_of(model, dataset, about.config).train_epoch(1)
    assert shares == []
    rows.category[0] = BACKGROUND
    trainer_of(model, dataset, about.config).train_epoch(1)
    assert set(shares) == {0.5}


def test_gradients_are_clipped(cache: Cache) -> None:
    model, dataset, about = prepare(cache, SMALL.revised(grad_clip=1e-3))
    trainer = trainer_of(model, dataset, about.config)
    trainer.state.optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    trainer.train_step(torch.arange(8), 8)
    moved = torch.stack(
        [(p.detach() - b).norm() for p, b in zip(model.parameters(), before, strict=True)]
    ).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_not_finite_names_the_epoch(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="epoch 1"):
        train(cache, SMALL.revised(learning_rate=1e30), tmp_path / "run")
    assert not (tmp_path / "run" / LAST).exists()


def test_no_validation_rows_is_an_error(tmp_path: Path) -> None:
    labels = labels_for(6, 3)
    labels.split[:] = 0
    cache = make_cache(tmp_path / "c", labels=labels)
    with pytest.raises(ConfigError, match="the split 'val' has no rows with features"):
        fit_run(cache, tmp_path / "run", SMALL)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_gives_the_same_model_back(cache: Cache, tmp_path: Path) -> None:
    model, dataset, about = prepare(cache, SMALL)
    save(tmp_path / BEST, model, about)
    found, known, _ = load(tmp_path / BEST)
    assert known == about
    batch = dataset.clips.batch(dataset.splits["val"].clip)
    assert torch.equal(found(batch).logits, model.eval()(batch).logits)
    assert [path.name for path in tmp_path.iterdir()] == [BEST]


def test_a_failed_write_leaves_the_old_checkpoint(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, about = prepare(cache, SMALL)
    save(tmp_path / BEST, model, about)
    before = (tmp_path / BEST).read_bytes()

    def full_disk(path: Path) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "sync", full_disk)
    with pytest.raises(CheckpointError, match=rf"{BEST}: can't be written .*make room"):
        save(tmp_path / BEST, model, about)
    assert (tmp_path / BEST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [BEST]


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("a checkpoint ran code",))


def damaged(path: Path, **changes: Any) -> None:
    payload = torch.load(path, weights_only=True)
    torch.save({**payload, **changes}, path)


def test_bad_checkpoints_are_refused_with_a_sentence(cache: Cache, tmp_path: Path) -> None:
    model, _, about = prepare(cache, SMALL)
    path = tmp_path / BEST

    def refuses(words: str) -> None:
        with pytest.raises(CheckpointError, match=words):
            load(path)

    refuses("no checkpoint here")
    path.write_bytes(b"not a checkpoint")
    refuses("not a checkpoint")
    path.write_bytes(pickle.dumps(Payload()))
    refuses("can run code")
    torch.save({"format": "avel-model", "version": 1, "model": Payload()}, path)
    refuses("can run code")
    torch.save([1, 2], path)
    refuses("not a checkpoint of this program")
    save(path, model, about)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuses("not a checkpoint")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"version": 99}, "99"),
        ({"model": {}}, r"don't fit .* missing: audio\.deviation, audio\.first\.bias, .*, …"),
        ({"model": {**state, "new.bias": torch.zeros(2)}}, "1 not known here: new.bias"),
        ({"model": {**state, "gate.bias": torch.tensor([torch.nan])}}, "not finite"),
        (
            {"model": {**state, "gate.bias": torch.zeros(2), "gate.weight": torch.zeros(1)}},
            r"2 of another shape: gate.bias \[2\], expected \[1\], gate.weight \[1\], exp",
        ),
        ({"about": about.revised(classes=["one"]).model_dump_json()}, "class names"),
        (
            {"about": about.revised(shapes={**about.shapes, "classes": 10**12}).model_dump_json()},
            "less than or equal",
        ),
    ]
    for changes, words in cases:
        save(path, model, about)
        damaged(path, **changes)
        refuses(words)


def test_resuming_on_another_cache_is_refused(cache: Cache, tmp_path: Path) -> None:
    train(cache, SMALL.revised(epochs=1), tmp_path / "run")
    model, dataset, about = prepare(cache, SMALL)
    with pytest.raises(CheckpointError, match="another cache"):
        loop.train_model(
            model, dataset, about.revised(fingerprint="0" * 64), tmp_path / "run", True
        )


@pytest.mark.parametrize(
    "average", [None, {}, {"gate.bias": torch.zeros(7)}, {"gate.bias": "x"}, {"unknown": 1.0}]
)
def test_a_foreign_average_of_weights_is_refused_with_a_sentence(
    cache: Cache, tmp_path: Path, average: object
) -> None:
    train(cache, SMALL.revised(epochs=1), tmp_path)
    payload = torch.load(tmp_path / LAST, weights_only=True)
    if average is None:
        del payload["average"]
    else:
        payload["average"] = average or "no weights"
    torch.save(payload, tmp_path / LAST)
    model, dataset, about = prepare(cache, SMALL)
    with pytest.raises(CheckpointError, match=r"last\.pth: average"):
        loop.train_model(model, dataset, about, tmp_path, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_step_trains_like_a_plain_one(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.revised(device="cuda", dropout=0.0, batch_size=4)
    found = []
    for warm_up in (3, 10**9):  # the second never captures
        monkeypatch.setattr(StepGraph, "_WARM_UP", warm_up)
        model, dataset, about = prepare(cache, config)
        model.cuda()
        trainer = trainer_of(model, dataset, about.config)
        found.append([trainer.train_epoch(epoch)[0] for epoch in range(4)])
        step = trainer._step
        assert isinstance(step, StepGraph)
        assert (step._graph is not None) is (warm_up == 3)
    assert found[0] == pytest.approx(found[1], rel=2e-2)


def test_each_epoch_takes_every_row_once_in_an_order_of_its_own(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = Trainer.train_step, []

    def watch(self: Trainer, chosen: Tensor, count: int) -> Tensor:
        seen.extend(chosen.tolist())
        return original(self, chosen, count)

    monkeypatch.setattr(Trainer, "train_step", watch)
    train(cache, SMALL.revised(epochs=2), tmp_path / "run")
    half = len(seen) // 2
    assert sorted(seen[:half]) == sorted(seen[half:]) == list(range(18))
    assert seen[:half] != seen[half:]
