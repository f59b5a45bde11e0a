"""YAMNet's features as a cache: where its windows lie, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_media import RATE_HZ, noise, tone

from cache import open_cache
from cache.common.errors import ConfigError
from extract import yamnet
from extract.__main__ import main


@pytest.fixture
def weights(avel_data: Path) -> Path:
    pytest.importorskip("ai_edge_litert", reason="needs the extra yamnet")
    return avel_data / "weights" / "yamnet.tflite"


@pytest.mark.data
class TestNetwork:
    def test_a_window_is_around_each_half_second(self, weights: Path) -> None:
        net = yamnet.Yamnet(weights)
        quiet = np.zeros(10 * yamnet.RATE_HZ, np.float32)
        beep = np.zeros_like(quiet)
        begin = round(5.05 * yamnet.RATE_HZ)
        beep[begin : begin + 3200] = tone(0.2, rate_hz=yamnet.RATE_HZ)  # 5.05 to 5.25 s
        changed = np.flatnonzero(np.abs(net(beep) - net(quiet)).max(axis=1) > 0)
        # Windows are centred on 4.75, 5.25 and 5.75 s and reach 0.4875 s to each side.
        assert changed.tolist() == [9, 10]
        assert net(beep).shape == (20, 1024)

    def test_a_short_sound_has_fewer_steps(self, weights: Path) -> None:
        net = yamnet.Yamnet(weights)
        sound = noise(3.0, rate_hz=yamnet.RATE_HZ)
        found = net(sound)
        assert found.shape == (6, 1024)
        whole = net(np.concatenate([sound, np.zeros(yamnet.RATE_HZ, np.float32)]))
        np.testing.assert_array_equal(found, whole[:6])

    def test_a_set_becomes_a_cache(self, weights: Path, tmp_path: Path) -> None:
        data = tmp_path / "data"
        (data / "audio_wav").mkdir(parents=True)
        rows = ["Category&VideoID&Quality&StartTime&EndTime\n"]
        for n, clip_id in enumerate(["one", "two", "lost"]):
            rows.append(f"Bark&{clip_id}&good&0&{n + 1}\n")
        (data / "Annotations.txt").write_text("".join(rows))
        soundfile.write(data / "audio_wav" / "one.wav", tone(4.0), RATE_HZ)
        (data / "audio_wav" / "two.wav").write_bytes(b"no sound")
        words = ["yamnet", "--data", str(data), "--cache", str(tmp_path / "c"), "--jobs", "1"]
        words += ["--weights", str(weights)]
        assert main(words) == 1
        cache = open_cache(tmp_path / "c")
        assert cache.ids == ["one"]
        assert list(cache.index.failures) == ["two"]
        assert cache.labels.ids == ["one", "two", "lost"]
        assert cache.read("rows/audio_steps").tolist() == [8]
        assert main([*words, "--max-failures", "2"]) == 0
        assert main([*words, "--max-failures", "1"]) == 1

    def test_windows_have_the_numbers_of_clips(self, weights: Path, tmp_path: Path) -> None:
        (tmp_path / "media").mkdir()
        soundfile.write(tmp_path / "media" / "rec.wav", noise(14.0), RATE_HZ)
        (tmp_path / "events.csv").write_text("id,category,start,end\nrec,dog,1,12\n")
        words = ["yamnet", "--data", str(tmp_path), "--jobs", "1", "--weights", str(weights)]
        assert main([*words, "--cache", str(tmp_path / "plain")]) == 0
        assert main([*words, "--cache", str(tmp_path / "hop"), "--hop-seconds", "5"]) == 0
        plain, hop = open_cache(tmp_path / "plain"), open_cache(tmp_path / "hop")
        assert hop.ids == ["rec", "rec@5"]
        first = hop.read("audio/yamnet", [hop.row("rec")])
        np.testing.assert_array_equal(first, plain.read("audio/yamnet"))

    def test_another_network_is_refused(self, weights: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.tflite"
        other.write_bytes(b"TFL3" * 100)
        with pytest.raises(ConfigError, match="no TensorFlow Lite model"):
            yamnet.Yamnet(other)


class Loudness:
    """Stands in for the network: the mean square of each half second, 1,024 times."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights

    def __call__(self, waveform: Any) -> Any:
        step = round(yamnet.STEP_S * yamnet.RATE_HZ)
        padded = np.pad(waveform, (0, -len(waveform) % step)).reshape(-1, step)
        return np.repeat(np.square(padded).mean(axis=1)[:, None], yamnet.WIDTH, 1).astype("f2")


class TestRecordings:
    @pytest.fixture(autouse=True)
    def network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(yamnet, "Yamnet", Loudness)
        monkeypatch.setattr(yamnet, "_network", Loudness)

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        """A recording of 23 s, one of 10 s, and one that can't be read."""
        (tmp_path / "data" / "media").mkdir(parents=True)
        rng = np.random.default_rng(0)
        for name, length_s in (("long", 23), ("short", 10)):
            sound = rng.standard_normal(length_s * RATE_HZ) * np.linspace(
                0, 0.3, length_s * RATE_HZ
            )
            soundfile.write(tmp_path / "data" / "media" / f"{name}.wav", sound, RATE_HZ)
        (tmp_path / "data" / "media" / "broken.wav").write_bytes(b"no sound")
        rows = "long,dog,8,15\nshort,dog,1,3\nbroken,dog,0,1\n"
        (tmp_path / "data" / "events.csv").write_text(f"id,category,start,end\n{rows}")
        (tmp_path / "yamnet.tflite").write_bytes(b"weights")
        return tmp_path / "data"

    def words(self, data: Path, cache: Path, *more: str) -> list[str]:
        weights = str(data.parent / "yamnet.tflite")
        where = ["--data", str(data), "--cache", str(cache), "--weights", weights]
        return ["yamnet", *where, "--jobs", "1", *more]

    def test_windows_are_those_of_the_extractor_and_their_features_the_sounds(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hop, plain = tmp_path / "hop", tmp_path / "plain"
        assert main(self.words(data, hop, "--hop-seconds", "5")) == 1
        assert "broken" in capsys.readouterr().err
        assert main(self.words(data, plain, "--max-failures", "1")) == 0
        assert "1 recording is longer than a clip: 13 s of them" in capsys.readouterr().out
        windows, clips = open_cache(hop), open_cache(plain)
        assert windows.ids == ["long", "long@10", "long@15", "long@5", "short"]
        assert windows.declaration.hop_s == 5
        assert windows.lengths_s[1].tolist() == [23.0] * 4 + [10.0]
        assert windows.labels.end_s.tolist()[0] == 15, "on the recording's clock, not cut"
        assert clips.labels.end_s.tolist()[0] == 10
        features = windows.read("audio/yamnet")
        for name in ("long", "short"):
            ours, theirs = (
                features[windows.row(name)],
                clips.read("audio/yamnet", [clips.row(name)]),
            )
            np.testing.assert_array_equal(ours, theirs[0])
        np.testing.assert_array_equal(features[0][10:], features[windows.row("long@5")][:10])
        assert windows.read("rows/audio_steps").tolist() == [20, 20, 16, 20, 20]
        audio = [
            "--modalities",
            "audio",
            "--hop-seconds",
            "5",
            "--max-failures",
            "1",
            "--jobs",
            "1",
        ]
        assert main(["--data", str(data), "--cache", str(tmp_path / "own"), *audio]) == 0
        assert open_cache(tmp_path / "own").ids == windows.ids

    def test_what_is_there_is_not_made_again(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = self.words(data, tmp_path / "c", "--hop-seconds", "5", "--max-failures", "1")
        for expected in ("to do 6", "to do 0"):
            assert main(words) == 0
            assert expected in capsys.readouterr().out
        sound, rate_hz = soundfile.read(data / "media" / "long.wav")
        soundfile.write(data / "media" / "long.wav", sound[: 12 * rate_hz], rate_hz)
        assert main([*words[:-1], "3"]) == 0
        cache = open_cache(tmp_path / "c")
        assert cache.ids == ["long", "long@5", "short"]
        assert {cache.failures[i].stage for i in ("long@10", "long@15")} == {"end"}
        capsys.readouterr()
        assert main(words) == 0, "windows beyond the end are not lost"
        assert "to do 0" in capsys.readouterr().out

    def test_damaged_labels_are_told(
        self, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = self.words(data, tmp_path / "c", "--max-failures", "1")
        assert main(words) == 0
        (tmp_path / "c" / "labels.h5").write_bytes(b"damaged")
        capsys.readouterr()
        assert main(words) == 0
        assert "which splits the ids were in is lost" in capsys.readouterr().err
        assert open_cache(tmp_path / "c").labels.ids == ["long", "short", "broken"]


def test_weights_that_are_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["yamnet", "--data", str(tmp_path), "--cache", str(tmp_path / "c"), "--weights"]
    assert main([*words, str(tmp_path / "none.tflite")]) == 2
    assert "expected YAMNet's .tflite" in capsys.readouterr().err
