"""The page of several runs: self-contained, escaped, the clips on which they differ most first."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_cache import labels_for, make_cache
from test_train_page import CHROMIUM, EVIL, Tags
from test_train_papers import answers
from tiny_runs import FLAGS, TINY, copied, tiny_labels

from cache.labels.store import write_labels
from train import __main__ as cli
from train.commands.report import compare
from train.report import compare_page
from train.report.drawing import FOLDER, file_name
from train.runs.progress import METRICS_FILE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("compared")
    cache = make_cache(top / "cache", clips=30, labels=tiny_labels(), **TINY)
    for name, more in (("plain", []), ("seeds", ["--seeds", "2", "--dropout", "0.1"])):
        argv = ["fit", "--cache", str(cache), "--run", str(top / name), *FLAGS, *more]
        assert cli.main([*argv, "--epochs", "2"]) == 0
    return top


def write(tmp_path: Path, *runs: Path) -> str:
    compare_page.write(tmp_path / "compare.html", compare(runs, "val"))
    return (tmp_path / "compare.html").read_text()


def test_the_command_writes_the_page_and_says_where(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "compare.html"
    argv = ["report", str(made / "plain"), str(made / "seeds"), "--page", str(page)]
    assert cli.main(argv) == 0
    assert f"page: {page}" in capsys.readouterr().out
    text = page.read_text()
    for words in ("seeds (2 seeds) minus plain", "seeds, ensemble of 2", "dropout 0.1", "Training"):
        assert words in text


def test_the_page_refers_to_nothing_outside_itself(made: Path, tmp_path: Path) -> None:
    text = write(tmp_path, made / "plain", made / "seeds")
    assert text.startswith("<!doctype html>")
    tags = Tags(text)
    for tag, attrs in tags.found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
    assert not re.search(r"https?:|@import|url\(|<script", text)
    (policy,) = (m["content"] for m in tags.named("meta") if "default-src" in m.get("content", ""))
    assert "default-src 'none'" in policy
    assert "img-src data:" in policy
    assert len(tags.named("img")) == 2
    assert all(attrs["alt"].strip() for attrs in tags.named("img"))


def test_names_and_classes_are_escaped(tmp_path: Path) -> None:
    labels = labels_for(30, 3)
    labels.classes[:] = [f"{EVIL} {n}" for n in range(3)]
    cache = make_cache(tmp_path / "cache", labels=labels, clips=30)
    run = tmp_path / "<b>&amp;"
    assert cli.main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS]) == 0
    other = copied(run, tmp_path / "other").rename(tmp_path / "$x$ \\frac")
    found = json.loads((other / "predictions_val.json").read_text())
    for one in found:
        one["predicted_start_s"] = one["predicted_end_s"] = 0.0
    (other / "predictions_val.json").write_text(json.dumps(found))
    text = write(tmp_path, run, other)
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;b&gt;&amp;amp;" in text
    assert Tags(text).named("b") == [{} for _ in Tags(text).named("b")]


def test_clips_that_differ_most_come_first(made: Path, tmp_path: Path) -> None:
    runs = [copied(made / "plain", tmp_path).rename(tmp_path / name) for name in "ab"]
    first = answers(3)[:6]
    second = answers(6)[:6]
    second[4]["predicted_end_s"] = 1.25  # of the three that differ the least
    second[5]["id"] = first[5]["id"] = EVIL
    for run, some in zip(runs, (first, second), strict=True):
        (run / "predictions_val.json").write_text(json.dumps(some))
    picture = runs[1] / FOLDER / "val" / f"{file_name('clip00003')}_card.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (2000, 500), "red").save(picture)
    text = write(tmp_path, *runs)
    assert "3 of 6 events with times are answered differently" in text
    titles = re.findall(r"<h3>.*?clip (.*?)</span></h3>", text)
    assert len(titles) == 3
    assert titles[-1] == "clip00004"
    assert text.count("<summary>Picture</summary>") == 1
    assert text.count("data:image/jpeg") == 1
    cards = text.split("<article")[1:]
    assert "tIoU <b>1.00</b>" in cards[0]
    assert "class wrong" in cards[0]


def test_events_without_times_are_compared_by_their_classes(tmp_path: Path) -> None:
    labels = tiny_labels()
    gone = np.where(labels.split == 1, np.nan, 1.0)
    vague = dataclasses.replace(labels, start_s=labels.start_s * gone, end_s=labels.end_s * gone)
    cache = make_cache(tmp_path / "cache", clips=30, labels=labels, **TINY)
    write_labels(cache, vague)
    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        assert cli.main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS]) == 0
    text = write(tmp_path, *runs)
    assert "top-1 accuracy" in text
    assert "0 of 0 events with times" in text


def test_what_cant_be_shown_is_told_and_left_out(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [copied(made / "plain", tmp_path).rename(tmp_path / name) for name in "ab"]
    (runs[1] / METRICS_FILE).write_text("{}\n")
    (runs[0] / "predictions_val.json").write_text(json.dumps(answers(3)))
    (runs[1] / "predictions_val.json").write_text(json.dumps(answers(6)))
    picture = runs[0] / FOLDER / "val" / "clip00003_card.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"GIF89a")
    text = write(tmp_path, *runs)
    told = capsys.readouterr().err
    assert "no curves of b" in told
    assert "clip00003_card.png: not shown" in told
    assert "Training" in text
    shutil.rmtree(runs[0] / FOLDER)
    (runs[0] / "predictions_val.json").write_text("[]")
    text = write(tmp_path, *runs)
    assert "no differences between the runs" in capsys.readouterr().err
    assert "Where they differ most" not in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser")
@pytest.mark.system
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(made: Path, tmp_path: Path, width: int) -> None:
    page = tmp_path / "compare.html"
    text = write(tmp_path, made / "plain", made / "seeds")
    script = "document.title = document.documentElement.scrollWidth + ' ' + innerWidth"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    page.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},800"]
    command = [str(CHROMIUM), *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2])
