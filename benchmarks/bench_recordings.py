"""Score the plain way of finding events in recordings, beside a run of ours. One JSON line.

    python benchmarks/bench_recordings.py CACHE --plain RUN [--ours RUN] [--split test]

CACHE: a labelled cache of windows, of the features that both runs were trained on. The plain way
asks a run of single events (a folder of seeds) about each window: where it says that there is an
event, the most probable class counts from start to end, and events of one class that touch or
overlap are one, as sure as its surest part. What `ours` scored on that split is read from its
folder, where `python -m train evaluate` wrote it. Figures are mean and standard deviation over
seeds; `ratio` is ours over the plain way's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cache import Cache, open_cache  # noqa: E402
from cache.common.strict_json import read_json  # noqa: E402
from cache.format.schema import BACKGROUND  # noqa: E402
from train.data.features import FeatureStore, load_features  # noqa: E402
from train.runs.folders import members  # noqa: E402
from train.runs.trained import Answer, TrainedModel, load_run  # noqa: E402
from train.score.events import EventList  # noqa: E402
from train.score.named import Scores, mean_and_deviation  # noqa: E402
from train.score.recordings import counts, score_recordings, trivial  # noqa: E402

Row = tuple[int, int, float, float, float]


class Split:
    """The recordings of a split: seconds, windows (rows of the cache), events."""

    def __init__(self, cache: Cache, classes: Sequence[str], split: str) -> None:
        labels = cache.labels
        rows = labels.rows(split)
        numbers = np.array([classes.index(name) for name in labels.classes], np.int64)
        names = sorted({labels.ids[row] for row in rows} & set(cache.recordings))
        place = {name: number for number, name in enumerate(names)}
        valid_s = cache.index.live.rows["valid_s"]
        ends = [
            [cache.windows[row].offset_s + valid_s[row] for row in cache.recordings[name]]
            for name in names
        ]
        self.lengths_s = np.array([max(some) for some in ends], np.float64)
        own = [row for row in rows if labels.ids[row] in place]
        own = [row for row in own if labels.category[row] != BACKGROUND]
        number = np.array([place[labels.ids[row]] for row in own], np.int64)
        start_s, end_s = labels.start_s[own], labels.end_s[own]
        self.truth = EventList.true(number, numbers[labels.category[own]], start_s, end_s)
        self.windows = [
            (number, row) for number, name in enumerate(names) for row in cache.recordings[name]
        ]


def plain(cache: Cache, split: Split, answer: Answer, threshold: float) -> EventList:
    """What is said of the windows whose confidence is no less, joined."""
    guess, found = answer.predictions, list[Row]()
    assert guess.event is not None
    for place, (number, row) in enumerate(split.windows):
        if guess.event[place] < threshold:
            continue
        offset_s, category = cache.windows[row].offset_s, int(guess.category[place])
        start_s = offset_s + float(guess.start_s[place])
        end_s = min(offset_s + float(guess.end_s[place]), float(split.lengths_s[number]))
        sure = float(guess.probability[place, category] * guess.event[place])
        if start_s < end_s:
            found.append((number, category, start_s, end_s, sure))
    return listed(joined(found))


def joined(events: list[Row]) -> list[Row]:
    """Events of one recording and class that touch or overlap become one."""
    whole: list[Row] = []
    for event in sorted(events):
        number, category, start_s, end_s, sure = event
        if whole and whole[-1][:2] == (number, category) and start_s <= whole[-1][3] + 1e-6:
            _, _, begin_s, until_s, surest = whole.pop()
            event = (number, category, begin_s, max(until_s, end_s), max(surest, sure))
        whole.append(event)
    return whole


def listed(events: list[Row]) -> EventList:
    """Rows as a list of events."""
    table = np.array(events, np.float64).reshape(-1, 5)
    number, category = table[:, :2].T.astype(np.int64)
    return EventList(number, category, table[:, 2], table[:, 3], table[:, 4].clip(0, 1))


def scored(cache: Cache, split: Split, model: TrainedModel, clips: FeatureStore) -> dict[str, Any]:
    """The plain way's scores with one model; mAP, of all that it could say, stands beside."""
    answer = model.answer(clips, torch.arange(len(clips.ids)))
    classes = len(model.about.classes)
    said = plain(cache, split, answer, answer.event_threshold or 0.0)
    every = plain(cache, split, answer, 0.0)
    scores = score_recordings(split.truth, said, split.lengths_s, classes)
    ranked = score_recordings(split.truth, every, split.lengths_s, classes)["tiou_map"]
    return {**scores, "tiou_map_of_all": ranked}


def rounded(several: list[Scores]) -> dict[str, list[float]]:
    """Mean and standard deviation of each score."""
    table = mean_and_deviation(several)
    return {name: [round(value, 4) for value in both] for name, both in table.items()}


def main() -> None:
    """Ask, score, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cache", type=Path, metavar="CACHE")
    parser.add_argument("--plain", type=Path, required=True, metavar="RUN")
    parser.add_argument("--ours", type=Path, metavar="RUN")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    cache, run = open_cache(options.cache), load_run(options.plain)
    classes = run.about.classes
    train, split = Split(cache, classes, "train"), Split(cache, classes, options.split)
    ids = [cache.ids[row] for _, row in split.windows]
    clips = load_features(cache, run.config("cpu"), ids, len(classes))
    counted = counts(split.truth, EventList.empty(), split.lengths_s)
    result: dict[str, Any] = {
        "benchmark": "recordings",
        "split": options.split,
        **{name: value for name, value in counted.items() if name != "found_events"},
        "seeds": len(run.models),
        "plain": rounded([scored(cache, split, model, clips) for model in run.models]),
    }
    for name, found in trivial(train.truth, train.lengths_s, split.lengths_s, len(classes)).items():
        result[name] = rounded(
            [score_recordings(split.truth, found, split.lengths_s, len(classes))]
        )
    if options.ours:
        stored = [read_json(one / f"metrics_{options.split}.json") for one in members(options.ours)]
        result["ours"] = rounded([one["scores"]["model"] for one in stored])
        result["ratio"] = {
            name: round(result["ours"][name][0] / value, 2)
            for name, (value, _) in result["plain"].items()
            if value and name in result["ours"]
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
