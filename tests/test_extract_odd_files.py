"""WAV files and folders of pictures as people have them, and numbers that no row can hold."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_media import CONFIG, RATE_HZ, SMALL_FLAGS, grey_frames, tone, write_set
from torchvision.models import get_model

import extract.media.files
from cache import open_cache
from cache.common.errors import MediaError
from extract.__main__ import main
from extract.backbones import NETWORKS
from extract.config import ExtractConfig
from extract.demo.__main__ import write_mp4
from extract.features.extractor import Extractor
from extract.media.decode import Decoded, decode
from extract.media.files import MAX_PIXELS, picture_size
from extract.sources import MediaSource, file_source

BOTH = ExtractConfig()
VIDEO = BOTH.revised(modalities="video")
Change = Callable[[bytes], bytes]


def processed(folder: Path, sound: npt.NDArray[np.float32] | None, count: int) -> MediaSource:
    """A WAV and `count` pictures of level 20, 25, …"""
    if sound is not None:
        soundfile.write(folder / "a.wav", sound, RATE_HZ, "PCM_16")
    (folder / "a").mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"a/{number + 1:06}.jpg"), grey_frames([20 + 5 * number])[0])
    return MediaSource(
        "a", sound=folder / "a.wav" if sound is not None else None, frames=folder / "a"
    )


def levels(clip: Decoded) -> list[float]:
    return [float(frame.mean()) for frame in clip.frames]


def refused(source: MediaSource, why: str, config: ExtractConfig = BOTH) -> MediaError:
    with pytest.raises(MediaError, match=why) as caught:
        decode(source, config)
    return caught.value


class TestLengths:
    @pytest.mark.parametrize("config", [BOTH, VIDEO])
    def test_pictures_divide_the_whole_sound_and_are_then_cut(
        self, tmp_path: Path, config: ExtractConfig
    ) -> None:
        clip = decode(processed(tmp_path, tone(12.0), 12), config)
        shown = np.floor((np.arange(8) + 0.5) * 1.25)
        assert clip.frame_time_s == pytest.approx(shown)
        assert levels(clip) == pytest.approx(20 + 5 * shown, abs=2)
        assert (clip.valid_s, clip.media_s) == (10.0, 12.0)
        assert clip.note == ""

    def test_the_last_picture_is_shown_at_its_own_time(self, tmp_path: Path) -> None:
        config = BOTH.revised(clip_seconds=12.0, num_frames=12)
        clip = decode(processed(tmp_path, tone(12.0), 12), config)
        assert clip.frame_time_s == pytest.approx(np.arange(12))

    def test_pictures_alone_divide_the_clip(self, tmp_path: Path) -> None:
        clip = decode(processed(tmp_path, None, 20), VIDEO)
        assert clip.frame_time_s == pytest.approx(np.floor((np.arange(8) + 0.5) * 2.5) / 2)

    def rename(self, source: MediaSource, step_s: float) -> None:
        assert source.frames is not None
        for number, path in enumerate(sorted(source.frames.iterdir())):
            path.rename(path.with_name(f"{number * step_s:.2f}.jpg"))

    def test_names_that_disagree_with_the_sound_are_noted(self, tmp_path: Path) -> None:
        source = processed(tmp_path, tone(8.0), 12)
        self.rename(source, 1.0)
        clip = decode(source, BOTH)
        assert "span 12.00 s, the sound lasts 8.00 s" in clip.note
        assert str(source.frames) in clip.note

    def test_names_within_one_step_are_not(self, tmp_path: Path) -> None:
        source = processed(tmp_path, tone(8.4), 16)
        self.rename(source, 0.5)
        assert decode(source, BOTH).note == ""

    def test_the_note_is_printed_after_the_run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_set(tmp_path / "set", 2)
        folder = tmp_path / "set/video_frames/clip 1"
        for number in range(4):
            (folder / f"{number}.jpg").rename(folder / f"{number}.0.jpg")
        assert main(flags(tmp_path)) == 0
        printed = capsys.readouterr().out
        assert f"note      {folder}: the names of its pictures span 4.00 s" in printed


def flags(folder: Path) -> list[str]:
    where = ["--data", str(folder / "set"), "--cache", str(folder / "cache")]
    return [*where, "--weights", "random:0", "--jobs", "1", *SMALL_FLAGS]


class TestPictures:
    @pytest.mark.parametrize(
        ("mode", "suffix", "save"),
        [
            ("L", "jpg", {}),
            ("CMYK", "jpg", {}),
            ("RGB", "jpg", {"progressive": True}),
            ("RGB", "jpg", {"format": "WEBP"}),
            ("RGB", "jpg", {"format": "PNG"}),
            ("P", "png", {}),
            ("RGBA", "png", {}),
            ("I;16", "png", {}),
            ("1", "png", {}),
        ],
    )
    def test_kinds(self, tmp_path: Path, mode: str, suffix: str, save: dict[str, Any]) -> None:
        source = processed(tmp_path, tone(2.0), 0)
        wanted = [0.0, 255.0] if mode == "1" else [60.0, 180.0]
        for number, level in enumerate(wanted):
            picture = Image.new("RGB", (64, 48), (int(level),) * 3)
            if mode == "I;16":
                picture = Image.fromarray(np.full((48, 64), int(level) * 257, np.uint16))
            elif mode == "RGBA":
                picture.putalpha(0)
            else:
                picture = picture.convert(mode)
            picture.save(tmp_path / "a" / f"{number}.{suffix}", **save)
        clip = decode(source, BOTH)
        assert {frame.shape for frame in clip.frames} == {(48, 64, 3)}
        assert levels(clip) == pytest.approx(np.repeat(wanted, 4), abs=3)

    def test_turned_by_their_exif_mark(self, tmp_path: Path) -> None:
        source = processed(tmp_path, tone(1.0), 0)
        pixels = np.full((48, 64, 3), 40, np.uint8)
        pixels[:, :16] = 200
        mark = Image.Exif()
        mark[0x0112] = 6  # turn clockwise to see it upright: what was left is then above
        Image.fromarray(pixels).save(tmp_path / "a/1.jpg", exif=mark, quality=95)
        for frame in decode(source, BOTH).frames:
            assert frame.shape == (64, 48, 3)
            assert frame[:14].mean() == pytest.approx(200, abs=3)
            assert frame[18:].mean() == pytest.approx(40, abs=3)

    def test_sizes_differ(self, tmp_path: Path) -> None:
        source = processed(tmp_path, tone(4.0), 8)
        cv2.imwrite(str(tmp_path / "a/000004.jpg"), grey_frames([200], 90, 30)[0])
        row = Extractor(BOTH, "random:0", "cpu")(source)
        assert np.isfinite(row.features["video/maps"]).all()
        shown = [cv2.imdecode(np.frombuffer(j, np.uint8), cv2.IMREAD_COLOR) for j in row.jpegs]
        assert [picture.shape for picture in shown if picture is not None] == [(224, 224, 3)] * 8
        wanted = [20, 25, 30, 200, 40, 45, 50, 55]
        means = [float(picture.mean()) for picture in shown if picture is not None]
        assert means == pytest.approx(wanted, abs=3)

    def test_links_are_followed_to_files_and_nowhere_else(self, tmp_path: Path) -> None:
        source = processed(tmp_path, tone(4.0), 8)
        before = levels(decode(source, BOTH))
        path = tmp_path / "a/000003.jpg"
        path.rename(tmp_path / "annexed")
        path.symlink_to(tmp_path / "annexed")
        assert levels(decode(source, BOTH)) == before
        for target in ("/dev/zero", "/dev/null", tmp_path, "pipe", "nowhere"):
            path.unlink()
            if target == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to(target)
            why = "No such file" if target == "nowhere" else "not a regular file"
            assert "000003.jpg" in str(refused(source, why))

    @pytest.mark.parametrize("name", ["sound", "container"])
    def test_pipes_and_devices_are_no_media(self, tmp_path: Path, name: str) -> None:
        for path in (tmp_path / "pipe.mp4", tmp_path / "zero.mp4"):
            if path.stem == "pipe":
                os.mkfifo(path)
            else:
                path.symlink_to("/dev/zero")
            source = (
                MediaSource("a", container=path)
                if name == "container"
                else MediaSource("a", sound=path)
            )
            assert path.name in str(refused(source, "not a regular file"))

    def test_bytes_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = processed(tmp_path, tone(4.0), 8)
        monkeypatch.setattr(extract.media.files, "MAX_PICTURE_BYTES", 100)
        refused(source, "at most 100 bytes")

    @pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp", "gif"])
    def test_enormous_pictures_are_not_decoded(
        self, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = processed(tmp_path, tone(4.0), 8)
        side = 16_000 if kind == "webp" else 30_000
        path = tmp_path / "a/000003.jpg"
        path.write_bytes(claiming(kind, side))
        monkeypatch.setattr(cv2, "imdecode", lambda data, _: pytest.fail("decoded"))
        (tmp_path / "a/000001.jpg").write_bytes(path.read_bytes())
        error = refused(source, rf"at most {MAX_PIXELS:,} pixels, found {side} × {side}")
        assert error.stage == "video"

    def test_the_header_says_the_true_size(self, tmp_path: Path) -> None:
        for suffix in ("jpg", "png", "webp", "bmp"):
            path = tmp_path / f"a.{suffix}"
            cv2.imwrite(str(path), grey_frames([9], 31, 77)[0])
            assert picture_size(path.read_bytes()) == (77, 31)
        kinds: dict[str, dict[str, Any]] = {
            "vp8": {},
            "vp8l": {"lossless": True},
            "vp8x": {"exif": b"x"},
        }
        for name, options in kinds.items():
            Image.new("RGB", (77, 31)).save(tmp_path / name, "WEBP", **options)
            assert picture_size((tmp_path / name).read_bytes()) == (77, 31)
        Image.new("L", (77, 31)).save(tmp_path / "gif", "GIF")
        assert picture_size((tmp_path / "gif").read_bytes()) == (77, 31)

    @given(st.data())
    def test_bent_headers_are_refused_or_read(self, data: st.DataObject) -> None:
        whole = claiming(data.draw(st.sampled_from(["jpg", "png", "webp", "bmp", "gif"])), 100)
        bent = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
        for _ in range(3 if bent else 0):
            bent[data.draw(st.integers(0, min(len(bent), 40) - 1))] = data.draw(st.integers(0, 255))
        try:
            size = picture_size(bytes(bent))
        except struct.error:
            return
        assert size is None or len(size) == 2

    def test_a_cut_png_is_an_error_and_nothing_is_printed(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        source = processed(tmp_path, tone(4.0), 8)
        noisy = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
        data = cv2.imencode(".png", noisy)[1].tobytes()
        (tmp_path / "a/000003.jpg").write_bytes(data[: len(data) // 2])
        refused(source, "unreadable bytes")
        assert capfd.readouterr() == ("", "")


def claiming(kind: str, side: int) -> bytes:
    """A small picture whose header claims other sides."""
    picture = np.zeros((8, 8, 3), np.uint8)
    if kind == "gif":
        return b"GIF89a" + struct.pack("<HH", side, side) + bytes(20)
    data = cv2.imencode(f".{kind}", picture)[1].tobytes()
    if kind == "png":
        header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if kind == "jpg":
        place = data.index(b"\xff\xc0") + 5
        return data[:place] + struct.pack(">HH", side, side) + data[place + 4 :]
    if kind == "bmp":
        return data[:18] + struct.pack("<ii", side, -side) + data[26:]
    sides = (side - 1).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides


class TestSound:
    def change_data_size(self, data: bytes, size: int) -> bytes:
        place = data.index(b"data") + 4
        riff = struct.pack("<I", size)
        return data[:4] + riff + data[8:place] + struct.pack("<I", size) + data[place + 4 :]

    @pytest.mark.parametrize("name", ["0", "ffffffff", "7ffff000", "unpadded list", "m4a"])
    def test_headers_that_lie(self, tmp_path: Path, name: str) -> None:
        source = processed(tmp_path, tone(4.0), 8)
        path = tmp_path / "a.wav"
        data = path.read_bytes()
        if name == "m4a":
            write_mp4(path, tone(4.0), RATE_HZ, None, 10)
        elif name == "unpadded list":
            place = data.index(b"data")
            text = b"LIST" + struct.pack("<I", 27) + b"INFOISFT" + struct.pack("<I", 14)
            text += b"Lavf58.29.100\0\0"
            path.write_bytes(data[:place] + text + b"\0" + data[place:])
        else:
            path.write_bytes(self.change_data_size(data, int(name, 16)))
        clip = decode(source, BOTH)
        assert clip.waveform is not None
        assert clip.valid_s == pytest.approx(4.0, abs=0.06)
        assert np.abs(clip.waveform[2000:80_000] - tone(4.0)[2000:80_000]).max() < 0.06
        assert clip.frame_time_s == pytest.approx(np.arange(8) * clip.valid_s / 8, abs=0.01)

    @pytest.mark.parametrize(
        "kind", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "WAVEX", "RF64", "W64"]
    )
    def test_kinds(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "a.wav"
        whole = kind in ("WAVEX", "RF64", "W64")
        container, subtype = (kind, "PCM_16") if whole else ("WAV", kind)
        soundfile.write(path, tone(1.0), RATE_HZ, subtype, format=container)
        clip = decode(MediaSource("a", sound=path), BOTH.revised(modalities="audio"))
        assert clip.waveform is not None
        assert clip.waveform == pytest.approx(tone(1.0), abs=0.02)


class TestNotFinite:
    @pytest.mark.parametrize("profile", ["fast", "librosa"])
    @pytest.mark.parametrize("level", [1e18, 1e30])
    def test_sound_far_beyond_full_scale(self, tmp_path: Path, profile: str, level: float) -> None:
        path = tmp_path / "loud.wav"
        soundfile.write(path, 2 * level * tone(1.0), RATE_HZ, "FLOAT")
        config = CONFIG.revised(modalities="audio", audio_profile=profile)
        with pytest.raises(MediaError, match=r"peak is 1e\+\d\d where full scale is 1") as caught:
            Extractor(config, "random:0", "cpu")(MediaSource("a", sound=path))
        assert caught.value.stage == "audio"
        assert "loud.wav" in str(caught.value)

    @pytest.mark.parametrize("profile", ["fast", "librosa"])
    def test_one_enormous_sample(self, tmp_path: Path, profile: str) -> None:
        sound = tone(1.0)
        sound[RATE_HZ // 2] = 3e38
        soundfile.write(tmp_path / "a.wav", sound, RATE_HZ, "FLOAT")
        config = CONFIG.revised(modalities="audio", audio_profile=profile)
        with pytest.raises(MediaError, match=r"peak is 3e\+38"):
            Extractor(config, "random:0", "cpu")(MediaSource("a", sound=tmp_path / "a.wav"))

    def test_levels_beyond_float32(self, tmp_path: Path) -> None:
        sound = np.stack([1e300 * tone(1.0).astype(float)] * 2, axis=1)
        soundfile.write(tmp_path / "a.wav", sound, RATE_HZ, "DOUBLE")
        refused(MediaSource("a", sound=tmp_path / "a.wav"), "beyond float32", CONFIG)

    def test_channels_whose_sum_overflows(self, tmp_path: Path) -> None:
        sound = np.stack([6e38 * tone(1.0).astype(float)] * 2, axis=1)
        soundfile.write(tmp_path / "a.wav", sound, RATE_HZ, "FLOAT")
        refused(MediaSource("a", sound=tmp_path / "a.wav"), "beyond float32", CONFIG)

    @pytest.mark.parametrize("level", [1e-38, 1e-44])
    def test_sound_below_what_counts_is_finite(self, tmp_path: Path, level: float) -> None:
        soundfile.write(tmp_path / "a.wav", 2 * level * tone(1.0), RATE_HZ, "FLOAT")
        config = CONFIG.revised(modalities="audio")
        row = Extractor(config, "random:0", "cpu")(MediaSource("a", sound=tmp_path / "a.wav"))
        assert all(np.isfinite(values).all() for values in row.features.values())

    def test_weights_that_overflow_the_maps(self, tmp_path: Path) -> None:
        write_mp4(tmp_path / "a.mp4", None, RATE_HZ, grey_frames(range(20, 220, 5)), 10)
        torch.manual_seed(0)
        features = get_model(NETWORKS["small"].builder, weights=None).features
        torch.nn.init.constant_(features[-1][1].weight, 1e20)
        torch.save(features.state_dict(), tmp_path / "weights.pth")
        extractor = Extractor(
            CONFIG.revised(modalities="video"), str(tmp_path / "weights.pth"), "cpu"
        )
        with pytest.raises(MediaError, match=r"video/maps: .* use weights that") as caught:
            extractor(file_source(tmp_path / "a.mp4"))
        assert caught.value.stage == "video"

    def test_such_a_clip_is_a_failure_and_the_others_go_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ids = write_set(tmp_path / "set", 3)
        path = tmp_path / "set/audio_wav" / f"{ids[1]}.wav"
        soundfile.write(path, 1e30 * tone(1.0), RATE_HZ, "FLOAT")
        main(flags(tmp_path))
        assert "Warning" not in "".join(capsys.readouterr())
        cache = open_cache(tmp_path / "cache")
        assert sorted(cache.ids) == sorted([ids[0], ids[2]])
        assert cache.index.failures[ids[1]].stage == "audio"
        assert str(path) in cache.index.failures[ids[1]].message
