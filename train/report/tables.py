"""Scores as text tables for people: one column per predictor, grouped by what they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cache.labels.annotations import without_an_event
from train.report.estimates import DIFFERENCES, Estimates, beside, difference, legend
from train.report.text_table import Columns, Groups, laid_out
from train.score.named import HEADLINES, MODEL, Result, Scores, mean_and_deviation

CLASS = {
    "top1": "top-1 accuracy",
    "top3": "top-3 accuracy",
    "top5": "top-5 accuracy",
    "precision": "precision (macro)",
    "recall": "recall (macro)",
    "f1": "F1 (macro)",
    "map": "mAP",
    "auc": "AUC",
    "ece": "calibration error ↓",
    "second_ece": "calibration error, seconds ↓",
}
WHEN = {
    "segment_accuracy": "segment accuracy (AVE)",
    "segment_f1": "segment F1",
    "miou": "mIoU",
    "localized_iou": "mIoU, wrong class = 0",
    "start_mae_s": "start MAE (s) ↓",
    "end_mae_s": "end MAE (s) ↓",
    "recall@0.3": "recall at tIoU 0.3",
    "recall@0.5": "recall at tIoU 0.5",
    "recall@0.7": "recall at tIoU 0.7",
    "recall@0.9": "recall at tIoU 0.9",
    "event_f1@0.5s": "event F1, collar 0.5 s",
    "event_f1@1s": "event F1, collar 1 s",
    "tiou_map": "mAP, mean of tIoU 0.1–0.9",
    "map@0.5": "mAP at tIoU 0.5",
}
PRESENCE = {
    "event_auc": "AUC, an event or none",
    "false_alarm_rate": "false alarms, of clips without ↓",
    "miss_rate": "misses, of clips with ↓",
    "segment_accuracy_all": "segment accuracy, all clips",
}
GROUPS = {
    "is there an event": PRESENCE,
    "which event": CLASS,
    "when": WHEN,
    "events shorter than the clip": {f"short_{key}": label for key, label in WHEN.items()},
}
HEADLINE = {
    "": {
        **{key: (CLASS | WHEN)[key] for key in ("segment_accuracy", "top1", "miou")},
        "localized_iou": WHEN["localized_iou"],
        "short_miou": "mIoU, shorter events",
    }
}
CRITERION_LABELS = {"localized_iou": WHEN["localized_iou"], "segment_map": "mAP of seconds"}
"""What decides on validation."""
RECORDINGS = {
    "events of any confidence": {
        "tiou_map": "mAP, mean of tIoU 0.1–0.9",
        **{f"map@{level}": f"mAP at tIoU {level}" for level in (0.1, 0.3, 0.5, 0.7, 0.9)},
    },
    "events that are said": {
        "event_f1@0.5s": "event F1, collar 0.5 s",
        "event_f1@1s": "event F1, collar 1 s",
        "event_f1@1s,20%": "event F1, 1 s or 20 % of the length",
        "event_f1@0.2s,20%": "event F1, 0.2 s or 20 % of the length",
        "false_alarms_per_hour": "false alarms an hour ↓",
        "false_alarms_per_hour_without_events": "false alarms an hour, where is none ↓",
        "miss_rate": "misses ↓",
    },
    "seconds": {
        "segment_f1": "segment F1",
        "segment_f1_macro": "segment F1 (macro)",
        "segment_error_rate": "segment error rate ↓",
        "segment_error_rate_macro": "segment error rate (macro) ↓",
    },
}
_ALL = {key: label for labels in RECORDINGS.values() for key, label in labels.items()}
HEADLINE_RECORDINGS = {"": {key: _ALL[key] for key in HEADLINES}}
Runs = dict[str, tuple[list[Result], Result | None]]
"""By name, the results of a run's models (a seed each) and of their ensemble, if there is one."""


def groups_of(result: Mapping[str, Any], brief: bool = False) -> Groups:
    """The scores that a result has: of clips with one event each, or of recordings."""
    if "recordings" in result:
        return HEADLINE_RECORDINGS if brief else RECORDINGS
    return HEADLINE if brief else GROUPS


def in_order(result: Mapping[str, Any], brief: bool = False) -> Groups:
    """The same for a text: the headline scores, then (unless brief) the others by group."""
    first = groups_of(result, brief=True)
    others = {} if brief else groups_of(result)
    rest = {
        name: {key: label for key, label in labels.items() if key not in first[""]}
        for name, labels in others.items()
    }
    return {**first, **rest}


def table(result: Result, width: int | None = None) -> str:
    """The scores of one evaluation, baselines beside each.

    width, here and below: letters in a line of what it is printed on; None where lines may be long.
    """
    columns = {name: with_intervals(result, name) for name in result["scores"]}
    scores = render(title(result), columns, in_order(result), width)
    return "\n".join([scores, *how_sure(result, width)])


def with_intervals(result: Result, predictor: str) -> dict[str, str]:
    """The scores of one predictor as text, with their intervals."""
    estimates = result.get("intervals", {}).get(predictor, {})
    return beside(plain(result["scores"][predictor]), estimates)


def apart(results: Mapping[str, Result], width: int | None = None) -> str:
    """The headline scores of several models of one run, a column each."""
    first, *_ = results.values()
    columns = {name: plain(result["scores"][MODEL]) for name, result in results.items()}
    return render("each of them", columns, groups_of(first, brief=True), width)


def seeds_table(
    results: list[Result], together: Result | None, of: str = "seeds", width: int | None = None
) -> str:
    """Mean ± sample standard deviation over seeds, their ensemble, and the baselines."""
    return comparison({MODEL: (results, together)}, of=of, width=width)


def comparison(runs: Runs, brief: bool = False, of: str = "seeds", width: int | None = None) -> str:
    """Runs side by side: each one's seeds and their ensemble, if any; the baselines once.

    Of one run also by how much it beats the baselines. brief: the headline scores alone.
    """
    groups = in_order(next(iter(runs.values()))[0][0], brief)
    columns: dict[str, Mapping[str, str]] = {}
    for name, (seeds, together) in runs.items():
        for predictor in [key for key in seeds[0]["scores"] if key.startswith(MODEL)]:
            if predictor.endswith("decoding") and (brief or len(runs) > 1):
                continue
            heading = of_seeds(predictor.replace(MODEL, name, 1), len(seeds), of)
            scores = spread([result["scores"].get(predictor, {}) for result in seeds])
            estimates = sure_of(seeds, together).get("intervals", {}).get(predictor, {})
            columns[heading] = beside(scores, estimates)
        if together is not None:
            columns[of_ensemble(name, len(seeds))] = with_intervals(together, MODEL)
    seeds, together = next(iter(runs.values()))
    first = seeds[0]
    for name in first["scores"]:
        if not name.startswith(MODEL):
            columns[name] = with_intervals(first, name)
    if len(runs) == 1:
        sure = how_sure(sure_of(seeds, together), width)
        return "\n".join([render(title(first), columns, groups, width), *sure])
    told = [f"{name}: {text}" for name, (seeds, _) in runs.items() for text in caveats(seeds[0])]
    brackets = legend(first.get("intervals", {}).get(MODEL, {}))
    return "\n".join(
        [render(scored(first), columns, groups, width), *([brackets] * bool(brackets)), *told]
    )


def of_seeds(name: str, seeds: int, of: str = "seeds") -> str:
    """The heading of a run's models."""
    return f"{name} ({seeds} {of})" if seeds > 1 else name


def of_ensemble(name: str, seeds: int) -> str:
    """The heading of their ensemble."""
    return f"{name}, ensemble of {seeds}"


def sure_of(seeds: Sequence[Result], together: Result | None) -> Mapping[str, Any]:
    """What holds the intervals of a run: its one result, or what was found over its seeds."""
    found: Mapping[str, Any] = seeds[0] if len(seeds) == 1 else (together or {}).get("of_seeds", {})
    return found


def how_sure(found: Mapping[str, Any], width: int | None = None) -> list[str]:
    """What the brackets mean, and by how much the model beats each baseline, where it is known."""
    brackets = legend(found.get("intervals", {}).get(MODEL, {}))
    ahead = {f"{MODEL} minus {name}": one for name, one in found.get("differences", {}).items()}
    return [*([brackets] * bool(brackets)), *([differences(ahead, width)] * bool(ahead))]


def differences(columns: Mapping[str, Estimates], width: int | None = None) -> str:
    """A table of differences of the headline scores, by what was taken from what."""
    texts = {
        name: {key: difference(one) for key, one in found.items()}
        for name, found in columns.items()
    }
    return f"\n{render(DIFFERENCES, texts, HEADLINE, width)}"


def plain(scores: Scores) -> dict[str, str]:
    """Scores as text with three decimals."""
    return {key: "–" if value is None else f"{value:.3f}" for key, value in scores.items()}


def spread(runs: Sequence[Scores]) -> dict[str, str]:
    """Mean ± sd of each score over seeds; the plain score of one."""
    sign = len(runs) > 1
    return {
        key: f"{mean:.3f} ± {deviation:.3f}" if sign else f"{mean:.3f}"
        for key, (mean, deviation) in mean_and_deviation(runs).items()
    }


def render(heading: str, columns: Columns, groups: Groups, width: int | None = None) -> str:
    """A line that says what was scored, then the groups of scores, see `laid_out`."""
    return f"{heading}\n{laid_out(columns, shown(groups, columns), width)}"


def shown(groups: Groups, columns: Columns) -> Groups:
    """The groups without that of clips that have no event, where no such clip was scored."""
    known = any(key in column for column in columns.values() for key in PRESENCE)
    return {name: labels for name, labels in groups.items() if known or labels != PRESENCE}


def title(result: Mapping[str, Any]) -> str:
    """Which events were scored, and what must be known to read the scores."""
    return "; ".join([scored(result), *caveats(result)])


def scored(result: Mapping[str, Any]) -> str:
    """Which events were scored."""
    left_out, empty = len(result["clips_without_features"]), result.get("clips_without_event", 0)
    if "recordings" in result:
        return (
            f"{result['split']}: {result['recordings']} recordings of {result['hours']:.2f} h with "
            f"{result['events']} events of {result['classes_in_split']} classes, "
            f"{result['recordings_without_events']} of them without an event"
            + (f"; {left_out} labelled recording(s) without features left out" if left_out else "")
        )
    vague = result.get("events_without_times", 0)
    return (
        f"{result['split']}: {result['events']} events, {result['events_shorter_than_clip']} of "
        f"them shorter than the clip, {result['classes_in_split']} classes"
        + (f"; {vague} of them say no times: their classes alone are scored" if vague else "")
        + (f"; and {without_an_event(empty)}" if empty else "")
        + (f"; {left_out} labelled clip(s) without features left out" if left_out else "")
    )


def caveats(result: Mapping[str, Any]) -> list[str]:
    """What makes scores other than they seem: seen clips, other code, another cache, many looks."""
    found = []
    if result.get("other_cache") is not None:
        found.append(f"of other labels than the run's own, those of {result['other_cache']}")
    for split, what in (("train", "trained"), ("val", "selected")):
        ids = result.get("seen", {}).get(split, [])
        if ids:
            named = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
            found.append(f"{len(ids)} of its clips the run was {what} on ({named})")
    if not result.get("seen_known", False):
        found.append("which clips the run has seen is not known (it has no record)")
    if result.get("code_differs"):
        changed = ", ".join(f"{name}.py" for name in result["code_differs"])
        found.append(f"by other code than it was trained by ({changed} changed)")
    unknown = result.get("unknown_classes", {})
    if unknown:
        named = ", ".join(f"{name} ({count})" for name, count in unknown.items())
        found.append(f"left out: {sum(unknown.values())} events of unknown classes: {named}")
    looks = result.get("test_looks", 1)
    if looks > 1:
        found.append(f"this run has now been scored on test {looks} times")
    return found


def class_table(result: Result) -> str:
    """Each class's scores, hardest first."""
    frame = pd.DataFrame(result["per_class"]).set_index("class")
    return frame.to_string(float_format="{:.3f}".format, index_names=False)
