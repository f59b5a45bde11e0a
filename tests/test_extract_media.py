"""Decoding: one clock for sound and picture, true lengths, and an error instead of silence."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import shutil
import struct
import zlib
from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from small_media import grey_frames, noise, tone

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.demo.__main__ import write_jpegs, write_mp4
from extract.finding import find_sources
from extract.media.decode import Decoded, decode
from extract.media.sound import placed
from extract.sources import MediaSource, centres_s, file_source, pictures

RATE_HZ = 22_050
BOTH = ExtractConfig.parse({"clip_seconds": 4.0})
AUDIO, VIDEO = BOTH.revised(modalities="audio"), BOTH.revised(modalities="video")
FPS = 10
STAIRS = grey_frames(range(20, 220, 5))  # 4 s at 10 a second; the level tells the frame


def level(frame: npt.NDArray[np.uint8]) -> float:
    return float(frame.mean())


def onset_s(waveform: npt.NDArray[np.float32], threshold: float = 0.1) -> float:
    return int(np.flatnonzero(np.abs(waveform) > threshold)[0]) / RATE_HZ


def mp4(path: Path, config: ExtractConfig = BOTH) -> Decoded:
    return decode(file_source(path), config)


def assert_error(
    source: MediaSource, config: ExtractConfig, stage: str, why: str, name: str
) -> None:
    with pytest.raises(MediaError, match=why) as caught:
        decode(source, config)
    assert caught.value.stage == stage
    assert name in str(caught.value)


class TestContainer:
    def test_what_is_no_container_is_told_in_words(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        for content, found in ((b"", "an empty file"), (b"id,category", "invalid data")):
            path.write_bytes(content)
            with pytest.raises(MediaError, match=f"clip.mp4: expected .* {found}") as caught:
                mp4(path)
            assert "Errno" not in str(caught.value)

    def test_sound_and_pictures(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        write_mp4(path, tone(4.0), RATE_HZ, STAIRS, FPS)
        clip = mp4(path)
        assert clip.waveform is not None
        assert clip.waveform.dtype == np.float32
        assert len(clip.waveform) == BOTH.clip_samples
        assert np.abs(clip.waveform - tone(4.0))[2000:-2000].max() < 0.05
        assert clip.valid_s == pytest.approx(4.0)
        assert clip.media_s == pytest.approx(4.0, abs=0.1)
        assert clip.audio_start_s == pytest.approx(0, abs=0.05)
        assert clip.sha256 == hashlib.sha256(path.read_bytes()).digest()
        centres = (np.arange(8) + 0.5) * 0.5
        shown = np.floor(centres * FPS + 1e-9) / FPS
        assert clip.frame_time_s == pytest.approx(shown, abs=1e-3)
        assert len(clip.frames) == 8
        assert clip.frames[0].shape == (48, 64, 3)
        assert [level(f) for f in clip.frames] == pytest.approx(20 + 50 * shown, abs=3)

    def test_a_picture_is_on_screen_from_its_very_time_on(self, tmp_path: Path) -> None:
        path = tmp_path / "clip.mp4"
        write_mp4(path, None, RATE_HZ, STAIRS, FPS)
        clip = mp4(path, VIDEO.revised(num_frames=4))
        assert clip.frame_time_s.tolist() == [0.5, 1.5, 2.5, 3.5]

    def test_agrees_with_the_processed_layout(self, tmp_path: Path) -> None:
        sound = tone(4.0) + noise(4.0)
        write_mp4(tmp_path / "clip.mp4", sound, RATE_HZ, STAIRS, FPS)
        soundfile.write(tmp_path / "clip.wav", sound, RATE_HZ, "PCM_16")
        write_jpegs(tmp_path / "frames", STAIRS)
        one = mp4(tmp_path / "clip.mp4")
        other = decode(
            MediaSource("clip", sound=tmp_path / "clip.wav", frames=tmp_path / "frames"), BOTH
        )
        assert one.waveform is not None
        assert other.waveform is not None
        assert len(one.waveform) == len(other.waveform)
        match = np.corrcoef(one.waveform, other.waveform)[0, 1]
        assert match > 0.98  # AAC loses some noise; a shift of one sample more would show
        assert match > np.corrcoef(one.waveform[1:], other.waveform[:-1])[0, 1]
        assert match > np.corrcoef(one.waveform[:-1], other.waveform[1:])[0, 1]
        assert one.frame_time_s == pytest.approx(other.frame_time_s, abs=1e-3)
        for mine, theirs in zip(one.frames, other.frames, strict=True):
            assert level(mine) == pytest.approx(level(theirs), abs=3)
        assert one.valid_s == other.valid_s

    @pytest.mark.parametrize("start_s", [0.5, 1.5])
    def test_sound_that_starts_late_is_placed_where_it_plays(
        self, tmp_path: Path, start_s: float
    ) -> None:
        path = tmp_path / "late.mp4"
        write_mp4(path, tone(2.0), RATE_HZ, STAIRS, FPS, audio_start_s=start_s)
        clip = mp4(path)
        assert clip.waveform is not None
        assert onset_s(clip.waveform) == pytest.approx(start_s, abs=0.02)
        assert clip.audio_start_s == pytest.approx(start_s, abs=0.05)
        assert not clip.waveform[: round((start_s - 0.06) * RATE_HZ)].any()

    def test_pictures_that_start_late_keep_the_clock_of_the_sound(self, tmp_path: Path) -> None:
        path = tmp_path / "late.mp4"
        times = 1.0 + np.arange(30) / FPS
        write_mp4(path, tone(4.0), RATE_HZ, STAIRS[:30], FPS, frame_times_s=list(times))
        clip = mp4(path)
        centres = (np.arange(8) + 0.5) * 0.5
        shown = np.maximum(np.floor(centres * FPS + 1e-9) / FPS, 1.0)
        assert clip.frame_time_s == pytest.approx(shown, abs=1e-3)

    def test_longer_media_is_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "long.mp4"
        write_mp4(path, tone(4.0), RATE_HZ, STAIRS, FPS)
        clip = mp4(path, BOTH.revised(clip_seconds=2.0))
        assert clip.waveform is not None
        assert len(clip.waveform) == 2 * RATE_HZ
        assert clip.valid_s == 2.0
        assert clip.media_s == pytest.approx(4.0, abs=0.1)
        centres = (np.arange(8) + 0.5) * 0.25
        assert clip.frame_time_s == pytest.approx(np.floor(centres * FPS + 1e-9) / FPS, abs=1e-3)

    def test_shorter_media_keeps_its_true_length(self, tmp_path: Path) -> None:
        path = tmp_path / "short.mp4"
        write_mp4(path, tone(1.5), RATE_HZ, STAIRS[:15], FPS)
        clip = mp4(path)
        assert clip.waveform is not None
        assert len(clip.waveform) / RATE_HZ == pytest.approx(1.5, abs=0.08)
        assert clip.valid_s == pytest.approx(1.5, abs=0.08)
        centres = (np.arange(8) + 0.5) * 1.5 / 8
        assert clip.frame_time_s == pytest.approx(np.floor(centres * FPS + 1e-9) / FPS, abs=1e-3)

    def test_variable_rate_picks_by_time_not_by_number(self, tmp_path: Path) -> None:
        path = tmp_path / "variable.mp4"
        times = [*np.arange(30) * 0.02, *(0.6 + np.arange(10) * 0.34)]  # 30 in 0.6 s, then 10
        write_mp4(path, None, RATE_HZ, STAIRS, FPS, frame_times_s=times)
        clip = mp4(path, VIDEO)
        centres = centres_s(clip.valid_s, 8)
        assert clip.valid_s == pytest.approx(4.0, abs=0.35)
        wanted = [max(t for t in times if t <= centre) for centre in centres]
        assert clip.frame_time_s == pytest.approx(wanted, abs=1e-3)
        levels = [20 + 5 * times.index(t) for t in wanted]
        assert [level(f) for f in clip.frames] == pytest.approx(levels, abs=3)

    @pytest.mark.parametrize("degrees", [0, 90, 180, 270])
    def test_rotated_pictures_are_upright(self, tmp_path: Path, degrees: int) -> None:
        """The file says "turn me clockwise by so much"; the mark must end at the top left."""
        upright = np.full((48, 64, 3), 60, np.uint8)
        upright[:16, :16] = 240
        stored = np.rot90(upright, degrees // 90)
        path = tmp_path / "turned.mp4"
        write_mp4(path, None, RATE_HZ, np.stack([stored] * 20), FPS)
        set_rotation(path, degrees)
        clip = mp4(path, VIDEO)
        assert clip.frames[0].shape == (48, 64, 3)
        for frame in clip.frames:
            assert np.abs(frame.astype(float) - upright).mean() < 5

    def test_stereo_is_the_mean(self, tmp_path: Path) -> None:
        path = tmp_path / "stereo.mp4"
        left = tone(2.0)
        write_mp4(path, np.stack([left, np.zeros_like(left)]), RATE_HZ, None, FPS)
        clip = mp4(path, AUDIO)
        assert clip.waveform is not None
        middle = clip.waveform[2000:-4000]
        assert np.abs(middle).max() == pytest.approx(0.25, abs=0.03)

    def test_resampling_keeps_pitch_and_time(self, tmp_path: Path) -> None:
        path = tmp_path / "fast.mp4"
        sound = np.concatenate([np.zeros(48_000), tone(1.0, 1000.0, 48_000)])
        write_mp4(path, sound, 48_000, None, FPS)
        clip = mp4(path, AUDIO)
        assert clip.waveform is not None
        assert onset_s(clip.waveform) == pytest.approx(1.0, abs=0.03)
        spectrum = np.abs(np.fft.rfft(clip.waveform[26_000:40_000]))
        assert spectrum.argmax() * RATE_HZ / 14_000 == pytest.approx(1000, abs=2)

    @pytest.mark.parametrize(("config", "kept"), [(BOTH, None), (AUDIO, "audio"), (VIDEO, "video")])
    @pytest.mark.parametrize("has", ["audio", "video"])
    def test_a_missing_stream(
        self, tmp_path: Path, config: ExtractConfig, kept: str | None, has: str
    ) -> None:
        path = tmp_path / "half.mp4"
        write_mp4(
            path,
            tone(2.0) if has == "audio" else None,
            RATE_HZ,
            STAIRS[:20] if has == "video" else None,
            FPS,
        )
        if kept == has:
            clip = mp4(path, config)
            assert (clip.waveform is None) == (has == "video")
            assert len(clip.frames) == len(clip.frame_time_s) == (0 if has == "audio" else 8)
            return
        lacks = "video" if has == "audio" else "audio"
        assert_error(file_source(path), config, lacks, f"found no {lacks} stream", "half.mp4")

    @pytest.mark.parametrize(
        "name",
        ["-dash.mp4", "two words.mp4", "Ünïcode 名.mp4", "a:b.mp4", "concat:x.mp4", "%d.mp4"],
    )
    def test_odd_names(self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        write_mp4(tmp_path / "plain.mp4", tone(1.0), RATE_HZ, STAIRS[:10], FPS)
        (tmp_path / "plain.mp4").rename(tmp_path / name)
        monkeypatch.chdir(tmp_path)
        for path in (tmp_path / name, Path(name)):
            assert mp4(path).valid_s == pytest.approx(1.0, abs=0.1)

    def test_a_playlist_leads_nowhere(self, tmp_path: Path) -> None:
        write_mp4(tmp_path / "secret.mp4", tone(1.0), RATE_HZ, STAIRS[:10], FPS)
        path = tmp_path / "list.mp4"
        path.write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n")
        assert_error(file_source(path), BOTH, "find", "found", "list.mp4")

    @pytest.mark.parametrize("data", [b"", b"<html>404 Not Found</html>", bytes(5000)])
    def test_no_media_at_all(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "page.mp4"
        path.write_bytes(data)
        for config in (BOTH, AUDIO, VIDEO):
            assert_error(file_source(path), config, "find", "expected audio and video", "page.mp4")

    def test_sound_too_short_for_differences(self, tmp_path: Path) -> None:
        path = tmp_path / "blip.mp4"
        write_mp4(path, tone(0.1), RATE_HZ, None, FPS)
        assert_error(file_source(path), AUDIO, "audio", r"at least 0\.19 s of sound", "blip.mp4")

    def test_one_frame_is_no_video(self, tmp_path: Path) -> None:
        path = tmp_path / "still.mp4"
        write_mp4(path, None, RATE_HZ, STAIRS[:1], 25)
        assert_error(file_source(path), VIDEO, "video", r"at least 0\.08 s", "still.mp4")


def boxes(data: bytes | bytearray, begin: int, end: int) -> list[tuple[bytes, int, int]]:
    """(kind, begin of content, end) of the mp4 boxes in a range."""
    found = []
    while begin + 8 <= end:
        size, kind = struct.unpack(">I4s", data[begin : begin + 8])
        found.append((kind, begin + 8, begin + size))
        begin += size
    return found


def set_rotation(path: Path, degrees: int) -> None:
    """Write a display matrix (clockwise) into the first track's header."""
    data = bytearray(path.read_bytes())
    [moov] = [box for box in boxes(data, 0, len(data)) if box[0] == b"moov"]
    trak = next(box for box in boxes(data, *moov[1:]) if box[0] == b"trak")
    [tkhd] = [box for box in boxes(data, *trak[1:]) if box[0] == b"tkhd"]
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    fixed = [value << 16 for value in (cos, sin)]
    matrix = struct.pack(">9i", fixed[0], fixed[1], 0, -fixed[1], fixed[0], 0, 0, 0, 1 << 30)
    data[tkhd[1] + 40 : tkhd[1] + 76] = matrix
    path.write_bytes(data)


class TestPlacing:
    def test_a_true_gap_is_silence_and_rounding_is_not(self) -> None:
        one = np.ones(1000, np.float32)
        samples, start_s = placed([(0.0, one), (0.2, one), (0.301, one)], 10_000)
        assert start_s == 0.0
        assert len(samples) == 4000
        assert samples[:1000].all()
        assert not samples[1000:2000].any()
        assert samples[2000:].all()

    def test_sound_before_the_clip_is_cut(self) -> None:
        ramp = np.arange(1000, dtype=np.float32)
        samples, start_s = placed([(-0.03, ramp), (0.07, ramp)], 10_000)
        assert start_s == 0.0
        assert np.array_equal(samples, np.concatenate([ramp[300:], ramp]))

    def test_whole_blocks_before_the_clip_are_cut(self) -> None:
        ramp = np.arange(1000, dtype=np.float32)
        blocks = [(-0.15, ramp), (-0.05, ramp), (0.05, ramp)]
        samples, start_s = placed(blocks, 10_000)
        assert start_s == 0.0
        assert np.array_equal(samples, np.concatenate([ramp[500:], ramp]))


class TestProcessed:
    def source(
        self,
        folder: Path,
        sound: npt.NDArray[np.float32] | None,
        frames: npt.NDArray[np.uint8] | None,
    ) -> MediaSource:
        if sound is not None:
            soundfile.write(folder / "a.wav", sound, RATE_HZ, "FLOAT")
        if frames is not None:
            write_jpegs(folder / "a", frames)
        return MediaSource(
            "a",
            sound=None if sound is None else folder / "a.wav",
            frames=None if frames is None else folder / "a",
        )

    def test_times_divide_the_length_of_the_sound(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, tone(2.0), STAIRS[::2])  # 20 pictures over 2 s
        clip = decode(source, BOTH)
        centres = (np.arange(8) + 0.5) * 0.25
        shown = np.floor(centres * 10 + 1e-9) / 10
        assert clip.frame_time_s == pytest.approx(shown)
        assert [level(f) for f in clip.frames] == pytest.approx(20 + 100 * shown, abs=3)
        assert clip.valid_s == 2.0
        assert clip.media_s == 2.0
        assert clip.waveform is not None
        assert np.array_equal(clip.waveform, tone(2.0))

    def test_fewer_pictures_than_frames(self, tmp_path: Path) -> None:
        clip = decode(self.source(tmp_path, tone(4.0), STAIRS[:3]), BOTH)
        assert clip.frame_time_s == pytest.approx(np.array([0, 0, 0, 1, 1, 2, 2, 2]) * 4 / 3)

    def test_longer_sound_is_cut(self, tmp_path: Path) -> None:
        clip = decode(self.source(tmp_path, tone(6.0), STAIRS), BOTH)
        assert clip.waveform is not None
        assert len(clip.waveform) == 4 * RATE_HZ
        assert (clip.valid_s, clip.media_s) == (4.0, 6.0)

    def test_stereo_is_the_mean(self, tmp_path: Path) -> None:
        both = np.stack([tone(1.0), noise(1.0)], axis=1)
        clip = decode(self.source(tmp_path, both, None), AUDIO)
        assert clip.waveform is not None
        assert np.array_equal(clip.waveform, both.mean(axis=1))

    def test_natural_order_of_names(self, tmp_path: Path) -> None:
        for number in (1, 2, 10):
            picture = np.full((8, 8, 3), 20 * number, np.uint8)
            cv2.imwrite(str(tmp_path / f"frame_{number}.png"), picture)
        (tmp_path / "notes.txt").write_text("no picture")
        names = [path.name for path in pictures(tmp_path)]
        assert names == ["frame_1.png", "frame_2.png", "frame_10.png"]

    def test_colours_are_red_green_blue(self, tmp_path: Path) -> None:
        frames = np.zeros((2, 16, 16, 3), np.uint8)
        frames[..., 0] = 200
        clip = decode(self.source(tmp_path, tone(1.0), frames), BOTH)
        assert clip.frames[0].reshape(-1, 3).mean(axis=0) == pytest.approx([200, 0, 0], abs=4)

    def test_digest_covers_sound_and_chosen_pictures(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, tone(1.0), STAIRS[:8])
        before = decode(source, BOTH).sha256
        shutil.copy(tmp_path / "a/000001.jpg", tmp_path / "a/000005.jpg")
        after = decode(source, BOTH).sha256
        soundfile.write(tmp_path / "a.wav", noise(1.0), RATE_HZ)
        assert len({before, after, decode(source, BOTH).sha256}) == 3

    def test_missing_parts(self, tmp_path: Path) -> None:
        sound = self.source(tmp_path, tone(1.0), None)
        frames = self.source(tmp_path, None, STAIRS)
        assert_error(sound, BOTH, "video", "expected video_frames/<id>/", "a.wav")
        assert_error(frames, BOTH, "audio", "expected audio_wav/<id>.wav", "a")
        assert decode(sound, AUDIO).frames == []
        alone = decode(frames, VIDEO)
        assert alone.waveform is None
        assert alone.valid_s == 4.0
        assert math.isnan(alone.media_s)

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("empty", r"at least 0\.19 s of sound, found 0\.000 s"),
            ("short", r"found 0\.100 s"),
            ("nan", "expected finite samples, found NaN"),
            ("infinite", "expected finite samples, found NaN or infinity"),
            ("zero bytes", "expected a readable WAV file"),
            ("text", "expected a readable WAV file"),
            ("absent", "expected a readable WAV file"),
        ],
    )
    def test_bad_wav(self, tmp_path: Path, name: str, why: str) -> None:
        sound = {"empty": tone(0), "short": tone(0.1)}.get(name, tone(1.0))
        sound[len(sound) // 2 : len(sound) // 2 + 1] *= {"nan": math.nan, "infinite": math.inf}.get(
            name, 1.0
        )
        source = self.source(tmp_path, sound, STAIRS)
        if name in ("zero bytes", "text"):
            (tmp_path / "a.wav").write_bytes(b"" if name == "zero bytes" else b"<html>")
        elif name == "absent":
            (tmp_path / "a.wav").unlink()
        assert_error(source, BOTH, "audio", why, "a.wav")

    def test_bad_pictures(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, tone(1.0), STAIRS[:8])
        path = tmp_path / "a/000003.jpg"
        for data in (b"", b"no picture"):
            path.write_bytes(data)
            assert_error(source, BOTH, "video", f"{len(data)} unreadable bytes", "000003.jpg")
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "a").mkdir()
        assert_error(source, BOTH, "video", "pictures, found none", "a")

    def test_an_unreadable_picture_is_a_media_error(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, tone(1.0), STAIRS[:8])
        (tmp_path / "a/000003.jpg").unlink()
        (tmp_path / "a/000003.jpg").mkdir()
        assert_error(source, BOTH, "video", "expected a picture", "000003.jpg")

    def test_a_picture_that_claims_to_be_enormous(self, tmp_path: Path) -> None:
        source = self.source(tmp_path, tone(1.0), STAIRS[:8])
        _, data = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))
        png = data.tobytes()
        header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + png[24:29]
        png = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
        (tmp_path / "a/000003.jpg").write_bytes(png)
        assert_error(source, BOTH, "video", "expected a picture", "000003.jpg")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "whole.mp4"
    write_mp4(path, tone(4.0), RATE_HZ, STAIRS, FPS)
    with av.open(str(path)) as file, av.open(str(path.with_suffix(".mkv")), "w") as out:
        assert file.duration
        streams = {s.index: out.add_stream_from_template(s) for s in file.streams}
        for packet in file.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                out.mux(packet)
    return path.with_suffix(".mkv").read_bytes()


class TestDamaged:
    def check(self, path: Path) -> Decoded | None:
        """Either an error that names the file, or sound that is really there to its end."""
        try:
            clip = mp4(path)
        except MediaError as error:
            if path.name not in str(error):
                raise
            return None
        assert clip.waveform is not None
        assert np.isfinite(clip.waveform).all()
        last = clip.waveform[-RATE_HZ // 10 :]
        assert np.abs(last).max() > 0.1, "silence at the end of a tone"
        assert clip.valid_s <= 4.0
        assert (np.diff(clip.frame_time_s) >= 0).all()
        assert clip.frame_time_s[-1] <= clip.valid_s
        return clip

    @pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
    def test_a_cut_file_gives_its_true_length(
        self, tmp_path: Path, whole: bytes, share: float
    ) -> None:
        path = tmp_path / "cut.mkv"
        path.write_bytes(whole[: round(share * len(whole))])
        clip = self.check(path)
        assert clip is not None
        assert clip.valid_s == pytest.approx(4 * share, abs=0.6)
        assert clip.waveform is not None
        assert len(clip.waveform) / RATE_HZ == pytest.approx(4 * share, abs=0.6)

    def test_a_cut_mp4_without_its_table_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "whole.mp4"
        write_mp4(path, tone(4.0), RATE_HZ, STAIRS, FPS)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert self.check(path) is None

    def test_flipped_bytes_never_become_silence(self, tmp_path: Path, whole: bytes) -> None:
        rng = np.random.default_rng(0)
        path = tmp_path / "bent.mkv"
        lengths = []
        for _ in range(12):
            bent = bytearray(whole)
            for place in rng.integers(1000, len(bent), 6):
                bent[place] ^= 255
            path.write_bytes(bent)
            clip = self.check(path)
            lengths.append(0.0 if clip is None else clip.valid_s)
        assert min(lengths) < 4.0  # the damage was felt


class TestSources:
    def touch(self, *paths: Path) -> None:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * 10)

    def test_layouts_mixtures_and_preference(self, tmp_path: Path) -> None:
        data = tmp_path
        self.touch(
            data / "AVE_Dataset/AVE/-one.mp4",
            data / "AVE_Dataset/AVE/both.mp4",
            data / "AVE_Processed/audio_wav/both.wav",
            data / "AVE_Processed/video_frames/both/1.jpg",
            data / "AVE_Dataset/AVE/half.mp4",
            data / "AVE_Processed/audio_wav/half.wav",
            data / "AVE_Processed/audio_wav/sound only.wav",
            data / "AVE_Processed/video_frames/frames.only/1.png",
            data / "flat.a.WEBM",
            data / "flat.txt",
        )
        ids = ["-one", "both", "half", "sound only", "frames.only", "flat.a", "flat", "absent"]
        found = find_sources(data, ids)
        assert {i: (s.container is not None, s.sound is not None, s.frames is not None)
                for i, s in found.items()} == {
            "-one": (True, False, False),
            "both": (False, True, True),
            "half": (True, False, False),
            "sound only": (False, True, False),
            "frames.only": (False, False, True),
            "flat.a": (True, False, False),
        }  # fmt: skip
        assert found["-one"].size == 10
        assert found["-one"].mtime_ns == (data / "AVE_Dataset/AVE/-one.mp4").stat().st_mtime_ns

    def test_a_changed_picture_changes_the_source(self, tmp_path: Path) -> None:
        self.touch(tmp_path / "audio_wav/a.wav", tmp_path / "video_frames/a/1.jpg")
        before = find_sources(tmp_path, ["a"])["a"]
        self.touch(tmp_path / "video_frames/a/2.jpg")
        assert find_sources(tmp_path, ["a"])["a"] != before

    def test_ids_are_never_paths(self, tmp_path: Path) -> None:
        self.touch(tmp_path / "secret.mp4", tmp_path / "data/AVE/a.mp4")
        assert find_sources(tmp_path / "data", ["../secret", "/etc/passwd", "*", "."]) == {}

    def test_no_folder(self, tmp_path: Path) -> None:
        assert find_sources(tmp_path / "absent", ["a"]) == {}

    @given(st.floats(0.1, 1000), st.integers(1, 64))
    def test_centres(self, extent_s: float, count: int) -> None:
        centres = centres_s(extent_s, count)
        width = extent_s / count
        assert centres == pytest.approx([(k + 0.5) * width for k in range(count)])
        assert centres.max() < extent_s


def test_media_error_survives_another_process() -> None:
    error = MediaError("a.mp4", "audio", "expected sound, found none")
    kind, arguments = error.__reduce__()
    assert str(kind(*arguments)) == "a.mp4: expected sound, found none"
    assert dataclasses.asdict(MediaSource("a"))["id"] == "a"


CLIP = ExtractConfig()
# name: modality, valid_s, audio start in s, samples / rate, first and last frame time, picture
ZOO = {
    "-video-with-dash-.mp4": ("video", 5.0, None, (0.0, 4.0), (1, 1)),
    "av1.mkv": ("video", 5.0, None, (0.28, 4.68), (360, 640)),
    "no_audio_10s.mp4": ("video", 10.0, None, (0.6, 9.36), (272, 640)),
    "rotated_90.mov": ("video", 0.1, None, (0.0, 0.067), (568, 320)),
    "audio_starts_late_1.5s.mp4": ("both", 10.0, (1.476, 10.0), (0.602, 9.359), (360, 640)),
    "no_duration.webm": ("both", 4.938, (0.015, 4.875), (0.267, 4.609), (720, 1280)),
    "rotated_variable_rate.mp4": ("both", 2.416, (0.0, 2.416), (0.1, 2.18), (720, 1280)),
    "short_3s.mp4": ("both", 3.109, (0.0, 3.019), (0.167, 2.908), (360, 640)),
    "surround_5.1.mp4": ("both", 5.312, (0.0, 5.312), (0.32, 4.92), (720, 1280)),
    "two_audio_tracks.mp4": ("both", 10.0, (0.0, 10.0), (0.6, 9.36), (180, 320)),
    "ms_adpcm.wav": ("audio", 10.0, (0.0, 10.0), None, None),
    "silence.wav": ("audio", 2.0, (0.0, 2.0), None, None),
}


@pytest.mark.data
class TestZoo:
    def source(self, folder: Path, name: str) -> MediaSource:
        path = folder / "media-zoo" / name
        return MediaSource(path.stem, sound=path) if path.suffix == ".wav" else file_source(path)

    @pytest.mark.parametrize("name", ZOO)
    def test_right_features_with_true_times(self, avel_data: Path, name: str) -> None:
        modality, valid_s, sound, times, shape = ZOO[name]
        clip = decode(self.source(avel_data, name), CLIP.revised(modalities=modality))
        assert clip.valid_s == pytest.approx(valid_s, abs=2e-3)
        assert (clip.waveform is not None) == (sound is not None)
        if sound is not None and clip.waveform is not None:
            assert clip.audio_start_s == pytest.approx(sound[0], abs=2e-3)
            assert len(clip.waveform) / RATE_HZ == pytest.approx(sound[1], abs=2e-3)
        assert len(clip.frames) == (0 if times is None else 8)
        if times is not None:
            assert clip.frame_time_s[[0, -1]] == pytest.approx(times, abs=2e-3)
            assert {frame.shape[:2] for frame in clip.frames} == {shape}

    @pytest.mark.parametrize(
        ("name", "modality", "stage", "why"),
        [
            ("zero_bytes.webm", "both", "find", "found an empty file"),
            ("html_error_page.mp4", "both", "find", "FFmpeg can open"),
            ("truncated_half.mp4", "both", "find", "FFmpeg can open"),
            ("no_streams.mp4", "both", "audio", "found no audio stream"),
            ("no_streams.mp4", "video", "video", "found no video stream"),
            ("no_audio_10s.mp4", "both", "audio", "found no audio stream"),
            ("audio_only.mp4", "both", "video", "found no video stream"),
            ("audio_only.mp4", "audio", "audio", r"found 0\.046 s"),
            ("-video-with-dash-.mp4", "both", "audio", "found no audio stream"),
            ("corrupted_midstream.mp4", "both", "audio", "found no audio stream"),
            ("empty.wav", "audio", "audio", r"found 0\.000 s"),
            ("short.wav", "audio", "audio", r"found 0\.001 s"),
        ],
    )
    def test_a_clear_error(
        self, avel_data: Path, name: str, modality: str, stage: str, why: str
    ) -> None:
        source = self.source(avel_data, name)
        assert_error(source, CLIP.revised(modalities=modality), stage, why, name)

    def test_damage_in_the_middle_ends_the_clip(self, avel_data: Path) -> None:
        source = self.source(avel_data, "corrupted_midstream.mp4")
        clip = decode(source, CLIP.revised(modalities="video"))
        assert 2.5 < clip.valid_s < 4.9
        assert clip.media_s == pytest.approx(5.0)
        assert clip.frame_time_s[-1] < clip.valid_s

    def test_late_sound_is_silent_before_it_begins(self, avel_data: Path) -> None:
        clip = decode(self.source(avel_data, "audio_starts_late_1.5s.mp4"), CLIP)
        assert clip.waveform is not None
        assert np.abs(clip.waveform[: round(1.47 * RATE_HZ)]).max() < 1e-6
        assert clip.waveform[round(1.5 * RATE_HZ) : round(1.6 * RATE_HZ)].any()

    def test_every_file_is_covered(self, avel_data: Path) -> None:
        names = {path.name for path in (avel_data / "media-zoo").iterdir()}
        errors = {"zero_bytes.webm", "html_error_page.mp4", "truncated_half.mp4", "no_streams.mp4"}
        errors |= {"audio_only.mp4", "empty.wav", "short.wav", "corrupted_midstream.mp4"}
        assert names == set(ZOO) | errors
