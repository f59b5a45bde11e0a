"""One training of `python -m train fit`: begun or resumed, recorded, scored on val."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cache import Cache
from cache.common.atomic import replace_file
from cache.common.cli import say
from train.commands.curves import Curves, draw_curves
from train.commands.evaluate import score_model
from train.commands.plan import WHOLE, Job
from train.commands.scored import Scored
from train.data.dataset import Dataset
from train.distributed import ProcessGroup
from train.model.fusion import FusionModel
from train.runs import folders, record
from train.runs.checkpoint import About
from train.runs.making import Init
from train.runs.recordings import on_recordings
from train.runs.trained import TrainedModel
from train.score.predict import TrainingError
from train.training.also_test import look_at
from train.training.begin import described
from train.training.choice import why_ended
from train.training.loop import train_model
from train.training.normalize import normalize
from train.training.settle import described_read_off, settle
from train.training.state import History
from train.training.tell import Callback, Console, MetricsFile, TensorBoard
from train.training.validate import calibration_notes

Kind = tuple[str, str]
"""A part of the data and the streams that a model gets of it."""


@dataclass(frozen=True)
class Trainings:
    """What the trainings of one command share.

    Attributes
    ----------
    datasets: each part of the data, train and val; learned: the same by kind, as it is trained and
        chosen on (see `with_times`).
    test: what is scored after each epoch beside the training, if anything is.
    top: the folder that each training has its own in; pictures: how many clips are drawn.
    """

    cache: Cache
    datasets: Mapping[str, Dataset]
    learned: Mapping[Kind, Dataset]
    test: Dataset | None
    top: Path
    resume: bool
    pictures: int
    group: ProcessGroup

    def run(self, job: Job) -> Scored | None:
        """One model, trained and scored; None in the processes that don't score."""
        learned = self.learned[job.part, job.config.modality]
        history = self._train(learned, job)
        if not self.group.is_main_process:
            return None
        narrowed = only(self.datasets[job.part], job.config.modality)
        return self._score(narrowed, learned, self.top / job.name, history)

    def _train(self, dataset: Dataset, job: Job) -> History:
        run, config, init, group = self.top / job.name, job.config, None, self.group
        about = About.of(config, dataset, self.cache)
        torch.manual_seed(config.seed)
        model = FusionModel(dataset.clips.shapes, config).to(dataset.clips.device)
        normalize(model, dataset.clips, dataset.splits["train"], group)
        again = self.resume and (run / folders.LAST).exists()
        if job.start is not None and not again:
            init = job.start.init(job.start.take_over(model, dataset.classes))
        if group.is_main_process:
            count = sum(parameter.numel() for parameter in model.parameters())
            where = dataset.clips.device.type
            where = where if group.size == 1 else f"{group.size} processes, {where}"
            say(f"run {run}: {count:,} parameters on {where}, seed {config.seed}")
            if init is not None:
                say(f"init: {described(*init, dataset)}")
            self._record_start(dataset, run, about, again, init)
        look = None
        if self.test is not None:
            look = look_at(only(self.test, config.modality), run, group)
        callbacks: list[Callback] = [Console(), MetricsFile(run), TensorBoard(run)]
        callbacks += [Curves(run, config)] if self.pictures else []
        try:
            history = train_model(model, dataset, about, run, again, group, callbacks, look)
        except TrainingError as error:
            if group.is_main_process:
                record.end(run, str(error), well=False)
            raise
        if group.is_main_process:
            record.end(run, why := why_ended(history, config))
            say(f"ended: {why}")
        return history

    def _record_start(
        self,
        dataset: Dataset,
        run: Path,
        about: About,
        again: bool,
        init: tuple[Init, frozenset[str]] | None,
    ) -> None:
        """Store how a run is made, before its first epoch or those that are to follow."""
        config, train = about.config, dataset.splits["train"]
        before = record.read(run, about) if again else None
        if before is not None or not again:  # a run of an older version stays without
            epochs = config.epochs_over(train.epoch_size(config.background_share))
            making = None if before is None else before.making
            rows, device = dataset.rows.used(), dataset.clips.device
            record.start(run, rows, device, self.group.size, epochs, making, init)
        replace_file(run / folders.CONFIG_FILE, config.to_json().encode())
        folders.write_json(run / folders.FEATURES_FILE, self.cache.identity.record())

    def _score(self, dataset: Dataset, learned: Dataset, run: Path, history: History) -> Scored:
        """Score a model that was trained just now on val, and draw how it was trained.

        learned: the data as it was trained and chosen on.
        """
        folders.write_json(run / folders.HISTORY_FILE, history)
        one = TrainedModel.load(run)
        listed = on_recordings(self.cache, one.about)
        if one.about.config.events == "single":
            trained = one.about.config.gate_weight > 0
            why = "which scored higher on val" if trained else "as the gate has no loss"
            if not learned.splits["val"].timed_count():
                why = "as no times of val are looked at"
            say(f"start and end: by the {one.about.decoding}, {why}")
            folds = WHOLE not in self.datasets
            for text in calibration_notes(one.about.calibration, learned, folds):
                say(text)
        if listed:
            one = settle(one, self.cache, dataset)
            say(described_read_off(one.about))
        if self.pictures:
            draw_curves(run, history, one.about.epoch)
        data = dataset.rows if listed else dataset
        return score_model(self.cache, data, one, "val", self.pictures)


def only(dataset: Dataset, modality: str) -> Dataset:
    """The same data with the streams that a model of this modality reads; nothing is copied."""
    clips = dataset.clips
    return replace(
        dataset,
        clips=replace(
            clips,
            audio=None if modality == "video" else clips.audio,
            maps=None if modality == "audio" else clips.maps,
        ),
    )
