"""MFCC, Mel, chroma, spectral contrast and tonnetz of one clip's waveform.

Profile `fast` computes one STFT and derives everything from it; profile `librosa` makes the five
plain librosa calls and keeps their numbers bit for bit. Functions and defaults are librosa's
(McFee et al., "librosa: Audio and Music Signal Analysis in Python", SciPy 2015), time first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal
import torch

from extract.config import DELTA_WIDTH_STEPS, ExtractConfig

Waveform = npt.NDArray[np.float32]
Features = dict[str, npt.NDArray[Any]]

MFCC_MELS = 128
"""librosa's default number of Mel bands beneath MFCCs."""
CONTRAST_BANDS, CONTRAST_FMIN_HZ, CONTRAST_QUANTILE = 6, 200.0, 0.02


def audio_features(waveform: Waveform, config: ExtractConfig) -> Features:
    """All five features of a mono waveform (samples,) at `config.sample_rate_hz`.

    Returns arrays (T, D) with T = 1 + samples // hop_samples: mfcc (T, 3 × n_mfcc) with
    differences of first and second order, mel (T, n_mels) in dB, chroma (T, 12), contrast (T, 7)
    in dB, tonnetz (T, 6). float16 in profile `fast`, float32 in profile `librosa`. Sound whose
    power exceeds float32 gives numbers that are not finite, or an OverflowError.
    """
    if config.audio_profile == "fast":
        return _fast(waveform, config)
    try:
        return _librosa(waveform, config)
    except librosa.ParameterError as error:
        if "finite" not in str(error):
            raise
        raise OverflowError("its power exceeds what float32 holds") from None


def warm_up(config: ExtractConfig) -> None:
    """Have librosa's compiled parts on disk before several processes want them.

    numba compiles them on first use and keeps them beside librosa. Processes that do so at the
    same time can leave files that don't fit together, and every later process that calls into
    them crashes. So one process goes first: before workers start, and before tests do.
    """
    samples = max(config.sample_rate_hz, config.shortest_samples)
    audio_features(np.random.default_rng(0).standard_normal(samples).astype(np.float32), config)


@dataclass(frozen=True)
class _Filters:
    """Constant matrices of a configuration, D × bins, transposed for time-first products."""

    window: torch.Tensor
    mels: npt.NDArray[np.float32]
    chroma: npt.NDArray[np.float32]
    tonnetz: npt.NDArray[np.float32]
    bands: tuple[tuple[int, int, int], ...]
    deltas: npt.NDArray[np.float32]


@lru_cache(maxsize=4)
def _filters(config: ExtractConfig) -> _Filters:
    rate, n_fft = config.sample_rate_hz, config.n_fft_samples
    mels = [
        librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=count).T
        for count in (MFCC_MELS, config.n_mels)
    ]
    chroma = librosa.filters.chroma(sr=rate, n_fft=n_fft, tuning=0.0).T
    deltas = np.stack(
        [scipy.signal.savgol_coeffs(DELTA_WIDTH_STEPS, k, deriv=k, use="dot") for k in (1, 2)]
    )
    return _Filters(
        window=torch.hann_window(n_fft, periodic=True),
        mels=np.ascontiguousarray(np.concatenate(mels, axis=1)),
        chroma=np.ascontiguousarray(chroma),
        tonnetz=librosa.feature.tonnetz(chroma=np.eye(12, dtype=np.float32), sr=rate).T.copy(),
        bands=_contrast_bands(rate, n_fft),
        deltas=deltas.astype(np.float32),
    )


def _contrast_bands(rate_hz: int, n_fft: int) -> tuple[tuple[int, int, int], ...]:
    """(first bin, end bin, bins averaged) of each octave band, as librosa's spectral_contrast."""
    hz = librosa.fft_frequencies(sr=rate_hz, n_fft=n_fft)
    edges = np.concatenate([[0.0], CONTRAST_FMIN_HZ * 2.0 ** np.arange(CONTRAST_BANDS + 1)])
    bands = []
    for band in range(CONTRAST_BANDS + 1):
        inside = np.flatnonzero((hz >= edges[band]) & (hz <= edges[band + 1]))
        first, end = int(inside[0]), int(inside[-1]) + 1
        first -= band > 0
        end = len(hz) if band == CONTRAST_BANDS else end
        averaged = max(1, int(np.rint(CONTRAST_QUANTILE * (end - first))))
        bands.append((first, end - (band < CONTRAST_BANDS), averaged))
    return tuple(bands)


def _fast(waveform: Waveform, config: ExtractConfig) -> Features:
    filters = _filters(config)
    power = _power(waveform, config, filters.window)
    mels = power @ filters.mels
    mfcc_mels = _decibels(mels[:, :MFCC_MELS])
    mfcc = scipy.fft.dct(mfcc_mels, type=2, norm="ortho", axis=1)[:, : config.n_mfcc]
    chroma = _divided(power @ filters.chroma, np.max)
    features = {
        "mfcc": _with_differences(mfcc, filters.deltas),
        "mel": _decibels(mels[:, MFCC_MELS:]),
        "chroma": chroma,
        "contrast": _contrast(power, filters.bands),
        "tonnetz": _divided(chroma, np.sum) @ filters.tonnetz,
    }
    return {name: values.astype(np.float16) for name, values in features.items()}


def _power(
    waveform: Waveform, config: ExtractConfig, window: torch.Tensor
) -> npt.NDArray[np.float32]:
    """|STFT|² (T, 1 + n_fft / 2), centred, zero-padded at both ends: librosa.stft's choices.

    Time first throughout: torch.stft would return bins first, and the transpose costs more than
    the transform.
    """
    half = config.n_fft_samples // 2
    padded = torch.nn.functional.pad(torch.from_numpy(waveform), (half, half))
    windows = padded.unfold(0, config.n_fft_samples, config.hop_samples) * window
    real, imaginary = torch.view_as_real(torch.fft.rfft(windows)).unbind(-1)
    power: npt.NDArray[np.float32] = torch.addcmul(real * real, imaginary, imaginary).numpy()
    return power


def _decibels(power: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """librosa.power_to_db with its defaults: reference 1, floor 1e-10, 80 dB below the peak."""
    decibels: npt.NDArray[np.float32] = np.log10(np.maximum(power, np.float32(1e-10)))
    decibels *= np.float32(10)
    np.maximum(decibels, decibels.max() - np.float32(80), out=decibels)
    return decibels


def _divided(values: npt.NDArray[np.float32], norm: Any) -> npt.NDArray[np.float32]:
    """Each step divided by its norm; a silent step stays zero (librosa.util.normalize)."""
    length: npt.NDArray[np.float32] = norm(values, axis=1, keepdims=True)
    length[length < np.finfo(np.float32).tiny] = 1
    return values / length


def _with_differences(
    values: npt.NDArray[np.float32], kernels: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Append Savitzky–Golay differences of order 1 and 2 (librosa.feature.delta, mode interp).

    A fitted line (parabola) has one slope (curvature), so the edges repeat the nearest full window.
    """
    half = DELTA_WIDTH_STEPS // 2
    windows = np.lib.stride_tricks.sliding_window_view(values, DELTA_WIDTH_STEPS, axis=0)
    inner = windows @ kernels.T
    padded = np.pad(inner, ((half, half), (0, 0), (0, 0)), mode="edge")
    return np.concatenate([values, padded[:, :, 0], padded[:, :, 1]], axis=1)


def _contrast(
    power: npt.NDArray[np.float32], bands: tuple[tuple[int, int, int], ...]
) -> npt.NDArray[np.float32]:
    """Each band's largest against its smallest bins, in dB of mean magnitude.

    As librosa.feature.spectral_contrast; power sorts like magnitude, so only the bins that are
    averaged need their square root.
    """
    peaks = np.empty((len(power), len(bands)), np.float32)
    valleys = np.empty_like(peaks)
    for band, (first, end, count) in enumerate(bands):
        ordered = np.sort(power[:, first:end], axis=1)
        valleys[:, band] = np.sqrt(ordered[:, :count]).mean(axis=1)
        peaks[:, band] = np.sqrt(ordered[:, -count:]).mean(axis=1)
    return _decibels(peaks) - _decibels(valleys)


def _librosa(waveform: Waveform, config: ExtractConfig) -> Features:
    stft: dict[str, Any] = {
        "y": waveform,
        "sr": config.sample_rate_hz,
        "n_fft": config.n_fft_samples,
        "hop_length": config.hop_samples,
    }
    with warnings.catch_warnings():
        # On silence librosa warns that it can't estimate a tuning, and uses none: as it should.
        warnings.filterwarnings("ignore", message="Trying to estimate tuning", category=UserWarning)
        # On short sound it warns that the lowest octaves' windows are longer than the sound.
        warnings.filterwarnings("ignore", message="n_fft=.* is too large", category=UserWarning)
        mfcc = librosa.feature.mfcc(n_mfcc=config.n_mfcc, **stft)
        mel = librosa.power_to_db(librosa.feature.melspectrogram(n_mels=config.n_mels, **stft))
        chroma = librosa.feature.chroma_stft(**stft)
        contrast = librosa.feature.spectral_contrast(**stft)
        tonnetz = librosa.feature.tonnetz(
            y=waveform, sr=config.sample_rate_hz, hop_length=config.hop_samples
        )
    differences = [librosa.feature.delta(mfcc, order=order) for order in (1, 2)]
    features = {
        "mfcc": np.concatenate([mfcc, *differences]),
        "mel": mel,
        "chroma": chroma,
        "contrast": contrast,
        "tonnetz": tonnetz,
    }
    return {name: np.ascontiguousarray(values.T, np.float32) for name, values in features.items()}
