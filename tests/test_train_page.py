"""report.html: self-contained, escaped, ordered, described, small; rendered where a browser is."""

import dataclasses
import html.parser
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_cache import labels_for, make_cache
from tiny_runs import drawable

from cache import Labels
from train.commands import fit as fitting
from train.commands.evaluate import evaluate_run
from train.config import TrainConfig
from train.report import page
from train.report.views import View, hardest

CONFIG = TrainConfig(
    device="cpu",
    audio_feat_dim=16,
    video_feat_dim=16,
    map_channels=8,
    batch_size=8,
    epochs=1,
    num_heads=2,
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
EVIL = "<script>alert(1)</script>\"' onload=x"


class Tags(html.parser.HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def named(self, name: str) -> list[dict[str, str]]:
        return [attrs for tag, attrs in self.found if tag == name]


def report(folder: Path, modality: str = "both", labels: Labels | None = None) -> tuple[Path, Path]:
    cache = make_cache(folder / "cache", labels=labels or labels_for(30, 3))
    run = folder / "run"
    fitting.fit(cache, run, CONFIG.revised(modality=modality), pictures=1)
    return run / page.FILE, cache


def first(pattern: str, text: str) -> str:
    """What the group of a pattern stands for where it is found first."""
    found = re.search(pattern, text)
    assert found is not None
    return str(found[1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return report(tmp_path_factory.mktemp("page"))


def test_the_page_refers_to_nothing_outside_itself(made: tuple[Path, Path]) -> None:
    text = made[0].read_text()
    tags = Tags(text)
    for tag, attrs in tags.found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "default-src 'none'" in tags.named("meta")[2]["content"]
    assert all(attrs["alt"].strip() for attrs in tags.named("img"))


def test_each_clip_has_all_its_rows_on_one_axis(made: tuple[Path, Path]) -> None:
    tags = Tags(made[0].read_text())
    clips = tags.named("article")
    assert len(clips) == 6
    classes = [attrs.get("class") for attrs in tags.named("div")]
    for name in ("plot frames", "plot bars", "plot ticks", "part"):
        assert classes.count(name) == 6, name
    assert len(tags.named("svg")) == 6
    # 8 frames with 8 heatmaps, spectrogram, cross-modal map each; curves, intervals, confusion
    assert len(tags.named("img")) == 6 * (8 + 8 + 2) + 3
    wide = [a["style"] for a in tags.named("div") if a.get("style", "").startswith("left")]
    total = sum(float(first(r"width:([\d.]+)%", style)) for style in wide)
    assert total == pytest.approx(6 * 100, abs=1)


def test_the_worst_come_first() -> None:
    def row(name: str, said: str, end_s: float) -> dict[str, str | float]:
        times = {"start_s": 0.0, "end_s": 10.0, "predicted_start_s": 0.0, "predicted_end_s": end_s}
        return {"id": name, "category": "a", "predicted": said, **times}

    rows = [row("fine", "a", 10.0), row("half", "a", 5.0), row("wrong", "b", 10.0)]
    assert hardest(dict(enumerate(rows))) == [2, 1, 0]
    assert hardest({7: rows[0], 3: rows[1]}) == [3, 7]


def test_evaluate_shows_its_own_split_and_keeps_the_other_s_scores(made: tuple[Path, Path]) -> None:
    path, cache = made
    evaluate_run(path.parent, cache, "test", pictures=1)
    text = path.read_text()
    assert text.index("Scores on test") < text.index("Scores on val")
    assert "Clips of test" in text


@pytest.mark.parametrize(
    ("modality", "missing"), [("audio", "only listens"), ("video", "sound asks frames")]
)
def test_one_modality_says_what_it_lacks(tmp_path: Path, modality: str, missing: str) -> None:
    text = report(tmp_path, modality)[0].read_text()
    assert (missing in text) is (modality == "audio")
    assert "Mel" in text  # the sound is shown to people, whatever the model reads


def test_names_from_a_stranger_stay_text(tmp_path: Path) -> None:
    labels = labels_for(30, 3)
    labels = dataclasses.replace(labels, classes=[EVIL, "b & c", "{{ 7 * 7 }}"])
    tags = Tags(report(tmp_path, labels=labels)[0].read_text())
    assert len(tags.named("script")) == 1
    assert not any(name.startswith("on") for _, attrs in tags.found for name in attrs)
    assert {attrs["data-class"] for attrs in tags.named("article")} == set(labels.classes)


def noisy_view(number: int) -> View:
    """A clip whose pictures and maps don't compress: the largest page there can be."""
    rng = np.random.default_rng(number)
    jpegs = []
    for _ in range(8):
        buffer = io.BytesIO()
        smooth = Image.fromarray(rng.integers(0, 255, (28, 28, 3)).astype(np.uint8))
        smooth.resize((224, 224)).save(buffer, "JPEG")
        jpegs.append(buffer.getvalue())
    return drawable(
        f"clip{number}",
        attention={
            "audio": rng.random((8, 20, 20)),
            "spatial": rng.random((8, 7, 7)),
            "audio_to_video": rng.random((8, 20, 8)),
        },
        on=rng.random(10),
        step_s=0.5,
        frame_time_s=0.625 + 1.25 * np.arange(8),
        pictures=jpegs,
        predicted="Class 0",
        category="Class 1",
    )


def test_a_hundred_clips_stay_under_ten_megabytes(made: tuple[Path, Path], tmp_path: Path) -> None:
    result = evaluate_run(made[0].parent, made[1], "val", pictures=0)[0]
    views = [noisy_view(number) for number in range(100)]
    mels = [np.random.default_rng(n).normal(size=(431, 64)) for n in range(100)]
    path = page.write(tmp_path, {**result, "events": 250}, views, mels)
    assert path.stat().st_size < 10e6
    assert "The 100 worst placed of 250 events; the other 150 are left out." in path.read_text()


def test_a_short_clip_s_sound_ends_where_it_ends() -> None:
    mel = np.zeros((400, 64))
    mel[100:] = np.nan
    mel[50] = 1.0
    found = page._sound(noisy_view(0), mel)
    assert found["mel_width"] == "25.000"
    assert "loudest at about 1.2 s" in found["mel_alt"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH")
@pytest.mark.parametrize("width_px", [390, 1280])
def test_a_browser_draws_it_without_a_complaint(
    made: tuple[Path, Path], tmp_path: Path, width_px: int
) -> None:
    """A copy with a probe at its end, since the page itself says nothing to the outside."""
    assert CHROMIUM is not None
    probe = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth, "
        "document.querySelectorAll('article').length, "
        "document.getElementById('count').textContent].join('|')</script>"
    )
    copy = tmp_path / "copy.html"
    copy.write_text(made[0].read_text().replace("</body>", probe + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width_px},900",
         "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    wide, inner, clips, count = first(r"<title>(.*?)</title>", done.stdout).split("|")
    assert int(wide) <= int(inner), "the page itself never scrolls sideways"
    assert count == f"{clips} of {clips} clips"
