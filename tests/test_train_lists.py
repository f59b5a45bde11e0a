"""Runs that answer recordings with lists of events: trained, settled, scored, resumed, divided."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recordings_cache import CLASSES, drawn, labels_of, recordings_cache
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, tiny_labels
from windows_cache import windows_cache

from cache import CacheError, open_cache
from cache.labels.store import write_labels
from train.__main__ import main
from train.commands.evaluate import evaluate_run
from train.runs import checkpoint
from train.runs.answers import predict
from train.runs.checkpoint import CheckpointError
from train.runs.folders import BEST
from train.runs.record import seen
from train.runs.timelines import read_off_of, timelines
from train.runs.trained import load_run

EPOCHS = ["--epochs", "12", "--average-epochs", "1", "--learning-rate", "0.003"]


def fit(cache: Path, run: Path, *more: str) -> None:
    assert main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS, *EPOCHS, *more]) == 0


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings_cache(tmp_path_factory.mktemp("lists") / "cache", drawn(40))


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists") / "run"
    fit(cache, folder, "--seeds", "2")
    return folder


def scores(run: Path, split: str = "val") -> dict[str, Any]:
    return dict(json.loads((run / f"metrics_{split}.json").read_text()))


def test_a_run_on_recordings_learns_and_is_scored_beside_the_baselines(run: Path) -> None:
    for place in (run / "seed-0", run):
        found = scores(place)
        assert found["recordings"] == 8
        assert found["scores"]["model"]["tiou_map"] > 0.3
        assert found["scores"]["nothing"]["tiou_map"] == 0.0
        assert found["scores"]["every class, all the time"]["miss_rate"] == 0.0
        assert found["read_off"]["threshold"]
    assert scores(run / "seed-0")["config"]["events"] == "several"
    assert scores(run)["of_seeds"]["intervals"]["model"]["segment_f1"]["clips"] == 8


def test_the_history_says_what_was_validated(run: Path) -> None:
    history = json.loads((run / "seed-0" / "history.json").read_text())
    assert history[-1]["val_segment_map"] > history[0]["val_segment_map"]
    assert "val_top1" not in history[-1]


def test_what_is_written_lists_true_and_found_events(run: Path) -> None:
    rows = json.loads((run / "seed-0" / "predictions_val.json").read_text())
    assert [row["recording"] for row in rows] == sorted(row["recording"] for row in rows)
    for row in rows:
        for event in (*row["true"], *row["found"]):
            assert event["category"] in CLASSES
            assert 0 <= event["start_s"] < event["end_s"] <= row["length_s"]
            assert 0 <= event["confidence"] <= 1


def test_evaluate_scores_test_and_the_page_shows_recordings(cache: Path, run: Path) -> None:
    results = evaluate_run(run, cache, "test", pictures=1)
    assert [result["test_looks"] for result in results] == [1, 1]
    page = (run / "seed-0" / "report.html").read_text()
    assert "Recordings of test" in page
    assert "rec04" in page
    assert "mAP, mean of tIoU" in page


def test_recordings_with_events_that_do_not_say_when_are_left_out_and_told(
    cache: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vague = Path(shutil.copytree(cache, tmp_path / "cache"))
    labels = labels_of(drawn(40))
    rows = [row for row in labels.rows("test").tolist() if labels.category[row] >= 0]
    labels.start_s[rows[0]] = labels.end_s[rows[0]] = np.nan
    write_labels(vague, labels)
    found = evaluate_run(run, vague, "test", pictures=0)
    assert [result["recordings"] for result in found] == [7, 7]
    told = f"1 recording(s) with an event that doesn't say when are left out: {labels.ids[rows[0]]}"
    assert told in capsys.readouterr().out
    labels.start_s[rows] = labels.end_s[rows] = np.nan
    labels.split[labels.background] = 0
    write_labels(vague, labels)
    with pytest.raises(CacheError, match="no recording with features and times"):
        evaluate_run(run, vague, "test", pictures=0)


def test_report_sets_runs_side_by_side(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run)]) == 0
    assert main(["report", str(run / "seed-0"), str(run / "seed-1")]) == 0
    told = capsys.readouterr()
    assert "false alarms an hour" in told.out
    assert f"{run.name}, ensemble of 2" in told.out
    assert "warning" not in told.err


def test_timelines_cover_each_recording_and_average_the_models(cache: Path, run: Path) -> None:
    data, together = open_cache(cache), load_run(run)
    alone = [load_run(run / name) for name in ("seed-0", "seed-1")]
    clips = [data.ids[row] for row in data.recordings["rec04"]]
    mean = timelines(together, data, clips)["rec04"]
    each = [timelines(one, data, clips)["rec04"].probability for one in alone]
    assert np.allclose(mean.probability, np.mean(each, axis=0), atol=1e-6)
    assert mean.length_s == len(clips) + 1
    assert mean.probability.shape[1] == len(CLASSES)
    thresholds = [read_off_of(one).threshold[0] for one in alone]
    assert read_off_of(together).threshold[0] == pytest.approx(np.mean(thresholds))


def test_predict_lists_the_events_of_recordings(cache: Path, run: Path) -> None:
    found = predict(load_run(run), open_cache(cache))
    assert found
    assert list(found[0]) == ["recording", "category", "start_s", "end_s", "confidence", "seen"]
    assert {one["seen"] for one in found} == {"train", "val", "no"}
    assert main(["predict", "--cache", str(cache), "--run", str(run)]) == 0
    written = json.loads((run / "predictions" / "predictions.json").read_text())
    assert written == found


def test_predict_says_what_it_did_not_look_at_of_clips_alone(
    cache: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = windows_cache(tmp_path / "clips", {"walk": (9.0, [(0, 1.0, 3.0)])}, hop_s=None)
    for place, told in ((clips, 1), (cache, 0)):
        words = ["predict", "--cache", str(place), "--run", str(run), "--out", str(tmp_path / "o")]
        assert main(words) == 0
        assert capsys.readouterr().out.count("were not looked at") == told


def test_a_single_event_run_answers_recordings_too(cache: Path, tmp_path: Path) -> None:
    clips = make_cache(tmp_path / "clips", labels=tiny_labels(), **TINY)
    fit(clips, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.about.config.events == "single"
    assert run.about.read_off is None
    found = timelines(run, open_cache(cache))
    assert len(found) == 40
    assert len(read_off_of(run).threshold) == 3
    assert evaluate_run(tmp_path / "run", cache, "val", pictures=0)[0]["recordings"] == 8


def test_single_events_may_be_asked_for_on_recordings(cache: Path, tmp_path: Path) -> None:
    fit(cache, tmp_path / "run", "--events", "single")
    about = load_run(tmp_path / "run").about
    assert about.config.events == "single"
    assert about.read_off is not None
    assert scores(tmp_path / "run")["recordings"] == 8


def test_a_resumed_run_equals_an_uninterrupted_one(cache: Path, run: Path, tmp_path: Path) -> None:
    fit(cache, tmp_path / "run", "--seed", "0", "--epochs", "12")
    whole = checkpoint.load(tmp_path / "run" / BEST)[0].state_dict()
    again = checkpoint.load(run / "seed-0" / BEST)[0].state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_run_begins_from_one_of_single_events(cache: Path, tmp_path: Path) -> None:
    clips = make_cache(tmp_path / "clips", labels=tiny_labels(), **TINY)
    fit(clips, tmp_path / "first")
    fit(cache, tmp_path / "run", "--init", str(tmp_path / "first"))
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert "3 of 3 classes by name" in record["init"]["taken"]


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_single_stream_lists_events_too(cache: Path, tmp_path: Path, modality: str) -> None:
    how = ["--epochs", "2", "--selection", "best", "--background-share", "0.2"]
    fit(cache, tmp_path / "run", "--modality", modality, *how)
    assert scores(tmp_path / "run")["recordings"] == 8


def test_folds_keep_recordings_whole_and_score_each_once(cache: Path, tmp_path: Path) -> None:
    fit(cache, tmp_path / "run", "--folds", "3", "--epochs", "2")
    result = scores(tmp_path / "run", "folds")
    assert result["recordings"] == 32
    assert len(result["folds"]) == 3
    rows = json.loads((tmp_path / "run" / "predictions_folds.json").read_text())
    assert len({row["recording"] for row in rows}) == len(rows) == 32
    assert main(["report", str(tmp_path / "run")]) == 0


def test_seen_recordings_are_known_by_their_names(cache: Path, run: Path) -> None:
    records = [one.record for one in load_run(run).models if one.record is not None]
    known = seen(records, ["rec00", "rec03", "rec04"])
    assert known == {"train": ["rec00"], "val": ["rec03"]}


def test_a_split_without_an_event_is_refused(run: Path, tmp_path: Path) -> None:
    quiet = [replace(one, events=()) if one.split == 1 else one for one in drawn(10)]
    path = recordings_cache(tmp_path / "cache", quiet)
    with pytest.raises(CacheError, match="has no event, only recordings without one"):
        evaluate_run(run, path, "val", pictures=0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"threshold": [0.5, 0.5]}, "2 thresholds for 3 classes"),
        ({"threshold": [0.5, 0.5, 1.5]}, "threshold"),
        ({"side_s": 0}, "side_s"),
        ({"more": 1}, "more"),
    ],
)
def test_how_a_run_is_read_off_is_checked(
    run: Path, tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    payload = torch.load(run / "seed-0" / BEST, weights_only=True)
    about = json.loads(payload["about"])
    about["read_off"] |= wrong
    path = tmp_path / BEST
    torch.save({**payload, "about": json.dumps(about)}, path)
    with pytest.raises(CheckpointError, match=told):
        checkpoint.load(path)
