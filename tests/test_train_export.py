"""A run that was handed over: it answers as the run does, and its files are read with suspicion."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recordings_cache import drawn, recordings_cache
from safetensors.numpy import load as load_reference
from synthetic_cache import make_cache
from test_train_fields import (
    CLIP,
    COARSE,
    FINE,
    MAPS,
    OTHER,
    STILL,
    TIMES,
    VECTOR,
    WIDE,
    cache_of,
    joined_name,
)
from tiny_runs import FLAGS, TINY, copied, score, tiny_labels

from cache import open_cache
from cache.common.cli import printable
from cache.common.errors import AvelError, ConfigError
from cache.format.identity import Identity
from cache.joined import open_caches
from train.__main__ import main
from train.commands.export import export
from train.data.fields import inputs_of
from train.export import onnx_file
from train.export.card import Card, plain
from train.export.graph import Answering
from train.export.onnx_file import ANY, ONE, cached_arrays
from train.export.sample import CLIPS, made_up
from train.runs import checkpoint
from train.runs.answers import load_all_clips, predict
from train.runs.checkpoint import CheckpointError
from train.runs.clip_features import wanted
from train.runs.folders import BEST, HANDED
from train.runs.timelines import each_class
from train.runs.trained import TrainedRun, load_run

Parts = tuple[dict[str, Any], bytes]


def fit(cache: Path | str, run: Path, *more: str) -> Path:
    assert main(["fit", "--cache", str(cache), "--run", str(run), *FLAGS, *more]) == 0
    return run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "cache"
    return make_cache(folder, labels=tiny_labels(), **TINY)


@pytest.fixture(scope="module")
def run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, scored on test once."""
    folder = fit(cache, tmp_path_factory.mktemp("export") / "run", "--seeds", "2")
    score(folder, cache)
    return folder


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "model"
    return export(run, out, onnx=False, licence="CC-BY-4.0")


def test_it_answers_bit_for_bit_as_the_run_does(cache: Path, run: Path, model: Path) -> None:
    before, after = load_run(run), load_run(model)
    assert [one.about for one in after.models] == [one.about for one in before.models]
    opened = open_cache(cache)
    told = predict(before, opened)
    assert predict(after, opened) == told
    assert predict(load_run(model / "seed-1"), opened) == predict(load_run(run / "seed-1"), opened)
    said = [one.answer(load_all_clips(one, opened, "cpu")).evidence for one in (before, after)]
    assert np.array_equal(said[0].probability, said[1].probability)
    assert {one["seen"] for one in told} == {"train", "val", "no"}


def test_the_commands_take_it_like_a_run(
    cache: Path, run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, theirs = copied(model, tmp_path), tmp_path / "run"
    shutil.copytree(run, theirs)
    ours, own = score(mine, cache), score(theirs, cache)
    assert ours["scores"] == own["scores"]
    assert ours["test_looks"] == own["test_looks"] == 2, "those before count on"
    assert main(["predict", "--run", str(mine), "--cache", str(cache), "--pictures", "0"]) == 0
    assert (mine / "predictions" / "predictions.json").exists()
    out = tmp_path / "found"
    words = ["--cache", str(cache), "--out", str(out), "--formats", "csv"]
    assert main(["annotate", "--run", str(mine), *words]) == 0
    assert main(["features", "--run", str(mine), "--out", str(tmp_path / "like.json")]) == 0
    assert wanted(mine)["fingerprint"] == wanted(run)["fingerprint"]
    assert f"the ensemble of 2 models in {mine}" in capsys.readouterr().out


def test_nothing_is_written_over(
    run: Path, model: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"expected an empty folder.*README.md"):
        export(run, model, onnx=False)
    handed, before = model / "seed-0", sorted(path.name for path in (model / "seed-0").iterdir())
    for more in ([], ["--resume"]):
        capsys.readouterr()
        assert main(["fit", "--cache", str(cache), "--run", str(handed), *FLAGS, *more]) == 2
        assert "begin from its weights with --init" in capsys.readouterr().err
    assert sorted(path.name for path in handed.iterdir()) == before
    with pytest.raises(AvelError, match="no trained run here"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=f"there are runs in it, name one: {model}"):
        load_run(model.parent)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="expected an empty folder"):
        export(run, tmp_path / "link", onnx=False)


def test_where_no_folder_can_be_put_another_is_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (Path(), tmp_path):
        with pytest.raises(ConfigError, match=r"the current folder, .* a folder in it: --out .*"):
            export(run, out, onnx=False)
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(ConfigError, match=r"a mounted disk, .*--out disk/model"):
        export(run, Path("disk"), onnx=False)


def test_a_folder_is_there_whole_or_not_at_all(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "below" / "model"

    def stopped(self: Card) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Card, "render", stopped)
        with pytest.raises(KeyboardInterrupt):
            export(run, out, onnx=False)
    assert list(out.parent.iterdir()) == []
    out.mkdir()
    export(run, out, onnx=False)
    assert (out / "README.md").exists()
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_ids_can_be_left_out(cache: Path, run: Path, tmp_path: Path) -> None:
    out = export(run / "seed-0", tmp_path / "model", onnx=False, without_ids=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "features.json", HANDED, "test_evaluations.jsonl",
    ]  # fmt: skip
    every = b"".join(path.read_bytes() for path in out.iterdir())
    assert not [clip_id for clip_id in open_cache(cache).ids if clip_id.encode() in every]
    handed = load_run(out)
    assert handed.cautions()[0].startswith(f"{out}: handed over without record: ")
    assert {one["seen"] for one in predict(handed, open_cache(cache))} == {"unknown"}
    assert "The ids of the clips that it was trained on were left out" in card(out)


def test_what_names_the_makers_machine_is_left_out(run: Path, tmp_path: Path) -> None:
    place = copied(run / "seed-0", tmp_path)
    record = json.loads((place / "record.json").read_text())
    (whole,) = record["sessions"]
    assert whole["command"]
    torn = {**whole, "ended": None, "ended_because": f"{tmp_path}/last.pth: can't be written"}
    (place / "record.json").write_text(json.dumps({**record, "sessions": [torn, whole]}))
    out = export(place, tmp_path / "model", onnx=False)
    first, last = json.loads((out / "record.json").read_text())["sessions"]
    assert first["command"] == last["command"] == []
    assert last["ended_because"] == whole["ended_because"]
    assert not [path for path in out.iterdir() if str(tmp_path).encode() in path.read_bytes()]


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_it_is_and_how_good(run: Path, model: Path) -> None:
    text = card(model)
    assert text.startswith('---\nlibrary_name: avel-two-stage\nlicense: "cc-by-4.0"\n')
    assert "An ensemble of 2 models" in text
    assert "The model: CC-BY-4.0." in text
    assert load_run(run).about.fingerprint in text
    assert "majority class, whole clip" in text, "the baselines stand beside"
    assert "test: 6 events" in text
    assert "Looks at the test split: 1." in text
    assert "- train: 18 clips, 18 label rows" in text
    assert "No ONNX file: none was asked for." in text


def test_the_card_says_what_was_not_evaluated(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(cache, tmp_path / "run")
    text = card(export(run, tmp_path / "model", onnx=False))
    assert "### test\n\nNot evaluated." in text
    assert "Looks at the test split: 0." in text
    assert 'license: "unknown"' in text


def test_the_card_promises_media_only_where_their_features_are_made(run: Path, cache: Path) -> None:
    trained, own = load_run(run), open_cache(cache).identity
    others = replace(own, config={**own.config, "imported": True})
    for features, media in ((own, True), (others, False), (None, False)):
        text = Card(trained, features, "m", {}, 0, "MIT", "none", False).render()
        assert ("make predict" in text, 'predict("some.mp4")' in text) == (media, media)
        assert ("terms of who made them" in text) is not media
        assert ("--cache CACHE --cache …" in text) is (features is None), "joined caches"


def test_words_from_files_are_no_markup_in_the_card(run: Path, cache: Path) -> None:
    trained, own = load_run(run), open_cache(cache).identity
    evil = "<script>*a*\n# `x` [y](z) \x1b[2J|"
    object.__setattr__(trained.models[0].about, "classes", [evil, "b", "c"])
    text = Card(trained, own, evil, {"val": "a\n```\n# x"}, 0, evil, evil, False).render()
    head, body = text.split("\n---\n")
    assert 'license: "other"' in head
    assert "<script>" not in body.replace(f"--run '{printable(evil)}'", "").split("## Scores")[1]
    assert "\n# `x`" not in body
    assert body.count("```") % 2 == 0
    assert "\x1b" not in text
    assert f'train.load("{printable(evil)}")' in text, "a name is Python's, not the shell's, there"
    assert plain("a_b|c") == r"a\_b\|c"


def test_missing_packages_are_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_file, "missing_packages", lambda: ["onnxscript"])
    out = export(run / "seed-0", tmp_path / "model")
    told = "no ONNX file: onnxscript is not installed; `pip install 'avel-two-stage[onnx]'`"
    assert told in capsys.readouterr().out
    assert not (out / ANY).exists()
    with pytest.raises(ConfigError, match="onnxscript is not installed"):
        export(run, tmp_path / "other", onnx=True)


def test_the_reference_reader_reads_the_weights(model: Path) -> None:
    place = model / "seed-0"
    theirs = load_reference((place / HANDED).read_bytes())
    ours, _, _ = checkpoint.load(place / HANDED)
    for name, value in ours.state_dict().items():
        assert np.array_equal(theirs[name], value.numpy())


def parts(path: Path) -> Parts:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: object, body: bytes, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def changed(key: str, **changes: object) -> Callable[[Parts], bytes]:
    def change(found: Parts) -> bytes:
        header, body = found
        return joined({**header, key: {**header[key], **changes}}, body)

    return change


GATE = "gate.bias"
HOSTILE: dict[str, tuple[Callable[[Parts], bytes], str]] = {
    "empty": (lambda found: b"", "its header claims"),
    "a longer header": (lambda found: joined(*found, length=1 << 62), "its header claims"),
    "no JSON": (lambda found: struct.pack("<Q", 4) + b"{{{{", "not a safetensors file"),
    "a list": (lambda found: joined([], b""), "its header is no JSON object"),
    "a number for texts": (changed("__metadata__", about=1), "is no object of texts"),
    "halves": (changed(GATE, dtype="F16"), "dtype"),
    "a shape of others": (changed(GATE, shape=[1 << 40]), "shape"),
    "a longer shape": (changed(GATE, shape=[2]), "claims other bytes"),
    "a negative shape": (changed(GATE, shape=[-1]), "shape"),
    "bytes of others": (changed(GATE, data_offsets=[4, 8]), "claims other bytes"),
    "more bytes": (lambda found: joined(found[0], found[1] + b"1234"), "its arrays have"),
    "fewer bytes": (lambda found: joined(found[0], found[1][:-4]), "its arrays have"),
    "another format": (changed("__metadata__", format="x"), "not a checkpoint of this program"),
    "another version": (changed("__metadata__", version="9"), "checkpoint version 9"),
    "nothing of itself": (changed("__metadata__", about="{}"), "is required"),
    "NaN": (lambda found: joined(found[0], b"\xff" * len(found[1])), "not finite"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_weights_are_refused(how: str, model: Path, tmp_path: Path) -> None:
    change, told = HOSTILE[how]
    path = copied(model / "seed-0", tmp_path) / HANDED
    path.write_bytes(change(parts(path)))
    with pytest.raises(CheckpointError, match=told) as caught:
        load_run(path.parent)
    assert str(path) in str(caught.value)


def test_links_and_tensors_of_another_model_are_refused(model: Path, tmp_path: Path) -> None:
    folder = copied(model / "seed-0", tmp_path)
    (folder / HANDED).unlink()
    (folder / HANDED).symlink_to(model / "seed-0" / HANDED)
    with pytest.raises(CheckpointError, match="a link or a pipe"):
        load_run(folder)
    (folder / HANDED).unlink()
    header, body = parts(model / "seed-0" / HANDED)
    header["other"] = header.pop(GATE)
    (folder / HANDED).write_bytes(joined(header, body))
    with pytest.raises(CheckpointError, match=r"1 missing: gate.bias; 1 not known here: other"):
        load_run(folder)


def differs(run: TrainedRun, cache: Path | str) -> float:
    """How far the graph, in torch, is from the run's own answers to a cache's clips."""
    opened, config = open_caches(cache), run.config("cpu")
    clips = load_all_clips(run, opened, "cpu")
    graph = Answering(run, inputs_of(opened, config), len(clips.step_time_s)).eval()
    rows = list(range(len(opened.ids)))
    given = cached_arrays(opened, graph.input.names, rows)
    with torch.inference_mode():
        found = graph(*(torch.from_numpy(np.array(value)) for value in given.values()))
    if graph.several:
        expected = [np.mean([each_class(one, clips, torch.tensor(rows)) for one in run.models], 0)]
    else:
        answer = run.answer(clips)
        said = answer.predictions
        assert said.event is not None
        expected = [said.probability, said.start_s, said.end_s, said.event, answer.evidence.cells]
    assert len(found) == len(expected)
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(one.numpy() - other).max()) for one, other in pairs)


@pytest.mark.parametrize(
    "setting", ["--modality=audio", "--modality=video", "--class-fields=audio/mel,audio/chroma"]
)
def test_the_graph_of_some_fields_says_what_the_run_says(
    setting: str, cache: Path, tmp_path: Path
) -> None:
    run = fit(cache, tmp_path / "run", setting, "--reversed-share", "0")
    assert differs(load_run(run), cache) < 1e-5


def test_the_graph_of_an_ensemble_says_what_it_says(run: Path, cache: Path) -> None:
    assert differs(load_run(run), cache) < 1e-5


@pytest.mark.parametrize(
    "calibration",
    [
        {"grid_s": 1.0, "gate_scale": 2.0, "gate_shift": -0.5, "class_temperature": 0.5},
        {"whole_clip": True},
        {"grid_s": 0.5},
    ],
)
@pytest.mark.parametrize("decoding", ["gate", "interval"])
def test_the_graph_reads_off_as_the_run_does(
    calibration: dict[str, Any], decoding: str, run: Path, cache: Path, tmp_path: Path
) -> None:
    place = copied(run / "seed-0", tmp_path)
    model, about, _ = checkpoint.load(place / BEST)
    about = about.revised(calibration=calibration, decoding=decoding)
    checkpoint.save(place / BEST, model, about)
    assert differs(load_run(place), cache) < 1e-5


def test_the_graph_of_several_events_says_what_the_run_says(tmp_path: Path) -> None:
    windows = recordings_cache(tmp_path / "cache", drawn(20))
    run = fit(windows, tmp_path / "run")
    assert load_run(run).about.config.events == "several"
    assert differs(load_run(run), windows) < 1e-5


def test_the_graph_brings_fields_of_any_clock_to_the_steps(tmp_path: Path) -> None:
    folder = cache_of(tmp_path / "own", [FINE, OTHER, MAPS, TIMES, CLIP, STILL, VECTOR])
    words = ["--class-fields", "audio/other"]
    trained = load_run(fit(folder, tmp_path / "run", *words))
    assert trained.about.shapes["class_only"] == 6
    assert differs(trained, folder) < 1e-4
    features = Identity.parse(wanted(tmp_path / "run"), "features")
    made = made_up(tmp_path / "made", features.declaration, trained.models[0].model)
    assert len(made.ids) == CLIPS
    assert made.fields == open_cache(folder).fields
    assert differs(trained, tmp_path / "made") < 1e-4


def test_fields_of_joined_caches_have_steps_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = cache_of(tmp_path / "first", [FINE, MAPS, TIMES])
    second = cache_of(tmp_path / "second", [COARSE, WIDE], labelled=False)
    trained = load_run(fit(joined_name(first, second), tmp_path / "run"))
    assert differs(trained, joined_name(first, second)) < 1e-4
    export(tmp_path / "run", tmp_path / "model")
    assert "a run of several caches; name them with --cache" in capsys.readouterr().out


@pytest.mark.system
def test_onnx_files_answer_as_the_run_does(
    run: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    out = export(run, tmp_path / "model", onnx=True, cache_path=cache)
    assert "real clips" in capsys.readouterr().out
    opened = open_cache(cache)
    told = predict(load_run(run), opened)
    code = str(Path(onnx_file.__file__).parents[2]).encode()
    for name, size in ((ANY, 5), (ONE, 1)):
        assert code not in (out / name).read_bytes(), "it names places on the maker's machine"
        session = onnxruntime.InferenceSession(out / name)
        names = [one.name for one in session.get_inputs()]
        given = cached_arrays(opened, names, range(size))
        found = dict(
            zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True)
        )
        classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
        for number in range(size):
            best = int(found["probability"][number].argmax())
            assert classes[best] == told[number]["predicted"]
            for key in ("start_s", "end_s"):
                value = told[number][f"predicted_{key}"]
                assert found[key][number] == pytest.approx(value, abs=1e-4)
    text = card(out)
    assert "Compared with PyTorch on 12 real clips" in text


@pytest.mark.system
def test_onnx_of_several_events_is_checked_on_made_up_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = recordings_cache(tmp_path / "cache", drawn(20))
    out = export(fit(windows, tmp_path / "run"), tmp_path / "model", onnx=True)
    assert "made-up clips" in capsys.readouterr().out
    assert (out / ANY).stat().st_size > (out / HANDED).stat().st_size


def test_answers_of_a_graph_are_compared_number_by_number() -> None:
    def compared(found: onnx_file.Arrays, expected: onnx_file.Arrays) -> tuple[float, int]:
        return onnx_file._compared(found, expected, clip_seconds=4.0)

    given = {
        "probability": np.array([[0.1, 0.9]]),
        "cells": np.array([[0.0, 1.0, 0.0, 1.0]]),
        "start_s": np.array([1.0]),
        "end_s": np.array([2.0]),
    }
    assert compared(given, given) == (0.0, 0)
    as_good = {**given, "start_s": np.array([3.0]), "end_s": np.array([4.0])}
    apart, moved = compared(as_good, given)
    assert moved == 1
    assert apart < 1e-12
    worse = {**given, "start_s": np.array([0.0]), "end_s": np.array([2.0])}
    assert compared(worse, given)[0] == pytest.approx(1 / 2 - 1 / 3)
    far = {**given, "probability": np.array([[0.2, 0.8]])}
    assert compared(given, far)[0] == pytest.approx(0.1)
