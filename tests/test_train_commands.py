"""The command line and what it leaves behind: runs, scores, pictures, refusals."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_cache import labels_for, make_cache

from cache import open_cache
from train import __main__ as cli
from train.commands import fit as fitting
from train.commands.evaluate import evaluate_run
from train.commands.predict import predict_cache
from train.config import PRESETS, TrainConfig
from train.data.dataset import load_dataset
from train.report.drawing import FOLDER
from train.report.outcomes import events_to_draw
from train.runs import folders as runs
from train.runs.checkpoint import load
from train.runs.folders import BEST

SMALL = TrainConfig(
    device="cpu",
    audio_feat_dim=32,
    video_feat_dim=32,
    map_channels=16,
    num_heads=2,  # each is drawn, which takes longer than training
    batch_size=8,
    learning_rate=3e-3,
    epochs=2,
)
FLAGS = [
    *("--device", "cpu", "--audio-feat-dim", "32", "--video-feat-dim", "32"),
    *("--map-channels", "16", "--num-heads", "2", "--batch-size", "8"),
    *("--learning-rate", "0.003", "--epochs", "2"),
]
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cache_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "cache"
    return make_cache(folder, clips=30, classes=3, missing=["clip00004"])


@pytest.fixture(scope="module")
def run(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    argv = ["fit", "--cache", str(cache_path), "--run", str(folder), *FLAGS, "--pictures", "1"]
    assert cli.main(argv) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], words: str, *argv: str | Path) -> None:
    assert cli.main([str(word) for word in argv]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown


def test_classic_is_exactly_the_known_set() -> None:
    assert PRESETS["classic"].model_dump(exclude_unset=True) == {
        "num_classes": 28,
        "batch_size": 4,
        "learning_rate": 1e-4,
        "epochs": 30,
        "num_frames": 8,
        "audio_feat_dim": 256,
        "video_feat_dim": 256,
        "num_heads": 8,
        "patience": 10,
        # As before these came to the defaults.
        "selection": "best",
        "map_channels": 64,
        "dropout": 0.2,
        "label_smoothing": 0.1,
        "gate_weight": 0.0,
        "input_dropout": 0.0,
        "average_epochs": 0.0,
        "reversed_share": 0.0,
        "spliced_share": 0.0,
    }


def test_flags_json_and_api_give_one_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(SMALL.to_json())
    for argv in (FLAGS, ["--config", str(path)]):
        with pytest.raises(SystemExit):
            cli.main(["fit", *argv, "--print-config"])
        printed = json.loads(capsys.readouterr().out)
        assert TrainConfig.parse(printed) == SMALL
    assert TrainConfig.from_json(path) == SMALL


def test_unknown_names_are_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"learning_rat": 1}')
    refused(capsys, "did you mean 'learning_rate'?", "fit", "--cache", "c", "--config", path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "--cache", "c", "--learning-rat", "1"])
    assert stop.value.code == 2
    assert "--learning-rate" in capsys.readouterr().err
    refused(capsys, ", ".join(cli.COMMANDS), "train")
    with pytest.raises(SystemExit):
        cli.main(["fit", "--cache", "c", "--num-heads", "7"])
    assert "divisible by num_heads" in capsys.readouterr().err


def test_help_teaches_and_loads_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from train.__main__ import main; "
        "main(['--help']); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False\n")
    assert "python -m train fit --cache" in done.stdout
    whole = {"fit", "sweep", "predict", "annotate", "features", "watch", "export"}
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert "--split" in capsys.readouterr().out or command in whole


def test_training_imports_no_media_library() -> None:
    code = (
        "import importlib, pkgutil, sys, train\n"
        "rooms = pkgutil.walk_packages(train.__path__, 'train.')\n"
        "print(len([importlib.import_module(room.name) for room in rooms]) > 40)\n"
        "print({'librosa', 'cv2', 'av', 'soundfile', 'extract'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "set()"], "every module of train"


def test_a_run_folder_holds_what_it_promises(run: Path, cache_path: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        *(runs.CONFIG_FILE, runs.FEATURES_FILE, runs.HISTORY_FILE, BEST, "last.pth"),
        *("metrics_val.json", "predictions_val.json", "report.html", FOLDER),
        *("record.json", "trained_on.h5", "metrics.jsonl", ".lock"),
    } | ({"tensorboard"} if importlib.util.find_spec("tensorboard") else set())
    config = TrainConfig.from_json(run / runs.CONFIG_FILE)
    assert (config.num_classes, config.num_frames) == (3, 8)
    assert str(cache_path) not in (run / runs.CONFIG_FILE).read_text()
    features = json.loads((run / runs.FEATURES_FILE).read_text())
    assert features == open_cache(cache_path).identity.record()
    result = json.loads((run / "metrics_val.json").read_text())
    assert result["clips_without_features"] == ["clip00004"]
    other = {"gate": "interval", "interval": "gate"}[result["decoding"]]
    assert set(result["scores"]) == {
        *("model", f"model, {other} decoding"),
        *("majority class, whole clip", "majority class, mean interval"),
    }
    values = [v for scores in result["scores"].values() for v in scores.values()]
    assert all(value is None or np.isfinite(value) for value in values)
    assert len(json.loads((run / "predictions_val.json").read_text())) == result["events"]


def test_pictures_are_drawn_and_not_blank(run: Path) -> None:
    drawn = sorted((run / FOLDER).rglob("*.png"))
    kinds = {path.stem.split("_", 1)[-1] for path in drawn if path.parent.name == "val"}
    assert kinds == {"spatial", "temporal", "cross_modal", "card"}
    top = {path.name for path in drawn if path.parent.name == FOLDER}
    assert top == {"curves.png", "intervals_val.png", "confusion_val.png", "gates_val.png"}
    for path in drawn:
        with Image.open(path) as picture:
            assert min(picture.size) > 200
            assert picture.convert("L").getextrema() == (0, 255) or "spatial" in path.name


def test_the_command_line_equals_the_api(run: Path, cache_path: Path, tmp_path: Path) -> None:
    result = fitting.fit(cache_path, tmp_path / "api", SMALL, pictures=0)[0]
    assert result == json.loads((run / "metrics_val.json").read_text())


def test_a_run_normalizes_by_its_training_rows_alone(run: Path, cache_path: Path) -> None:
    model, about, _ = load(run / BEST)
    dataset = load_dataset(open_cache(cache_path), about.config)
    clips, train = dataset.clips, torch.unique(dataset.splits["train"].clip)
    assert clips.audio is not None
    assert model.audio is not None
    heard = clips.audio[train][clips.audio_valid[train]]
    torch.testing.assert_close(model.audio.mean, heard.mean(0), atol=1e-3, rtol=1e-3)


@pytest.mark.system
@pytest.mark.parametrize("modality", ["audio", "video"])
def test_one_modality_runs_to_the_end(cache_path: Path, tmp_path: Path, modality: str) -> None:
    config = SMALL.revised(modality=modality, epochs=1)
    fitting.fit(cache_path, tmp_path / "run", config, pictures=1)
    drawn = {path.stem.split("_", 1)[1] for path in (tmp_path / "run").rglob("val/*.png")}
    spatial = {"spatial"} if modality == "video" else set()
    assert drawn == {"temporal", "card", *spatial}


def test_evaluate_writes_scores_and_records_every_look_at_test(
    run: Path, cache_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", "--run", str(run), "--cache", str(cache_path), "--pictures", "0"]
    for _ in range(2):
        assert cli.main([*argv, "--split", "test"]) == 0
    shown = capsys.readouterr().out
    assert "majority class, whole clip" in shown
    record = (run / "test_evaluations.jsonl").read_text().splitlines()
    result = json.loads((run / "metrics_test.json").read_text())
    assert len(record) == 2
    assert result["test_looks"] == 2
    assert "this run has now been scored on test 2 times" in shown
    assert json.loads(record[1])["miou"] == result["scores"]["model"]["miou"]
    before = json.loads((run / "metrics_val.json").read_text())
    assert cli.main(argv) == 0
    assert json.loads((run / "metrics_val.json").read_text()) == before


def test_predict_needs_no_labels_and_agrees_with_evaluate(
    run: Path, cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_cache(tmp_path / "c", clips=30, classes=3, missing=["clip00004"])
    (other / "labels.h5").unlink()
    found = predict_cache(run, other, out=tmp_path / "out", pictures=1)
    assert found == json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(list((tmp_path / "out").rglob("*_spatial.png"))) == 1
    by_id = {entry["id"]: entry for entry in found}
    for row in json.loads((run / "predictions_val.json").read_text()):
        assert by_id[row["id"]]["predicted"] == row["predicted"]
        assert by_id[row["id"]]["predicted_end_s"] == pytest.approx(
            row["predicted_end_s"], abs=1e-3
        )


def test_seeds_and_report_give_mean_and_deviation(
    run: Path, cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds = tmp_path / "seeds"
    argv = ["fit", "--cache", str(cache_path), "--run", str(seeds), *FLAGS, "--pictures", "0"]
    assert cli.main([*argv, "--seeds", "42", "1"]) == 0
    assert "model (2 seeds)" in capsys.readouterr().out
    own, other = (
        json.loads((seeds / f"seed-{seed}" / "metrics_val.json").read_text()) for seed in (42, 1)
    )
    assert own["scores"] == json.loads((run / "metrics_val.json").read_text())["scores"]
    values = [result["scores"]["model"]["miou"] for result in (own, other)]
    assert cli.main(["report", str(run), str(seeds)]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("mIoU "))
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in line
    together = json.loads((seeds / "metrics_val.json").read_text())
    assert together["seeds"] == [42, 1]
    assert f"{together['scores']['model']['miou']:.3f}" in line
    assert (
        cli.main(["predict", "--run", str(seeds), "--cache", str(cache_path), "--pictures", "0"])
        == 0
    )
    assert "the ensemble of 2 models" in capsys.readouterr().out
    said = json.loads((seeds / "predictions" / "predictions.json").read_text())
    by_id = {entry["id"]: entry for entry in said}
    for row in json.loads((seeds / "predictions_val.json").read_text()):
        assert by_id[row["id"]]["confidence"] == pytest.approx(row["confidence"], abs=1e-4)


@pytest.mark.system
def test_one_number_says_how_many_seeds_and_ablations_train_three_models(
    cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "three"
    argv = ["fit", "--cache", str(cache_path), "--run", str(place), *FLAGS, "--pictures", "0"]
    assert cli.main([*argv, "--epochs", "1", "--seeds", "2", "--ablations"]) == 0
    table = capsys.readouterr().out.rsplit("segment accuracy (AVE)", 1)[0].splitlines()[-1]
    for name in ("both", "audio", "video"):
        found = sorted(path.parent.name for path in (place / name).glob(f"*/{BEST}"))
        assert found == ["seed-0", "seed-1"]
        assert f"{name} (2 seeds)" in table
        assert f"{name}, ensemble of 2" in table
        config = TrainConfig.from_json(place / name / "seed-1" / "config.json")
        assert (config.modality, config.seed) == (name, 1)
    alone = tmp_path / "audio"
    argv = ["fit", "--cache", str(cache_path), "--run", str(alone), *FLAGS, "--epochs", "1"]
    assert cli.main([*argv, "--pictures", "0", "--modality", "audio", "--seed", "1"]) == 0
    one, other = (
        json.loads((run / "history.json").read_text())[0]["train_loss"]
        for run in (alone, place / "audio" / "seed-1")
    )
    assert one == other, "an ablation is the very run that --modality gives"


def test_ablations_of_one_modality_are_refused(
    cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(
        capsys, "drop --modality audio",
        "fit", "--cache", cache_path, "--run", tmp_path / "r", "--ablations", "--modality", "audio",
    )  # fmt: skip


def test_leaked_ids_are_scored_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = labels_for(30, 3)
    rows = {int(s): [n for n in range(30) if labels.split[n] == s] for s in (0, 2)}
    ids = list(labels.ids)
    ids[rows[2][0]] = ids[rows[0][0]]  # one clip of test stands in train as well
    cache = make_cache(tmp_path / "c", labels=dataclasses.replace(labels, ids=ids))
    config = SMALL.revised(epochs=1)
    fitting.fit(cache, tmp_path / "run", config, pictures=0)
    result = evaluate_run(tmp_path / "run", cache, "test", pictures=0)[0]
    assert "model, without 1 seen" in result["scores"]
    assert "stand in both train and test" in capsys.readouterr().out
    fitting.fit(cache, tmp_path / "other", config.revised(drop_leaks=True), pictures=0)
    result = evaluate_run(tmp_path / "other", cache, "test", pictures=0)[0]
    assert not any("seen" in name for name in result["scores"])
    refused(
        capsys, "labels of the training rows",
        "report", tmp_path / "run", tmp_path / "other", "--split", "test",
    )  # fmt: skip


def test_report_refuses_runs_on_different_data(
    run: Path, cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    result = json.loads((run / "metrics_val.json").read_text())
    (other / "metrics_val.json").write_text(json.dumps({**result, "fingerprint": "0"}))
    (other / BEST).write_bytes(b"")
    refused(capsys, "fingerprints) differ", "report", run, other)
    (other / "metrics_val.json").write_text(json.dumps({**result, "scored_rows": "0"}))
    refused(capsys, "labels of the scored rows", "report", run, other)
    del result["scored_rows"]
    (other / "metrics_val.json").write_text(json.dumps(result))
    refused(capsys, "older version", "report", run, other)
    refused(capsys, "has not been scored on test", "report", other, "--split", "test")


def test_a_cache_made_with_other_settings_is_refused_by_name(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_cache(tmp_path / "c", clips=6, hop_samples=1024)
    refused(capsys, "hop_samples: 512 in the run", "evaluate", "--run", run, "--cache", other)
    refused(capsys, "hop_samples", "predict", "--run", run, "--cache", other)


def test_classic_on_another_class_count_says_what_to_pass(
    cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv: list[str | Path] = ["fit", "--cache", cache_path, "--run", tmp_path / "r"]
    refused(capsys, "--num-classes 3", *argv, "--preset", "classic")


def test_runs_are_neither_overwritten_nor_resumed_by_mistake(
    run: Path, cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "holds a run already", "fit", "--cache", cache_path, "--run", run)
    argv: list[str | Path] = ["fit", "--cache", cache_path, "--resume"]
    refused(capsys, "--run", *argv)
    refused(capsys, "can't be read", *argv, "--run", tmp_path / "none")
    refused(capsys, "batch_size", *argv, "--run", run, "--batch-size", "4")
    refused(capsys, "no trained run", "evaluate", "--cache", cache_path, "--run", tmp_path)
    refused(capsys, f"name one: {run}", "evaluate", "--cache", cache_path, "--run", run.parent)


def test_it_says_why_start_and_end_are_read_off_as_they_are(
    cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["fit", "--cache", cache_path, *FLAGS, "--pictures", "0", "--epochs", "1"]
    for number, more in enumerate(([], ["--gate-weight", "0"])):
        words = [*argv, "--run", tmp_path / str(number), *more]
        assert cli.main([str(word) for word in words]) == 0
        scored_higher = "scored higher on val" in capsys.readouterr().out
        assert scored_higher == (not more)


def test_resume_prolongs_a_run(cache_path: Path, tmp_path: Path) -> None:
    """As if it had been begun so long, where the learning rate doesn't follow from the length."""

    def fit(name: str, *words: str) -> list[float]:
        argv = ["fit", "--cache", cache_path, "--run", tmp_path / name, *words, "--pictures", "0"]
        assert cli.main([str(word) for word in argv]) == 0
        history = json.loads((tmp_path / name / runs.HISTORY_FILE).read_text())
        return [epoch["train_loss"] for epoch in history]

    begun = fit("parts", *FLAGS, "--selection", "best", "--epochs", "1")
    prolonged = fit("parts", "--resume", "--epochs", "2")
    assert prolonged[:1] == begun
    assert prolonged == fit("whole", *FLAGS, "--selection", "best")


def test_ctrl_c_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "fit", stop)
    assert cli.main(["fit"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_the_newest_run_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(capsys, "no run under", "evaluate", "--cache", "c")
    for time, name in enumerate(("b/seed-0", "a/seed-1", "c")):
        path = tmp_path / "runs" / name / BEST
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (time, time))
        assert runs.newest_run() == Path("runs") / name[0]


def test_events_to_draw_are_short_ones_of_each_class_first() -> None:
    rows = [
        {"category": c, "start_s": 0, "end_s": end}
        for c, end in [("a", 10), ("a", 3), ("a", 4), ("b", 5), ("b", 10)]
    ]
    assert events_to_draw(rows, 10.0, 3) == [1, 3, 2]
    assert events_to_draw(rows, 10.0, 99) == [1, 3, 2, 0, 4]
