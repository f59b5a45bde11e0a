"""timeline.html: self-contained, escaped, strict, bounded; its scripts find what Python finds."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train_page import CHROMIUM, EVIL, Tags, first
from windows_cache import CLASSES, windows_cache

from cache import Cache, open_cache
from cache.format.fields import Rate
from train.annotate import page, strips
from train.annotate.exports import Found
from train.annotate.recording import Recording, spans
from train.report import web
from train.score.read_off import ReadOff
from train.score.timeline import Timeline

NODE = shutil.which("node")
HERE = Path(page.__file__).parent
SCRIPTS = page.scripts()


def recording(length_s: float = 20.0, classes: int = 3, seed: int = 0, **changes: Any) -> Recording:
    """A recording that was not looked at: seeded curves, read off as a run does."""
    rng = np.random.default_rng(seed)
    cells, names = round(10 * length_s), tuple(f"Class {k}" for k in range(classes))
    walk = rng.standard_normal((cells, classes)).cumsum(axis=0) / 3
    timeline = Timeline(1 / (1 + np.exp(-walk + 1)), 0.1, length_s)
    way = ReadOff(threshold=(0.5,) * classes, side_s=0.5, join=0.5, shortest_s=0.5)
    said = way.candidates([timeline])
    columns = zip(said.category, said.start_s, said.end_s, said.confidence, strict=True)
    every = sorted(
        (Found(names[k], float(a), float(b), float(p)) for k, a, b, p in columns),
        key=lambda one: one.start_s,
    )
    truth = (Found(names[0], 1.0, 2.5, 1.0),)
    plain = Recording(
        "walk", Path("/films/walk 1.mp4"), (), length_s, (), names, timeline, tuple(every),
        way.threshold, truth,
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    folder = tmp_path_factory.mktemp("page") / "cache"
    return open_cache(windows_cache(folder, {"walk": (8.0, [(0, 1.0, 4.0)]), "cut": (8.0, [])}))


def rendered(cache: Cache, **changes: Any) -> str:
    one = recording(rows=tuple(cache.recordings["walk"]), length_s=8.0, **changes)
    return page.page(one, cache, Path("/out/walk"), [("Answer", "a run")]).decode()


def embedded(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    loaded: dict[str, Any] = json.loads(found[1])
    return loaded


def test_the_page_may_do_nothing_but_play_the_recording(cache: Cache) -> None:
    text = rendered(cache)
    tags = Tags(text)
    (policy,) = (a["content"] for a in tags.named("meta") if "Content-Security" in str(a))
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert parts["media-src"] == "'self' file: blob:"
    for what, pattern in (
        ("style", r"<style>(.*?)</style>"),
        ("script", r'"module">(.*?)</script>'),
    ):
        own = re.search(pattern, text, re.DOTALL)
        assert own is not None
        digest = base64.b64encode(hashlib.sha256(own[1].encode()).digest()).decode()
        assert parts[f"{what}-src"] == f"'sha256-{digest}'"
    for tag, attrs in tags.found:
        assert not {"src", "srcset", "action", "style"} & attrs.keys(), tag
        assert not [name for name in attrs if name.startswith("on")], tag
        assert attrs.get("href", "../index.html") == "../index.html"
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)


def test_scripts_write_texts_and_nothing_else() -> None:
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", SCRIPTS
    )
    assert not re.search(r"fetch\(|XMLHttp|WebSocket|import\(|localStorage", SCRIPTS)
    for name in page._SCRIPTS:
        assert len((HERE / f"{name}.js").read_text("utf-8").splitlines()) <= 300


def test_every_control_has_a_name_and_every_id_is_there(cache: Cache) -> None:
    tags = Tags(rendered(cache))
    ids = [attrs["id"] for _, attrs in tags.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    asked = set(re.findall(r'byId\("([\w-]+)"\)', SCRIPTS))
    assert asked <= set(ids)
    for attrs in tags.named("button"):
        assert attrs.get("aria-label") or attrs.get("title") or attrs["id"] in ("others",), attrs


def test_what_is_on_the_page_is_what_python_found(cache: Cache) -> None:
    one = recording(length_s=300.0, classes=5)
    data = page.data(one, Path("/out/walk"))
    named = [(data["classes"][k], a, b, p) for k, a, b, p in data["candidates"]]
    least = dict(zip(one.classes, one.threshold, strict=True))
    kept = [Found(*event) for event in named if event[3] >= least[event[0]]]
    assert kept == one.found
    assert 3 < len(one.found) < len(named)
    assert data["truth"] == [("Class 0", 1.0, 2.5)]
    assert data["media"] == {"name": "walk 1.mp4", "address": "../../films/walk%201.mp4"}
    curve = np.frombuffer(base64.b64decode(data["curves"]["of"]["2"]), np.uint8) / 255
    assert np.abs(curve - one.timeline.probability[:, 2]).max() <= 0.5 / 255 + 1e-9


@pytest.mark.skipif(NODE is None, reason="needs node on the PATH")
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.62])
def test_the_threshold_in_the_page_does_what_python_does(tmp_path: Path, threshold: float) -> None:
    assert NODE is not None
    levels = (0.4, 0.5, 0.6, 0.5, 0.5)
    one = recording(length_s=300.0, classes=5, threshold=levels)
    wanted = replace(one, threshold=tuple(level + (threshold - 0.5) for level in levels)).found
    data = page.data(one, Path("/out/walk"))
    script = tmp_path / "ask.mjs"
    body = (HERE / "state.js").read_text("utf-8")
    (rule,) = re.findall(r"^function eventsAt\(.*?^}$", body, re.DOTALL | re.MULTILINE)
    script.write_text(
        f"{rule}\nconst data = {json.dumps(data)};\n"
        f"console.log(JSON.stringify(eventsAt(data, {threshold})));"
    )
    done = subprocess.run([NODE, str(script)], capture_output=True, text=True, check=True)
    found = [
        Found(e["category"], e["start"], e["end"], e["confidence"]) for e in json.loads(done.stdout)
    ]
    assert found == wanted
    assert wanted


def test_names_from_a_stranger_stay_text(cache: Cache) -> None:
    names = (EVIL, "</script><b>", "{{ 7 * 7 }}")
    one = recording(rows=tuple(cache.recordings["walk"]))
    swap = dict(zip(one.classes, names, strict=True))
    found = tuple(replace(event, category=swap[event.category]) for event in one.candidates)
    evil = replace(
        one, name=EVIL, media=Path("/films") / f"{names[2]}\u202e.mp4", classes=names,
        candidates=found, truth=(Found("<i>\ud800", 0.0, 1.0, 1.0),),
    )  # fmt: skip
    text = page.page(evil, cache, Path("/out/x"), [(EVIL, EVIL)]).decode()
    tags = Tags(text)
    assert len(tags.named("script")) == 2
    assert not tags.named("b")
    assert not tags.named("i")
    assert embedded(text)["classes"] == list(names)
    assert embedded(text)["facts"] == [[EVIL, EVIL]]


def test_an_hour_is_no_large_page(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_MOST_CURVE_BYTES", 200_000)
    monkeypatch.setattr(page, "_MOST_CANDIDATES", 500)
    one = recording(length_s=3600.0, classes=12)
    data = page.data(one, Path("/out/walk"))
    sizes = [len(base64.b64decode(text)) for text in data["curves"]["of"].values()]
    assert sum(sizes) <= 200_000
    assert data["curves"]["step"] * max(sizes) >= 3600
    found = len(one.found)
    assert len(data["candidates"]) <= max(500, found) + 1
    kept = [event for event in data["candidates"] if event[3] >= 0.5]
    assert len(kept) == found


def test_frames_and_sound_cover_the_recording_and_are_bounded(cache: Cache) -> None:
    rows = cache.recordings["walk"]
    shown = strips.frames(cache, rows)
    times = [time for time, _ in shown]
    assert times == sorted(set(times))
    assert (times[0], times[-1]) == (0.5, 7.5)
    assert len(strips.frames(cache, rows, most=4)) == 4
    tiles = strips.sound(cache, rows, 8.0)
    assert (tiles[0].start_s, tiles[-1].end_s) == (0.0, 8.0)
    assert all(base64.b64decode(tile.png)[:4] == b"\x89PNG" for tile in tiles)


def test_a_column_of_sound_is_the_mean_of_the_first_window_that_has_it(cache: Cache) -> None:
    rows = cache.recordings["walk"]
    clock = cache.fields["audio/mel"].clock
    assert isinstance(clock, Rate)
    mel = strips._columns(cache, rows, clock, 20.0, np.full((160, 4), np.nan))
    assert np.isfinite(mel[:159]).all()
    first_mel = cache.read("audio/mel", rows[:1])[0].astype(np.float64)
    own = (np.arange(len(first_mel)) / clock.rate_hz * 20).astype(int) == 3
    assert mel[3] == pytest.approx(first_mel[own].mean(axis=0))


def test_what_no_window_covers_is_said(tmp_path: Path) -> None:
    made = windows_cache(tmp_path / "cache", {"a": (8.0, [])}, missing=["a@2", "a@3", "a@4"])
    found = open_cache(made)
    assert spans(found, found.recordings["a"]) == (8.0, ((3.0, 5.0),))
    made = windows_cache(tmp_path / "short", {"a": (8.0, [])}, hop_s=None)
    found = open_cache(made)
    assert spans(found, found.recordings["a"]) == (8.0, ((2.0, 8.0),))


def test_seconds_have_the_mean_probability_of_each_class() -> None:
    values = np.zeros((15, 2))
    values[:10, 0], values[10:, 1] = 0.4, 0.8
    one = recording(timeline=Timeline(values, 0.1, 1.5), classes=2)
    assert one.per_second() == {"Class 0": [0.4, 0.0], "Class 1": [0.0, 0.8]}


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH")
@pytest.mark.parametrize("width_px", [390, 1280])
def test_a_browser_draws_it_without_a_complaint(
    cache: Cache, tmp_path: Path, width_px: int
) -> None:
    """A copy with a probe in its script, since the page itself says nothing to the outside."""
    assert CHROMIUM is not None
    probe = (
        "\nsetTimeout(() => { document.title = [document.documentElement.scrollWidth, innerWidth, "
        "document.querySelectorAll('#list li').length, byId('summary').textContent].join('|'); }, "
        "300);"
    )
    own = SCRIPTS + probe
    text = rendered(cache).replace(SCRIPTS, own)
    text = text.replace(web.digest(SCRIPTS), web.digest(own))
    copy = tmp_path / "copy.html"
    copy.write_text(text)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width_px},900",
         "--virtual-time-budget=3000", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    wide, inner, rows, summary = first(r"<title>(.*?)</title>", done.stdout).split("|")
    assert int(wide) <= int(inner), "the page itself never scrolls sideways"
    assert int(rows) > 0
    assert summary.startswith(f"0:08 · {rows} event")


def test_classes_of_the_truth_alone_have_a_lane() -> None:
    one = recording(truth=(Found("Zebra", 0.0, 1.0, 1.0),))
    data = page.data(one, Path("/out"))
    assert data["truth"] == [("Zebra", 0.0, 1.0)]
    assert "Zebra" not in data["classes"]
    assert page.data(replace(one, truth=None), Path("/out"))["truth"] is None
    assert page.data(replace(one, truth=()), Path("/out"))["truth"] == []
    assert CLASSES
