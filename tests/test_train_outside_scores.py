"""The scores of recordings are those of others' programs, on lists with their answers written down.

`data/outside_scores.json` holds lists of events and what was said of them by sed_eval 0.2.1 (with
its default matching) and by the evaluation of ActionFormer, which is ActivityNet's and which
UnAV-100 takes. Where sed_eval is installed, it is asked again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_lists import rows

from train.score.events import EventList
from train.score.recordings import TOLERANCES, score_recordings

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "outside_scores.json").read_text(encoding="utf-8")
)
CLASSES = 3


def lists(case: dict[str, Any]) -> tuple[EventList, EventList]:
    return rows(*map(tuple, case["truth"])), rows(*map(tuple, case["found"]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("source", ["sed_eval", "activitynet"])
def test_scores_are_those_of_others(case: dict[str, Any], source: str) -> None:
    truth, found = lists(case)
    scores = score_recordings(truth, found, np.array(case["lengths_s"]), CLASSES)
    assert len(case[source]) >= 8
    for name, value in case[source].items():
        assert scores[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("case", CASES)
def test_the_written_answers_are_those_of_sed_eval(case: dict[str, Any]) -> None:
    kinds = pytest.importorskip("sed_eval").sound_event
    containers = pytest.importorskip("dcase_util").containers
    labels = [str(category) for category in range(CLASSES)]
    seconds = kinds.SegmentBasedMetrics(labels, time_resolution=1.0)
    events = {
        name: kinds.EventBasedMetrics(labels, t_collar=collar_s, percentage_of_length=share)
        for name, (collar_s, share) in TOLERANCES.items()
    }
    for number, length_s in enumerate(case["lengths_s"]):
        both = []
        for one in lists(case):
            own = one.of(one.recording == number)
            times = zip(own.category, own.start_s, own.end_s, strict=True)
            both.append(
                containers.MetaDataContainer(
                    [
                        {"event_label": str(label), "onset": float(start), "offset": float(end)}
                        for label, start, end in times
                    ]
                )
            )
        seconds.evaluate(*both, evaluated_length_seconds=length_s)
        for metric in events.values():
            metric.evaluate(*both)
    micro, macro = seconds.results_overall_metrics(), seconds.results_class_wise_average_metrics()
    answers = {
        "segment_f1": micro["f_measure"]["f_measure"],
        "segment_f1_macro": macro["f_measure"]["f_measure"],
        "segment_error_rate": micro["error_rate"]["error_rate"],
        "segment_error_rate_macro": macro["error_rate"]["error_rate"],
    }
    for name, metric in events.items():
        found = metric.results_overall_metrics()
        answers[f"event_f1@{name}"] = found["f_measure"]["f_measure"]
    assert case["sed_eval"] == pytest.approx(answers, abs=1e-6)
