"""From media to lists and pages, through both stages, as `make annotate` puts them together."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_media import RATE_HZ, SMALL_FLAGS, grey_frames, noise, tone, write_set
from tiny_runs import FLAGS

from cache import open_cache
from cache.__main__ import main as cache_main
from extract.__main__ import main as extract
from extract.demo.__main__ import write_mp4
from train.__main__ import main as train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one-second clips, a film of three seconds and a half, and a file that is none."""
    folder = tmp_path_factory.mktemp("media")
    write_set(folder / "set", 6)
    words = ["--data", str(folder / "set"), "--cache", str(folder / "clips"), "--jobs", "1"]
    assert extract([*words, "--weights", "random:0", *SMALL_FLAGS]) == 0
    words = ["fit", "--cache", str(folder / "clips"), "--run", str(folder / "run")]
    assert train([*words, *FLAGS, "--batch-size", "4"]) == 0
    (folder / "films").mkdir()
    sound = np.concatenate([tone(1.5, 200), noise(2.0)])
    write_mp4(
        folder / "films/a walk.mp4", sound, RATE_HZ, grey_frames([20, 90, 160, 30] * 4)[:14], 4
    )
    (folder / "films/broken.mp4").write_text("no film")
    return folder


def annotated(place: Path, *more: str) -> tuple[int, int]:
    """The exit codes of both stages, called as make calls them."""
    run, cache, out = place / "run", place / "out/cache", place / "out"
    like = place / "like.json"
    assert train(["features", "--run", str(run), "--out", str(like)]) == 0
    words = ["clip", str(place / "films"), "--cache", str(cache), "--like", str(like)]
    first = extract([*words, "--hop-seconds", "0.5", "--jobs", "1"])
    words = ["annotate", "--run", str(run), "--cache", str(cache), "--out", str(out)]
    return first, train([*words, "--media", str(place / "films"), *more])


@pytest.mark.system
def test_a_film_becomes_a_page_once_and_corrections_come_back(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert annotated(place) == (1, 1)
    told = capsys.readouterr()
    assert "broken.mp4" in told.err
    assert "a walk.mp4, 3.5 s" in told.out
    out = place / "out"
    text = (out / "a walk/timeline.html").read_text("utf-8")
    assert '"address":"../../films/a%20walk.mp4"' in text
    assert (out / "a walk/../../films/a walk.mp4").exists()
    assert '"unseen":[]' in text
    assert (
        "FFmpeg can open"
        in json.loads((out / "events.json").read_text("utf-8"))["not_read"]["broken"]
    )
    before = (out / "a walk/timeline.html").stat().st_mtime_ns
    assert annotated(place) == (1, 1)
    assert "1 of 1 recordings were done before" in capsys.readouterr().out
    assert (out / "a walk/timeline.html").stat().st_mtime_ns == before

    table = out / "corrected.csv"
    rows = [["media", "start_s", "end_s", "category", "confidence"]]
    rows += [["a walk.mp4", "0.100", "1.400", 'a "new", class', "1.000"]]
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    assert cache_main(["relabel", str(out / "cache"), str(table)]) == 0
    labels = open_cache(out / "cache").labels
    assert (labels.ids, labels.classes) == (["a walk"], ['a "new", class'])
    assert (labels.start_s[0], labels.end_s[0]) == (0.1, 1.4)
    assert annotated(place) == (1, 1)
    page = (out / "a walk/timeline.html").read_text("utf-8")
    assert '"truth":[["a \\"new\\", class",0.1,1.4]]' in page


@pytest.mark.system
def test_a_run_that_listens_takes_sound_files(place: Path, tmp_path: Path) -> None:
    words = ["fit", "--cache", str(place / "clips"), "--run", str(tmp_path / "run")]
    assert train([*words, *FLAGS, "--batch-size", "4", "--modality", "audio"]) == 0
    (tmp_path / "films").mkdir()
    soundfile.write(tmp_path / "films/sea.wav", noise(2.5), RATE_HZ)
    assert annotated(tmp_path) == (0, 0)
    text = (tmp_path / "out/sea/timeline.html").read_text("utf-8")
    assert '"frames":[]' in text
    assert '"address":"../../films/sea.wav"' in text
    assert '"sound":[{' in text
