"""The sounds and pictures of the demo set: one signature a class, varied from clip to clip."""

# mypy: disable-error-code="no-any-return"
# NumPy types the result of its element-wise functions as Any.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import signal

CLIP_S = 10
SAMPLE_RATE_HZ = 32_000
FPS = 12
WIDTH_PX, HEIGHT_PX = 160, 120
FADE_S = 0.02

Float = NDArray[np.floating]
Span = tuple[str, int, int]  # category, start second, end second


# Sound: (S,) seconds → (S,) float, any level ------------------------------------------------


def _saw(phase: Float) -> Float:
    return 2 * (phase % 1) - 1


def _band(x: Float, low_hz: float, high_hz: float) -> Float:
    sos = signal.butter(2, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    return np.asarray(signal.sosfilt(sos, x), np.float32)


def _integral(freq_hz: Float) -> Float:
    return np.cumsum(freq_hz) / SAMPLE_RATE_HZ


def _bell(t: Float, rng: np.random.Generator) -> Float:
    since = t % rng.uniform(0.7, 1.0)
    base = rng.uniform(350, 520)
    partials = (
        (0.5, 0.6, 1.5),
        (1, 1, 2),
        (1.19, 0.7, 3),
        (1.5, 0.4, 4),
        (2, 0.6, 5),
        (2.74, 0.3, 8),
    )
    return sum(
        a * np.exp(-d * since) * np.sin(2 * np.pi * base * m * since) for m, a, d in partials
    )


def _speech(t: Float, rng: np.random.Generator) -> Float:
    rate, base = rng.uniform(3, 5), rng.uniform(95, 150)
    voice = _saw(_integral(base * (1 + 0.15 * np.sin(2 * np.pi * 0.6 * t + rng.uniform(0, 6)))))
    vowel = 0.5 + 0.5 * np.sin(2 * np.pi * rate / 3 * t)
    formed = vowel * _band(voice, 600, 900) + (1 - vowel) * _band(voice, 250, 400)
    return (formed + 0.5 * _band(voice, 1700, 2300)) * np.abs(np.sin(np.pi * rate * t))


def _frying(t: Float, rng: np.random.Generator) -> Float:
    pops = rng.standard_normal(t.size) * (rng.random(t.size) < 0.004) * 8
    return _band(pops + 0.3 * rng.standard_normal(t.size), 3000, 12000)


def _horn(t: Float, rng: np.random.Generator) -> Float:
    base = rng.uniform(290, 350)
    return sum(np.tanh(3 * np.sin(2 * np.pi * base * m * t)) for m in (1, 1.19, 1.335, 1.585))


def _bark(t: Float, rng: np.random.Generator) -> Float:
    since = t % rng.uniform(0.45, 0.7)
    pitch = rng.uniform(0.8, 1.25) * (350 + 450 * np.exp(-14 * since))
    rough = _saw(_integral(pitch)) + 0.5 * rng.standard_normal(t.size)
    return _band(rough, 300, 2500) * np.exp(-12 * since) * np.minimum(since / 0.01, 1)


def _clock(t: Float, rng: np.random.Generator) -> Float:
    since = t % rng.uniform(0.4, 0.55)
    tick = np.sin(2 * np.pi * rng.uniform(2600, 3600) * since) + rng.standard_normal(t.size)
    return tick * np.exp(-90 * since)


def _helicopter(t: Float, rng: np.random.Generator) -> Float:
    blades = (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(11, 16) * t)) ** 3
    return _band(rng.standard_normal(t.size), 60, 500) * (0.15 + blades)


def _violin(t: Float, rng: np.random.Generator) -> Float:
    notes = 440 * 2 ** (rng.integers(-2, 12, 2 * t.size // SAMPLE_RATE_HZ) / 12)
    vibrato = 1 + 0.012 * np.sin(2 * np.pi * rng.uniform(5, 7) * t)
    return _band(_saw(_integral(notes[(t * 2).astype(int)] * vibrato)), 400, 5000)


def render_sound(heard: Sequence[Span], seed: int, seconds: int = CLIP_S) -> Float:
    """The events in `heard` over background noise: (S,) float32 in [-1, 1] at 32 kHz."""
    rng = np.random.default_rng([seed, 1])
    t = np.arange(seconds * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    hiss = rng.standard_normal(t.size)
    noise = _band(hiss, 40, 400) + 0.1 * hiss
    mix = noise / noise.std() * 10 ** rng.uniform(-2.6, -1.9)
    for name, start, end in heard:
        source = CLASSES[name].sound(t, rng)
        inside = np.clip(np.minimum(t - start, end - t) / FADE_S, 0, 1)
        mix += source / source.std() * rng.uniform(0.06, 0.18) * inside
    return np.clip(mix, -1, 1).astype(np.float32)


# Picture ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """One class: its sound, its shape (`inside(u, v) > 0`), its colour (RGB), its stripes."""

    sound: Callable[[Float, np.random.Generator], Float]
    inside: Callable[[Float, Float], Float]
    rgb: tuple[int, int, int]
    stripes: tuple[float, float]


def _bell_shape(u: Float, v: Float) -> Float:
    return np.minimum(0.75 - v, (v + 1.2) / 2 - abs(u))


def _oval(u: Float, v: Float) -> Float:
    return 1 - np.hypot(1.3 * u, v)


def _ring(u: Float, v: Float) -> Float:
    return 0.3 - abs(np.hypot(u, v) - 0.7)


def _bar(u: Float, v: Float) -> Float:
    return np.minimum(1 - abs(u), 0.5 - abs(v))


def _star(u: Float, v: Float) -> Float:
    return 0.75 + 0.25 * np.cos(5 * np.arctan2(v, u)) - np.hypot(u, v)


def _square(u: Float, v: Float) -> Float:
    return 0.9 - np.maximum(abs(u), abs(v))


def _cross(u: Float, v: Float) -> Float:
    upright = np.minimum(0.35 - abs(u), 1 - abs(v))
    return np.maximum(upright, np.minimum(0.35 - abs(v), 1 - abs(u)))


def _diamond(u: Float, v: Float) -> Float:
    return 1 - abs(1.6 * u) - abs(v)


CLASSES = {
    "Church bell": Look(_bell, _bell_shape, (225, 180, 50), (0, 0)),
    "Male speech, man speaking": Look(_speech, _oval, (220, 150, 125), (0, 7)),
    "Frying (food)": Look(_frying, _ring, (40, 40, 45), (9, 0)),
    "Train horn": Look(_horn, _bar, (200, 30, 35), (8, 0)),
    "Bark": Look(_bark, _star, (130, 80, 35), (0, 0)),
    "Clock": Look(_clock, _square, (240, 240, 240), (7, 7)),
    "Helicopter": Look(_helicopter, _cross, (30, 120, 60), (0, 0)),
    "Violin, fiddle": Look(_violin, _diamond, (150, 60, 200), (0, 10)),
}


def render_frames(seen: Sequence[Span], seed: int, seconds: int = CLIP_S) -> NDArray[np.uint8]:
    """The events in `seen` over a panning scene: (F, 120, 160, 3) uint8 RGB, 12 a second."""
    rng = np.random.default_rng([seed, 2])
    coarse = rng.uniform(50, 200, (5, 7, 1)) + rng.uniform(-40, 40, (5, 7, 3))
    scene = cv2.resize(coarse, (2 * WIDTH_PX, 2 * HEIGHT_PX), interpolation=cv2.INTER_CUBIC)
    scene = np.clip(scene + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
    frames = np.empty((seconds * FPS, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    times_s = (np.arange(len(frames)) + 0.5) / FPS
    left = (rng.uniform(0.3, 1) * WIDTH_PX * (0.5 + 0.5 * np.cos(0.4 * times_s))).astype(int)
    top = (rng.uniform(0.3, 1) * HEIGHT_PX * (0.5 + 0.5 * np.sin(0.3 * times_s))).astype(int)
    for frame, x, y in zip(frames, left, top, strict=True):
        frame[:] = scene[y : y + HEIGHT_PX, x : x + WIDTH_PX]
    for name, start, end in seen:
        radius, spin, sway_x, sway_y = rng.uniform((24, -0.25, 0.4, 0.4), (40, 0.25, 1.2, 1.2))
        centre_x = WIDTH_PX * (0.5 + 0.28 * np.sin(sway_x * times_s + rng.uniform(0, 6)))
        centre_y = HEIGHT_PX * (0.5 + 0.18 * np.cos(sway_y * times_s + rng.uniform(0, 6)))
        brightness = rng.uniform(0.85, 1.1)
        for f in range(start * FPS, end * FPS):
            pose = (centre_x[f], centre_y[f], radius, spin * np.sin(times_s[f]))
            _draw(frames[f], CLASSES[name], brightness, *map(float, pose))
    return frames


def _draw(
    frame: NDArray[np.uint8],
    look: Look,
    brightness: float,
    x: float,
    y: float,
    r: float,
    turn: float,
) -> None:
    """Blend the object into `frame` (H, W, 3) with its centre at pixel (x, y) and radius `r`."""
    du = (np.arange(WIDTH_PX, dtype=np.float32)[None, :] - x) / r
    dv = (np.arange(HEIGHT_PX, dtype=np.float32)[:, None] - y) / r
    u = du * math.cos(turn) - dv * math.sin(turn)
    v = du * math.sin(turn) + dv * math.cos(turn)
    mask = np.clip(look.inside(u, v) * r, 0, 1)[..., None]
    shade = 0.8 + 0.3 * np.sin(look.stripes[0] * u + look.stripes[1] * v)
    colour = np.float32(brightness) * np.array(look.rgb, np.float32)
    frame[:] = np.clip(frame + mask * (shade[..., None] * colour - frame), 0, 255)
