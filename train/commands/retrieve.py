"""`python -m train retrieve`: what a run's streams know of each other, on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cache import Cache
from cache.common.cli import say
from cache.common.errors import CacheError, ConfigError
from cache.joined import open_caches
from train.data.dataset import Dataset, choose_rows, load_dataset
from train.report.tables import spread
from train.runs import folders
from train.runs.looks import add_look
from train.runs.trained import TrainedModel, load_run
from train.score.metrics import segments
from train.score.predict import events
from train.score.retrieval import (
    CommonSpace,
    cosines,
    localization_accuracy,
    recalls,
    recalls_of_chance,
)
from train.score.streams import Streams, streams

_DIRECTIONS = {"audio_to_video": "sound → picture", "video_to_audio": "picture → sound"}


def retrieve(
    run: Path | None, cache_path: Path, split: str, device: str | None = None
) -> list[dict[str, Any]]:
    """Score each model of a run; writes `retrieval_<split>.json` beside it, and prints all.

    A look at test is counted as every other.
    """
    trained, cache = load_run(run), open_caches(cache_path)
    trained.check_features(cache)
    config = trained.config(device)
    if config.modality != "both" or config.events != "single":
        raise ConfigError(
            f"{trained.folder}: expected a run of both streams whose clips have one event at most, "
            f"found modality {config.modality}, events {config.events}"
        )
    if (trained.folder / folders.FOLDS_FILE).exists():
        raise ConfigError(f"{trained.folder}: a run of folds; name one of them")
    rows = choose_rows(cache, config, trained.about.classes)
    data = load_dataset(cache, config, ("train", split), rows)
    for name, samples in data.splits.items():
        if not samples.timed_count():
            raise CacheError(f"{cache.path}: the split {name!r} has no event that says when")
    found = [_scored(one, data, split) for one in trained.models]
    for one, result in zip(trained.models, found, strict=True):
        path = one.folder / f"retrieval_{split}.json"
        folders.write_json(path, result)
        if split == "test":
            add_look(one.folder, one.about.epoch, path.name, result["audio_to_video"])
    say(_table(cache, found, split))
    return found


def _scored(one: TrainedModel, data: Dataset, split: str) -> dict[str, Any]:
    model, clip_seconds = one.model.to(data.clips.device), data.clips.shapes.clip_seconds
    train, asked = data.splits["train"], data.splits[split]
    learned, truth = streams(model, data.clips, train.clip), events(train, clip_seconds)
    inside = segments(truth.category, truth.start_s, truth.end_s, clip_seconds, 1 << 30)
    pairs = (inside < 1 << 30) & truth.real[:, None] & learned.heard
    space = CommonSpace.of(learned.audio[pairs], learned.video[pairs])
    truth = events(asked, clip_seconds)
    said = streams(model, data.clips, asked.clip)
    heard, seen = space.heard(said.audio), space.seen(said.video)
    first = np.unique(asked.clip[torch.from_numpy(truth.real)].cpu().numpy(), return_index=True)[1]
    of_clips = np.flatnonzero(truth.real)[first]
    likeness = cosines(_clips(heard, said)[of_clips], seen.mean(axis=1)[of_clips])
    return {
        "split": split,
        "clips": len(of_clips),
        "audio_to_video": recalls(likeness),
        "video_to_audio": recalls(likeness.T),
        "chance": recalls_of_chance(len(of_clips)),
        "localization": localization_accuracy(heard, seen, truth, clip_seconds),
    }


def _clips(heard: Any, said: Streams) -> Any:
    """(N, k) the mean over the seconds that have sound."""
    weight = said.heard / said.heard.sum(axis=1, keepdims=True).clip(min=1)
    return (heard * weight[:, :, None]).sum(axis=1)


def _table(cache: Cache, found: list[dict[str, Any]], split: str) -> str:
    first = found[0]
    lines = [
        f"{split} of {cache.path}: {first['clips']} clips with an event, "
        f"{len(found)} model(s); by cosine in a common space of canonical correlation, fitted on "
        "the seconds of training events, each stream before it asks the other",
        f"{'':<18}{'recall@1':>16}{'recall@5':>16}{'recall@10':>16}{'median rank':>16}",
    ]
    for name, label in {**_DIRECTIONS, "chance": "chance"}.items():
        cells = spread([one[name] for one in found[: 1 if name == "chance" else None]])
        lines.append(f"{label:<18}" + "".join(f"{cell:>16}" for cell in cells.values()))
    cells = spread([one["localization"] for one in found])
    told = ", ".join(
        f"{label} {cells[name]}" for name, label in _DIRECTIONS.items() if name in cells
    )
    return "\n".join(
        [
            *lines,
            f"which seconds (cross-modality localization, Tian et al. 2018), of "
            f"{first['localization']['events']:.0f} events shorter than the clip: "
            + (f"{told}, chance {first['localization']['chance']:.3f}" if told else "none"),
        ]
    )
