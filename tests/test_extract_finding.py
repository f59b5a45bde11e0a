"""Which media a clip has: names, orders, choices, changes; and which cores there are."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from small_media import SMALL_FLAGS, write_set

import cache.common.cores
import extract.finding
import extract.sources
from cache import open_cache
from cache.common.cores import cores
from cache.common.errors import AnnotationError, MediaError
from cache.format.names import check_id
from cache.format.schema import MAX_ID_BYTES
from cache.labels.annotations import read_annotations
from extract.__main__ import main
from extract.finding import elsewhere, find_annotations, find_sources
from extract.sources import file_source, in_order, pictures, safe_id

ROOT = Path(__file__).parent.parent
Capture = pytest.CaptureFixture[str]


def touch(*paths: Path, data: bytes = b"x" * 10) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize(
    "names",
    [
        ["frame_2.jpg", "frame_10.jpg"],
        ["0.25.jpg", "0.5.jpg", "0.75.png"],
        ["0.25.jpg", "0.5.jpg", "9.5.jpg", "10.0.jpg", "10.25.jpg"],
        ["0.jpg", "0.5.jpg", "1.jpg", "1.25.jpg", "10.jpg"],
        ["0,25.jpg", "0,5.jpg", "10,0.jpg"],
        ["-0.5.jpg", "-0.25.jpg", "0.0.jpg", "1.5.jpg"],
        ["-1.jpg", "-2.jpg", "-10.jpg"],  # here the minus is a hyphen
        ["frame-1.jpg", "frame-2.jpg", "frame-10.jpg"],
        ["frame_1.25.jpg", "frame_1.5.jpg", "frame_10.0.jpg"],
        ["t=0.25s.jpg", "t=0.5s.jpg", "t=10.0s.jpg"],
        [f"take1.{n}.jpg" for n in range(1, 13)],  # here the point separates
        ["v1.0.25.jpg", "v1.0.5.jpg", "v1.10.0.jpg"],
        ["v1.2_003.jpg", "v1.2_010.jpg"],
        ["img.1.jpg", "img.2.jpg", "img.10.jpg"],
        ["img_0001.jpg", "img_0002.png", "img_0010.jpeg"],
        ["01.jpg", "1.jpg", "2.jpg"],
        ["img_1.jpg", "IMG_2.JPG", "img_3.jpg", "Img_10.jpg"],
        ["²_1.jpg", "²_2.jpg", "²_10.jpg"],
        ["٣_1.jpg", "٣_2.jpg", "٣_10.jpg"],
        ["2020.1.9.jpg", "2020.1.10.jpg"],
        [f"{'9' * 200}.jpg", f"1{'0' * 200}.jpg"],
    ],
)
def test_pictures_are_in_the_order_of_time(names: list[str]) -> None:
    mixed = names.copy()
    random.Random(0).shuffle(mixed)
    assert in_order(mixed) == names


def test_hidden_files_and_one_picture_twice(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("2.jpg", "1.png", "1.jpg", "._1.jpg", ".DS_Store")))
    touch(tmp_path / "Thumbs.db")
    assert [path.name for path in pictures(tmp_path)] == ["1.jpg", "2.jpg"]


class TestAnnotations:
    def test_hidden_tables_are_none(self, tmp_path: Path) -> None:
        touch(tmp_path / "._labels.csv")
        with pytest.raises(AnnotationError, match="found 0 CSV files"):
            find_annotations(tmp_path)
        touch(tmp_path / "Labels.CSV")
        assert find_annotations(tmp_path).name == "Labels.CSV"

    def test_split_files_alone_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "AVE_Dataset").mkdir()
        for name in ("testSet.txt", "valSet.txt"):
            touch(tmp_path / "AVE_Dataset" / name, data=f"Bark&{name[0]}&good&0&1\n".encode())
        labels = read_annotations(find_annotations(tmp_path), 10.0)
        assert (labels.ids, labels.split.tolist()) == (["v", "t"], [1, 2])
        touch(tmp_path / "own.csv")
        assert find_annotations(tmp_path).name == "own.csv"

    def test_several_are_named(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.csv", tmp_path / "b.csv")
        with pytest.raises(AnnotationError, match=r"found 2 CSV files \(a.csv, b.csv\)"):
            find_annotations(tmp_path)

    def test_a_loop_of_links(self, tmp_path: Path, capsys: Capture) -> None:
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        with pytest.raises(AnnotationError, match="loop: can't be read"):
            find_annotations(loop)
        (tmp_path / "AVE").symlink_to(tmp_path / "AVE")
        touch(tmp_path / "a.csv", data=b"id,category,start,end\na,x,0,1\n")
        where = ["--data", str(tmp_path), "--cache", str(tmp_path / "c"), "--weights", "random:0"]
        assert main(where) == 2
        assert f"{tmp_path / 'AVE'}: the folder can't be listed" in capsys.readouterr().err


class TestChoice:
    def test_what_has_the_wanted_streams_is_preferred(self, tmp_path: Path) -> None:
        touch(tmp_path / "AVE/a.mp3", tmp_path / "a.mp4", tmp_path / "AVE/b.m4a")
        touch(tmp_path / "video_frames/b/1.jpg", tmp_path / "AVE/c.m4a", tmp_path / "AVE/c.webm")
        found = find_sources(tmp_path, "abc")
        assert {i: s.path.name for i, s in found.items()} == {
            "a": "a.mp4",
            "b": "b.m4a",
            "c": "c.webm",
        }
        assert not any(source.note for source in found.values())
        found = find_sources(tmp_path, "b", "video")
        assert found["b"].path == tmp_path / "video_frames/b"

    def test_sound_files_beside_the_table(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.wav", tmp_path / "b.flac", tmp_path / "c.wav", tmp_path / "c.mp4")
        found = find_sources(tmp_path, "abc", "audio")
        assert found["a"].sound == tmp_path / "a.wav"
        assert found["b"].container == tmp_path / "b.flac"
        assert find_sources(tmp_path, "c")["c"].container == tmp_path / "c.mp4"

    def test_several_files_of_one_kind_are_told(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.mkv", tmp_path / "a.mp4", tmp_path / "AVE/a.webm")
        source = find_sources(tmp_path, "a")["a"]
        assert source.container == tmp_path / "a.mp4"
        others = f"{tmp_path / 'a.mkv'}, {tmp_path / 'AVE/a.webm'}"
        assert source.note == f"{tmp_path / 'a.mp4'} taken, not {others}"

    def test_an_id_may_be_a_whole_file_name(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.mp4", tmp_path / "a.mkv", tmp_path / "audio_wav/b.wav")
        touch(tmp_path / "video_frames/b/1.jpg", tmp_path / "c.mp4.mkv", tmp_path / "c.mp4")
        found = find_sources(tmp_path, ["a.mkv", "b.wav", "c.mp4", "a.webm"])
        assert found["a.mkv"].container == tmp_path / "a.mkv"
        assert found["b.wav"].frames == tmp_path / "video_frames/b"
        assert found["c.mp4"].container == tmp_path / "c.mp4.mkv"
        assert "a.webm" not in found

    def test_names_in_another_unicode_form(self, tmp_path: Path) -> None:
        nfc = "café"
        nfd = unicodedata.normalize("NFD", nfc)
        touch(tmp_path / f"{nfd}.mp4")
        source = find_sources(tmp_path, [nfc])[nfc]
        assert (source.container, source.note) == (tmp_path / f"{nfd}.mp4", "")
        touch(tmp_path / f"{nfc}.mp4")
        assert "one name, spelt in two ways" in find_sources(tmp_path, [nfc])[nfc].note

    def test_what_can_be_looked_at_is_taken_instead(self, tmp_path: Path) -> None:
        (tmp_path / "audio_wav").mkdir()
        (tmp_path / "audio_wav/a.wav").symlink_to(tmp_path / "nowhere")
        touch(tmp_path / "video_frames/a/1.jpg", tmp_path / "a.mp4")
        source = find_sources(tmp_path, "a")["a"]
        assert (source.container, source.problem) == (tmp_path / "a.mp4", "")
        assert "where nothing is" in source.note


def _fails(number: int) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


class TestProblems:
    def test_links_and_folders_that_are_no_media(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").symlink_to("../annex/a.mp4")
        (tmp_path / "b.mp4").symlink_to("b.mp4")
        (tmp_path / "c.mp4").mkdir()
        touch(tmp_path / "video_frames/d")
        (tmp_path / "video_frames/e").mkdir()
        (tmp_path / "video_frames/f").symlink_to("f")
        found = find_sources(tmp_path, "abcdef")
        for clip_id, problem in {
            "a": "a link to ../annex/a.mp4, where nothing is",
            "b": os.strerror(errno.ELOOP),
            "c": "expected a file, found a folder",
            "d": os.strerror(errno.ENOTDIR),
            "e": "expected .jpg or .png pictures, found none",
            "f": os.strerror(errno.ELOOP),
        }.items():
            assert problem in found[clip_id].problem, clip_id

    def test_the_path_that_is_meant_is_named(self, tmp_path: Path) -> None:
        sounds, frames = tmp_path / "audio_wav", tmp_path / "video_frames"
        touch(sounds / "a.wav", sounds / "b.wav", sounds / "c.wav", frames / "a")
        touch(frames / "b/1.webp", frames / "b/deeper/1.jpg")
        (sounds / "c.wav").unlink()
        (sounds / "c.wav").symlink_to("nowhere")
        touch(frames / "c/1.jpg")
        found = find_sources(tmp_path, "abc")
        paths = {clip_id: source.path for clip_id, source in found.items()}
        assert paths == {"a": frames / "a", "b": frames / "b", "c": sounds / "c.wav"}
        assert found["b"].problem == (
            "expected .jpg or .png pictures, found none, but 1.webp, deeper/"
        )

    @pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.ENAMETOOLONG, errno.EIO])
    def test_whatever_the_system_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        class File:
            name, path, stat = "a.mp4", "a.mp4", staticmethod(_fails(number))

            def is_symlink(self) -> bool:
                return False

        real = extract.sources.entries
        shown = lambda folder: [File()] if folder == tmp_path else real(folder)  # noqa: E731
        monkeypatch.setattr(extract.finding, "entries", shown)
        assert os.strerror(number) in find_sources(tmp_path, "a")["a"].problem

    def test_a_folder_of_media_that_cannot_be_listed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(extract.finding, "entries", _fails(errno.EACCES))
        with pytest.raises(MediaError, match=r"can't be listed \(Permission denied\)"):
            find_sources(tmp_path, "a")


class TestChanges:
    @pytest.fixture
    def clip(self, tmp_path: Path) -> Path:
        touch(*(tmp_path / f"video_frames/a/{n}.jpg" for n in range(3)))
        touch(tmp_path / "audio_wav/a.wav")
        for number, path in enumerate(sorted(tmp_path.rglob("*.*"))):
            os.utime(path, ns=(10**18 + number, 10**18 + number))
        return tmp_path

    def marks(self, folder: Path, modalities: str = "both") -> tuple[int, int]:
        source = find_sources(folder, ["a"], modalities)["a"]
        return source.size, source.mtime_ns

    def test_pictures_overwritten_in_place(self, clip: Path) -> None:
        before = self.marks(clip)
        folder, path = clip / "video_frames/a", clip / "video_frames/a/1.jpg"
        kept = folder.stat().st_mtime_ns
        path.write_bytes(b"y" * 10)
        assert folder.stat().st_mtime_ns == kept
        assert self.marks(clip) != before

    @pytest.mark.parametrize("name", ["video_frames/a/1.jpg", "audio_wav/a.wav"])
    def test_an_older_file_of_the_same_size_is_a_change(self, clip: Path, name: str) -> None:
        """As `cp -p` from a backup leaves it; the newest file hides nothing."""
        before = self.marks(clip)
        os.utime(clip / name, ns=(5 * 10**17, 5 * 10**17))
        assert self.marks(clip) != before

    def test_renamed_added_removed(self, clip: Path) -> None:
        seen = {self.marks(clip)}
        folder = clip / "video_frames/a"
        (folder / "1.jpg").rename(folder / "9.jpg")
        seen.add(self.marks(clip))
        shutil.copy2(folder / "0.jpg", folder / "10.jpg")
        seen.add(self.marks(clip))
        (folder / "0.jpg").unlink()
        seen.add(self.marks(clip))
        assert len(seen) == 4

    def test_what_is_no_picture_or_not_wanted_changes_nothing(self, clip: Path) -> None:
        before, heard = self.marks(clip), self.marks(clip, "audio")
        touch(clip / "video_frames/a/Thumbs.db", clip / "video_frames/a/.DS_Store")
        assert self.marks(clip) == before
        touch(clip / "video_frames/a/5.jpg")
        assert self.marks(clip, "audio") == heard

    def test_the_newest_second_stays_readable_and_one_file_keeps_its_own(self, clip: Path) -> None:
        size, mtime_ns = self.marks(clip)
        assert (size, mtime_ns // 10**9) == (40, 10**9)
        shutil.rmtree(clip / "video_frames")
        state = (clip / "audio_wav/a.wav").stat()
        assert self.marks(clip) == (10, state.st_mtime_ns)

    def test_times_that_no_number_holds(self, tmp_path: Path) -> None:
        class State:
            st_size, st_mtime_ns = 5, 2**80

        assert extract.sources.signature([("a", State())]) == (5, 2**62 - 1)  # type: ignore[list-item]


class TestElsewhere:
    def test_near_names_are_found(self, tmp_path: Path) -> None:
        touch(tmp_path / "videos/a.mp4", tmp_path / "x/y/B.MP4", tmp_path / "c.wav")
        touch(tmp_path / "sub/video_frames/d/1.jpg", tmp_path / ".hidden/e.mp4")
        touch(tmp_path / "f.webm", tmp_path / "videos/._e.mp4", tmp_path / "e.txt")
        assert elsewhere(tmp_path, ["a", "b", "c", "d", "e", "f.mp4"]) == {
            "a": tmp_path / "videos/a.mp4",
            "b": tmp_path / "x/y/B.MP4",
            "c": tmp_path / "c.wav",
            "d": tmp_path / "sub/video_frames/d",
            "f.mp4": tmp_path / "f.webm",
        }

    @pytest.mark.parametrize("data", ["", "labels.csv"])
    def test_the_plan_tells(self, tmp_path: Path, capsys: Capture, data: str) -> None:
        touch(tmp_path / "labels.csv", data=b"id,category,start,end\na,x,0,1\nb,y,0,1\n")
        touch(tmp_path / "videos/a.mp4")
        where = ["--data", str(tmp_path / data), "--cache", str(tmp_path / "c")]
        assert main([*where, "--weights", "random:0", "--dry-run"]) == 0
        output = capsys.readouterr().out
        assert "missing   a, b\n" in output
        assert f"looked in {tmp_path} for ID.mp4" in output
        assert f"1 may be there under another name: a: {tmp_path / 'videos/a.mp4'}." in output
        assert "--data" in output


class TestSafeIds:
    @pytest.mark.parametrize("name", ["-a b", "Ba$$in", "é" * 120, "😀", "$(touch x)"])
    def test_what_can_be_an_id_is_one(self, name: str) -> None:
        assert safe_id(name) == name

    def test_others_become_one(self) -> None:
        names = ["AVE\\a", "a\nb", "a\x1bb", os.fsdecode(b"caf\xe9"), os.fsdecode(b"caf\xea")]
        names += ["é" * 128, "x" * 300, "x" * 301, "..", "a\u2028b"]
        made = [safe_id(name) for name in names]
        assert [check_id(one) for one in made] == [None] * len(names)
        assert len(set(made)) == len(names)
        assert all(len(one.encode()) <= MAX_ID_BYTES for one in made)
        assert made[0].startswith("AVE_a-")
        assert [safe_id(name) for name in names] == made

    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / unicodedata.normalize("NFD", "é.mp4")
        touch(path)
        assert file_source(path).id == "é"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache.common.cores, "GROUPS", tmp_path)
    monkeypatch.setattr(cache.common.cores, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


class TestCores:
    def test_those_it_is_bound_to(self, groups: Path) -> None:
        assert cores() == 8
        touch(groups / "cpu.max", data=b"max 100000\n")
        touch(groups / "cpu/cpu.cfs_quota_us", data=b"-1\n")
        touch(groups / "cpu/cpu.cfs_period_us", data=b"100000\n")
        assert cores() == 8

    @pytest.mark.parametrize(("text", "count"), [("100000", 1), ("150000", 2), ("9", 1)])
    def test_a_container_of_version_2(self, groups: Path, text: str, count: int) -> None:
        touch(groups / "cpu.max", data=f"{text} 100000\n".encode())
        assert cores() == count

    def test_a_group_within_groups(self, groups: Path) -> None:
        touch(groups / "membership", data=b"0::/a/b\n")
        touch(groups / "a/b/cpu.max", data=b"600000 100000\n")
        assert cores() == 6
        touch(groups / "a/cpu.max", data=b"300000 100000\n")
        assert cores() == 3

    def test_version_1(self, groups: Path) -> None:
        touch(groups / "membership", data=b"4:memory:/x\n3:cpu,cpuacct:/job\nodd\n")
        touch(groups / "cpu,cpuacct/job/cpu.cfs_quota_us", data=b"200000\n")
        touch(groups / "cpu,cpuacct/job/cpu.cfs_period_us", data=b"100000\n")
        assert cores() == 2


def test_numba_gets_a_folder_where_it_would_find_none(tmp_path: Path) -> None:
    """librosa's folder and the user's can't be written; the folder goes with the process."""
    script = """
import os, sys
from pathlib import Path
import tempfile
make = tempfile.TemporaryFile
def refuse(*a, dir=None, **k):
    if dir is not None:
        raise PermissionError(13, "Permission denied", str(dir))
    return make(*a, **k)
tempfile.TemporaryFile = refuse
import extract
print(os.environ["NUMBA_CACHE_DIR"], Path(os.environ["NUMBA_CACHE_DIR"]).is_dir())
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "home")}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder, was_there = done.stdout.split()
    assert (Path(folder).parent, was_there) == (tmp_path, "True")
    assert not Path(folder).exists()


def test_media_that_cannot_be_looked_at_costs_its_clip_alone(
    tmp_path: Path, capsys: Capture
) -> None:
    data, cache_folder = tmp_path / "set", tmp_path / "cache"
    write_set(data, 4)
    wav = data / "audio_wav/clip 1.wav"
    wav.rename(data / "aside.wav")
    wav.symlink_to(tmp_path / "nowhere")
    where = ["--data", str(data), "--cache", str(cache_folder), "--weights", "random:0"]
    flags = [*where, "--jobs", "1", *SMALL_FLAGS]
    assert main(flags) == 1
    failure = open_cache(cache_folder).index.failures["clip 1"]
    assert (failure.stage, failure.attempt) == ("find", 1)
    assert "where nothing is" in failure.message
    assert len(open_cache(cache_folder)) == 3
    assert main(flags) == 1  # left alone
    assert open_cache(cache_folder).index.failures["clip 1"].attempt == 1
    wav.unlink()
    (data / "aside.wav").rename(wav)
    assert main(flags) == 0  # tried again without being asked
    wav.rename(data / "aside.wav")
    wav.symlink_to(tmp_path / "nowhere")
    capsys.readouterr()
    assert main(flags) == 0  # what is done stays done
    assert "clip 1: its features are kept" in capsys.readouterr().out
    assert len(open_cache(cache_folder)) == 4


def test_names_with_line_ends_make_no_lines_of_their_own(tmp_path: Path, capsys: Capture) -> None:
    data, lie = tmp_path / "set", "\nfinished  9 of 9"
    write_set(data, 2)
    shutil.rmtree(data / "video_frames/clip 1")
    touch(data / f"video_frames/clip 1/{lie}.webp", data / f"deeper{lie}/c.mp4")
    with (data / "events.csv").open("a", encoding="utf-8") as table:
        table.write("c,kind 0,0,1,train\n")
    where = ["--data", str(data), "--cache", str(tmp_path / "cache"), "--weights", "random:0"]
    assert main([*where, "--jobs", "1", *SMALL_FLAGS]) == 1
    printed = "".join(capsys.readouterr())
    assert f"found none, but {lie.replace(chr(10), '?')}.webp" in printed
    assert f"c: {data}/deeper{lie.replace(chr(10), '?')}/c.mp4" in printed
    assert lie not in printed
