"""Windows of recordings: each as if it were decoded alone, whatever comes between."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from small_media import (
    RATE_HZ,
    SMALL,
    SMALL_FLAGS,
    Kind,
    assert_same_rows,
    noise,
    tone,
    write_recording,
)

import extract.features.extractor
import extract.media.reading
import extract.stretches
from cache import open_cache
from cache.check.info import facts_of
from cache.check.verify import verify
from cache.common.errors import MediaError
from cache.format.shard import Clip, Failure, Written
from cache.format.windows import Window
from extract.__main__ import main
from extract.config import ExtractConfig
from extract.features.audio import audio_features
from extract.media.decode import Decoded, decode
from extract.media.length import recording_s
from extract.media.windows import decode_windows
from extract.parallel.job import ShardJob
from extract.sources import MediaSource, file_source
from extract.stretches import offsets_of, shortest_s, stretches

Capture = pytest.CaptureFixture[str]
CONFIG = ExtractConfig.parse({**SMALL, "clip_seconds": 2.0, "hop_seconds": 0.5, "num_frames": 4})
X264 = {"bf": "3", "g": "15", "preset": "veryfast"}
MP4 = Kind("mp4", "libx264", "aac", X264)
KINDS = {
    "b-frames.mp4": MP4,
    "open-gop.mp4": Kind("mp4", "libx264", "aac", {**X264, "x264-params": "open-gop=1"}),
    "a.mkv": Kind("matroska", "libx264", "mp3", X264),
    "a.webm": Kind("webm", "libvpx", "libopus", {"deadline": "realtime", "g": "15"}, 48_000),
    "plain.avi": Kind("avi", "mpeg4", "libmp3lame", {"g": "15"}),
    "b-frames.avi": Kind("avi", "libx264", "pcm_s16le", X264),
    "a.ts": Kind("mpegts", "mpeg2video", "mp2", {"bf": "2", "g": "12"}, fps=25),
    "a.mov": Kind("mov", "mpeg4", "pcm_s16le", {"g": "15"}, RATE_HZ),
}


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for number, (name, kind) in enumerate(KINDS.items()):
        write_recording(folder / name, kind, 7.3, number)
    return folder


def processed(folder: Path, seconds: float = 7.5) -> MediaSource:
    """A recording of a WAV and pictures."""
    (folder / "frames").mkdir(parents=True)
    soundfile.write(folder / "a.wav", tone(seconds) + noise(seconds), RATE_HZ, "PCM_16")
    for number in range(round(seconds * 4)):
        picture = np.full((48, 64, 3), number * 5 % 256, np.uint8)
        cv2.imwrite(str(folder / "frames" / f"{number}.png"), picture)
    return MediaSource("a", sound=folder / "a.wav", frames=folder / "frames")


def windows(source: MediaSource, config: ExtractConfig = CONFIG) -> dict[float, Any]:
    """Every window of a source, decoded in stretches."""
    offsets_s = offsets_of(recording_s(source, config), config)
    found: dict[float, Any] = {}
    for stretch in stretches(offsets_s, config):
        found.update(decode_windows(source, stretch, config, lambda picture: picture))
    return found


def assert_same(found: Any, wanted: Decoded) -> None:
    assert isinstance(found, Decoded), found
    for name in ("valid_s", "audio_start_s", "sha256"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.media_s == wanted.media_s or math.isnan(found.media_s + wanted.media_s)
    assert found.frame_time_s.tobytes() == wanted.frame_time_s.tobytes()
    assert found.waveform is not None
    assert wanted.waveform is not None
    assert found.waveform.tobytes() == wanted.waveform.tobytes()
    assert len(found.frames) == len(wanted.frames)
    for mine, theirs in zip(found.frames, wanted.frames, strict=True):
        assert np.array_equal(mine, theirs)


class TestWindows:
    @pytest.mark.parametrize("name", KINDS)
    def test_each_is_as_if_decoded_alone(
        self, media: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = file_source(media / name)
        monkeypatch.setattr(extract.stretches, "STRETCH_S", 4.0)
        found = windows(source)
        assert list(found) == [0.5 * k for k in range(12)]
        for offset_s, window in found.items():
            assert_same(window, decode(source, CONFIG, offset_s))
        assert_same(found[0.0], decode(source, CONFIG.revised(hop_seconds=None)))

    def test_of_a_wav_and_pictures(self, tmp_path: Path) -> None:
        source = processed(tmp_path)
        found = windows(source)
        assert len(found) == 12
        for offset_s, window in found.items():
            assert_same(window, decode(source, CONFIG, offset_s))
        levels = [int(picture[0, 0, 0]) for picture in found[3.0].frames]
        assert levels == [int(t * 4) * 5 for t in (3.25, 3.75, 4.25, 4.75)]

    @pytest.mark.parametrize("name", ["b-frames.mp4", "a.mkv", "a.webm", "a.mov"])
    def test_what_an_index_leads_to_is_what_is_read_from_the_beginning(
        self, media: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = file_source(media / name)
        monkeypatch.setattr(extract.media.reading, "FAR_S", 1.0)
        sought = decode(source, CONFIG, 4.5)
        monkeypatch.setattr(extract.media.reading, "INDEXED", set())
        assert_same(sought, decode(source, CONFIG, 4.5))

    def test_samples_and_pictures_are_those_at_the_offset(self, media: Path) -> None:
        source = file_source(media / "a.mov")
        config = CONFIG.revised(clip_seconds=7.0, hop_seconds=None)
        whole = decode(source, config).waveform
        assert whole is not None
        for offset_s, window in windows(source).items():
            begin = round(offset_s * RATE_HZ)
            part = whole[begin : begin + 2 * RATE_HZ]
            assert window.waveform[: len(part)].tobytes() == part.tobytes()
            shown = np.floor((np.arange(4) * 0.5 + 0.25 + offset_s) * 10 + 1e-9) / 10 - offset_s
            if offset_s < 5:
                assert window.frame_time_s == pytest.approx(shown, abs=1e-6)

    def test_a_picture_is_prepared_once(self, media: Path) -> None:
        seen: list[int] = []

        def prepare(picture: Any) -> Any:
            seen.append(1)
            return picture

        source, offsets_s = file_source(media / "b-frames.mp4"), [0.0, 0.5, 1.0, 1.5]
        found = list(decode_windows(source, offsets_s, CONFIG, prepare))
        assert len(seen) == 7
        first, second = (one.frames for _, one in found[:2] if isinstance(one, Decoded))
        assert all(a is b for a, b in zip(first[1:], second[:3], strict=True))

    def test_what_is_behind_damage_is_still_there(self, media: Path, tmp_path: Path) -> None:
        path = tmp_path / "damaged.mp4"
        data = bytearray((media / "b-frames.mp4").read_bytes())
        begin = data.index(b"mdat") + (data.index(b"moov") - data.index(b"mdat")) // 2
        data[begin : begin + 300] = bytes(300)
        path.write_bytes(data)
        source = file_source(path)
        found = windows(source)
        for offset_s, window in found.items():
            alone = next(decode_windows(source, [offset_s], CONFIG, lambda picture: picture))[1]
            if isinstance(alone, MediaError):
                assert str(window) == str(alone)
            else:
                assert_same(window, alone)
        whole = [o for o, one in found.items() if isinstance(one, Decoded) and one.valid_s == 2.0]
        assert whole[0] == 0.0
        assert whole[-1] == 5.0
        assert len(whole) < len(offsets_of(7.3, CONFIG)) - 1


@given(st.floats(0, 500), st.integers(1, 40), st.integers(1, 40))
def test_windows_show_all_of_a_recording(length_s: float, clip_s: int, hop_s: int) -> None:
    hop_s = min(hop_s, clip_s)
    config = CONFIG.revised(clip_seconds=float(clip_s), hop_seconds=float(hop_s))
    offsets_s = offsets_of(length_s, config)
    assert offsets_s == [k * hop_s for k in range(len(offsets_s))]
    assert offsets_s[-1] + clip_s + shortest_s(config) > length_s
    for offset_s in offsets_s[1:]:
        assert offset_s - hop_s + clip_s + shortest_s(config) <= length_s
    parts = stretches(offsets_s, config)
    assert [offset_s for part in parts for offset_s in part] == offsets_s
    assert all(len(part) == 1 or part[-1] + clip_s - part[0] <= 120 for part in parts)


# The whole command -------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two recordings of 20 and 3 s, and a clip."""
    folder = tmp_path / "set"
    (folder / "media").mkdir(parents=True)
    for name, seconds in (("long", 20.0), ("short", 3.0), ("clip", 1.0)):
        write_recording(folder / "media" / f"{name}.mp4", MP4, seconds, len(name))
    labelled(folder, "long", "short", "clip")
    return folder


def labelled(folder: Path, *ids: str) -> None:
    rows = [f"{clip_id},kind,0.5,0.9,train" for clip_id in ids]
    (folder / "events.csv").write_text("\n".join(["id,category,start,end,split", *rows]) + "\n")


def run(data: Path, cache: Path, *more: str, jobs: int = 1) -> int:
    where = ["--data", str(data), "--cache", str(cache), "--weights", "random:0"]
    return main([*where, "--hop-seconds", "0.5", "--jobs", str(jobs), *SMALL_FLAGS, *more])


def ids_of(recording: str, count: int) -> list[str]:
    return [Window(recording, 0.5 * k).clip_id for k in range(count)]


def test_a_set_of_recordings(data: Path, tmp_path: Path, capsys: Capture) -> None:
    cache = tmp_path / "cache"
    assert run(data, cache) == 0
    found = open_cache(cache)
    assert sorted(found.ids) == sorted([*ids_of("long", 39), *ids_of("short", 5), "clip"])
    assert verify(cache).problems == []
    facts = facts_of(found)
    assert facts["recordings"] == {"count": 3, "hop_s": 0.5}
    assert facts["media_hours"] == pytest.approx(24 / 3600, abs=1e-3)
    assert facts["labels"]["without_features"] == 0
    assert facts["labels"]["without_labels"] == 0
    capsys.readouterr()
    assert run(data, cache) == 0
    assert "done 45, failed before 0, to do 0" in capsys.readouterr().out


def test_first_windows_are_the_clips_of_a_cache_without_hop(data: Path, tmp_path: Path) -> None:
    hop, plain = tmp_path / "hop", tmp_path / "plain"
    assert run(data, hop) == 0
    where = ["--data", str(data), "--cache", str(plain), "--weights", "random:0", "--jobs", "1"]
    assert main([*where, *SMALL_FLAGS]) == 0
    mine, theirs = open_cache(hop), open_cache(plain)
    for clip_id in theirs.ids:
        a, b = mine.row(clip_id), theirs.row(clip_id)
        assert mine.row_digests[a] == theirs.row_digests[b]


def test_what_is_not_looked_at_is_said(data: Path, tmp_path: Path, capsys: Capture) -> None:
    where = ["--data", str(data), "--cache", str(tmp_path / "c"), "--weights", "random:0"]
    assert main([*where, "--jobs", "1", *SMALL_FLAGS]) == 0
    said = "2 recordings are longer than a clip: 21 s of them are not looked at"
    assert said in capsys.readouterr().out
    facts = facts_of(open_cache(tmp_path / "c"))
    assert facts["recordings"]["longer"] == 2
    assert facts["recordings"]["unseen_s"] == pytest.approx(21, abs=0.2)


def test_stopped_in_the_middle_of_a_recording_and_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cache = tmp_path / "whole", tmp_path / "cache"
    assert run(data, whole, jobs=2) == 0
    write, shards = ShardJob.write, list[Written]()

    def stop(job: ShardJob, clips: Sequence[Clip], failures: Sequence[Failure]) -> Written:
        if shards:
            raise KeyboardInterrupt
        shards.append(write(job, clips, failures))
        return shards[0]

    with monkeypatch.context() as patch:
        patch.setattr(ShardJob, "write", stop)
        assert run(data, cache) == 130
    assert 0 < len(open_cache(cache)) < len(open_cache(whole))
    assert run(data, cache) == 0
    assert_same_rows(open_cache(cache), open_cache(whole))
    # One row lost: its stretch is decoded whole, and that row alone is written.
    index = open_cache(cache).index
    shard = next(iter(index.shards))
    lost = [clip_id for _, clip_id, _ in index.members(shard)]
    (cache / "shards" / shard).unlink()
    assert run(data, cache) == 0
    assert_same_rows(open_cache(cache), open_cache(whole))
    assert lost


def test_a_recording_that_ends_before_its_header_says(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_recording(folder / "cut.mkv", KINDS["a.mkv"], 20.0)
    whole = (folder / "cut.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    labelled(folder, "cut")
    cache = tmp_path / "cache"
    assert run(folder, cache) == 1
    said = capsys.readouterr().err
    assert "expected 20." in said
    assert "what is there was taken" in said
    found = open_cache(cache)
    last_s = max(window.offset_s for window in found.windows)
    assert len(found) == last_s / 0.5 + 1
    assert 8 < last_s < 12
    assert {failure.stage for failure in found.index.failures.values()} == {"end"}
    digests = found.row_digests
    assert run(folder, cache) == 1
    assert "to do 0" in capsys.readouterr().out
    assert open_cache(cache).row_digests == digests


def test_a_recording_that_became_shorter(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert run(data, cache) == 0
    write_recording(data / "media" / "long.mp4", MP4, 4.0, 9)
    assert run(data, cache) == 0
    found = open_cache(cache)
    assert [found.windows[row].clip_id for row in found.recordings["long"]] == ids_of("long", 7)
    assert run(data, cache) == 0


def test_names_that_look_like_windows(data: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.move(data / "media" / "short.mp4", data / "media" / "long@5.mp4")
    labelled(data, "long", "long@5", "clip")
    cache = tmp_path / "cache"
    assert run(data, cache) == 1
    assert "its name looks like a window of another recording, 'long'" in capsys.readouterr().err
    assert len(open_cache(cache)) == 40
    assert run(data, cache, "--max-failures", "1") == 0


def test_a_window_that_fails_costs_no_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = audio_features

    def fail(waveform: Any, config: ExtractConfig) -> Any:
        seen.append(1)
        if len(seen) == 4:
            raise OverflowError("made to fail")
        return real(waveform, config)

    seen: list[int] = []
    monkeypatch.setattr(extract.features.extractor, "audio_features", fail)
    monkeypatch.setattr("extract.features.audio.warm_up", lambda config: None)
    labelled(data, "long")
    assert run(data, tmp_path / "cache") == 1
    found = open_cache(tmp_path / "cache")
    assert len(found) == 38
    assert list(found.index.failures) == ["long@1.5"]
    monkeypatch.undo()
    assert run(data, tmp_path / "cache", "--retry-failed") == 0
    assert len(open_cache(tmp_path / "cache")) == 39


def test_several_files_at_once(data: Path, tmp_path: Path, capsys: Capture) -> None:
    like, cache = tmp_path / "like", tmp_path / "cache"
    where = ["--data", str(data), "--cache", str(like), "--weights", "random:0", "--jobs", "1"]
    assert main([*where, *SMALL_FLAGS]) == 0
    (data / "media" / "page.mp4").write_text("<html>")
    soundfile.write(data / "media" / "sound.wav", tone(2), RATE_HZ)
    shutil.copy(data / "media" / "clip.mp4", tmp_path / "other@5.mp4")
    flags = ["--cache", str(cache), "--like", str(like / "cache.json"), "--hop-seconds", "0.5"]
    files = [str(data / "media"), str(tmp_path / "other@5.mp4")]
    capsys.readouterr()
    (data / "media" / "more").mkdir()
    assert main(["clip", *files, *flags]) == 1
    said, told = capsys.readouterr()
    assert "media: folders in it are not looked into: more\n" in said
    assert "page.mp4" in told
    assert told.count("sound.wav") == 1  # not once for each of its windows
    found = open_cache(cache)
    assert [len(rows) for name, rows in sorted(found.recordings.items())] == [1, 39, 1, 5]
    assert sorted(found.recordings)[2].startswith("other@5-")
    assert main(["clip", *files, *flags]) == 1
    assert "45 clips" not in capsys.readouterr().out
    assert len(open_cache(cache)) == len(found)
