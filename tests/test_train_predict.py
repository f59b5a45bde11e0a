"""Who answers, from what, and what of a recording was not looked at; media of one stream."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest
import soundfile
from small_media import RATE_HZ, SMALL_FLAGS, grey_frames, noise, tone, write_set
from synthetic_cache import make_cache

from cache import SPLITS, Cache, open_cache
from cache.common.errors import ConfigError
from cache.format import version1
from cache.format.identity import read_identity
from cache.format.shard import Failure, write_shard
from extract.__main__ import main as extract
from extract.demo.__main__ import write_mp4
from train import __main__ as cli
from train.commands import fit as fitting
from train.commands import fit_options
from train.commands.predict import predict_cache
from train.config import TrainConfig
from train.report.drawing import FOLDER
from train.runs import answers, clip_features, record
from train.runs import folders as runs
from train.runs.folders import BEST
from train.runs.trained import load_run

ROOT = Path(__file__).parent.parent
SMALL = TrainConfig(
    device="cpu",
    audio_feat_dim=16,
    video_feat_dim=16,
    map_channels=8,
    batch_size=4,
    epochs=1,
    num_heads=2,
)
STREAMS = ("both", "audio", "video")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of real media with both streams; a run of both, of sound alone, of video alone."""
    folder = tmp_path_factory.mktemp("predict")
    write_set(folder / "set", 6)
    argv = ["--data", str(folder / "set"), "--cache", str(folder / "cache"), "--jobs", "1"]
    assert extract([*argv, "--weights", "random:0", *SMALL_FLAGS]) == 0
    fitting.fit(folder / "cache", folder / "run", SMALL, ablations=True, pictures=0)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same second as a film, a silent film, sound in three kinds of file, and pictures."""
    folder = tmp_path_factory.mktemp("media")
    sound, frames = tone(1.0) + noise(1.0), grey_frames([20, 90, 160, 230])
    write_mp4(folder / "film.mp4", sound, RATE_HZ, frames, 4)
    write_mp4(folder / "silent.mp4", None, RATE_HZ, frames, 4)
    for kind in ("wav", "WAV", "flac", "mp3"):
        soundfile.write(folder / f"sound.{kind}", sound, RATE_HZ, format=kind.upper())
    (folder / "pictures.d").mkdir()
    for place, frame in enumerate(frames):
        cv2.imwrite(str(folder / "pictures.d" / f"{place}.png"), frame)
    return folder


def answer(run: Path, file: Path, scratch: Path) -> Any:
    """What `make predict` does; the answer to the one clip, or the exit code of extraction."""
    like = scratch / "like.json"
    assert cli.main(["features", "--run", str(run), "--out", str(like)]) == 0
    cache = scratch / "cache"
    code = extract(["clip", str(file), "--cache", str(cache), "--like", str(like)])
    if code:
        return code
    found = predict_cache(run, cache, out=scratch / "out", pictures=1)
    assert list((scratch / "out" / FOLDER).iterdir())
    (one,) = found
    return one


TAKES = [
    *(("both", "film.mp4"), ("audio", "film.mp4"), ("video", "film.mp4")),
    *(("audio", name) for name in ("sound.wav", "sound.WAV", "sound.flac", "sound.mp3")),
    *(("video", "silent.mp4"), ("video", "pictures.d")),
]


@pytest.mark.parametrize(("stream", "name"), TAKES)
def test_a_run_takes_whatever_has_its_stream(
    trained: Path, media: Path, tmp_path: Path, stream: str, name: str
) -> None:
    one = answer(trained / "run" / stream, media / name, tmp_path)
    assert one["id"] == ("pictures.d" if name == "pictures.d" else Path(name).stem)
    assert 0 <= one["predicted_start_s"] < one["predicted_end_s"] <= 1
    assert open_cache(tmp_path / "cache").config["modalities"] == stream


@pytest.mark.parametrize(
    ("stream", "name", "needed"),
    [
        ("both", "sound.wav", "a video with sound"),
        ("both", "sound.mp3", "a video with sound"),
        ("both", "silent.mp4", "a video with sound"),
        ("both", "pictures.d", "a video with sound"),
        ("audio", "silent.mp4", "a file with sound"),
        ("audio", "pictures.d", "a file with sound"),
        ("video", "sound.wav", "a video, or a folder of pictures"),
        ("video", "sound.flac", "a video, or a folder of pictures"),
        ("audio", "absent.wav", "a file with sound"),
    ],
)
def test_what_lacks_the_stream_is_told_what_is_needed(
    trained: Path,
    media: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stream: str,
    name: str,
    needed: str,
) -> None:
    assert answer(trained / "run" / stream, media / name, tmp_path) == 2
    shown = capsys.readouterr().err
    assert needed in shown
    assert str(media / name) in shown
    assert "Traceback" not in shown


def test_a_wav_gives_the_numbers_of_the_cache(trained: Path, tmp_path: Path) -> None:
    """The same rows as in the cache that the run was trained on, so the same answer."""
    run = trained / "run" / "audio"
    (one, *_) = predict_cache(run, trained / "cache", out=tmp_path / "o", pictures=0)
    file = trained / "set" / "audio_wav" / f"{one['id']}.wav"
    own = answer(run, file, tmp_path)
    rounded = {n: pytest.approx(one[n], abs=1e-5) for n in ("confidence", "event_confidence")}
    assert own == {**one, **rounded}
    small, whole = open_cache(tmp_path / "cache"), open_cache(trained / "cache")
    for name in small.fields:
        row = whole.read(name, [whole.row(str(one["id"]))])
        assert small.read(name).tobytes() == row.tobytes(), name


def test_a_run_that_only_listens_needs_no_weights(
    trained: Path, media: Path, tmp_path: Path
) -> None:
    """Weights that have gone since are not asked for."""
    run = tmp_path / "run"
    run.mkdir()
    for name in (BEST, "config.json", "features.json"):
        (run / name).write_bytes((trained / "run" / "audio" / name).read_bytes())
    features = json.loads((run / "features.json").read_text())
    features["provenance"]["weights"] = "gone.pth"
    (run / "features.json").write_text(json.dumps(features))
    assert answer(run, media / "sound.wav", tmp_path)["id"] == "sound"


def test_features_of_an_older_run_are_of_the_first_version(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (BEST, "config.json", "features.json"):
        (run / name).write_bytes((trained / "run" / "video" / name).read_bytes())
    features = json.loads((run / "features.json").read_text())
    assert features.pop("feature_version") == read_identity(trained / "cache").feature_version
    old = {name: features[name] for name in ("config", "provenance")}
    old["fingerprint"] = version1.fingerprint(features["config"], 1)
    (run / "features.json").write_text(json.dumps(old))
    found = clip_features.wanted(run)
    assert found["feature_version"] == 1
    assert found["config"] == {**features["config"], "modalities": "video"}
    wrong: list[object] = [[], {}, {"config": {}}]
    for bad in [*wrong, {**old, "config": 3}, {**old, "fingerprint": "0"}]:
        (run / "features.json").write_text(json.dumps(bad))
        with pytest.raises(ConfigError, match=r"features\.json"):
            clip_features.wanted(run)


def test_other_features_are_still_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", "--run", str(trained / "run" / "audio"), "--cache"]
    other = make_cache(tmp_path / "c", clips=6, modalities="audio")
    assert cli.main([*argv, str(other)]) == 2
    shown = capsys.readouterr().err
    assert "clip_seconds: 1.0 in the run, 10.0 in the cache" in shown
    assert "modalities" not in shown


def test_seconds_that_were_not_looked_at_are_told_and_stored(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = predicted_with(trained, tmp_path, {"long": 60.25, "padded": 1.02, "live": float("nan")})
    assert {one["id"]: one["not_looked_at_s"] for one in found} == {
        "long": 59.25,
        "padded": 0.02,
        "live": None,
    }
    assert found == json.loads((tmp_path / "out" / "predictions.json").read_text())
    shown = capsys.readouterr().out
    assert "long: 59.2 s of it were not looked at; the answer is for its first 1 s" in shown
    assert shown.count("not looked at;") == 1
    assert shown.count("`make annotate MEDIA=FILE` looks at whole recordings") == 1


def test_many_long_recordings_are_told_in_few_lines(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted_with(trained, tmp_path, {f"long{n:02d}": 3.0 + n for n in range(13)})
    shown = capsys.readouterr().out
    assert shown.count("the answer is for") == 10
    assert "note: of 3 more, 9.0 s were not looked at" in shown


def test_the_run_that_answered_is_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted_with(trained, tmp_path, {"a": 1.0})
    shown = capsys.readouterr().out
    assert f"answered by the run {trained / 'run' / 'audio'}: trained 20" in shown
    cache = open_cache(trained / "cache")
    train, val = (len({cache.labels.ids[r] for r in cache.labels.rows(s)}) for s in SPLITS[:2])
    assert (
        f" on {train} clips (selected on {val}), sound alone, 2 classes, features "
        f"{cache.fingerprint[:16]}" in shown
    )
    assert "localized_iou on val " in shown


def test_a_run_without_a_record_does_not_say_on_how_many_clips(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(trained / "run" / "audio", tmp_path / "old"))
    for name in (runs.RECORD_FILE, record.ROWS_FILE):
        (run / name).unlink()
    predict_cache(run, trained / "cache", out=tmp_path / "out", pictures=0)
    assert "on clips that are not known (it has no record), sound alone," in capsys.readouterr().out


def test_a_run_of_recordings_says_on_how_many_of_them(trained: Path) -> None:
    run = load_run(trained / "run" / "audio")
    run.about.features["hop_seconds"] = 5.0
    assert re.search(
        r" on \d+ recordings \(selected on \d+\), sound alone", answers.describe_run(run)
    )


def test_models_that_are_no_seeds_of_one_training_do_not_answer_together(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, stream in enumerate(("audio", "both")):
        place = tmp_path / "run" / f"seed-{seed}"
        place.mkdir(parents=True)
        (place / BEST).write_bytes((trained / "run" / stream / BEST).read_bytes())
    argv = ["predict", "--run", tmp_path / "run", "--cache", trained / "cache"]
    assert cli.main([str(word) for word in argv]) == 2
    assert "seed-1: trained with other streams than" in capsys.readouterr().err


def test_clips_without_features_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failures = [Failure("gone", "audio", "no sound")]
    found = predicted_with(trained, tmp_path, {"a": 1.0}, failures)
    assert [one["id"] for one in found] == ["a"]
    assert "no answer for 1 clip(s) that could not be extracted: gone;" in capsys.readouterr().out


def test_ids_in_the_table_steer_no_terminal() -> None:
    row = {"id": "a\x1b[31m\u202eb\nc", "predicted": "$x", "confidence": 0.5, "unseen": None}
    shown = answers.as_table([row])
    assert "a?[31m?b?c" in shown
    assert len(shown.splitlines()) == 2


def predicted_with(
    trained: Path, tmp_path: Path, media_s: Mapping[str, float], failures: Sequence[Failure] = ()
) -> list[dict[str, Any]]:
    """Predictions for clips that are 1 s of recordings of these lengths."""
    folder = tmp_path / "cache"
    cache = open_cache(trained / "cache")
    clip = cache.read_members(*one_member(cache))[0]
    folder.mkdir()
    (folder / "cache.json").write_bytes((trained / "cache" / "cache.json").read_bytes())
    clips = [
        dataclasses.replace(clip, id=name, valid_s=1.0, media_s=length)
        for name, length in media_s.items()
    ]
    write_shard(folder, cache.identity, clips, failures)
    run = trained / "run" / "audio"
    return predict_cache(run, folder, out=tmp_path / "out", pictures=0)


def one_member(cache: Cache) -> tuple[str, list[tuple[int, str, bytes]]]:
    shard = next(iter(cache.index.shards))
    return shard, [cache.index.members(shard)[0]]


class TestWhichRun:
    """One rule, in Python, for every command and for make."""

    def model(self, place: str, mtime: float, record: str | None = None) -> None:
        path = Path("runs") / place / BEST
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        if record is not None:
            (path.parent / runs.RECORD_FILE).write_text(record)
        os.utime(path, (mtime, mtime))

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    def test_of_seeds_and_ablations_the_folder_that_answers(self) -> None:
        self.model("old", 10)
        self.model("seeds/seed-0", 20)
        assert runs.newest_run() == Path("runs/seeds")
        self.model("ablations/both", 30)
        self.model("ablations/audio", 40)
        assert runs.newest_run() == Path("runs/ablations/both")
        self.model("all/both/seed-0", 50)
        self.model("all/video/seed-0", 60)
        assert runs.newest_run() == Path("runs/all/both")

    def test_a_run_without_a_model_does_not_count(self) -> None:
        self.model("done", 10)
        Path("runs/begun").mkdir()
        (Path("runs/begun") / "config.json").touch()
        (Path("runs/begun") / "last.pth").touch()
        assert runs.newest_run() == Path("runs/done")

    def test_copying_makes_no_run_newer(self) -> None:
        def record(started: str, ended: str | None) -> str:
            return json.dumps({"sessions": [{"started": started, "ended": ended}]})

        old, new = "2020-01-01T00:00:00+00:00", "2021-01-01T00:00:00+00:00"
        self.model("new", 1_000, record(new, new))
        self.model("copied-today", 2_000_000_000, record(old, None))
        assert runs.newest_run() == Path("runs/new")
        self.model("resumed", 5, record(old, "2022-01-01T00:00:00+00:00"))
        assert runs.newest_run() == Path("runs/resumed")

    @pytest.mark.parametrize(
        ("first", "second"),
        [("00.100", "00.101"), ("00", "00"), ("00", "00.001")],
        ids=["milliseconds", "by seconds, as earlier releases", "both"],
    )
    @pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
    def test_of_two_trained_in_one_second_the_later_one(
        self, first: str, second: str, order: tuple[str, str]
    ) -> None:
        for number, (name, seconds) in enumerate(zip(order, (first, second), strict=True)):
            ended = f"2021-01-01T00:00:{seconds}+00:00"
            self.model(
                name, 10 + number, json.dumps({"sessions": [{"started": ended, "ended": ended}]})
            )
        assert runs.newest_run() == Path("runs") / order[1]

    @pytest.mark.parametrize(
        "record", ["", "[]", '{"sessions": []}', '{"sessions": [{"ended": 3}]}', "\x00", "null"]
    )
    def test_a_broken_record_counts_as_none(self, record: str) -> None:
        self.model("a", 10)
        self.model("b", 20, record)
        assert runs.newest_run() == Path("runs/b")

    def test_features_prints_the_run_that_predict_would_ask(self, trained: Path) -> None:
        """Byte for byte, and for a folder of seeds the settings of its first member."""
        seeds = Path("runs") / os.fsdecode(b"caf\xe9 \x1b[31m")
        for name in (BEST, "config.json", "features.json"):
            for seed in (0, 10, 2):
                place = seeds / f"seed-{seed}"
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes((trained / "run" / "audio" / name).read_bytes())
        code = "import sys; from train.__main__ import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", code, "features", "--out", "like.json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        )
        assert done.stdout == os.fsencode(seeds) + b"\n"
        assert runs.newest_run() == seeds
        assert runs.members(seeds) == [seeds / f"seed-{seed}" for seed in (0, 2, 10)]
        assert json.loads(Path("like.json").read_text()) == clip_features.wanted(seeds)


def test_seeds_may_come_in_one_word() -> None:
    assert fit_options.numbers("3 1") == [3, 1]
    with pytest.raises(ValueError, match="invalid literal"):
        fit_options.numbers("5; touch x")


def printed(code: str) -> list[str]:
    """The words that a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_the_package_s_face_loads_nothing_until_it_is_asked() -> None:
    code = (
        "import sys, train; print('torch' in sys.modules, 'pydantic' in sys.modules); "
        "train.load; print('torch' in sys.modules)"
    )
    assert printed(code) == ["False", "False", "True"]


def test_lists_of_runs_are_there_without_waiting_for_torch() -> None:
    code = (
        "import sys, train.commands.runs, train.commands.watch; "
        "print({'torch', 'sklearn', 'scipy', 'matplotlib'} & sys.modules.keys())"
    )
    assert printed(code) == ["set()"]
