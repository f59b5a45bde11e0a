"""What a sweep found: trials.csv, best.json and sweep.html, one page that needs no network."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from cache.common.atomic import replace_file
from cache.common.cli import printable
from train.config import TrainConfig
from train.report.drawing import base64_text, png
from train.report.tables import CRITERION_LABELS
from train.runs.folders import write_json
from train.sweep import plots
from train.sweep.compare import NORMAL, Again, best_of
from train.sweep.study import best_first, finished, optuna_here, shown_value, state_of

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

CSV, BEST, PAGE = "trials.csv", "best.json", "sweep.html"
_PLACE = ("device", "memory_gb", "threads", "seed", "num_classes", "num_frames", "events")
_SHOWN = 20


def trials_csv(study: optuna.Study) -> str:
    """A line for each trial: its number, what became of it, its score, its settings, the reason."""
    trials = study.get_trials(deepcopy=False)
    names = sorted({name for one in trials for name in one.params})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "score", "looks", *names, "seconds", "reason"])
    for one in trials:
        params = [one.params.get(name, "") for name in names]
        took = "" if one.duration is None else f"{one.duration.total_seconds():.1f}"
        reason = printable(str(one.user_attrs.get("reason", "")))
        score = "" if one.value is None else one.value
        looks = len(one.intermediate_values)
        writer.writerow([one.number, state_of(one), score, looks, *params, took, reason])
    return text.getvalue()


def changed(config: TrainConfig, settings: Mapping[str, object]) -> dict[str, object]:
    """What `--config` takes to train so: whatever is not the default, but for where it runs."""
    chosen = config.revised(**settings).model_dump(mode="json")
    normal = TrainConfig().model_dump(mode="json")
    return {
        name: value
        for name, value in chosen.items()
        if value != normal[name] and name not in _PLACE
    }


@dataclass(frozen=True)
class Found:
    """All that the page tells. config: of what is not searched, as it is trained in full."""

    folder: Path
    study: optuna.Study
    config: TrainConfig
    criterion: str
    data: str
    shared: str
    again: Sequence[Again]

    @property
    def verdict(self) -> str:
        """What came of it, in a sentence or two."""
        if not self.again:
            return "The best trials have not been trained again yet: no trial is a find so far."
        best, normal = best_of(self.again), self.again[0]
        seeds = len(normal.scores)
        if best.name == NORMAL:
            return (
                f"No trial is better than the default ({normal.mean:.4f}) with each of {seeds} "
                f"fresh seeds{self._beyond}. {BEST} holds the default."
            )
        return (
            f"{best.name} beats the default with each of {seeds} fresh seeds: {self._criterion} "
            f"{best.mean:.4f} against {normal.mean:.4f}{interval(best)}. {BEST} holds its settings."
        )

    @property
    def _criterion(self) -> str:
        return CRITERION_LABELS.get(self.criterion, self.criterion)

    @property
    def _beyond(self) -> str:
        paired = any(one.gain is not None for one in self.again)
        return ", and on val's clips beyond the 95 % interval" if paired else ""

    def write(self) -> None:
        """Write the table, the settings (once trials were trained again) and the page."""
        replace_file(self.folder / CSV, trials_csv(self.study).encode("utf-8", "replace"))
        if self.again:
            write_json(self.folder / BEST, changed(self.config, best_of(self.again).settings))
        replace_file(self.folder / PAGE, self._page().encode("utf-8", "replace"))

    def _page(self) -> str:
        trials = self.study.get_trials(deepcopy=False)
        states = Counter(map(state_of, trials))
        done = best_first(self.study)
        rest = [one for one in trials if state_of(one) != "complete"]
        return _template().render(
            title=f"Sweep: {self.folder.resolve().name}",
            verdict=self.verdict,
            data=self.data,
            shared=self.shared,
            criterion=self._criterion,
            told=f"{finished(states)} trials: "
            + ", ".join(f"{count} {name}" for name, count in sorted(states.items())),
            again=[_row(one) for one in self.again],
            seeds=len(self.again[0].scores) if self.again else 0,
            paired=bool(self._beyond),
            figures=self._figures(done, trials),
            names=sorted({name for one in trials for name in one.params}),
            best=[_trial(one) for one in done[:_SHOWN]],
            others=[_trial(one) for one in (*done[_SHOWN:], *rest)],
        )

    def _figures(
        self, done: Sequence[FrozenTrial], trials: Sequence[FrozenTrial]
    ) -> list[tuple[str, str, str]]:
        """Heading, what is to be seen, and the picture as base64, of each figure."""
        if len(done) < 2:
            return []
        found = [
            (
                "History",
                "Each trial's score in the order they began; the line is the best so far.",
                plots.history(trials, self._criterion),
            )
        ]
        if shares := importance(self.study):
            found.append(
                (
                    "What mattered",
                    "Share of the difference between good and other trials that a setting tells "
                    "(PED-ANOVA, Watanabe 2023); from few trials a rough guess.",
                    plots.importance(shares),
                )
            )
        by_weight = list(shares) or sorted(done[0].params)
        found += [
            (
                "Slices",
                "Each setting against the score. A slope is a hint: the others vary as well.",
                plots.slices(done, by_weight, self._criterion),
            ),
            (
                "All settings together",
                "A line a trial, the best fifth in colour: where these come together matters.",
                plots.parallel(done, by_weight, self._criterion),
            ),
        ]
        return [(name, text, base64_text(png(figure, dpi=100))) for name, text, figure in found]


def importance(study: optuna.Study) -> dict[str, float]:
    """How much of the score's differences each setting tells; {} where trials are too few."""
    tools = optuna_here()
    try:
        found = tools.importance.get_param_importances(study)
    except (RuntimeError, ValueError):
        return {}
    return {name: float(share) for name, share in found.items()}


def interval(one: Again) -> str:
    """The gain and its interval, for people."""
    if one.gain is None or one.gain.low is None or one.gain.high is None:
        return ""
    return f" ({one.gain.mean:+.4f}, 95 % [{one.gain.low:+.4f}, {one.gain.high:+.4f}])"


def _row(one: Again) -> dict[str, Any]:
    ahead = one.ahead
    return {
        "name": one.name,
        "mean": f"{one.mean:.4f}",
        "scores": ", ".join(f"{score:.3f}" for score in one.scores),
        "ahead": ", ".join(f"{gain:+.3f}" for gain in ahead) if one.name != NORMAL else "",
        "gain": interval(one).strip(" ()"),
        "verdict": "" if one.name == NORMAL else "a find" if one.is_better else "not beyond chance",
        "settings": ", ".join(f"{n} {shown_value(v)}" for n, v in one.settings.items()),
    }


def _trial(one: FrozenTrial) -> dict[str, Any]:
    return {
        "number": one.number,
        "state": state_of(one),
        "score": "" if one.value is None else f"{one.value:.4f}",
        "values": {name: shown_value(value) for name, value in one.params.items()},
        "reason": printable(str(one.user_attrs.get("reason", ""))),
    }


def _template() -> jinja2.Template:
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    engine = jinja2.Environment(loader=folder, autoescape=True, undefined=jinja2.StrictUndefined)
    return engine.get_template("sweep.html")
