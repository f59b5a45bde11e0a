"""Containers as people have them: lost times, pictures that stay, covers, tracks, sizes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from av.stream import Disposition
from small_media import RATE_HZ, SMALL, grey_frames, tone

from cache.common.errors import MediaError
from extract.config import ExtractConfig
from extract.demo.__main__ import write_mp4
from extract.features.video import preprocess
from extract.media.boxes import track_end_s, whole_avi
from extract.media.decode import Decoded, decode
from extract.sources import centres_s, file_source

BOTH = ExtractConfig.parse({"clip_seconds": 10.0})
AUDIO, VIDEO = BOTH.revised(modalities="audio"), BOTH.revised(modalities="video")
MILLISECOND = Fraction(1, 1000)
Times = Sequence[float] | npt.NDArray[np.float64]


def take(path: Path, config: ExtractConfig = VIDEO) -> Decoded:
    return decode(file_source(path), config)


def levels(clip: Decoded) -> list[float]:
    return [float(frame.mean()) for frame in clip.frames]


def decoding_time_s(packet: av.Packet[Any]) -> Fraction:
    assert packet.dts is not None
    return packet.dts * packet.time_base


def write_pictures(
    path: Path,
    times_s: Times,
    last_s: float,
    codec: str = "libx264",
    kind: str | None = None,
    sound: npt.NDArray[np.float32] | None = None,
    **options: str,
) -> None:
    """Pictures of level 20, 25, … at these times, the last of them for `last_s`."""
    times_ms = [round(1000 * time_s) for time_s in times_s]
    lengths_ms = [*np.diff(times_ms).tolist(), round(1000 * last_s)]
    length_ms = dict(zip(times_ms, lengths_ms, strict=True))
    pictures = grey_frames(range(20, 20 + 5 * len(times_ms), 5))
    packets: list[av.Packet[Any]] = []
    with av.open(str(path), "w", format=kind) as out:
        stream = out.add_stream(codec, rate=10, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = MILLISECOND if codec != "mpeg4" else Fraction(1, 10)
        heard = None
        if sound is not None:
            heard = out.add_stream("libmp3lame", rate=RATE_HZ, layout="mono")
        for picture, time_ms in zip(pictures, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time_ms * MILLISECOND / stream.codec_context.time_base)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            assert packet.pts is not None
            shown_ms = round(packet.pts * packet.time_base * 1000)
            packet.duration = round(length_ms[shown_ms] * MILLISECOND / packet.time_base)
        if heard and sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE_HZ, 0, Fraction(1, RATE_HZ)
            packets += [*heard.encode(block), *heard.encode(None)]
        for packet in sorted(packets, key=decoding_time_s):
            out.mux(packet)


def assert_on_screen(clip: Decoded, times_s: Times, extent_s: float = 10.0) -> None:
    """Each target shows the picture whose time has come, and says so."""
    wanted = [max(t for t in times_s if t <= centre) for centre in centres_s(extent_s, 8)]
    assert clip.valid_s == pytest.approx(extent_s, abs=0.06)
    assert clip.frame_time_s == pytest.approx(wanted, abs=2e-3)
    places = [list(times_s).index(time_s) for time_s in wanted]
    assert levels(clip) == pytest.approx([20 + 5 * place for place in places], abs=3)


class TestTimes:
    @pytest.mark.parametrize(
        ("codec", "options"),
        [
            ("libx264", {"bf": "3", "b_strategy": "0"}),
            ("libx264", {"bf": "0"}),
            ("mpeg4", {"bf": "2"}),
            ("mpeg4", {"bf": "0"}),
        ],
    )
    @pytest.mark.parametrize("heard", [False, True])
    def test_avi_tells_only_the_decoding_order(
        self, tmp_path: Path, codec: str, options: dict[str, str], heard: bool
    ) -> None:
        path, times_s = tmp_path / "a.avi", np.arange(40) / 10
        sound = tone(4.0) if heard else None
        write_pictures(path, times_s, 0.1, codec, sound=sound, **options)
        clip = take(path)
        # The encoder of the sound begins 0.05 s early, which AVI rounds to a whole picture.
        assert levels(clip) == pytest.approx(20 + 50 * clip.frame_time_s, abs=9 if heard else 4)
        assert clip.frame_time_s == pytest.approx(centres_s(clip.valid_s, 8), abs=0.11)

    def test_a_raw_stream_has_no_times(self, tmp_path: Path) -> None:
        write_pictures(tmp_path / "a.mkv", np.arange(40) / 10, 0.1)
        path = tmp_path / "a.mp4"
        with av.open(str(tmp_path / "a.mkv")) as file, av.open(str(path), "w", "h264") as out:
            stream = out.add_stream_from_template(file.streams.video[0])
            for packet in file.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
        with av.open(str(path)) as file:
            guessed = file.streams.video[0].guessed_rate
        assert guessed is not None
        rate = float(guessed)
        clip = take(path)
        assert levels(clip) == pytest.approx(20 + 5 * rate * clip.frame_time_s, abs=3)
        assert (np.diff(clip.frame_time_s) > 0).all()

    def test_an_mp4_that_lost_its_table_of_times(self, tmp_path: Path) -> None:
        path, times_s = tmp_path / "a.mp4", np.arange(40) / 10
        write_pictures(path, times_s, 0.1, bf="3", b_strategy="0")
        data = path.read_bytes()
        assert data.count(b"ctts") == 1
        path.write_bytes(data.replace(b"ctts", b"free").replace(b"edts", b"free"))
        clip = take(path)
        assert_on_screen(clip, times_s, 4.0)

    def test_times_that_are_right_are_kept(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "a.mkv"):
            path, times_s = tmp_path / name, np.arange(40) / 10
            write_pictures(path, times_s, 0.1, bf="3", b_strategy="0")
            assert_on_screen(take(path), times_s, 4.0)

    def test_pictures_that_begin_after_the_clip(self, tmp_path: Path) -> None:
        for start_s in (4.5, 8.0):
            path = tmp_path / f"{start_s}.mp4"
            times_s = list(start_s + np.arange(20) / 10)
            pictures = grey_frames(range(20, 120, 5))
            write_mp4(path, tone(10.0), RATE_HZ, pictures, 10, frame_times_s=times_s)
            with pytest.raises(MediaError, match=rf"first 4 s, found the first at {start_s}0 s"):
                take(path, BOTH.revised(clip_seconds=4.0))


class TestStaying:
    @pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi", "a.webm"])
    def test_motion_and_then_rest(self, tmp_path: Path, name: str) -> None:
        times_s = [*np.arange(20) / 10]
        codec = "libvpx" if name == "a.webm" else "libx264"
        write_pictures(tmp_path / name, times_s, 8.1, codec, bf="0")
        assert_on_screen(take(tmp_path / name), times_s)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
    def test_a_still(self, tmp_path: Path, name: str) -> None:
        write_pictures(tmp_path / name, [0.0], 10.0)
        assert_on_screen(take(tmp_path / name), [0.0])

    def test_a_still_with_sound(self, tmp_path: Path) -> None:
        write_pictures(tmp_path / "a.mkv", [0.0], 10.0, sound=tone(10.0))
        assert_on_screen(take(tmp_path / "a.mkv", BOTH), [0.0])

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_slides(self, tmp_path: Path, name: str) -> None:
        write_pictures(tmp_path / name, [0.0, 2.0, 3.0], 7.0, bf="0")
        assert_on_screen(take(tmp_path / name), [0.0, 2.0, 3.0])

    @pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
    @pytest.mark.parametrize("heard", [False, True])
    def test_slides_with_b_frames(self, tmp_path: Path, name: str, heard: bool) -> None:
        """The picture that is shown last is not the one that is decoded last."""
        sound = tone(10.0) if heard and name != "a.mov" else None
        path, times_s = tmp_path / name, [0.0, 2.0, 3.0]
        write_pictures(path, times_s, 7.0, sound=sound, bf="2", b_strategy="0")
        with av.open(str(path)) as file:
            stamps = [packet.pts or 0 for packet in file.demux(video=0) if packet.size]
        assert stamps != sorted(stamps)
        assert_on_screen(take(path), times_s)

    @pytest.mark.parametrize("heard", [False, True])
    def test_a_short_last_slide_with_b_frames(self, tmp_path: Path, heard: bool) -> None:
        """The step to the picture that is decoded next is no duration of the last one."""
        path, times_s = tmp_path / "a.mp4", [0.0, 3.0, 7.0]
        sound = tone(10.0) if heard else None
        write_pictures(path, times_s, 0.5, sound=sound, bf="2", b_strategy="0")
        assert_on_screen(take(path), times_s, 7.5)

    @pytest.mark.parametrize("times_s", [[0.0], np.arange(20) / 10])
    def test_an_avi_lasts_as_long_as_its_header_says(self, tmp_path: Path, times_s: Times) -> None:
        path = tmp_path / "a.avi"
        write_pictures(path, times_s, 10 - times_s[-1], "mpeg4", bf="0", qmax="2")
        with av.open(str(path)) as file:
            assert {packet.duration for packet in file.demux(video=0) if packet.size} == {1}
        assert_on_screen(take(path), times_s)

    @pytest.mark.parametrize("share", [0.7, 0.9, 0.99])
    def test_but_not_when_it_is_cut(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "a.avi"
        write_pictures(path, np.arange(40) / 10, 6.1, "mpeg4", bf="0")
        path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
        assert take(path).valid_s < 4.1

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_the_next_slide_comes_after_the_clip(self, tmp_path: Path, name: str) -> None:
        write_pictures(tmp_path / name, [0.0, 60.0], 3.0, bf="0")
        assert_on_screen(take(tmp_path / name), [0.0])

    def test_a_duration_beyond_the_containers_is_not_believed(self, tmp_path: Path) -> None:
        path, times_s = tmp_path / "a.mkv", [*np.arange(20) / 10]
        write_pictures(path, times_s, 8.1, bf="0")
        data = path.read_bytes()
        assert data.count(struct.pack(">d", 10_000)) == 1
        path.write_bytes(data.replace(struct.pack(">d", 10_000), struct.pack(">d", 4_000)))
        assert_on_screen(take(path), times_s, 4.0)

    def test_a_cut_file_is_not_as_long_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mkv"
        write_pictures(path, np.arange(40) / 10, 6.1, bf="0")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 4 // 5])
        assert 0.5 < take(path).valid_s < 3.5

    @pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
    def test_nor_a_cut_mp4(self, tmp_path: Path, share: float) -> None:
        path = tmp_path / "a.mp4"
        with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
            write_pictures(tmp_path / "b.mp4", np.arange(40) / 10, 6.1, bf="2", b_strategy="0")
            with av.open(str(tmp_path / "b.mp4")) as file:
                stream = out.add_stream_from_template(file.streams.video[0])
                for packet in file.demux(video=0):
                    if packet.size:
                        packet.stream = stream
                        out.mux(packet)
        data = path.read_bytes()
        begin = data.index(b"mdat")
        path.write_bytes(data[: begin + round(share * (len(data) - begin))])
        clip = take(path)
        assert clip.valid_s < 4.1
        assert levels(clip) == pytest.approx(20 + 50 * clip.frame_time_s, abs=3)


class TestTrackHeader:
    def test_bent_boxes_say_nothing_or_a_length(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mp4"
        write_mp4(path, None, RATE_HZ, grey_frames(range(20, 220, 5)), 10)
        whole = path.read_bytes()
        assert track_end_s(path, 1) == pytest.approx(4.0)
        assert np.isnan(track_end_s(path, 2))
        begin = whole.rindex(b"moov")
        rng = np.random.default_rng(0)
        for _ in range(300):
            bent = bytearray(whole)
            for place in rng.integers(begin - 4, len(whole), 3):
                bent[place] = rng.integers(0, 256)
            path.write_bytes(bent[: rng.integers(begin, len(whole))])
            found = track_end_s(path, 1)
            assert np.isnan(found) or found >= 0

    def test_other_files_say_nothing(self, tmp_path: Path) -> None:
        for data in (b"", b"moov", bytes(1000), b"\0\0\0\x08moov" * 100):
            (tmp_path / "a").write_bytes(data)
            assert np.isnan(track_end_s(tmp_path / "a", 1))
            assert not whole_avi(tmp_path / "a")


def add_cover(path: Path, first: bool) -> None:
    """Put a white cover into an mp4's metadata, before the tracks or after them."""

    def box(kind: bytes, *content: bytes) -> bytes:
        data = b"".join(content)
        return struct.pack(">I4s", 8 + len(data), kind) + data

    picture = cv2.imencode(".jpg", np.full((64, 64, 3), 250, np.uint8))[1].tobytes()
    handler = box(b"hdlr", bytes(8), b"mdir", b"appl", bytes(9))
    item = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0), picture)))
    cover = box(b"udta", box(b"meta", bytes(4), handler, item))
    data = path.read_bytes()
    begin = data.rindex(b"moov") - 4
    size = struct.unpack(">I", data[begin : begin + 4])[0]
    assert begin + size == len(data), "the tracks' places in the file must not move"
    header = struct.unpack(">I", data[begin + 8 : begin + 12])[0]
    place = begin + 8 + header if first else len(data)
    moov = struct.pack(">I", size + len(cover)) + data[begin + 4 : place] + cover + data[place:]
    path.write_bytes(data[:begin] + moov)


class TestStreams:
    @pytest.mark.parametrize("first", [False, True])
    def test_a_cover_is_no_video(self, tmp_path: Path, first: bool) -> None:
        path = tmp_path / "a.mp4"
        write_mp4(path, tone(4.0), RATE_HZ, grey_frames(range(20, 220, 5)), 10)
        add_cover(path, first)
        with av.open(str(path)) as file:
            covers = [bool(s.disposition & Disposition.attached_pic) for s in file.streams.video]
        assert covers.count(True) == 1
        assert_on_screen(take(path), np.arange(40) / 10, 4.0)

    def test_sound_with_a_cover_has_no_video(self, tmp_path: Path) -> None:
        path = tmp_path / "a.m4a"
        write_mp4(path, tone(4.0), RATE_HZ, None, 10)
        add_cover(path, first=True)
        with pytest.raises(MediaError, match=r"found no video stream, only a cover") as caught:
            take(path, BOTH)
        assert caught.value.stage == "video"
        assert take(path, AUDIO).valid_s == pytest.approx(4.0, abs=0.1)

    def test_a_still_track_before_the_video(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as out:
            still = out.add_stream("mjpeg", rate=1)
            still.width, still.height, still.pix_fmt = 64, 48, "yuvj420p"
            video = out.add_stream("libx264", rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            for stream, rate, levels_ in (
                (still, Fraction(1), [250]),
                (video, Fraction(10), range(20, 220, 5)),
            ):
                for number, picture in enumerate(grey_frames(levels_)):
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = number, 1 / rate
                    out.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
                out.mux(stream.encode(None))
        assert_on_screen(take(path), np.arange(40) / 10, 4.0)

    def test_the_default_sound_is_taken(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as out:
            streams = [out.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono") for _ in "ab"]
            streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
            for stream, level in zip(streams, (0.1, 1.0), strict=True):
                samples = (level * 20_000 * tone(2.0)).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
                frame.sample_rate = RATE_HZ
                out.mux(stream.encode(frame))
                out.mux(stream.encode(None))
        clip = take(path, AUDIO)
        assert clip.waveform is not None
        assert np.abs(clip.waveform).max() == pytest.approx(10_000 / 32_768, abs=0.02)

    def test_pictures_change_size_in_mid_stream(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mkv"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            out.start_encoding()
            for begin, width, height in ((0, 64, 48), (20, 96, 112)):
                context = av.CodecContext.create("libx264", "w")
                context.width, context.height, context.pix_fmt = width, height, "yuv420p"
                context.time_base, context.options = Fraction(1, 10), {"bf": "0"}
                packets = []
                for number in range(begin, begin + 20):
                    [picture] = grey_frames([20 + 5 * number], height, width)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1, 10)
                    packets += context.encode(frame.reformat(format="yuv420p"))
                for packet in [*packets, *context.encode(None)]:
                    packet.stream = stream
                    out.mux(packet)
        clip = take(path)
        assert [frame.shape[:2] for frame in clip.frames] == [(48, 64)] * 4 + [(112, 96)] * 4
        assert_on_screen(clip, np.arange(40) / 10, 4.0)
        pixels = preprocess(clip.frames, ExtractConfig.parse(SMALL))
        assert pixels.shape == (8, 3, 32, 32)
        assert pixels.float().mean(dim=(1, 2, 3)).numpy() == pytest.approx(levels(clip), abs=1)

    def test_sound_that_changes_its_rate_goes_on(self, tmp_path: Path) -> None:
        path = tmp_path / "a.ts"
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mp2", rate=48_000, layout="mono")
            out.start_encoding()
            for begin_s, rate_hz, hertz in ((0, 48_000, 500.0), (2, 32_000, 1000.0)):
                context = av.CodecContext.create("mp2", "w")
                context.rate, context.layout, context.format = rate_hz, "mono", "s16"
                context.time_base = Fraction(1, rate_hz)
                samples = (20_000 * tone(2.0, hertz, rate_hz)).astype(np.int16)
                packets = []
                for place in range(0, len(samples), 1152):
                    block = np.zeros(1152, np.int16)
                    block[: len(samples) - place] = samples[place : place + 1152]
                    frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
                    frame.sample_rate, frame.time_base = rate_hz, Fraction(1, rate_hz)
                    frame.pts = begin_s * rate_hz + place
                    packets += context.encode(frame)
                for packet in packets + context.encode(None):
                    packet.stream = stream
                    out.mux(packet)
        clip = take(path, AUDIO)
        assert clip.waveform is not None
        assert len(clip.waveform) / RATE_HZ == pytest.approx(4.0, abs=0.1)
        for after_s, hertz in ((0.5, 500), (2.5, 1000)):
            part = clip.waveform[round(after_s * RATE_HZ) : round((after_s + 1) * RATE_HZ)]
            assert np.abs(np.fft.rfft(part)).argmax() == pytest.approx(hertz, abs=2)
            assert np.abs(part).max() == pytest.approx(0.3, abs=0.04)


def write_png_movie(path: Path, sides_px: Sequence[int]) -> None:
    """One PNG of each size a second."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        out.start_encoding()
        for number, side_px in enumerate(sides_px):
            picture = np.full((side_px, side_px), 100, np.uint8)
            packet = av.Packet(cv2.imencode(".png", picture)[1].tobytes())
            packet.pts = packet.dts = number
            packet.time_base, packet.duration, packet.stream = Fraction(1, 1), 1, stream
            out.mux(packet)


class TestSize:
    def test_enormous_pictures_are_not_decoded(self, tmp_path: Path) -> None:
        write_png_movie(tmp_path / "a.mov", [8200])
        with pytest.raises(MediaError, match=r"at most 67,108,864 pixels") as caught:
            take(tmp_path / "a.mov")
        assert caught.value.stage == "video"

    def test_nor_when_they_come_in_mid_stream(self, tmp_path: Path) -> None:
        write_png_movie(tmp_path / "a.mov", [64, 64, 8200, 64])
        clip = take(tmp_path / "a.mov")
        assert clip.valid_s == pytest.approx(2.0)
        assert {frame.shape for frame in clip.frames} == {(64, 64, 3)}


def test_preprocess_of_equal_sizes_does_not_depend_on_their_number() -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (50, 70, 3)).astype(np.uint8) for _ in range(3)]
    config = ExtractConfig.parse(SMALL)
    together = preprocess(frames, config)
    alone = torch.cat([preprocess([frame], config) for frame in frames])
    assert torch.equal(together, alone)
