"""Begin from the weights of another run: trained on one set first, then on another.

Whatever has the same name and shape is taken, with the statistics that the inputs are normalized
by, since the weights above were trained on them. Of the class head, the rows of classes of the
same name. The other run's folder is read once, before training; only its name, the digest of its
weights and the ids that they have seen are kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cache import Cache
from cache.common.cli import say
from cache.common.errors import ConfigError
from cache.common.plain import open_plain
from cache.format.names import one_form
from train.config import TrainConfig
from train.data.dataset import Dataset
from train.model.fusion import FusionModel
from train.runs.clip_features import check_same_features
from train.runs.folders import weights_file
from train.runs.making import Init
from train.runs.trained import TrainedModel, load_run

_HEAD = ("classify.weight", "classify.bias")
_STREAMS = {"both": {"audio", "video"}, "audio": {"audio"}, "video": {"video"}}
_SETTINGS = {
    "audio": ("audio_feat_dim", "audio_rate_hz", "num_heads"),
    "video": ("video_feat_dim", "map_channels", "num_heads"),
}
_NAMED = 5


@dataclass(frozen=True)
class Start:
    """A model from whose weights a training begins.

    name: its run's folder, for people; sha256: of its file of weights.
    """

    one: TrainedModel
    name: str
    sha256: str

    @torch.no_grad()
    def take_over(self, model: FusionModel, classes: Sequence[str]) -> str:
        """Put the weights into a model of these classes; what was taken, in a line.

        Raises ConfigError, naming what differs, where the streams' own weights don't fit.
        """
        theirs, mine = self.one.model.state_dict(), model.state_dict()
        body = [name for name in mine if name not in _HEAD]
        fitting = [n for n in body if n in theirs and theirs[n].shape == mine[n].shape]
        fresh = [name for name in body if name not in fitting]
        self._check_streams(fresh, mine, theirs)
        for name in fitting:
            mine[name].copy_(theirs[name])
        numbers = {one_form(name): number for number, name in enumerate(self.one.about.classes)}
        places = {row: numbers.get(one_form(name)) for row, name in enumerate(classes)}
        pairs = [(row, place) for row, place in places.items() if place is not None]
        if theirs[_HEAD[0]].shape[1:] != mine[_HEAD[0]].shape[1:]:
            pairs = []
        for name in _HEAD:
            for row, place in pairs:
                mine[name][row] = theirs[name][place].to(mine[name].device)
        new = [name for row, name in enumerate(classes) if row not in dict(pairs)]
        parts = [f"{len(fitting)} of {len(body)} tensors, the input statistics among them"]
        parts.append(f"{len(pairs)} of {len(classes)} classes by name")
        text = f"taken: {', '.join(parts)}"
        left = [*([f"classes {_some(new)}"] if new else []), *([_some(fresh)] if fresh else [])]
        return f"{text}; fresh: {', '.join(left) or 'nothing'}"

    def _check_streams(
        self, fresh: Sequence[str], mine: dict[str, Tensor], theirs: dict[str, Tensor]
    ) -> None:
        wrong = [
            f"{name} {list(theirs[name].shape)}, expected {list(mine[name].shape)}"
            for name in fresh
            if name in theirs and name.split(".")[0] in ("audio", "video", "cross")
        ]
        if wrong:
            raise ConfigError(
                f"--init: the weights of {self.name} don't fit this model and cache: "
                f"{_some(wrong)}; train it anew, or leave --init out"
            )

    def init(self, taken: str) -> tuple[Init, frozenset[str]]:
        """What a record keeps of it, and the ids (NFC) that its weights have seen."""
        record = self.one.record
        init = Init(
            run=self.name,
            checkpoint_sha256=self.sha256,
            taken=taken,
            seen_known=record is not None and record.knows_seen,
        )
        return init, frozenset() if record is None else record.all_seen()


def starts(run: Path, cache: Cache, config: TrainConfig) -> list[Start]:
    """The models of a run, to begin with; several where it is a folder of seeds or of folds.

    Raises ConfigError or CacheError, naming what differs, where a model of `config` on this cache
    can't begin with them.
    """
    trained = load_run(run)
    for text in trained.cautions():
        say(f"warning: {text}", error=True)
    for one in trained.models:
        _check_streams_there(one, config.modality)
        _check_settings(one, config)
        streams = one.about.config.revised(modality=config.modality)
        check_same_features(cache, one.about.revised(config=streams), one.folder)
    top = Path(os.path.realpath(trained.folder)).name
    return [
        Start(one, str(Path(top, one.folder.relative_to(trained.folder))), _sha256(one.folder))
        for one in trained.models
    ]


def described(init: Init, seen: frozenset[str], dataset: Dataset) -> str:
    """Whose weights a training begins with and what of them, for people."""
    text = f"from {init.run} (sha256 {init.checkpoint_sha256[:16]}…), {init.taken}"
    if not init.seen_known:
        return f"{text}; which clips they have seen is not known (no record)"
    held = {
        one_form(dataset.ids[row])
        for n, s in dataset.splits.items()
        if n != "train"
        for row in s.rows
    }
    if held & seen:
        text += (
            f"; warning: they have seen {len(held & seen)} of the {len(held)} clips that are to "
            "select or be scored here, so that these scores flatter"
        )
    return text


def _check_streams_there(one: TrainedModel, modality: str) -> None:
    theirs = one.about.config.modality
    missing = sorted(_STREAMS[modality] - _STREAMS[theirs])
    if missing:
        raise ConfigError(
            f"--init {one.folder}: has no weights for {' and '.join(missing)}, it was trained on "
            f"{theirs} alone; pass --modality {theirs}, or a run of both streams"
        )


def _check_settings(one: TrainedModel, config: TrainConfig) -> None:
    """Raise ConfigError where settings differ that decide what the weights of a stream mean."""
    theirs = one.about.config
    names = dict.fromkeys(n for s in sorted(_STREAMS[config.modality]) for n in _SETTINGS[s])
    wrong = [name for name in names if getattr(theirs, name) != getattr(config, name)]
    if wrong:
        flags = " ".join(f"--{n.replace('_', '-')} {getattr(theirs, n)}" for n in wrong)
        raise ConfigError(
            f"--init {one.folder}: was trained with other settings ("
            + ", ".join(f"{n} {getattr(theirs, n)}, here {getattr(config, n)}" for n in wrong)
            + f"), so that its weights don't fit; pass {flags}"
        )


def _sha256(folder: Path) -> str:
    with os.fdopen(open_plain(weights_file(folder)), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
