"""report.html: self-contained, escaped, ordered, described, small; rendered where a browser is."""

import dataclasses
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from synthetic_cache import labels_for, make_cache
from tiny_runs import copied, drawable

from cache import Labels, open_cache
from cache.common.errors import ConfigError
from train.commands import fit as fitting
from train.commands.evaluate import evaluate_run
from train.config import PRESETS, TrainConfig
from train.report import page, page_cards, page_scores, web
from train.report.media import Playable, playable
from train.report.outcomes import hardest
from train.report.page_settings import settings
from train.report.views import View
from train.runs.folders import BEST

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
    assert not tags.named("video") + tags.named("audio") + tags.named("link") + tags.named("a")
    for tag, attrs in tags.found:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
    assert not re.search(r"https?:|@import|url\(", text)
    (policy,) = (a["content"] for a in tags.named("meta") if "Content-Security" in str(a))
    assert policy.startswith("default-src 'none'; ")
    script = first(r"(?s)<script>(.*?)</script>", text)
    assert f"script-src '{web.digest(script)}'" in policy, "its own script and no other"
    assert all(attrs["alt"].strip() for attrs in tags.named("img"))


def test_each_clip_has_all_its_rows_on_one_axis(made: tuple[Path, Path]) -> None:
    tags = Tags(made[0].read_text())
    clips = tags.named("article")
    assert len(clips) == 6
    classes = [attrs.get("class") for attrs in tags.named("div")]
    for name in ("plot frames", "plot bars", "plot ticks", "part"):
        assert classes.count(name) == 6, name
    assert classes.count("rows") == 6
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


def test_failures_come_first_and_long_tables_are_folded(made: tuple[Path, Path]) -> None:
    text = made[0].read_text()
    clips = Tags(text).named("article")
    right = [attrs["data-outcome"] == "right" for attrs in clips]
    assert right == sorted(right)
    assert text.count('<h2 id="right">') == (True in right)
    assert text.index('class="headline"') < text.index("<article") < text.index("<h2>Scores</h2>")
    unfolded = re.sub(r"(?s)<details>.*?</details>", "", text)
    assert unfolded.count("<table") == 1, "the headline's"
    assert "settings" in text[text.index("<details>") :]


def test_evaluate_shows_its_own_split_and_keeps_the_other_s_scores(made: tuple[Path, Path]) -> None:
    path, cache = made
    evaluate_run(path.parent, cache, "test", pictures=1)
    assert [a["data-tab"] for a in Tags(path.read_text()).named("section")] == ["test", "val"]
    assert "Clips of test" in path.read_text()


def test_scores_by_other_labels_are_a_tab_of_the_run_s_page(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "on-12345678").mkdir(parents=True)
    for name in ("metrics_val.json", "on-12345678/metrics_val.json"):
        shutil.copy(made[0].parent / "metrics_val.json", run / name)
    tabs = [one["tab"] for one in page_scores.tables(run, "val")]
    assert tabs == ["val", "val, on-12345678"]
    tabs = [one["tab"] for one in page_scores.tables(run / "on-12345678", "val")]
    assert tabs == ["val, on-12345678", "val"]
    (run / "on-12345678" / BEST).touch()
    assert page_scores.home(run / "on-12345678").name == "on-12345678", "a run that is called so"


@pytest.mark.parametrize(
    ("seconds", "step", "last"),
    [(10.0, 1, 10), (66.0, 10, 60), (119.0, 10, 110), (3600.0, 300, 3600)],
)
def test_an_axis_has_round_seconds(seconds: float, step: int, last: int) -> None:
    shown = [int(tick["text"]) for tick in page.ticks(seconds)]
    assert shown == list(range(0, last + 1, step))
    assert len(page.ticks(1e6)) <= 14


def test_settings_that_are_not_the_default_s_are_marked_and_come_first() -> None:
    config = TrainConfig(num_classes=28, events="single", epochs=3, reversed_share=0.0)
    found = settings(config.model_dump(mode="json"))
    assert [name for name, _, differs, _ in found.rows if differs] == ["epochs", "reversed_share"]
    assert [name for name, *_ in found.rows[:2]] == ["epochs", "reversed_share"]
    assert found.columns == ["default", *PRESETS]
    assert found.rows[0] == ("epochs", "3", True, ["–", "30"])
    assert found.summary == "other than by default: epochs 3, reversed_share 0"
    assert settings(TrainConfig().model_dump(mode="json")).summary == "all as by default"


MEDIA_IDS = ["a#1 %41?&<b>\"'", "javascript:alert(1)", "-dash", "plain", "two", "gone", "sound"]


def test_a_clip_s_file_is_found_and_named_so_that_it_can_only_be_played(tmp_path: Path) -> None:
    labels = dataclasses.replace(labels_for(7, 2), ids=sorted(MEDIA_IDS))
    cache = open_cache(make_cache(tmp_path / "cache", labels=labels))
    media = tmp_path / "set/AVE"
    media.mkdir(parents=True)
    for name in ("javascript:alert(1).mp4", "-dash.MP4", "plain.exe", "sound.wav", ".two.mp4"):
        (media / name).write_text("film")
    (media / f"{MEDIA_IDS[0]}.webm").write_text("film")
    (media / "two.mp4").mkdir()
    (media / "gone.mp4").symlink_to(tmp_path / "nowhere")
    found = playable(cache, [tmp_path / "set"], cache.ids, media)
    assert {name: one.address for name, one in found.items()} == {
        MEDIA_IDS[0]: "a%231%20%2541%3F%26%3Cb%3E%22%27.webm",
        "javascript:alert(1)": "javascript%3Aalert%281%29.mp4",
        "-dash": "-dash.MP4",
        "sound": "sound.wav",
    }
    assert {one.kind for one in found.values()} == {"video", "audio"}
    assert all(one.by_name for one in found.values()), "none has the size that the rows keep"
    assert playable(cache, [], cache.ids, media) == {}
    with pytest.raises(ConfigError, match="nowhere: not there"):
        playable(cache, [tmp_path / "nowhere"], cache.ids, media)


def test_the_file_that_was_extracted_comes_before_one_of_the_same_name(tmp_path: Path) -> None:
    cache = open_cache(make_cache(tmp_path / "cache", clips=3, classes=1))
    name = cache.ids[0]
    size, mtime_ns = (int(values[0]) for values in cache.media_stamps)
    for folder, length in (("a", size + 1), ("b", size)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.mp4").write_bytes(b"x" * length)
        os.utime(tmp_path / folder / f"{name}.mp4", ns=(mtime_ns, mtime_ns))
    (found,) = playable(cache, [tmp_path], [name], tmp_path / "run").values()
    assert found == Playable(f"../b/{name}.mp4", "video", 0.0, False)


def test_clips_are_played_where_their_files_are(made: tuple[Path, Path], tmp_path: Path) -> None:
    run = copied(made[0].parent, tmp_path)
    text = (run / page.FILE).read_text()
    assert "make evaluate MEDIA=FOLDER" in text
    (tmp_path / "films").mkdir()
    names = [row["id"] for row in json.loads((run / "predictions_val.json").read_text())]
    (tmp_path / "films" / f"{names[0]}.mp4").write_text("film")
    evaluate_run(run, made[1], "val", pictures=1, media=[tmp_path / "films"])
    text = (run / page.FILE).read_text()
    (video,) = Tags(text).named("video")
    assert video["src"] == f"../films/{names[0]}.mp4#t=0.0,10.0"
    assert (video["preload"], "autoplay" in video) == ("none", False)
    assert "1 of 6 can be played" in text
    evaluate_run(run, made[1], "val", pictures=1, media=[tmp_path / "run"])
    assert "None can be played" in (run / page.FILE).read_text()


@pytest.mark.parametrize(
    ("modality", "missing"), [("audio", "only listens"), ("video", "sound asks frames")]
)
def test_one_modality_says_what_it_lacks(tmp_path: Path, modality: str, missing: str) -> None:
    text = report(tmp_path, modality)[0].read_text()
    assert (missing in text) is (modality == "audio")
    assert "Mel" in text  # the sound is shown to people, whatever the model reads


def test_names_from_a_stranger_stay_text(tmp_path: Path) -> None:
    labels = labels_for(30, 3)
    ids = {name: f"javascript:'\"<b>#%{name}" for name in labels.ids}
    labels = dataclasses.replace(
        labels, classes=[EVIL, "b & c", "{{ 7 * 7 }}"], ids=[ids[name] for name in labels.ids]
    )
    path, cache = report(tmp_path, labels=labels)
    films = tmp_path / "films\"'#%"
    films.mkdir()
    for name in ids.values():
        (films / f"{name}.mp4").write_text("film")
    evaluate_run(path.parent, cache, "val", pictures=1, media=[films])
    tags = Tags(path.read_text())
    assert len(tags.named("video")) == len(tags.named("article")) == 6
    for clip, video in zip(tags.named("article"), tags.named("video"), strict=True):
        address, fragment = video["src"].rsplit("#", 1)
        assert fragment == "t=0.0,10.0"
        assert (path.parent / unquote(address)).resolve() == films / f"{clip['data-id']}.mp4"
        assert ":" not in address
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
        mel=rng.normal(size=(431, 64)),
    )


def test_a_hundred_clips_stay_under_ten_megabytes(made: tuple[Path, Path], tmp_path: Path) -> None:
    result = evaluate_run(made[0].parent, made[1], "val", pictures=0)[0]
    views = [noisy_view(number) for number in range(100)]
    row = {"category": "Class 1", "predicted": "Class 0", "event": None}
    times = dict.fromkeys(("start_s", "predicted_start_s"), 0.0)
    times |= dict.fromkeys(("end_s", "predicted_end_s"), 10.0)
    answered = [{"id": f"clip{n:011d}", **row, **times} for n in range(4000)]
    path = page.write(tmp_path, {**result, "events": 4000}, answered, views)
    assert path.stat().st_size < 11e6
    text = path.read_text()
    assert "The 100 worst answered of 4000 events; the other 3900 are in the table" in text
    assert "clip00000003999" in text
    assert len(re.sub(r"base64,[^\"]*", "", text)) < 2e6


def test_a_short_clip_s_sound_ends_where_it_ends() -> None:
    mel = np.zeros((400, 64))
    mel[100:] = np.nan
    mel[50] = 1.0
    found = page_cards.sound(dataclasses.replace(noisy_view(0), mel=mel))
    assert found["mel_width"] == "25.000"
    assert "loudest at about 1.2 s" in found["mel_alt"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH")
@pytest.mark.parametrize("width_px", [390, 1280])
def test_a_browser_draws_it_without_a_complaint(
    made: tuple[Path, Path], tmp_path: Path, width_px: int
) -> None:
    """A copy with a probe in its script, since the page itself says nothing to the outside."""
    assert CHROMIUM is not None
    script = web.source("page.js")
    probe = script + (
        "document.title = [document.documentElement.scrollWidth, innerWidth, "
        "document.querySelectorAll('article').length, "
        "document.getElementById('count').textContent].join('|');\n"
    )
    copy = tmp_path / "copy.html"
    text = made[0].read_text().replace(script, probe)
    copy.write_text(text.replace(web.digest(script), web.digest(probe)))
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
