"""Each audio feature against librosa's own function called with the same choices."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_media import noise, tone

from extract.config import ExtractConfig
from extract.features.audio import audio_features
from extract.features.declare import audio_fields

FAST = ExtractConfig()
Sound = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[np.floating[Any]]]


def music(seconds: float = 2.0, seed: int = 0, rate_hz: int = 22_050) -> Sound:
    """Three tones that come and go in noise: every feature has something to say."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    rng = np.random.default_rng(seed)
    sound = 0.01 * rng.standard_normal(len(time_s))
    for hz in rng.uniform(100, 4000, 3):
        sound += 0.3 * np.sin(2 * np.pi * (hz * time_s + 30 * np.sin(3 * time_s))) * (time_s > 0.4)
    return (0.5 * sound).astype(np.float32)


def reference(sound: Sound, config: ExtractConfig) -> Arrays:
    """librosa with one shared STFT, no tuning, and tonnetz from that chroma: (T, D) each."""
    sr, n_fft, hop = config.sample_rate_hz, config.n_fft_samples, config.hop_samples
    magnitude = np.abs(librosa.stft(sound, n_fft=n_fft, hop_length=hop, pad_mode="constant"))
    power = magnitude**2
    mel = librosa.feature.melspectrogram(S=power, sr=sr, n_fft=n_fft, n_mels=128)
    mfcc = librosa.feature.mfcc(S=librosa.power_to_db(mel), n_mfcc=config.n_mfcc)
    chroma = librosa.feature.chroma_stft(S=power, sr=sr, n_fft=n_fft, tuning=0.0)
    few = librosa.feature.melspectrogram(S=power, sr=sr, n_fft=n_fft, n_mels=config.n_mels)
    features = {
        "mfcc": np.concatenate([mfcc, *(librosa.feature.delta(mfcc, order=k) for k in (1, 2))]),
        "mel": librosa.power_to_db(few),
        "chroma": chroma,
        "contrast": librosa.feature.spectral_contrast(S=magnitude, sr=sr, n_fft=n_fft),
        "tonnetz": librosa.feature.tonnetz(chroma=chroma, sr=sr),
    }
    return {name: values.T for name, values in features.items()}


def assert_close(found: Arrays, wanted: Arrays) -> None:
    """Equal but for the rounding of float32 sums, then of float16."""
    assert list(found) == ["mfcc", "mel", "chroma", "contrast", "tonnetz"]
    for name, values in found.items():
        assert values.dtype == np.float16
        assert values.shape == wanted[name].shape, name
        half = np.abs(np.spacing(wanted[name].astype(np.float16))).astype(float)
        # Contrast's valleys are float32 noise where there is a pure tone; the rest is exact.
        slack = {"contrast": 0.02, "mfcc": 2e-3, "mel": 2e-3, "chroma": 1e-4, "tonnetz": 1e-4}[name]
        assert (np.abs(values.astype(float) - wanted[name]) <= half + slack).all(), name


class TestFast:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_equals_librosa(self, seed: int) -> None:
        sound = music(seed=seed)
        assert_close(audio_features(sound, FAST), reference(sound, FAST))

    @pytest.mark.parametrize(
        "make",
        [lambda: noise(1.0), lambda: tone(1.0, 441.0) + 0.01 * noise(1.0), lambda: 1 + noise(1.0)],
        ids=["noise", "tone", "offset"],
    )
    def test_equals_librosa_on_plain_sounds(self, make: Callable[[], Sound]) -> None:
        assert_close(audio_features(make(), FAST), reference(make(), FAST))

    def test_float16_is_the_only_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before the last rounding, the shared path is librosa's to 5 decimal digits."""
        monkeypatch.setattr(np, "float16", np.float32)
        sound = music()
        found, wanted = audio_features(sound, FAST), reference(sound, FAST)
        for name, values in found.items():
            assert values.dtype == np.float32
            scale = np.abs(wanted[name]).max()
            slack = {"contrast": 2e-4}.get(name, 1e-5)
            assert np.abs(values - wanted[name]).max() < slack * scale, name

    @given(
        rate_hz=st.sampled_from([12_801, 16_000, 22_050, 44_100, 48_000]),
        n_fft=st.sampled_from([512, 1024, 2048]),
        divisor=st.integers(1, 4),
        n_mfcc=st.integers(1, 60),
        n_mels=st.integers(1, 90),
        samples=st.integers(9_000, 14_000),
    )
    @settings(max_examples=12)
    def test_equals_librosa_with_other_settings(
        self, rate_hz: int, n_fft: int, divisor: int, n_mfcc: int, n_mels: int, samples: int
    ) -> None:
        config = FAST.revised(
            sample_rate_hz=rate_hz,
            n_fft_samples=n_fft,
            hop_samples=n_fft // divisor - divisor,
            n_mfcc=n_mfcc,
            n_mels=n_mels,
        )
        sound = music(1.2, samples, rate_hz)[:samples]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Empty filters", category=UserWarning)
            sound = np.pad(sound, (0, max(0, config.shortest_samples - len(sound))))
            assert_close(audio_features(sound, config), reference(sound, config))

    def test_step_k_is_centred_on_sample_k_hops(self) -> None:
        """An impulse shows most at the step whose centre it is, and nowhere beyond the window."""
        for step in (0, 1, 7, 30):
            sound = np.zeros(22_050, np.float32)
            sound[step * FAST.hop_samples] = 1
            level = audio_features(sound, FAST)["mel"].astype(float).mean(axis=1)
            assert level.argmax() == step
            loud = np.flatnonzero(level > level.min() + 1)
            assert abs(loud - step).max() <= FAST.n_fft_samples // 2 // FAST.hop_samples

    def test_shape_is_the_formats(self) -> None:
        for seconds in (10.0, 0.5, 3.3):
            config = FAST.revised(clip_seconds=seconds)
            fields = audio_fields(config)
            found = audio_features(noise(seconds), config)
            assert {f"audio/{name}": (v.shape, v.dtype) for name, v in found.items()} == {
                field.name: (field.shape, np.dtype(field.dtype)) for field in fields
            }
            assert config.audio_steps == len(found["mel"])

    def test_louder_is_more_decibels_and_nothing_else(self) -> None:
        sound = music()
        soft, loud = audio_features(np.float32(0.1) * sound, FAST), audio_features(sound, FAST)
        assert np.median(loud["mel"] - soft["mel"]) == pytest.approx(20, abs=0.05)
        for name in ("chroma", "tonnetz"):
            assert np.abs(loud[name].astype(float) - soft[name]).max() < 2e-3


PROFILES = ["fast", "librosa"]


def test_short_sound_gives_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sound in (noise(0.5), np.zeros(9_000, np.float32)):
            audio_features(sound, FAST.revised(audio_profile="librosa"))


@pytest.mark.parametrize("profile", PROFILES)
def test_silence_is_finite(profile: str) -> None:
    config = FAST.revised(audio_profile=profile)
    found = audio_features(np.zeros(22_050, np.float32), config)
    for name, values in found.items():
        assert np.isfinite(values).all(), name
    # The last digit of log10 depends on the processor.
    np.testing.assert_allclose(found["mel"], -100, rtol=1e-6)
    for name in ("contrast", "tonnetz"):
        assert (found[name] == 0).all()


def test_partly_silent_sound_is_finite_and_librosas() -> None:
    sound = music()
    sound[:11_000] = 0
    assert_close(audio_features(sound, FAST), reference(sound, FAST))


def test_the_shortest_sound() -> None:
    sound = noise(1.0)[: FAST.shortest_samples]
    found = audio_features(sound, FAST)
    assert {len(values) for values in found.values()} == {9}
    assert_close(found, reference(sound, FAST))
    with pytest.raises(librosa.ParameterError):
        reference(sound[:-1], FAST)


@pytest.mark.filterwarnings("ignore:n_fft=.* is too large")  # of librosa's own calls below
def test_profile_librosa_is_five_plain_calls_bit_for_bit() -> None:
    sound = music()
    found = audio_features(sound, FAST.revised(audio_profile="librosa"))
    mfcc = librosa.feature.mfcc(y=sound, sr=22_050, n_mfcc=40)
    wanted = {
        "mfcc": np.concatenate(
            [mfcc, librosa.feature.delta(mfcc), librosa.feature.delta(mfcc, order=2)]
        ),
        "mel": librosa.power_to_db(librosa.feature.melspectrogram(y=sound, sr=22_050, n_mels=64)),
        "chroma": librosa.feature.chroma_stft(y=sound, sr=22_050),
        "contrast": librosa.feature.spectral_contrast(y=sound, sr=22_050),
        "tonnetz": librosa.feature.tonnetz(y=sound, sr=22_050),
    }
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        assert values.dtype == np.float32
        assert np.array_equal(values, wanted[name].T.astype(np.float32)), name


@pytest.mark.filterwarnings("ignore:n_fft=.* is too large")
def test_profile_librosa_passes_the_settings_on() -> None:
    config = FAST.revised(
        audio_profile="librosa",
        sample_rate_hz=16_000,
        n_fft_samples=1024,
        hop_samples=256,
        n_mels=40,
    )
    sound = music(1.0, rate_hz=16_000)
    found = audio_features(sound, config)
    stft: dict[str, Any] = {"y": sound, "sr": 16_000, "n_fft": 1024, "hop_length": 256}
    wanted = {
        "mel": librosa.power_to_db(librosa.feature.melspectrogram(n_mels=40, **stft)),
        "chroma": librosa.feature.chroma_stft(**stft),
        "contrast": librosa.feature.spectral_contrast(**stft),
        "tonnetz": librosa.feature.tonnetz(y=sound, sr=16_000, hop_length=256),
    }
    for name, values in wanted.items():
        assert np.array_equal(found[name], values.T.astype(np.float32)), name
