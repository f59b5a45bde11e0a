"""Finding one stream by the other: which clip's picture a sound belongs to, and which seconds.

A model's two streams are trained together, but in no common space. One is found after training: the
directions in which they vary together over training seconds (canonical correlation analysis,
Hotelling 1936), each as much as it correlates; nothing in it is drawn, or chosen.
Shapes: N clips, S seconds, M pairs, d the width of a stream, k of the common space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.score.metrics import Array, Events
from train.score.named import Scores

RANKS = (1, 5, 10)
_RIDGE = 0.1
"""Of a stream's mean variance, added to all of it: small directions are mostly noise."""
_LITTLE = 1e-12


@dataclass(frozen=True)
class CommonSpace:
    """Where sound and pictures of the same seconds lie near each other: a mean and a map each."""

    audio: tuple[Array, Array]
    video: tuple[Array, Array]

    @classmethod
    def of(cls, audio: Array, video: Array) -> CommonSpace:
        """From M pairs, (M, d_audio) and (M, d_video)."""
        means = audio.mean(axis=0), video.mean(axis=0)
        left, right = audio - means[0], video - means[1]
        white = _whitening(left), _whitening(right)
        across = white[0].T @ (left.T @ right / len(left)) @ white[1]
        u, strength, vt = np.linalg.svd(across, full_matrices=False)
        return cls((means[0], white[0] @ u * strength), (means[1], white[1] @ vt.T * strength))

    def heard(self, audio: Array) -> Array:
        """(…, d_audio) → (…, k) of length 1."""
        return _unit((audio - self.audio[0]) @ self.audio[1])

    def seen(self, video: Array) -> Array:
        """(…, d_video) → (…, k) of length 1."""
        return _unit((video - self.video[0]) @ self.video[1])


def _whitening(values: Array) -> Array:
    variance, axes = np.linalg.eigh(values.T @ values / len(values))
    found: Array = axes / np.sqrt(variance.clip(min=0) + _RIDGE * variance.mean() + _LITTLE)
    return found


def _unit(values: Array) -> Array:
    found: Array = values / np.linalg.norm(values, axis=-1, keepdims=True).clip(min=_LITTLE)
    return found


def cosines(heard: Array, seen: Array) -> Array:
    """(N, N) how alike (N, k) and (N, k) are, each to each."""
    found: Array = _unit(heard) @ _unit(seen).T
    return found


def recalls(likeness: Array) -> Scores:
    """How far up each query's own counterpart stands: likeness (N, N), its own on the diagonal.

    recall@k of RANKS, and the median rank from 1; of equals its own comes last.
    """
    if not len(likeness):
        return {**{f"recall@{k}": None for k in RANKS}, "median_rank": None}
    rank = (likeness >= np.diag(likeness)[:, None]).sum(axis=1)
    return {
        **{f"recall@{k}": float(np.mean(rank <= k)) for k in RANKS},
        "median_rank": float(np.median(rank)),
    }


def recalls_of_chance(clips: int) -> Scores:
    """The same, to be expected of an order that is drawn."""
    if not clips:
        return recalls(np.zeros((0, 0)))
    return {
        **{f"recall@{k}": min(1.0, k / clips) for k in RANKS},
        "median_rank": (clips + 1) / 2,
    }


def localized(query: Array, target: Array, start: int, length: int) -> bool:
    """Whether seconds of one stream are found in the other (Tian et al. 2018, section 3.4).

    query (length, k): what is sought; target (S, k): where; right where, of all runs of as many
    seconds, the one from `start` is the most alike (of equals the first counts).
    """
    runs = len(target) - length + 1
    found = [float((query * target[n : n + length]).sum()) for n in range(runs)]
    return int(np.argmax(found)) == start


def localization_accuracy(audio: Array, video: Array, truth: Events, clip_seconds: float) -> Scores:
    """Cross-modality localization of events shorter than their clip, sound → picture and back.

    audio, video: (N, S, k) in the common space, of each event's clip. Events are taken in whole
    seconds; those that then fill the clip, or nothing of it, have one answer and are left out.
    """
    scale = audio.shape[1] / clip_seconds if len(audio) else 1.0
    right: list[tuple[bool, bool, float]] = []
    for n in np.flatnonzero(truth.timed):
        start, end = round(truth.start_s[n] * scale), round(truth.end_s[n] * scale)
        if 0 < (length := end - start) < audio.shape[1]:
            span = slice(start, end)
            there = localized(audio[n, span], video[n], start, length)
            back = localized(video[n, span], audio[n], start, length)
            right.append((there, back, 1 / (audio.shape[1] - length + 1)))
    names = ("audio_to_video", "video_to_audio", "chance")
    means = np.mean(right, axis=0).tolist() if right else [None] * len(names)
    return {**dict(zip(names, means, strict=True)), "events": float(len(right))}
