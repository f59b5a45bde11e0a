"""The demo set holds what its labels say, in both layouts, and never overwrites anything."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from cache.common.errors import ConfigError
from extract.demo.__main__ import DemoClip, main, make_demo_set, plan_demo_set, write_mp4
from extract.demo.recording import (
    HEARD_ALONE,
    RECORDING_S,
    SEEN_ALONE,
    TRUE,
    make_recording,
)
from extract.demo.scenes import CLASSES, CLIP_S, FPS, SAMPLE_RATE_HZ, render_frames, render_sound
from extract.demo.showcase import chosen, localized_iou
from extract.demo.showcase import main as show

NAMES = list(CLASSES)


def spans(entries: list[tuple[str, int, int]], name: str) -> npt.NDArray[np.bool_]:
    """Seconds (10,) in which `name` occurs."""
    seconds = np.zeros(CLIP_S, bool)
    for category, start, end in entries:
        if category == name:
            seconds[start:end] = True
    return seconds


def tree_digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_default_plan_has_every_case(seed: int) -> None:
    plan = plan_demo_set(128, seed)
    per_split = Counter((clip.split, clip.rows[0][0]) for clip in plan)
    for name in NAMES:
        counts = [per_split[split, name] for split in ("train", "val", "test")]
        assert counts == [10, 3, 3]
    ids = [clip.id for clip in plan]
    assert len(set(ids)) == 128
    assert {len(one) for one in ids} == {11}
    dashed = Counter(clip.layout for clip in plan if clip.id.startswith("-"))
    assert min(dashed["mp4"], dashed["frames"]) >= 5
    assert [len({row[0] for row in clip.rows}) for clip in plan if len(clip.rows) > 1] == [2]
    silent = [(clip.layout, clip.split) for clip in plan if not clip.has_audio]
    assert silent == [("mp4", "train")]
    assert {clip.mode for clip in plan} == {"sync", "seen-always", "heard-always"}
    shorter = sum(clip.rows[0][1:] != (0, CLIP_S) for clip in plan)
    assert 64 <= shorter <= 90
    assert Counter(clip.layout for clip in plan) == {"mp4": 64, "frames": 64}


@pytest.mark.parametrize("clips", [6, 9, 24, 128])
def test_labels_are_where_the_event_is_both_heard_and_seen(clips: int) -> None:
    for clip in plan_demo_set(clips, 0):
        for name, _, _ in clip.rows:
            both = spans(clip.heard, name) & spans(clip.seen, name)
            assert np.array_equal(both, spans(clip.rows, name)), clip


def test_neither_modality_alone_places_every_event() -> None:
    plan = plan_demo_set(128, 0)

    def misplaced(clip: DemoClip, entries: list[tuple[str, int, int]]) -> bool:
        anything = np.any([spans(entries, name) for name in NAMES], axis=0)
        return not np.array_equal(anything, spans(clip.rows, clip.rows[0][0]))

    assert sum(misplaced(clip, clip.heard) for clip in plan[1:]) >= 10
    assert sum(misplaced(clip, clip.seen) for clip in plan[1:]) >= 10


@pytest.mark.parametrize("mode", ["seen-always", "heard-always"])
def test_mode_says_what_goes_on_all_along(mode: str) -> None:
    clips = [clip for clip in plan_demo_set(128, 0) if clip.mode == mode]
    assert len(clips) >= 10
    for clip in clips:
        whole = [(clip.rows[0][0], 0, CLIP_S)]
        always, inside = (
            (clip.seen, clip.heard) if mode == "seen-always" else (clip.heard, clip.seen)
        )
        assert always == whole
        assert inside == clip.rows != whole


@pytest.mark.parametrize("sense", ["heard", "seen"])
def test_some_clips_have_another_class_outside_the_interval(sense: str) -> None:
    plan = plan_demo_set(128, 0)[1:]
    distracted = [c for c in plan if {e[0] for e in getattr(c, sense)} != {c.rows[0][0]}]
    assert len(distracted) >= 5
    assert {clip.mode for clip in distracted} == {"sync"}


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 6"):
        plan_demo_set(5, 0)


def test_small_set_has_both_layouts_and_all_splits(demo_plan: list[DemoClip]) -> None:
    assert {clip.split for clip in demo_plan} == {"train", "val", "test"}
    dashed = {clip.layout for clip in demo_plan if clip.id.startswith("-")}
    assert dashed == {"mp4", "frames"}
    assert sum(not clip.has_audio for clip in demo_plan) == 1


def test_files_are_what_they_should_be(demo_set: Path, demo_plan: list[DemoClip]) -> None:
    for clip in demo_plan:
        if clip.layout == "frames":
            wav = demo_set / "AVE_Processed/audio_wav" / f"{clip.id}.wav"
            sound, rate_hz = soundfile.read(wav)
            assert (len(sound), rate_hz) == (CLIP_S * SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
            jpegs = sorted((demo_set / "AVE_Processed/video_frames" / clip.id).iterdir())
            assert [path.name for path in jpegs] == [f"{n:06d}.jpg" for n in range(1, 41)]
            picture = cv2.imread(str(jpegs[7]))
            assert picture is not None
            shown = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(float)
            meant = render_frames(clip.seen, clip.seed)[7 * FPS // 4].astype(float)
            assert abs(shown - meant).mean() < 6
            continue
        with av.open(str(demo_set / "AVE_Dataset/AVE" / f"{clip.id}.mp4")) as container:
            codecs = [stream.codec_context.name for stream in container.streams]
            assert codecs == (["h264", "aac"] if clip.has_audio else ["h264"])
            assert container.duration == CLIP_S * 1_000_000


def test_annotation_files(demo_set: Path, demo_plan: list[DemoClip]) -> None:
    header, *rows = (demo_set / "Annotations.txt").read_text().splitlines()
    assert header == "Category&VideoID&Quality&StartTime&EndTime"
    wanted: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for clip in demo_plan:
        wanted[clip.split] |= {f"{c}&{clip.id}&good&{a}&{b}" for c, a, b in clip.rows}
    for split, expected in wanted.items():
        assert set((demo_set / f"{split}Set.txt").read_text().splitlines()) == expected
    assert sorted(rows) == sorted(row for expected in wanted.values() for row in expected)


def test_same_seed_gives_the_same_bytes_with_any_number_of_jobs(
    demo_set: Path, tmp_path: Path
) -> None:
    make_demo_set(tmp_path / "again", 6, 0, jobs=2)
    assert tree_digest(tmp_path / "again") == tree_digest(demo_set)
    assert [clip.id for clip in plan_demo_set(6, 1)] != [clip.id for clip in plan_demo_set(6, 0)]


def test_second_call_writes_only_what_is_missing(
    demo_set: Path, demo_plan: list[DemoClip], tmp_path: Path
) -> None:
    copy = tmp_path / "set"
    shutil.copytree(demo_set, copy)
    media = copy / "AVE_Dataset/AVE"
    lost = next(media / f"{clip.id}.mp4" for clip in demo_plan if clip.layout == "mp4")
    before = {path: path.stat().st_mtime_ns for path in media.iterdir() if path != lost}
    lost.unlink()
    make_demo_set(copy, 6, 0, jobs=1)
    assert {path: path.stat().st_mtime_ns for path in media.iterdir() if path != lost} == before
    assert tree_digest(copy) == tree_digest(demo_set)


def test_what_is_there_is_never_overwritten(
    demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Annotations.txt").write_text("mine")
    assert main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert (tmp_path / "Annotations.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="made otherwise"):
        make_demo_set(demo_set, 6, seed=1, jobs=1)


@pytest.mark.parametrize("name", NAMES)
def test_sound_is_in_its_interval_only(name: str) -> None:
    for seed in range(4):
        level = render_sound([(name, 3, 7)], seed).reshape(CLIP_S, -1).std(axis=1)
        assert level[3:7].min() > 2.5 * max(level[:3].max(), level[7:].max())


@pytest.mark.parametrize("name", NAMES)
def test_picture_is_in_its_interval_only(name: str) -> None:
    shown, empty = render_frames([(name, 3, 7)], 5), render_frames([], 5)
    changed = (abs(shown.astype(int) - empty) > 8).any(axis=3).mean(axis=(1, 2))
    inside = np.zeros(len(shown), bool)
    inside[3 * FPS : 7 * FPS] = True
    assert changed[~inside].max() == 0
    assert changed[inside].min() > 0.02


def test_classes_differ_in_sound_and_in_picture() -> None:
    """Nearest class mean of a crude description is right for clips that it has not seen."""

    def describe(name: str, seed: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        sound = render_sound([(name, 0, CLIP_S)], seed)[: 4 * SAMPLE_RATE_HZ].reshape(-1, 1280)
        power = np.abs(np.fft.rfft(sound)).mean(axis=0)[1:513].reshape(64, 8).mean(axis=1)
        picture = render_frames([(name, 4, 6)], seed)[60].astype(int)
        ground = render_frames([], seed)[60].astype(int)
        object_px = (abs(picture - ground) > 12).any(axis=2)
        pixels = picture[object_px]
        heard = np.log(power / power.sum())
        return heard, np.array([*pixels.mean(axis=0), pixels.std()])

    seen = [[describe(name, seed) for seed in range(6)] for name in NAMES]
    for sense in (0, 1):
        features = np.array([[pair[sense] for pair in clips] for clips in seen])
        means = features[:, :4].mean(axis=1)
        distance = np.linalg.norm(features[:, 4:, None] - means, axis=-1)
        right = distance.argmin(axis=-1) == np.arange(len(NAMES))[:, None]
        assert right.mean() > 0.85, (sense, right)


class TestWriteMp4:
    sound = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * 32_000) / 32_000)
    frames = np.full((24, 32, 48, 3), 90, np.uint8)

    def test_sound_that_starts_late_plays_late(self, tmp_path: Path) -> None:
        path = tmp_path / "late.mp4"
        write_mp4(path, self.sound, 32_000, self.frames, 12, audio_start_s=1.5)
        with av.open(str(path)) as container:
            frames = list(container.decode(audio=0))
        parts, times = [frame.to_ndarray()[0] for frame in frames], []
        for frame, part in zip(frames, parts, strict=True):
            assert frame.time is not None
            times.append(frame.time + np.arange(len(part)) / 32_000)
        loud = np.concatenate(times)[np.abs(np.concatenate(parts)) > 0.2]
        assert loud[0] == pytest.approx(1.5, abs=0.01)
        assert loud[-1] == pytest.approx(3.5, abs=0.01)

    def test_frame_times_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "variable.mp4"
        times = np.cumsum(np.tile([0.05, 0.2, 0.1], 8)) - 0.05
        write_mp4(path, None, 32_000, self.frames, 12, frame_times_s=times.tolist())
        with av.open(str(path)) as container:
            assert not container.streams.audio
            found = [frame.time for frame in container.decode(video=0)]
        assert found == pytest.approx(times, abs=1e-4)

    def test_sound_alone_in_two_channels(self, tmp_path: Path) -> None:
        path = tmp_path / "stereo.mp4"
        write_mp4(path, np.stack([self.sound, 0 * self.sound]), 32_000, None, 12)
        with av.open(str(path)) as container:
            assert not container.streams.video
            left, right = np.concatenate(
                [f.to_ndarray() for f in container.decode(audio=0)], axis=1
            )
        assert left.std() > 0.3
        assert right.std() < 0.01

    def test_number_of_times_must_match(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="zip"):
            write_mp4(tmp_path / "x.mp4", None, 1, self.frames, 12, frame_times_s=[0.0])


def test_the_recording_holds_its_events_and_is_written_once(tmp_path: Path) -> None:
    film = make_recording(tmp_path)
    with av.open(str(film)) as container:
        assert container.duration == RECORDING_S * 1_000_000
    rows = (tmp_path / "recordings" / "events.csv").read_text().splitlines()
    assert rows[0] == "media,start_s,end_s,category"
    assert rows[1:] == [f"walk.mp4,{start},{end},{name}" for name, start, end in TRUE]
    before = film.stat().st_mtime_ns
    assert make_recording(tmp_path).stat().st_mtime_ns == before
    for name, start, end in TRUE:
        for sense in (HEARD_ALONE, SEEN_ALONE):
            others = [span for span in sense if span[0] == name]
            assert all(stop <= start or end <= first for _, first, stop in others)
        assert not set(HEARD_ALONE) & set(SEEN_ALONE)


def test_longer_scenes_have_their_sound_and_pictures_where_they_are_said() -> None:
    sound = render_sound(TRUE, 0, RECORDING_S).reshape(RECORDING_S, -1).std(axis=1)
    on = np.zeros(RECORDING_S, bool)
    for _, start, end in TRUE:
        on[start:end] = True
    assert sound[on].min() > 2 * sound[~on].max()
    shown = render_frames(TRUE, 0, RECORDING_S).astype(int)
    changed = (abs(shown - render_frames([], 0, RECORDING_S)) > 8).any(axis=3).mean(axis=(1, 2))
    assert (changed.reshape(RECORDING_S, FPS).min(axis=1)[on] > 0.01).all()
    assert changed.reshape(RECORDING_S, FPS).max(axis=1)[~on].max() == 0


def answered(name: str, start: float, end: float, said: str = "Bark") -> dict[str, str | float]:
    """A clip with a bark from 2 to 6 s, and what was said of it."""
    truth: dict[str, str | float] = {"id": name, "category": "Bark", "start_s": 2.0, "end_s": 6.0}
    return {**truth, "predicted": said, "predicted_start_s": start, "predicted_end_s": end}


def test_the_clip_that_is_shown_is_the_middle_one_of_the_shorter_films(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    films = tmp_path / "AVE_Dataset/AVE"
    films.mkdir(parents=True)
    rows = [
        answered("best", 2, 6), answered("-mid", 2, 5), answered("worst", 2, 6, "Clock"),
        answered("no film", 2, 5.1), {**answered("whole", 0, 10), "start_s": 0.0, "end_s": 10.0},
    ]  # fmt: skip
    for row in rows:
        if row["id"] != "no film":
            (films / f"{row['id']}.mp4").touch()
    assert [localized_iou(row) for row in rows[:3]] == [1.0, 0.75, 0.0]
    assert chosen(tmp_path, rows) == chosen(tmp_path, rows[::-1]) == films / "-mid.mp4"
    assert chosen(tmp_path, rows[4:]) == films / "whole.mp4", "no shorter one is there"
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    assert show([str(tmp_path), str(tmp_path / "answers.json")]) == 0
    assert capsys.readouterr().out == f"{films / '-mid.mp4'}\n"
    (tmp_path / "answers.json").write_text("[]")
    assert show([str(tmp_path), str(tmp_path / "answers.json")]) == 2
    assert "no film of the test split" in capsys.readouterr().err
