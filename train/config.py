"""Every choice of a training run: one frozen model, one flag per field, portable JSON."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from cache.common.settings import Settings

SCORED = "folds"
"""Of cross-validation: the name, among a fold's splits, of the part that is scored."""
_EPOCHS, _LEAST_STEPS = 60, 400
_ONE_THREAD_ROWS = 1000
_SPLICED = 0.5


class TrainConfig(Settings):
    """Settings of a training run."""

    num_classes: int | None = Field(default=None, ge=1, le=1 << 20)
    """Classes to tell apart; None takes the cache's own. Another number than the cache's is
    refused."""
    num_frames: int | None = Field(default=None, ge=1, le=1 << 20)
    """Video frames per clip; None takes the cache's own. Another number is refused."""
    events: Literal["auto", "single", "several"] = "auto"
    """How many events a clip may have. single: one, or none. several: any number, which may overlap
    and repeat: each class is on or off at each step. auto: several where more than a few per cent
    of the training clips have two events or more; a run keeps what was decided."""
    modality: Literal["both", "audio", "video"] = "both"
    """Which streams the model gets: one flag for the audio-only and video-only ablations."""
    fields: str | None = Field(default=None, max_length=4096)
    """Names of the cache's fields that the model reads, with commas between: audio/mel,video/maps.
    None: all."""
    class_fields: str | None = Field(default=None, max_length=4096)
    """Names of those sound fields that tell which event it is, and not when, with commas between:
    of features with a wide window, which name an event well and blur where it begins."""

    weak: bool = False
    """Learn from classes alone, as in AVE's weakly supervised setting: nothing that is trained or
    chosen sees when events are. Training rows without times are learned from in any case."""

    batch_size: int = Field(default=32, ge=1, le=1 << 20)
    """Label rows per optimizer step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW's step size before any plateau."""
    epochs: int | None = Field(default=None, ge=1, le=1 << 40)
    """Passes over the training rows; the learning rate falls by their number. None: 60, and over
    few rows as many as make 400 steps."""
    selection: Literal["last", "best"] = "last"
    """Which weights are kept. last: of the last epoch; the learning rate falls on the way there,
    and nothing but the calibration follows the validation split. best: of the epoch with the best
    validation score, which overfits a small split."""
    patience: int = Field(default=10, ge=1, le=1 << 40)
    """Epochs without a better validation score after which training stops (selection best)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """AdamW's decoupled weight decay."""
    grad_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; a longer one is scaled down to it."""
    interval_weight: float = Field(default=0.3, ge=0)
    """Weight of the L1 loss of start and end (fractions of the clip) beside the cross-entropy."""
    gate_weight: float = Field(default=1.0, ge=0)
    """Weight of the event gate's loss: for each step, is the event heard and seen? With 0 the gate
    learns from the interval alone, and the interval's own decoding is used."""
    average_epochs: float = Field(default=5.0, ge=0, le=1e6)
    """The weights that are validated and kept are an average over about this many epochs; 0 keeps
    the last step's."""
    reversed_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the training rows that run backwards in time, drawn anew in each epoch."""
    spliced_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the training rows with an event shorter than the clip around which other clips'
    sound and frames are put, drawn anew for each batch. None: 0.5 where there are training clips
    without an event, which it helps to tell from others, else 0."""
    background_share: float = Field(default=0.5, ge=0, le=1)
    """Largest share of an epoch's samples that may be clips without an event; where there are more,
    as many are drawn anew in each epoch."""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    """Share of the class target that is spread over all classes."""
    scheduler_factor: float = Field(default=0.5, gt=0, lt=1)
    """ReduceLROnPlateau multiplies the learning rate by this (selection best)."""
    scheduler_patience: int = Field(default=3, ge=0, le=1 << 40)
    """Epochs without a better validation score before the learning rate falls (selection best)."""

    audio_feat_dim: int = Field(default=64, ge=8, le=4096)
    """Width of the audio stream."""
    video_feat_dim: int = Field(default=64, ge=8, le=4096)
    """Width of the video stream."""
    map_channels: int = Field(default=32, ge=8, le=4096)
    """Channels that the wide frame maps are projected to before channel and spatial attention."""
    num_heads: int = Field(default=8, ge=1, le=1024)
    """Heads of every temporal and cross-modal attention; divides both widths."""
    dropout: float = Field(default=0.3, ge=0, lt=1)
    """Dropout after every attention, feed-forward and pooled vector."""
    input_dropout: float = Field(default=0.5, ge=0, lt=1)
    """Dropout on the normalized audio features and on the pooled channels of each frame."""
    audio_rate_hz: float = Field(default=2.0, gt=0, le=1000)
    """Audio steps per second that the model sees: cached steps are averaged at load time."""

    drop_leaks: bool = False
    """Leave out of training (and validation) the ids that also stand in a later split."""
    seed: int = Field(default=42, ge=0, lt=1 << 32)
    """Seeds weights, dropout and the order of rows."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes CUDA, then MPS, then the CPU."""

    threads: int | None = Field(default=None, ge=1, le=1024)
    """Threads of a training on the CPU; the last digits of its numbers depend on them. With one,
    several trainings (--seeds, --folds, --ablations) run side by side. None: one up to 1,000
    training samples, over more all cores."""
    memory_gb: float | None = Field(default=None, gt=0, le=1e9)
    """Most memory that features may take, in 10⁹ bytes, on the device and (where they don't fit
    there) in the host; None takes 90 % of what is free. What doesn't fit is streamed, and the
    order of rows then depends on it."""

    def epochs_over(self, rows: int) -> int:
        """Passes over so many training rows."""
        if self.epochs is not None:
            return self.epochs
        return max(_EPOCHS, math.ceil(_LEAST_STEPS / math.ceil(rows / self.batch_size)))

    def threads_over(self, rows: int) -> int | None:
        """Threads of a training on the CPU over so many training rows; None: as many as torch's."""
        return 1 if self.threads is None and rows <= _ONE_THREAD_ROWS else self.threads

    def spliced_share_of(self, background: bool) -> float:
        """See `spliced_share`; background: whether there are training clips without an event."""
        if self.spliced_share is not None:
            return self.spliced_share
        return _SPLICED if background else 0.0

    @model_validator(mode="after")
    def _heads_divide(self) -> TrainConfig:
        for name in ("audio_feat_dim", "video_feat_dim"):
            width = getattr(self, name)
            if width % self.num_heads or width % 2:
                raise ValueError(
                    f"{name} {width} must be even and divisible by num_heads {self.num_heads}"
                )
        return self


PRESETS = {
    "classic": TrainConfig(
        num_classes=28,
        batch_size=4,
        learning_rate=1e-4,
        epochs=30,
        num_frames=8,
        audio_feat_dim=256,
        video_feat_dim=256,
        map_channels=64,
        num_heads=8,
        dropout=0.2,
        label_smoothing=0.1,
        selection="best",
        patience=10,
        gate_weight=0.0,
        input_dropout=0.0,
        average_epochs=0.0,
        reversed_share=0.0,
        spliced_share=0.0,
    ),
}
