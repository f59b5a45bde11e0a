"""The plain path: how one usually writes this, to measure ours against.

Five librosa calls for the sound, PIL and torchvision's preset for the pictures, torchvision's
MobileNetV3 as it comes, default threads, one process, one clip after the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import cv2
import librosa
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torchvision.models import MobileNet_V3_Small_Weights, mobilenet_v3_large, mobilenet_v3_small

Array = npt.NDArray[Any]

SAMPLE_RATE_HZ = 22050
CLIP_S = 10.0
FRAMES = 8


def load_network(weights: Path | None, backbone: str = "small") -> nn.Module:
    """MobileNetV3's `features`; `weights`: a state dict, or none for random ones."""
    network = mobilenet_v3_small() if backbone == "small" else mobilenet_v3_large()
    if weights is not None:
        state = torch.load(weights, weights_only=True)
        network.load_state_dict(state, strict=False)
    features: nn.Module = network.features.eval()
    return features


def audio_features(y: Array, sr: int) -> Array:
    """MFCC with differences, log-Mel, chroma, contrast, tonnetz: (209, T) float32."""
    mfcc = librosa.feature.mfcc(y=y, sr=sr, n_mfcc=40)
    delta = librosa.feature.delta(mfcc)
    delta2 = librosa.feature.delta(mfcc, order=2)
    mel = librosa.power_to_db(librosa.feature.melspectrogram(y=y, sr=sr, n_mels=64))
    chroma = librosa.feature.chroma_stft(y=y, sr=sr)
    contrast = librosa.feature.spectral_contrast(y=y, sr=sr)
    tonnetz = librosa.feature.tonnetz(y=y, sr=sr)
    steps = min(mfcc.shape[1], tonnetz.shape[1])
    parts = [mfcc, delta, delta2, mel, chroma, contrast, tonnetz]
    return np.concatenate([part[:, :steps] for part in parts])


def video_features(images: list[Image.Image], network: nn.Module) -> Array:
    """Eight pictures → (8, 576, 7, 7) float32."""
    preset = MobileNet_V3_Small_Weights.DEFAULT.transforms()
    batch = torch.stack([preset(image) for image in images])
    with torch.no_grad():
        maps: Array = network(batch).numpy()
    return maps


def extract_processed(wav: Path, folder: Path, network: nn.Module) -> tuple[Array, Array]:
    """One clip of the WAV + JPEG layout."""
    y, sr = librosa.load(wav, sr=SAMPLE_RATE_HZ, duration=CLIP_S)
    files = sorted(path for path in folder.iterdir() if path.suffix in {".jpg", ".jpeg", ".png"})
    chosen = [files[int((k + 0.5) / FRAMES * len(files))] for k in range(FRAMES)]
    images = [Image.open(path).convert("RGB") for path in chosen]
    return audio_features(y, int(sr)), video_features(images, network)


def extract_container(path: Path, network: nn.Module) -> tuple[Array, Array]:
    """One mp4: PyAV for the sound, OpenCV seeking for the pictures."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].sample_rate
        blocks = [frame.to_ndarray().mean(axis=0) for frame in container.decode(audio=0)]
    y = librosa.resample(np.concatenate(blocks), orig_sr=rate, target_sr=SAMPLE_RATE_HZ)
    y = y[: int(CLIP_S * SAMPLE_RATE_HZ)]

    video = cv2.VideoCapture(str(path))
    frames = min(
        int(video.get(cv2.CAP_PROP_FRAME_COUNT)), int(CLIP_S * video.get(cv2.CAP_PROP_FPS))
    )
    images = []
    for k in range(FRAMES):
        video.set(cv2.CAP_PROP_POS_FRAMES, int((k + 0.5) / FRAMES * frames))
        found, picture = video.read()
        if not found:
            raise OSError(f"{path}: OpenCV can't read frame {k} of {FRAMES}")
        images.append(Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)))
    video.release()
    return audio_features(y, SAMPLE_RATE_HZ), video_features(images, network)
