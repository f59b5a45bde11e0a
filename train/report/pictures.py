"""Everything that is drawn of a model on a split: the page, figures of all of it, of some clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import Cache
from train.data.dataset import Dataset
from train.report import page, plots, run_plots
from train.report.drawing import FOLDER, save_figures
from train.report.media import playable
from train.report.outcomes import events_to_draw, hardest
from train.report.views import GALLERY, AttentionMaps, View
from train.runs.trained import Answer, TrainedModel
from train.score.named import Result

_GATES = 6  # clips drawn from either end of the list


def maps_to_draw(
    one: TrainedModel, dataset: Dataset, truth: Sequence[Mapping[str, Any]], pictures: int
) -> AttentionMaps:
    """What must be kept while a split with these events is answered, to draw so many of them."""
    clips = dataset.clips
    return AttentionMaps(
        one, clips, events_to_draw(truth, clips.shapes.clip_seconds, pictures), truth
    )


def draw_split(
    place: Path,
    cache: Cache,
    dataset: Dataset,
    answer: Answer,
    result: Result,
    answered: Sequence[Mapping[str, Any]],
    maps: AttentionMaps,
    pictures: int,
    media: Sequence[Path] | None = None,
    heads: bool = False,
) -> None:
    """Draw a model's answer to a split into `place`, where its scores are.

    answered: see `answered_events`; maps: those of `maps_to_draw`, after the answer; media: files,
    or folders of files, that the page plays; heads: draw each head's attention as well.
    """
    split, clips = result["split"], dataset.clips

    def views(numbers: Sequence[int]) -> list[View]:
        return [View.of(cache, clips, answer, maps, n, answered[n]) for n in numbers]

    order = hardest(dict(enumerate(answered)))
    ends = list(dict.fromkeys([*order[:_GATES], *order[-_GATES:]]))  # the worst, then the best
    shown = order[:GALLERY]
    seconds = clips.shapes.clip_seconds
    counts = np.array(result["confusion"], np.float64)
    figures = {
        f"intervals_{split}": run_plots.intervals_figure(answered, seconds),
        f"confusion_{split}": run_plots.confusion_figure(counts, dataset.classes),
        f"gates_{split}": run_plots.gates_figure(views(ends)),
    }
    save_figures(place / FOLDER, figures)
    ids = [answered[n]["id"] for n in shown]
    files = None if media is None else playable(cache, media, ids, place)
    page.write(place, result, [answered[n] for n in order], views(shown), files)
    for view in views(events_to_draw(answered, seconds, pictures)):
        plots.draw_clip(place / FOLDER / split, view, heads)
