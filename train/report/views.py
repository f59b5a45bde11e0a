"""Clips as the pictures show them: which are drawn, their attention maps, their answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache import Cache
from cache.common.errors import ConfigError
from train.data.batch import Batch
from train.data.features import FeatureStore
from train.data.memory import room
from train.report.drawing import label
from train.report.outcomes import hardest, named, overlap
from train.runs.trained import Answer, TrainedModel
from train.score.decode import Evidence
from train.score.metrics import Array
from train.score.predict import attention_bytes

GALLERY = 100
_ON_THE_PAGE = ("spatial", "audio_to_video")


class AttentionMaps:
    """The attention maps of the clips that are drawn, kept while a model answers.

    It is the `watch` of `train.score.predict.predict`. Of the events in `whole` all maps are
    kept; of those that are answered worst (which can't be known before), as many as the page
    shows, what it shows of them. So no more is held than is drawn, and no clip is run again.

    Attributes
    ----------
    of: of which model and direction the maps are, for people; "" where that goes without saying.
    """

    def __init__(
        self,
        one: TrainedModel,
        clips: FeatureStore,
        whole: Collection[int],
        truth: Sequence[Mapping[str, Any]] = (),
        models: int = 1,
    ) -> None:
        """`whole` are numbers of clips, or of the events in `truth` (see `true_events`).

        Without `truth` none but `whole` are kept. models: how many answer beside this one. Raises
        ConfigError where memory has no room for so many maps.
        """
        need = len(whole) * attention_bytes(one.model, clips)
        have = room(torch.device("cpu"), one.about.config.memory_gb)
        if need > have:
            raise ConfigError(
                f"pictures: the attention of {len(whole)} clips takes {need / 1e9:.3g} GB of "
                f"memory, and there are {have / 1e9:.3g} GB; draw fewer, with --pictures"
            )
        parts = [f"of the first of {models} models"] if models > 1 else []
        parts += ["of the pass forwards alone"] if one.about.config.reversed_share else []
        self.of = ", ".join(parts)
        self._one, self._whole, self._truth = one, frozenset(whole), truth
        self._maps: dict[int, Mapping[str, Array]] = {}
        self._answered: dict[int, Mapping[str, Any]] = {}

    def __getitem__(self, number: int) -> Mapping[str, Array]:
        """The maps of a clip or event by name, without the leading N, and its `frame_time_s`.

        Of one that is not among those kept: no maps, and no times.
        """
        return self._maps.get(number, {"frame_time_s": np.empty(0)})

    def __call__(
        self,
        places: Tensor,
        said: Evidence,
        batch: Batch,
        attention: Mapping[str, Tensor],
    ) -> None:
        """Keep what is worth keeping of a batch."""
        numbers, about = places.tolist(), self._one.about
        if self._truth:
            answer = Answer.of(said, about)
            fresh = {n: {**self._truth[n], **answer.entry(at)} for at, n in enumerate(numbers)}
            worst = hardest(self._answered | fresh)[:GALLERY]
            self._answered = {n: (self._answered | fresh)[n] for n in worst}
        wanted = self._whole | self._answered.keys()
        self._maps = {n: maps for n, maps in self._maps.items() if n in wanted}
        kept = [at for at, n in enumerate(numbers) if n in wanted]
        values = _on_host(attention, kept)
        times = None if batch.frames is None else batch.frames.time_s[kept].double().cpu().numpy()
        for row, number in enumerate(numbers[at] for at in kept):
            names = [n for n in values if number in self._whole or n in _ON_THE_PAGE]
            self._maps[number] = {
                **{name: values[name][row].copy() for name in names},
                "frame_time_s": np.empty(0) if times is None else times[row],
            }


def _on_host(attention: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Array]:
    """The maps of some clips of a batch; the gate is the answer's own, channels aren't drawn."""
    return {
        name: value[kept].double().cpu().numpy()
        for name, value in attention.items()
        if name not in ("gate", "channel")
    }


@dataclass(frozen=True)
class View:
    """One clip to draw: its attention maps without the leading N, times in seconds.

    Attributes
    ----------
    attention: the maps, and of which model and direction they are, for people.
    on: (G,) the answer's probability of each of the clip's parts, as start and end are read off.
    by_gate: whether start and end were read off `on`; else `decided_by` says whose they are.
    pictures: F encoded JPEGs (none without video).
    true_s: None for unlabelled clips, and for those without an event: in these `empty` is set.
    event: whether it was answered that there is one; None where that is not decided.
    sure: how sure it is that there is one, and from which confidence on that is said, in words.
    mel: (T, n_mels) its log-Mel spectrogram in dB, NaN beyond its sound; None without sound.
    """

    id: str
    attention: Mapping[str, Array]
    attention_of: str
    on: Array
    by_gate: bool
    decided_by: str
    clip_seconds: float
    step_s: float
    frame_time_s: Array
    pictures: Sequence[bytes]
    predicted: str
    confidence: float
    predicted_s: tuple[float, float]
    category: str | None = None
    true_s: tuple[float, float] | None = None
    empty: bool = False
    event: bool | None = None
    sure: str = ""
    mel: Array | None = None

    @classmethod
    def of(
        cls,
        cache: Cache,
        clips: FeatureStore,
        answer: Answer,
        maps: AttentionMaps,
        number: int,
        event: Mapping[str, Any],
    ) -> View:
        """The clip or event `number` of an answer; event: its id, and what is true if known.

        Class, interval and the probability of each part are the answer's own. The maps are of a
        pass of one model over the clip as it is; `maps.of` says so where the answer is the mean of
        more: of both directions, or of several models.
        """
        said, kept = answer.entry(number), maps[number]
        frames = kept["frame_time_s"]
        return cls(
            id=event["id"],
            attention={name: value for name, value in kept.items() if name != "frame_time_s"},
            attention_of=maps.of,
            on=answer.chance[number],
            by_gate=answer.by_gate,
            decided_by=answer.decided_by,
            clip_seconds=clips.shapes.clip_seconds,
            step_s=clips.step_s,
            frame_time_s=frames,
            pictures=cache.jpegs(event["id"]) if len(frames) else [],
            predicted=str(said["predicted"]),
            confidence=float(said["confidence"]),
            predicted_s=(float(said["predicted_start_s"]), float(said["predicted_end_s"])),
            category=event.get("category"),
            true_s=None if event.get("category") is None else (event["start_s"], event["end_s"]),
            empty="category" in event and event["category"] is None,
            event=said["event"],
            sure=_sure(said["event_confidence"], answer.event_threshold),
            mel=spectrogram(cache, event["id"]),
        )

    @property
    def outcome(self) -> str:
        """Which of OUTCOMES this is; "" of a clip of which nothing is known."""
        if self.empty:
            return "right" if self.event is False else "alarm"
        if self.true_s is None:
            return ""
        same = self.category == self.predicted
        return named(self.event, same, self.overlap)

    @property
    def overlap(self) -> float:
        """tIoU of what was said and what is true; NaN where nothing is."""
        if self.true_s is None:
            return float("nan")
        return overlap(*self.true_s, *self.predicted_s)

    @property
    def title(self) -> str:
        """What is true and what was predicted, in two or three lines."""
        lines = [label(self.id, 80)]
        if self.true_s is not None:
            lines.append(f"true: {label(self.category or '')}, {span(self.true_s)}")
        lines += ["true: no event"] if self.empty else []
        said = f"{label(self.predicted)} ({self.confidence:.0%}), {span(self.predicted_s)}"
        none = "no event; should there be one: " if self.event is False else ""
        return "\n".join([*lines, f"predicted: {none}{said}"])

    @property
    def gate_name(self) -> str:
        """What the line of `on` is called: a gate that didn't decide must not look as if it had."""
        return "gate" if self.by_gate else f"gate (start and end\nare {self.decided_by})"

    def part_edges(self) -> Array:
        """Edges of the clip's parts, (G + 1,) seconds."""
        return np.linspace(0.0, self.clip_seconds, len(self.on) + 1)

    def edges(self, stream: str, length: int) -> Array:
        """Edges in seconds of the cells of a map's axis, (length + 1,)."""
        if stream == "audio":
            return np.linspace(0.0, length * self.step_s, length + 1)
        middle = (self.frame_time_s[1:] + self.frame_time_s[:-1]) / 2
        last = 2 * self.frame_time_s[-1] - (middle[-1] if len(middle) else 0.0)
        return np.array([0.0, *middle, last], np.float64)


def _sure(confidence: float | None, threshold: float | None) -> str:
    if confidence is None or threshold is None:
        return ""
    return f"sure that there is an event: {confidence:.2f} (said from {threshold:.2f} on)"


def span(edges: tuple[float, float]) -> str:
    """An interval as text, with at most two decimals."""
    return "–".join(f"{round(edge, 2):g}" for edge in edges) + " s"


def spectrogram(cache: Cache, clip_id: str) -> Array | None:
    """A clip's log-Mel spectrogram, (T, n_mels) float64 in dB, NaN beyond its sound.

    None where the cache has no sound.
    """
    if "audio/mel" not in cache.fields:
        return None
    place = np.array([cache.row(clip_id)], np.int64)
    sound: Array = cache.read("audio/mel", place)[0].astype(np.float64)
    sound[cache.read("rows/audio_steps", place)[0] :] = np.nan
    return sound


def heard(mel: Array) -> Array:
    """The part of a spectrogram that has sound."""
    return mel[np.isfinite(mel).all(axis=1)]


def loudness(mel: Array) -> Array:
    """A spectrogram's decibels in [0, 1], from its quiet to its loud parts."""
    low, high = np.percentile(mel, [1, 99.8])
    return np.asarray(np.clip((mel - low) / max(high - low, 1e-6), 0, 1))
