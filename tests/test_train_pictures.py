"""Pictures show the answer that is printed, and survive whatever clips and classes are called."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image
from synthetic_cache import make_cache
from tiny_runs import copied, drawable

from cache import CacheError, open_cache
from train import __main__ as cli
from train.commands import fit as fitting
from train.commands.evaluate import evaluate_run
from train.commands.predict import predict_cache
from train.config import TrainConfig
from train.data.batch import Batch, Output
from train.data.dataset import load_dataset
from train.data.features import load_features
from train.model.fusion import FusionModel
from train.report import page, page_cards, pictures, plots, run_plots, views
from train.report.attention import attention_figure, heads_figure, share_into
from train.report.clip_card import card_figure
from train.report.drawing import file_name, heat, label, opened, png, save_figures
from train.report.outcomes import hardest
from train.report.views import AttentionMaps, View, span
from train.runs.checkpoint import load
from train.runs.evaluate import answered_events, true_events
from train.runs.folders import BEST
from train.runs.trained import load_run
from train.score import predict as predicting
from train.score.decode import best_interval
from train.score.metrics import Array

CONFIG = TrainConfig(
    device="cpu",
    audio_feat_dim=16,
    video_feat_dim=16,
    map_channels=8,
    batch_size=8,
    learning_rate=3e-3,
    epochs=2,
    num_heads=2,
)
NAMES = [
    "Ba$$in",
    "$x^{",
    "AVE\\a",
    "under_score_{}",
    "two\nlines\tand \x1b[31mred",
    "\u202egnp.exe",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u72ac\u53eb\u58f0 \U0001f415",
    "%s {0} & <b>",
    "n" * 300,
    "\udce9t\udce9",
]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cache of thirty clips and a folder of two runs."""
    folder = tmp_path_factory.mktemp("pictures")
    cache = make_cache(folder / "cache", clips=30, classes=3)
    fitting.fit(cache, folder / "run", CONFIG, seeds=[0, 1], pictures=1)
    return cache, folder / "run"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, View]:
    """The views that would be drawn, in order, by id."""
    views = {}

    def draw(folder: Path, view: View, heads: bool = False) -> list[Path]:
        views[view.id] = view
        return [folder / "card.png"]

    monkeypatch.setattr(plots, "draw_clip", draw)
    return views


def gate_line(figure: Figure) -> StepPatch:
    """The stair of the gate in a card, not the area under it."""
    found = [
        patch
        for axis in figure.axes
        for patch in axis.patches
        if isinstance(patch, StepPatch) and not patch.get_fill()
    ]
    return found[0]


def stairs(figure: Figure) -> Array:
    """What the card's line of the gate shows: a value for each second."""
    values = gate_line(figure).get_data()[0]
    plt.close(figure)
    return np.asarray(values)


def of_path(path: str) -> Array:
    """The same of the page's outline."""
    return np.array([1 - float(value) for value in re.findall(r"V([\d.]+) H", path)])


def decided(on: Array, clip_seconds: float = 10.0) -> tuple[float, float]:
    first, stop = best_interval(on[None])
    return (first[0] * clip_seconds / len(on), stop[0] * clip_seconds / len(on))


@pytest.mark.parametrize("ensemble", [False, True], ids=["single", "ensemble"])
def test_the_gate_that_is_drawn_is_the_one_that_decided(
    seeds: tuple[Path, Path], tmp_path: Path, drawn: dict[str, View], ensemble: bool
) -> None:
    """For every clip, the interval that the picture implies is the one that is printed."""
    cache, run = seeds
    run = run if ensemble else run / "seed-0"
    assert load((run / "seed-0" if ensemble else run) / BEST)[1].decoding == "gate"
    found = predict_cache(run, cache, out=tmp_path, pictures=None)
    assert found == json.loads((tmp_path / "predictions.json").read_text())
    assert [row["id"] for row in found] == list(drawn)
    for row in found:
        view = drawn[str(row["id"])]
        interval = (row["predicted_start_s"], row["predicted_end_s"])
        shown = stairs(card_figure(view))
        assert decided(shown) == view.predicted_s == interval
        assert np.abs(of_path(page_cards.gate(view)[0]) - shown).max() < 6e-4
        assert (view.predicted, view.confidence) == (row["predicted"], row["confidence"])
        assert f"{row['predicted']} ({row['confidence']:.0%}), {span(interval)}" in view.title
        assert view.gate_name == "gate"
        words = ["of the first of 2 models"] if ensemble else []
        assert view.attention_of == ", ".join([*words, "of the pass forwards alone"])


def test_predict_tells_of_its_pictures_in_one_line(
    seeds: tuple[Path, Path],
    tmp_path: Path,
    drawn: dict[str, View],
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "attention_visualization" / "card.png"
    for count, more in ((3, ", and of 2 other clips"), (1, "")):
        predict_cache(seeds[1] / "seed-0", seeds[0], out=tmp_path, pictures=count)
        lines = capsys.readouterr().out.splitlines()
        told = [line for line in lines if line.startswith("pictures") or "card.png" in line]
        assert told == [f"pictures: {place}, 0 more beside it{more}"]


def test_the_report_shows_what_was_scored(seeds: tuple[Path, Path]) -> None:
    run = seeds[1]
    rows = json.loads((run / "seed-0" / "predictions_val.json").read_text())
    text = (run / "seed-0" / page.FILE).read_text()
    outlines = [
        of_path(path) for path in re.findall(r'<path class="gate" d="(M0\.000 1[^"]*)"', text)
    ]
    said = re.findall(r"</span> said: (.*?) \((\d+)%\), ([\d.]+)–([\d.]+) s;", text)
    ids = re.findall(r'data-id="([^"]*)"', text)
    by_id = {row["id"]: row for row in rows}
    assert sorted(ids) == sorted(by_id)
    for clip_id, outline, (name, percent, start, end) in zip(ids, outlines, said, strict=True):
        row = by_id[clip_id]
        assert (name, f"{percent}%") == (row["predicted"], f"{row['confidence']:.0%}")
        assert (float(start), float(end)) == (row["predicted_start_s"], row["predicted_end_s"])
        parts = len(outline)
        first, stop = (round(row[f"predicted_{e}_s"] * parts / 10) for e in ("start", "end"))

        def expected(i: int, j: int, chance: Array = outline) -> float:
            inside = chance[i:j].sum()
            return float(inside / (j - i + chance.sum() - inside))

        best = max(expected(i, j) for i, j in combinations(range(parts + 1), 2))
        assert expected(first, stop) == pytest.approx(best, abs=0.01)
    assert "the interval that overlaps it best" in text
    assert "did not decide" not in text


def test_a_gate_that_did_not_decide_says_so(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", clips=15, classes=3)
    config = CONFIG.revised(gate_weight=0.0, epochs=1, reversed_share=0.0)
    fitting.fit(cache, tmp_path / "run", config, pictures=1)
    text = (tmp_path / "run" / page.FILE).read_text()
    assert "they are the interval head" in text
    assert "(did not decide)" in text
    assert "overlaps it best" not in text
    run, opened_cache = load_run(tmp_path / "run"), open_cache(cache)
    clips = load_features(opened_cache, run.about.config, opened_cache.ids[:1], 3)
    maps = AttentionMaps(run.models[0], clips, [0])
    answer = run.answer(clips, maps)
    view = View.of(opened_cache, clips, answer, maps, 0, {"id": clips.ids[0]})
    assert "interval head" in view.gate_name
    assert view.attention_of == ""
    figure = card_figure(view)
    assert gate_line(figure).get_linestyle() in (":", "dotted")
    plt.close(figure)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many clips went through models, forwards and backwards in time."""
    counts: Counter[str] = Counter()
    forward = FusionModel.forward

    def counted(self: FusionModel, batch: Batch, return_attention: bool = False) -> Output:
        assert batch.frames is not None
        time_s = batch.frames.time_s[0]
        counts["backwards" if time_s[0] > time_s[-1] else "forwards"] += len(batch.frames.time_s)
        return forward(self, batch, return_attention)

    monkeypatch.setattr(FusionModel, "forward", counted)
    return counts


@pytest.mark.system
def test_each_clip_goes_through_a_model_once_pictures_or_not(
    seeds: tuple[Path, Path], tmp_path: Path, passes: Counter[str]
) -> None:
    cache, run = seeds
    events = len(json.loads((run / "seed-0" / "predictions_val.json").read_text()))
    once = {"forwards": events, "backwards": events}
    scores = [evaluate_run(run / "seed-0", cache, "val", pictures=n)[0]["scores"] for n in (3, 0)]
    assert passes == {name: 2 * count for name, count in once.items()}
    assert scores[0] == scores[1], "being drawn changes no score"
    passes.clear()
    assert len(predict_cache(run, cache, out=tmp_path, pictures=2)) == 30
    assert passes == {"forwards": 60, "backwards": 60}, "two models"


def test_without_pictures_nothing_is_drawn(seeds: tuple[Path, Path], tmp_path: Path) -> None:
    cache = seeds[0]
    fitting.fit(cache, tmp_path / "run", CONFIG.revised(epochs=1), pictures=0)
    evaluate_run(tmp_path / "run", cache, "val", pictures=0)
    predict_cache(tmp_path / "run", cache, pictures=0)
    kinds = {path.suffix for path in (tmp_path / "run").rglob("*")}
    assert not kinds & {".png", ".html"}


def test_the_maps_that_are_kept_are_those_of_the_worst_answers(
    seeds: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more of them than are shown, whatever the order in which answers come."""
    monkeypatch.setattr(views, "GALLERY", 3)
    monkeypatch.setattr(predicting, "_BATCH", 2)
    cache, one = open_cache(seeds[0]), load_run(seeds[1] / "seed-0").models[0]
    dataset = load_dataset(cache, one.about.config, ("val",))
    truth = true_events(dataset, "val")
    maps = AttentionMaps(one, dataset.clips, [4], truth)
    rows = dataset.splits["val"].clip
    answer = one.answer(dataset.clips, rows, maps)
    worst = hardest(dict(enumerate(answered_events(dataset, "val", answer))))[:3]
    assert maps._maps.keys() == {4, *worst}
    ((_, batch),) = dataset.clips.batches(rows, len(rows))
    with torch.inference_mode():
        found = one.model(batch, return_attention=True).attention
    assert set(maps[4]) == {*found, "frame_time_s"} - {"gate", "channel"}
    for number in worst:
        for name in ("spatial", "audio_to_video"):
            np.testing.assert_allclose(maps[number][name], found[name][number], atol=1e-6)


def test_of_more_events_than_the_page_shows_the_best_are_drawn_too(
    seeds: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have no maps: of them the gate is drawn alone."""
    for module in (views, pictures):
        monkeypatch.setattr(module, "GALLERY", 2)
    drawn: list[View] = []
    original = run_plots.gates_figure

    def watched(shown: Sequence[View]) -> Figure:
        drawn.extend(shown)
        return original(shown)

    monkeypatch.setattr(run_plots, "gates_figure", watched)
    run = copied(seeds[1] / "seed-0", tmp_path)
    evaluate_run(run, seeds[0], "val", pictures=1)
    assert len(drawn) == len({view.id for view in drawn}) > 3
    assert sum(bool(view.attention) for view in drawn) in (2, 3)
    assert (run / page.FILE).read_text().count("<article") == 2


def test_maps_that_memory_has_no_room_for_are_refused(
    seeds: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", "--run", seeds[1], "--cache", seeds[0], "--out", tmp_path / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "room", lambda device, memory_gb: 1000)
        assert cli.main([str(word) for word in argv]) == 2
        assert "draw fewer, with --pictures" in capsys.readouterr().err
        assert cli.main([str(word) for word in [*argv, "--pictures", 0]]) == 0


def test_heat_is_faint_where_the_model_does_not_look() -> None:
    weights = np.full((2, 7, 7), 1 / 49)
    weights[1, 3, 4] = 0.5
    found = heat(weights)
    assert found.shape == (2, 7, 7, 4)
    assert found[1, 3, 4, 3] == 178
    assert found[1, 3, 4, :3].min() > 150
    assert found[0].max(axis=(0, 1))[3] == 0, "even attention covers nothing"
    weights[1, 3, 4] = 2 / 49
    assert 178 > heat(weights)[1, 3, 4, 3] > 60, "one scale for all clips, whatever their largest"


def test_attention_is_summed_up_by_what_goes_into_the_event() -> None:
    """Two heads of eight frames: one looks at the event when asked in it, the other evenly."""
    weights = np.full((2, 8, 8), 1 / 8)
    weights[0, 2:6] = 0
    weights[0, 2:6, 2:6] = 1 / 4
    times = 0.625 + 1.25 * np.arange(8)
    view = drawable("x", attention={"video": weights}, frame_time_s=times)
    inside, outside, even = share_into(view, "video", (2.5, 7.5))
    np.testing.assert_allclose(inside, [1.0, 0.5])
    np.testing.assert_allclose(outside, [0.5, 0.5])
    assert even == pytest.approx(0.5)
    assert np.isnan(share_into(view, "video", (0.0, 10.0))[1]).all(), "there is no outside"


def test_maps_have_one_scale_and_the_edges_of_the_event() -> None:
    """Of two clips, one with attention ten times as peaked: the same colours mean the same."""
    figures = []
    for sharp in (1.0, 10.0):
        weights = np.exp(sharp * np.random.default_rng(0).random((8, 8, 8)))
        weights /= weights.sum(axis=2, keepdims=True)
        times = 0.625 + 1.25 * np.arange(8)
        view = drawable("x", attention={"video": weights}, frame_time_s=times)
        names = {"video": "video attends to video"}
        figures += [attention_figure(view, names, "a"), heads_figure(view, names, "b")]
    maps = [axis for figure in figures for axis in figure.axes if axis.collections]
    meshes = [m for axis in maps for m in axis.collections if isinstance(m, QuadMesh)]
    assert len({m.get_clim() for m in meshes}) == 1
    with_maps = [axis for figure in figures[1::2] for axis in figure.axes if axis.collections]
    assert len(with_maps) == 2 * 8
    assert all(len(axis.lines) == 8 for axis in with_maps), "two spans, two edges, both axes"
    plt.close("all")


@pytest.mark.parametrize("heads", [False, True])
def test_heads_are_drawn_on_request(tmp_path: Path, heads: bool) -> None:
    paths = plots.draw_clip(tmp_path, drawable("x"), heads)
    kinds = ["card", "spatial", "temporal", "cross_modal"]
    wanted = [*kinds[:3], "temporal_heads", "cross_modal", "cross_modal_heads"] if heads else kinds
    assert [path.stem for path in paths] == [f"x_{kind}" for kind in wanted]


@pytest.mark.parametrize(
    "changes",
    [
        {"true_s": (0.0, 10.0), "predicted_s": (0.0, 10.0)},
        {"true_s": (9.0, 10.0), "predicted_s": (0.0, 0.5)},
        {"true_s": None, "category": None, "empty": True, "event": False},
        {"true_s": None, "category": None},
        {"pictures": [], "attention": {}, "frame_time_s": np.empty(0)},
        {"mel": np.full((40, 8), np.nan)},
        {"mel": np.random.default_rng(0).normal(size=(40, 8)), "by_gate": False},
    ],
    ids=["whole", "at the ends", "no event", "unknown", "sound alone", "silent", "no gate"],
)
def test_a_card_has_all_that_is_known_of_a_clip(changes: dict[str, Any]) -> None:
    view = drawable("x", **{"category": "Clock", "predicted": "Clock", **changes})
    figure = card_figure(view)
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    said = f"Clock (50%), {span(view.predicted_s)}"
    assert texts[-1] == (f"no event; else {said}" if view.event is False else said)
    known = view.true_s is not None or view.empty
    assert (texts[0] == (f"Clock, {span(view.true_s)}" if view.true_s else "no event")) is known
    figure.draw_without_rendering()
    for axis in figure.axes:
        box = axis.get_window_extent()
        for text in axis.texts:
            extent = text.get_window_extent()
            assert box.x0 <= extent.x0
            assert extent.x1 <= box.x1, "words stay in the picture"
    plt.close(figure)


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    """No mathtext, no warning, whatever clips and classes are called."""
    rows = [
        {"category": name, "predicted": name[::-1], "start_s": 0.0, "end_s": 4.0}
        | {"predicted_start_s": 1.0, "predicted_end_s": 3.0}
        for name in NAMES
    ]
    figures = {
        "intervals": run_plots.intervals_figure(rows, 10.0),
        "confusion": run_plots.confusion_figure(np.eye(len(NAMES)), NAMES),
        "gates": run_plots.gates_figure([drawable(name) for name in NAMES]),
        **{str(place): card_figure(drawable(name)) for place, name in enumerate(NAMES)},
    }
    ticks = figures["confusion"].axes[0].get_yticklabels()
    assert [text.get_text() for text in ticks] == [label(name, 30) for name in NAMES]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figures(tmp_path, figures)


@pytest.mark.parametrize("name", ["$x^{\n\\", "\u72ac$" * 85], ids=["odd", "long"])
def test_all_pictures_of_a_clip_with_an_odd_name(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = plots.draw_clip(tmp_path / "clip", drawable(name))
    kinds = [path.stem.removeprefix(f"{file_name(name)}_") for path in paths]
    assert kinds == ["card", "spatial", "temporal", "cross_modal"]
    assert sorted(paths) == sorted((tmp_path / "clip").iterdir())


def test_a_label_is_printable_short_and_otherwise_untouched() -> None:
    assert label("Ba$$in \\ {x}_y^2") == "Ba$$in \\ {x}_y^2"
    assert label("a\nb\x1b[0m\u202ec") == "a?b?[0m?c"
    assert label("a" * 30 + "b" * 30, 21) == "a" * 13 + "…" + "b" * 7


def test_file_names_are_safe_and_never_the_same() -> None:
    ids = [
        *("abc", "Abc", "aBc", "a b", "a_b", "a/b", "a:b", "-x", "_x", "x", ".hidden", "..", "con"),
        *("e\u0301", "\u00e9", "\udce9", "a~b", "", "n" * 255, "n" * 254 + "m", "\u00e9" * 120),
        *("$(touch x)", "a\nb", "a\\b"),
    ]
    names = [file_name(name) for name in ids]
    assert len({name.casefold() for name in names}) == len(ids)
    assert len({name.encode().decode("ascii", "ignore") for name in names}) == len(ids)
    for name in names:
        assert len(name.encode()) <= 109
        assert name[:1] not in {"-", "."}
        assert not re.search(r'[\x00-\x1f/\\:*?"<>|$ ]', name)
    assert file_name("abc_0-1.x") == "abc_0-1.x"


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
        b"",
        b"\xff\xd8\xff\xe0 cut",
    ],
    ids=["PostScript", "empty", "cut"],
)
def test_a_picture_that_is_no_jpeg_is_refused(data: bytes) -> None:
    with pytest.raises(CacheError, match=r"'c': a frame's picture is no JPEG"):
        opened(data, 112, "c")


def test_a_png_is_refused_as_a_picture(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    view = drawable("x", pictures=[buffer.getvalue()] * 2)
    for draw in (plots.spatial_figure, page_cards.frames):
        with pytest.raises(CacheError, match="no JPEG"):
            draw(view)
    plt.close("all")


def test_figures_are_closed() -> None:
    figure = plt.figure()
    assert png(figure, 50).startswith(b"\x89PNG")
    assert not plt.get_fignums()
