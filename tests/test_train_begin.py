"""Begin from another run: what is taken, what is refused, and what its clips are told as."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, copied, score, tiny_labels

from cache import open_cache
from cache.common.strict_json import read_json
from train import __main__ as cli
from train.commands import fit as fitting
from train.config import TrainConfig
from train.data.dataset import choose_rows, load_dataset, resolve
from train.model.fusion import FusionModel
from train.runs import record
from train.runs.checkpoint import load
from train.runs.folders import BEST
from train.runs.making import Making
from train.runs.trained import load_run
from train.training import loop
from train.training.begin import Start, starts
from train.training.normalize import normalize

NEW = ["Class 2", "Bark", "Class 0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of one kind of features, and a run of two seeds on the first.

    The second has other clips, but for one, and other classes, but for two.
    """
    top = tmp_path_factory.mktemp("made")
    make_cache(top / "big", labels=tiny_labels(), **TINY)
    labels = tiny_labels(15)
    ids = ["clip00003", *(f"own{n}" for n in range(14))]
    own = dataclasses.replace(labels, ids=ids[1:] + ids[:1], classes=NEW)
    make_cache(top / "own", labels=own, seed=1, **TINY)
    assert fit(top / "big", top / "before", "--seeds", "2") == 0
    return top


def fit(cache: Path, run: Path, *more: str) -> int:
    return cli.main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS, *more])


def begun(made: Path, run: Path, *more: str) -> int:
    return fit(made / "own", run, "--init", str(made / "before"), *more)


def settings(made: Path, **changes: object) -> TrainConfig:
    stored = TrainConfig.from_json(made / "before" / "seed-0" / "config.json")
    return stored.revised(**changes)


def refused(capsys: pytest.CaptureFixture[str], told: str, code: int, run: Path) -> None:
    shown = capsys.readouterr().err
    assert code == 2
    assert told in shown
    assert "Traceback" not in shown
    assert not run.exists()


@pytest.mark.parametrize("modality", ["both", "audio"])
def test_before_the_first_step_the_weights_are_the_other_runs(made: Path, modality: str) -> None:
    cache = open_cache(made / "own")
    config = settings(made, modality=modality)
    (start, other) = starts(made / "before", cache, config)
    assert (start.name, other.name) == ("before/seed-0", "before/seed-1")
    path = made / "before" / "seed-0" / BEST
    assert start.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    config = resolve(config, cache, cache.labels.classes)
    dataset = load_dataset(cache, config, ("train", "val"), choose_rows(cache, config))
    model = FusionModel(dataset.clips.shapes, config)
    normalize(model, dataset.clips, dataset.splits["train"])
    drawn = {name: value.clone() for name, value in model.state_dict().items()}
    told = start.take_over(model, dataset.classes)
    theirs = start.one.model.state_dict()
    fresh = {"fuse.0.weight"} if modality == "audio" else set()
    for name, value in model.state_dict().items():
        if name.startswith("classify"):
            assert torch.equal(value[0], theirs[name][2])
            assert torch.equal(value[1], drawn[name][1]), "a class that the other run lacks"
            assert torch.equal(value[2], theirs[name][0])
        else:
            assert torch.equal(value, (drawn if name in fresh else theirs)[name]), name
    assert not torch.equal(drawn["audio.mean"], theirs["audio.mean"]), "statistics are taken too"
    assert "2 of 3 classes by name; fresh: classes Bark" in told
    assert ("fuse.0.weight" in told) == bool(fresh)


def test_the_record_names_the_run_and_keeps_what_it_has_seen(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert begun(made, run, "--seeds", "3") == 0
    told = capsys.readouterr().out
    assert "learning rate 3.3e-04: a third of the default" in told
    names = [f"before/seed-{n}" for n in (0, 1, 0)]
    for seed, name in enumerate(names):
        assert f"init: from {name} (sha256 " in told
        place = run / f"seed-{seed}"
        about = load(place / BEST)[1]
        assert about.config.learning_rate == pytest.approx(1e-3 / 3)
        found = record.read(place, about)
        assert found is not None
        assert found.making is not None
        assert found.making.init is not None
        assert found.making.init.run == name
        before = record.read(made / "before" / "seed-0", load(made / "before/seed-0" / BEST)[1])
        assert before is not None
        assert found.earlier == before.ids("train") | before.ids("val")
        assert str(made) not in (place / "record.json").read_text().split('"init"')[1]
    assert load_run(run).about.classes == NEW


def test_clips_of_the_earlier_training_are_told_where_they_are_scored(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert begun(made, run) == 0
    capsys.readouterr()
    result = score(run, made / "own")
    assert result["seen"] == {"train": ["clip00003"], "val": []}
    assert "1 of its clips the run was trained on (clip00003)" in capsys.readouterr().out
    assert "model, without 1 seen" in result["scores"]
    after = tmp_path / "after"
    assert fit(made / "own", after, "--init", str(run)) == 0
    assert score(after, made / "own")["seen"]["train"] == ["clip00003"], "and so on"


def test_what_was_seen_stays_unknown_where_the_earlier_run_has_no_record(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = copied(made / "before" / "seed-0", tmp_path)
    (old / "record.json").unlink()
    (old / "trained_on.h5").unlink()
    assert fit(made / "own", tmp_path / "run", "--init", str(old)) == 0
    assert "which clips they have seen is not known" in capsys.readouterr().out
    assert not score(tmp_path / "run", made / "own")["seen_known"]
    words = ["predict", "--run", str(tmp_path / "run"), "--cache", str(made / "own")]
    assert cli.main([*words, "--pictures", "0"]) == 0
    found = read_json(tmp_path / "run" / "predictions" / "predictions.json")
    assert {entry["seen"] for entry in found} == {"train", "val", "unknown"}


def test_a_clip_seen_earlier_is_warned_of_where_it_selects(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(made / "big", tmp_path / "run", "--init", str(made / "before")) == 0
    told = capsys.readouterr().out
    assert "they have seen 6 of the 6 clips that are to select or be scored here" in told
    assert "fresh: nothing" in told
    assert "6 of its clips the run was trained on" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--num-heads", "4"], "pass --num-heads 2"),
        (["--audio-feat-dim", "32", "--audio-rate-hz", "1"], "pass --audio-feat-dim 16 --audio-ra"),
        (["--modality", "video", "--map-channels", "16"], "pass --map-channels 8"),
    ],
)
def test_other_settings_are_refused_with_those_to_pass(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    refused(capsys, told, begun(made, tmp_path / "run", *words), tmp_path / "run")


def test_a_missing_stream_other_features_and_no_run_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, heard = tmp_path / "run", tmp_path / "heard"
    assert fit(made / "big", heard, "--modality", "audio") == 0
    code = fit(made / "own", run, "--init", str(heard))
    refused(capsys, "has no weights for video", code, run)
    assert fit(made / "own", tmp_path / "also", "--init", str(heard), "--modality", "audio") == 0
    other = make_cache(tmp_path / "c", labels=tiny_labels(15), **{**TINY, "n_mfcc": 3})
    code = fit(other, run, "--init", str(made / "before"))
    refused(capsys, "was trained on other features", code, run)
    refused(capsys, "no trained run here", begun_from(made, run, tmp_path), run)


def begun_from(made: Path, run: Path, init: Path) -> int:
    return fit(made / "own", run, "--init", str(init))


def test_the_learning_rate_is_the_persons_where_one_is_set(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--init", str(made / "before"), "--print-config"]
    config = tmp_path / "config.json"
    config.write_text('{"learning_rate": 0.5}')
    for more, rate in (
        ([], 1e-3 / 3),
        (["--preset", "classic"], 1e-4 / 3),
        (["--learning-rate", "0.001"], 1e-3),
        (["--config", str(config)], 0.5),
        (["--config", str(config), "--learning-rate", "0.25"], 0.25),
    ):
        with pytest.raises(SystemExit):
            cli.main([*words, *more])
        assert TrainConfig.parse(read(capsys)).learning_rate == pytest.approx(rate)


def read(capsys: pytest.CaptureFixture[str]) -> object:
    import json

    return json.loads(capsys.readouterr().out)


def test_a_resumed_run_keeps_its_beginning(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, taken = tmp_path / "run", []
    original = loop.Trainer.train_epoch

    def stop_in_the_second(trainer: loop.Trainer, epoch: int) -> list[float]:
        taken.append(epoch)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return original(trainer, epoch)

    monkeypatch.setattr(fitting, "most_at_once", lambda _: 1)
    monkeypatch.setattr(loop.Trainer, "train_epoch", stop_in_the_second)
    assert begun(made, run, "--seeds", "2") == 130
    init = ["--init", str(made / "before")]
    words = ["fit", "--cache", str(made / "own"), "--run", str(run), "--resume", "--seeds", "2"]
    words += ["--pictures", "0"]
    capsys.readouterr()
    assert cli.main(words) == 2
    assert "can't be resumed without --init: it began with the weights of before/seed-0" in (
        capsys.readouterr().err
    )
    assert cli.main([*words, "--init", str(made / "before" / "seed-1")]) == 2
    assert "pass --init with the run that it began from" in capsys.readouterr().err
    assert cli.main([*words, *init]) == 0
    assert "init: from before/seed-1" in capsys.readouterr().out
    assert cli.main([*words, "--epochs", "2"]) == 0, "all have begun"
    for seed in (0, 1):
        making = Making.of(run / f"seed-{seed}")
        assert making is not None
        assert making.init is not None
        assert making.init.run == f"before/seed-{seed}"
    plain = tmp_path / "plain"
    assert fit(made / "own", plain) == 0
    words[4] = str(plain)
    assert cli.main([*[word for word in words if word not in ("--seeds", "2")], *init]) == 2
    assert "it began with no other run's weights; drop --init" in capsys.readouterr().err


def test_folds_begin_from_the_run_as_well(made: Path, tmp_path: Path) -> None:
    assert begun(made, tmp_path / "run", "--folds", "3", "--folds-of", "all") == 0
    for fold in (1, 2, 3):
        making = Making.of(tmp_path / "run" / f"fold-{fold}")
        assert making is not None
        assert making.init is not None
        assert making.init.run == "before/seed-0"
    result = read_json(tmp_path / "run" / "metrics_folds.json")
    assert result["seen"]["train"] == ["clip00003"]
    assert "model, without 1 seen" in result["scores"]


def test_a_record_whose_seen_clips_are_gone_is_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert begun(made, tmp_path / "run") == 0
    (tmp_path / "run" / record.EARLIER_FILE).unlink()
    words = ["predict", "--run", str(tmp_path / "run"), "--cache", str(made / "own")]
    assert cli.main(words) == 2
    assert "copy the run's folder again" in capsys.readouterr().err


def test_what_does_not_fit_in_a_stream_is_named(made: Path) -> None:
    cache = open_cache(made / "own")
    (start, _) = starts(made / "before", cache, settings(made))
    shapes = dataclasses.replace(start.one.model.shapes, audio_features=5)
    with pytest.raises(Exception, match=r"don't fit .*: audio.mean \[\d+\], expected \[5\]"):
        Start(start.one, "x", "").take_over(FusionModel(shapes, settings(made)), NEW)
