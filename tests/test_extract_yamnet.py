"""YAMNet's features as a cache: where its windows lie, and what is refused."""

from __future__ import annotations

from pathlib import Path

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

    def test_another_network_is_refused(self, weights: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.tflite"
        other.write_bytes(b"TFL3" * 100)
        with pytest.raises(ConfigError, match="no TensorFlow Lite model"):
            yamnet.Yamnet(other)


def test_weights_that_are_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["yamnet", "--data", str(tmp_path), "--cache", str(tmp_path / "c"), "--weights"]
    assert main([*words, str(tmp_path / "none.tflite")]) == 2
    assert "expected YAMNet's .tflite" in capsys.readouterr().err
