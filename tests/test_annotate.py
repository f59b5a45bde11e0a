"""`train annotate`: recordings become lists and pages, once each; a bad one stops no other."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, tiny_labels
from windows_cache import CLASSES, windows_cache

from cache import Labels, open_cache
from cache.__main__ import main as cache_main
from cache.common.errors import CacheError, ConfigError
from cache.labels.store import write_labels
from train import __main__ as cli
from train.annotate import outputs
from train.annotate.formats import FORMATS, parse_formats
from train.annotate.look import look_at
from train.commands.annotate import annotate
from train.report.media import find_media
from train.runs.trained import load_run

RECORDINGS: dict[str, tuple[float, list[tuple[int, float, float]]]] = {
    "walk": (9.0, [(0, 1.0, 3.0), (1, 5.0, 8.0)]),
    "Street 1": (6.0, [(2, 2.0, 4.5)]),
    "quiet": (5.0, []),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on short clips of the same classes."""
    folder = tmp_path_factory.mktemp("annotate")
    make_cache(folder / "cache", labels=tiny_labels(60), **TINY)
    argv = ["fit", "--cache", str(folder / "cache"), "--run", str(folder / "run"), *FLAGS]
    assert cli.main([*argv, "--epochs", "6"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    windows_cache(folder / "cache", RECORDINGS, folder / "films", missing=["walk@3"])
    return folder


@pytest.fixture
def place(recordings: Path, tmp_path: Path) -> Path:
    """A folder with a cache of windows and the files that it was made of."""
    folder = Path(shutil.copytree(recordings, tmp_path / "place"))
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def events(out: Path) -> list[dict[str, str]]:
    with (out / "events.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_recording_gets_every_format_and_all_together_the_lists(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "out"
    assert annotate(run, place / "cache", out, [place / "films"]) == 0
    told = capsys.readouterr().out
    names = {path.name for path in (out / "walk").iterdir()}
    suffixes = ("txt", "eaf", "vtt", "label-studio.json")
    assert names == {"events.json", "timeline.html", *(f"walk.{one}" for one in suffixes)}
    assert {path.name for path in out.iterdir()} == {
        "events.csv", "events.json", "index.html", "label-studio.xml", "walk", "Street 1", "quiet",
    }  # fmt: skip
    every = read(out / "events.json")["recordings"]
    assert [one["folder"] for one in every] == ["Street 1", "quiet", "walk"]
    listed = [(row["media"], row["category"]) for row in events(out) if row["category"]]
    said = [(one["media"], event["category"]) for one in every for event in one["events"]]
    assert sorted(listed) == sorted(said)
    assert said
    for one in every:
        own = read(out / one["folder"] / "events.json")
        assert own["events"] == one["events"]
        page = (out / one["folder"] / "timeline.html").read_text("utf-8")
        assert f'"address":"../../films/{one["media"].replace(" ", "%20")}"' in page
        assert f"{one['media']}, {one['length_s']:g} s" in told
    assert "answered by the run" in told
    assert "./../../films/walk.mp4" in (out / "walk/walk.eaf").read_text("utf-8")
    assert "Class 2" in (out / "label-studio.xml").read_text("utf-8")
    assert "../index.html" in (out / "walk/timeline.html").read_text("utf-8")


def test_what_was_not_looked_at_is_said_and_stored(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = {"walk": (9.0, [(0, 1.0, 3.0)])}
    missing = ["walk@3", "walk@4"]
    cache = windows_cache(tmp_path / "cache", recordings, tmp_path / "films", missing)
    assert annotate(run, cache, tmp_path / "out", [tmp_path / "films"]) == 0
    told = capsys.readouterr().out
    assert "1.0 s of it not looked at" in told
    assert "note: walk@3: this part could not be read: a damaged part" in told
    assert read(tmp_path / "out/walk/events.json")["not_looked_at"] == [[4.0, 5.0]]
    assert '"unseen":[[4.0,5.0]]' in (tmp_path / "out/walk/timeline.html").read_text("utf-8")
    assert "1.0 s of it were not looked at" in (tmp_path / "out/index.html").read_text("utf-8")


def test_a_second_call_does_only_what_is_new(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, looked = place / "out", list[str]()

    def noting(run: Any, cache: Any, name: str, *more: Any) -> Any:
        looked.append(name)
        return look_at(run, cache, name, *more)

    monkeypatch.setattr("train.commands.annotate.look_at", noting)

    def again(*more: Any) -> list[str]:
        looked.clear()
        assert annotate(run, place / "cache", out, *more) == 0
        return list(looked)

    assert again([place / "films/walk.mp4"]) == ["walk"]
    before = (out / "walk/events.json").stat().st_mtime_ns
    assert again([place / "films"]) == ["Street 1", "quiet"]
    assert (out / "walk/events.json").stat().st_mtime_ns == before
    assert len(read(out / "events.json")["recordings"]) == 3
    capsys.readouterr()
    assert again([place / "films"]) == []
    assert "3 of 3 recordings were done before" in capsys.readouterr().out
    assert again([place / "films"], ("csv",)) == ["Street 1", "quiet", "walk"]
    (out / "quiet/events.json").write_text("{")
    assert again([place / "films"], ("csv",)) == ["quiet"]


def test_another_run_s_answers_are_no_part_of_the_lists(
    run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / "out"
    assert annotate(run, place / "cache", out, [place / "films"]) == 0
    other = tmp_path / "runs" / "other"
    argv = ["fit", "--cache", str(run.parent / "cache"), "--run", str(other), *FLAGS]
    assert cli.main([*argv, "--seed", "7"]) == 0
    capsys.readouterr()
    assert annotate(other, place / "cache", out, [place / "films/walk.mp4"]) == 0
    assert "note: 2 recording(s)" in capsys.readouterr().out
    assert [one["folder"] for one in read(out / "events.json")["recordings"]] == ["walk"]


def test_recordings_that_the_run_has_seen_are_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = {"clip00000": (5.0, [(0, 1.0, 3.0)]), "new": (5.0, [])}
    cache = windows_cache(tmp_path / "cache", recordings)
    assert annotate(run, cache, tmp_path / "out") == 0
    assert "note: 1 of 2 recordings: the run was trained on it" in capsys.readouterr().out
    about = {name: read(tmp_path / f"out/{name}/events.json") for name in recordings}
    assert {name: one["seen"] for name, one in about.items()} == {
        "clip00000": "train", "new": "no",
    }  # fmt: skip
    page = (tmp_path / "out/clip00000/timeline.html").read_text("utf-8")
    assert '["Seen before","the run was trained on it"]' in page


def test_probabilities_of_each_second_on_request(run: Path, place: Path) -> None:
    out = place / "out"
    films = [place / "films/walk.mp4"]
    assert annotate(run, place / "cache", out, films, ("json",), probabilities=True) == 0
    each = read(out / "walk/events.json")["probability_each_second"]
    assert list(each) == list(CLASSES)
    assert {len(values) for values in each.values()} == {9}
    assert all(0 <= value <= 1 for values in each.values() for value in values)
    assert {path.name for path in (out / "walk").iterdir()} == {"events.json"}
    assert not (out / "index.html").exists()


def test_what_can_t_be_read_is_named_and_the_rest_goes_on(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = {"good": (5.0, [(0, 1.0, 3.0)]), "bad": (2.0, [])}
    cache = windows_cache(tmp_path / "cache", recordings, tmp_path / "films", missing=["bad"])
    (tmp_path / "films/notes.txt").write_text("none")
    alone = tmp_path / "other.mp4"
    alone.write_text("never extracted")
    assert annotate(run, cache, tmp_path / "out", [tmp_path / "films", alone]) == 1
    told = capsys.readouterr()
    assert "error: bad: a damaged part" in told.err
    assert f"error: {alone}: not in the cache" in told.err
    assert "notes.txt" not in told.err
    assert (tmp_path / "out/good/timeline.html").exists()
    assert read(tmp_path / "out/events.json")["not_read"].keys() == {"bad", str(alone)}
    assert "a damaged part" in (tmp_path / "out/index.html").read_text("utf-8")


def test_a_damaged_recording_stops_no_other(
    run: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(run: Any, cache: Any, name: str, *more: Any) -> Any:
        if name == "quiet":
            raise CacheError("a flipped bit")
        return look_at(run, cache, name, *more)

    monkeypatch.setattr("train.commands.annotate.look_at", failing)
    assert annotate(run, place / "cache", place / "out", [place / "films"]) == 1
    assert "error: quiet: a flipped bit" in capsys.readouterr().err
    assert [one["folder"] for one in read(place / "out/events.json")["recordings"]] == [
        "Street 1", "walk",
    ]  # fmt: skip


def test_true_events_stand_on_the_page_where_labels_are(run: Path, place: Path) -> None:
    names = ["walk", "walk", "quiet"]
    labels = Labels(
        names, list(CLASSES), np.array([0, 1, -1]), np.array([1.0, 5.0, 0.0]),
        np.array([3.0, 8.0, 0.0]), np.zeros(3, np.int8), "by hand",
    )  # fmt: skip
    write_labels(place / "cache", labels)
    assert annotate(run, place / "cache", place / "out", [place / "films"]) == 0
    truth = {
        name: (place / f"out/{name}/timeline.html").read_text("utf-8").split('"truth":')[1][:60]
        for name in RECORDINGS
    }
    assert truth["walk"].startswith('[["Class 0",1.0,3.0],["Class 1",5.0,8.0]]')
    assert truth["quiet"].startswith("[]")
    assert truth["Street 1"].startswith("null")


def test_clips_of_an_ordinary_cache_are_recordings_and_the_rest_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = windows_cache(tmp_path / "cache", {"walk": RECORDINGS["walk"]}, hop_s=None)
    assert annotate(run, cache, tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "the first 2 s of each recording alone" in told
    assert "7.0 s of it not looked at" in told


def test_the_media_of_a_recording_is_found_by_what_its_rows_keep(place: Path) -> None:
    cache, films = open_cache(place / "cache"), place / "films"
    assert find_media(cache, []).files == dict.fromkeys(cache.recordings)
    (films / "walk.mp4").rename(films / "renamed.mp4")
    found = find_media(cache, [films])
    assert found.files["walk"] == films / "renamed.mp4"
    os.utime(films / "quiet.mp4", (1, 1))
    found = find_media(cache, [films])
    assert found.changed == [films / "quiet.mp4"]
    assert found.files["quiet"] == films / "quiet.mp4"
    (films / ".hidden.mp4").write_text("x")
    (films / "dangling.mp4").symlink_to("nowhere")
    assert not find_media(cache, [films]).unknown
    with pytest.raises(ConfigError, match=r"nowhere: can't be looked at"):
        find_media(cache, [place / "nowhere"])


def test_nothing_to_annotate_is_an_error(run: Path, place: Path) -> None:
    (place / "empty").mkdir()
    with pytest.raises(ConfigError, match="nothing to annotate"):
        annotate(run, place / "cache", place / "out", [place / "empty"])


def test_folders_are_named_as_every_file_system_takes_it() -> None:
    names = [
        "walk",
        "Street 1",
        "a:b",
        "-x",
        ".h",
        "A",
        "a",
        "events.json",
        "Cache",
        "x" * 200,
        "\u00e9",
    ]
    folders = outputs.folder_names(names)
    assert folders["walk"] == "walk"
    assert folders["Street 1"] == "Street 1"
    assert folders["\u00e9"] == "\u00e9"
    changed = [name for name in names if folders[name] != name]
    assert changed == ["a:b", "-x", ".h", "A", "a", "events.json", "Cache", "x" * 200]
    assert len({name.casefold() for name in folders.values()}) == len(names)
    assert not any("/" in name or name.startswith((".", "-")) for name in folders.values())


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_and_one_that_two_files_have_come_back(
    run: Path, tmp_path: Path
) -> None:
    """The media's name is given where it leads back to the recording, else the recording's own."""
    recordings = {name: (4.0, [(0, 1.0, 3.0)]) for name in ("walk", "walk-1a2b3c4d", "odd")}
    cache = windows_cache(tmp_path / "cache", recordings, tmp_path / "films")
    films = tmp_path / "films"
    (films / "other").mkdir()
    shutil.move(films / "walk-1a2b3c4d.mp4", films / "other/walk.mp4")
    odd = films / os.fsdecode(b"o\xffd.mp4")
    try:
        shutil.move(films / "odd.mp4", odd)
    except OSError:
        pytest.skip("this file system takes text alone")
    out = tmp_path / "out"
    assert annotate(run, cache, out, [films, films / "other"]) == 0
    assert {row["media"] for row in events(out)} == {"walk.mp4", "walk-1a2b3c4d", "odd"}
    assert "films/o%FFd.mp4" in (out / "odd/odd.eaf").read_text("utf-8")
    page = (out / "odd/timeline.html").read_text("utf-8")
    assert '"listed":"odd"' in page
    assert '"address":"../../films/o%FFd.mp4"' in page
    before = read(out / "walk-1a2b3c4d/events.json")
    assert (before["media"], before["recording"]) == ("walk.mp4", "walk-1a2b3c4d")
    assert cache_main(["relabel", str(cache), str(out / "events.csv")]) == 0
    labels = open_cache(cache).stored_labels()
    assert labels is not None
    assert set(labels.ids) == set(recordings)


def test_formats_are_named_with_commas() -> None:
    assert parse_formats("page, csv") == ("csv", "page")
    assert parse_formats(",".join(FORMATS)) == FORMATS
    for text in ("", "csv,docx"):
        with pytest.raises(ConfigError, match="expected some of csv,json,audacity"):
            parse_formats(text)


def test_the_command_line_takes_all_of_it(run: Path, place: Path) -> None:
    argv = ["annotate", "--run", str(run), "--cache", str(place / "cache")]
    argv += ["--out", str(place / "out"), "--formats", "csv,page", "--device", "cpu"]
    assert cli.main([*argv, "--media", str(place / "films/walk.mp4")]) == 0
    assert {path.name for path in (place / "out").iterdir()} == {"events.csv", "index.html", "walk"}
    assert cli.main([*argv, "--formats", "odt"]) == 2


@pytest.mark.parametrize(
    ("command", "told"),
    [("fit", "--resume"), ("annotate", "the other recordings"), ("evaluate", "begins anew")],
)
def test_who_stops_a_command_hears_what_is_kept(
    command: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(argv: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, command, stopped)
    assert cli.main([command]) == 130
    assert told in capsys.readouterr().err


def test_events_are_those_that_the_run_s_rule_reads_off(run: Path, place: Path) -> None:
    cache = open_cache(place / "cache")
    found = look_at(load_run(run), cache, "walk")
    assert [one for one in found.candidates if one.confidence < 0.02] == []
    assert {one.category for one in found.found} <= set(CLASSES)
    assert found.candidates == tuple(sorted(found.candidates, key=lambda one: one.start_s))
    assert found.length_s == 9.0
    assert found.media is None
    assert found.media_name == "walk"
