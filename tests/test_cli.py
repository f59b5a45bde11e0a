"""The command lines of the cache and of extraction: output, exit codes, and clip --like."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_media import SMALL_FLAGS, TinyCache, assert_same_rows, tiny_cache, write_set

from cache import Labels, open_cache
from cache.__main__ import main as cache_main
from cache.format import version1
from cache.format.shard import Failure
from extract.__main__ import Command, extract
from extract.__main__ import main as extract_main
from extract.config import FEATURE_VERSION, ExtractConfig

ROOT = Path(__file__).parent.parent
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def tiny(tmp_path: Path) -> TinyCache:
    labels = Labels(
        ids=["a", "a", "gone"],
        classes=["Speech, man", "Bark"],
        category=np.array([0, 1, 1]),
        start_s=np.array([0.0, 0.5, 0.0]),
        end_s=np.array([1.0, 1.0, 1.0]),
        split=np.array([0, 2, -1], np.int8),
        source="events.csv",
        notes=["1 event(s) end after 1 s: cut there"],
    )
    tiny = tiny_cache(tmp_path / "cache", labels)
    tiny.write("a", "b", failures=[Failure("gone", "audio", "expected sound, found none")])
    return tiny


class TestCache:
    def test_info_tells_everything(self, tiny: TinyCache, capsys: Capture) -> None:
        assert cache_main(["info", str(tiny.folder)]) == 0
        text = capsys.readouterr().out
        for part in (
            str(tiny.folder),
            "2 in 1 shards",
            tiny.identity.fingerprint[:16],
            "n_mels=8",
            "weights random:0",
            "audio/mfcc 44×12 float16",
            "3 events of 2 classes in 2 clips, 1 shorter than the clip, 1 clips without features",
            "events.csv",
            "train 1, val 0, test 1, none 1",
            "1 id(s) in both train and test",
            "Speech, man 1, Bark 2",
            "1 event(s) end after 1 s: cut there",
            "failures     1",
            "1 × audio: expected sound, found none (gone)",
        ):
            assert part in text, part

    def test_info_without_labels_and_clips(self, tmp_path: Path, capsys: Capture) -> None:
        tiny = tiny_cache(tmp_path / "cache")
        assert cache_main(["info", str(tiny.folder)]) == 0
        text = capsys.readouterr().out
        assert "labels       none" in text
        assert "0 in 0 shards" in text

    def test_verify_whole(self, tiny: TinyCache, capsys: Capture) -> None:
        assert cache_main(["verify", str(tiny.folder)]) == 0
        assert "whole; 2 clips in 1 shards checked" in capsys.readouterr().out

    def test_verify_damaged(self, tiny: TinyCache, capsys: Capture) -> None:
        [path] = (tiny.folder / "shards").iterdir()
        data = bytearray(path.read_bytes())
        row = open_cache(tiny.folder).read("audio/mel")[1].tobytes()
        data[bytes(data).index(row)] ^= 1
        path.write_bytes(data)
        assert cache_main(["verify", str(tiny.folder)]) == 1
        text = capsys.readouterr().out
        assert f"{path}: its bytes don't match its name; damaged: rows b" in text
        assert "1 clip(s) to extract again" in text

    def test_errors_are_one_line_and_2(self, tmp_path: Path, capsys: Capture) -> None:
        for command in ("info", "verify"):
            assert cache_main([command, str(tmp_path / "absent")]) == 2
            [line] = capsys.readouterr().err.splitlines()
            assert line.startswith("error: ")
            assert "no feature cache here" in line


def module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_help() -> None:
    text = module("extract", "--help")
    assert text.returncode == 0
    for name in Command.model_fields:
        assert f"--{name.replace('_', '-')}" in text.stdout, name
    for part in ("Annotations.txt", "id,category,start,end", "--config", "Exit code"):
        assert part in text.stdout
    text = module("cache", "--help")
    assert text.returncode == 0
    assert "info" in text.stdout
    assert "verify" in text.stdout
    assert module("cache").returncode == 2
    assert module("cache", "info", "nowhere").returncode == 2


SMALL_SET = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "set"
    write_set(folder, SMALL_SET, mp4=2)
    return folder


@pytest.fixture(scope="module")
def extracted(data: Path) -> Path:
    cache = data.parent / "cache"
    where = ["--data", str(data), "--cache", str(cache), "--weights", "random:0", "--jobs", "1"]
    assert extract_main([*where, *SMALL_FLAGS]) == 0
    return cache


class TestExtract:
    def test_api_equals_command_line(self, data: Path, extracted: Path, tmp_path: Path) -> None:
        settings = ExtractConfig.of(open_cache(extracted).identity).model_dump()
        command = Command.parse(
            {**settings, "data": data, "cache": tmp_path / "c", "weights": "random:0", "jobs": 1}
        )
        assert extract(command) == 0
        assert_same_rows(open_cache(tmp_path / "c"), open_cache(extracted))

    @pytest.mark.parametrize(
        ("flags", "why"),
        [
            (["--weights", "random:x"], "expected random:SEED"),
            (["--weights", "absent.pth"], "no such file"),
            (["--annotations", "absent.csv"], "can't be read"),
            (["--frame-size-px", "300"], "larger than resize_px"),
            (["--jobs", "0"], "jobs"),
            (["--n-mel", "3"], "--n-mels"),
        ],
    )
    def test_bad_flags(
        self, data: Path, tmp_path: Path, capsys: Capture, flags: list[str], why: str
    ) -> None:
        where = ["--data", str(data), "--cache", str(tmp_path / "c"), "--weights", "random:0"]
        with pytest.raises(SystemExit, match="2"):  # from the parser, or from main's own return
            raise SystemExit(extract_main([*where, *flags]))
        assert why in "".join(capsys.readouterr())
        assert not (tmp_path / "c").exists()


class TestOneClip:
    def run(self, file: Path, cache: Path, like: Path, *more: str) -> int:
        return extract_main(["clip", str(file), "--cache", str(cache), "--like", str(like), *more])

    def test_like_a_cache_gives_its_rows(self, data: Path, extracted: Path, tmp_path: Path) -> None:
        for path in sorted(data.glob("*.mp4")):
            cache = tmp_path / path.stem
            assert self.run(path, cache, extracted / "cache.json") == 0
            one, many = open_cache(cache), open_cache(extracted)
            assert one.ids == [path.stem]
            assert one.fingerprint == many.fingerprint
            for name in one.fields:
                row = many.read(name, [many.row(path.stem)])
                assert one.read(name).tobytes() == row.tobytes(), name
            assert one.jpegs(path.stem) == many.jpegs(path.stem)

    def test_a_broken_file(self, extracted: Path, tmp_path: Path, capsys: Capture) -> None:
        path = tmp_path / "page.mp4"
        path.write_text("<html>")
        assert self.run(path, tmp_path / "c", extracted / "cache.json") == 2
        assert "page.mp4" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("name", "clip_id"),
        [
            ("Ba$$in", "Ba$$in"),
            ("é" * 120, "é" * 120),
            ("AVE\\a", "AVE_a-"),
            ("a\nb\x1b[2J", "a_b_[2J-"),
            (os.fsdecode(b"caf\xe9"), "caf_-"),
        ],
    )
    def test_whatever_a_file_is_called(
        self, data: Path, extracted: Path, tmp_path: Path, capsys: Capture, name: str, clip_id: str
    ) -> None:
        path = tmp_path / f"{name}.mp4"
        shutil.copy(next(data.glob("*.mp4")), path)
        capsys.readouterr()
        assert self.run(path, tmp_path / "c", extracted / "cache.json") == 0
        [found] = open_cache(tmp_path / "c").ids
        assert found.startswith(clip_id)
        output = capsys.readouterr().out
        if name == clip_id:
            assert (found, output) == (name, "")
        else:
            assert output.endswith(f": called {found} in the cache\n")
            assert "\x1b" not in output

    def test_other_weights_are_refused(
        self, data: Path, extracted: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        file = next(data.glob("*.mp4"))
        like = extracted / "cache.json"
        assert self.run(file, tmp_path / "c", like, "--weights", "random:1") == 2
        assert "weights_sha256" in capsys.readouterr().err
        assert not (tmp_path / "c").exists()

    def test_like_features_of_an_older_version(
        self, data: Path, extracted: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        like = json.loads((extracted / "cache.json").read_text())
        like |= {"feature_version": 1, "fingerprint": version1.fingerprint(like["config"], 1)}
        like["format_version"] = 1
        (tmp_path / "like.json").write_text(json.dumps(like))
        assert self.run(next(data.glob("*.mp4")), tmp_path / "c", tmp_path / "like.json") == 2
        told = capsys.readouterr().err
        assert f"features of version {FEATURE_VERSION} here, 1 there" in told
        assert "extract the set again" in told

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {}}', "3"])
    def test_like_something_else(
        self, data: Path, tmp_path: Path, capsys: Capture, text: str
    ) -> None:
        like = tmp_path / "like.json"
        like.write_text(text)
        assert self.run(next(data.glob("*.mp4")), tmp_path / "c", like) == 2
        assert "like.json" in capsys.readouterr().err

    def test_an_edited_identity(
        self, data: Path, extracted: Path, tmp_path: Path, capsys: Capture
    ) -> None:
        like = json.loads((extracted / "cache.json").read_text())
        like["config"]["n_mels"] = 16
        (tmp_path / "like.json").write_text(json.dumps(like))
        file = next(data.glob("*.mp4"))
        assert self.run(file, tmp_path / "c", tmp_path / "like.json") == 2
        assert "fingerprint" in capsys.readouterr().err

    def test_no_file(self, extracted: Path, tmp_path: Path, capsys: Capture) -> None:
        assert self.run(tmp_path / "absent.mp4", tmp_path / "c", extracted / "cache.json") == 2
        assert "no such file" in capsys.readouterr().err
        name = f"{'x' * 300}.mp4"
        assert self.run(tmp_path / name, tmp_path / "c", extracted / "cache.json") == 2
        assert "can't be looked at (File name too long)" in capsys.readouterr().err
        assert self.run(tmp_path, tmp_path / "c", extracted / "cache.json") == 2
        found = capsys.readouterr().err
        assert "expected a video with sound, found a folder without media in it (folders" in found
        assert self.run(Path("/dev/null"), tmp_path / "c", extracted / "cache.json") == 2
        assert "found no plain file" in capsys.readouterr().err
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
