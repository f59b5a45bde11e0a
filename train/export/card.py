"""The card of a model that is handed over: what it is, what it was trained on, how good it is.

The file's head is what model hubs read (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from cache.common.cli import printable
from cache.format.identity import Identity
from train.export.onnx_file import ANY, ONE, Checked
from train.runs import code
from train.runs.answers import STREAMS
from train.runs.checkpoint import About
from train.runs.timelines import read_off_of
from train.runs.trained import TrainedRun

FILE = "README.md"
NOT_STATED = "not stated"
_FEW_CLIPS = 1000
_AVE = (
    "Tian, Shi, Li, Duan & Xu, “Audio-Visual Event Localization in Unconstrained Videos”, ECCV 2018"
)


@dataclass(frozen=True)
class Card:
    """What a card says beside what the run itself says.

    features: what they were, None of joined caches; name: of the folder, as it is used; scores: a
    table for each split, None where it was not evaluated; looks: how often test was looked at;
    onnx: the files' check, or why there are none; record_left_out: whether the clips that it has
    seen are not told.
    """

    run: TrainedRun
    features: Identity | None
    name: str
    scores: Mapping[str, str | None]
    looks: int
    licence: str
    onnx: Checked | str
    record_left_out: bool

    def render(self) -> str:
        """The text of the file."""
        folder = jinja2.FileSystemLoader(Path(__file__).parent)
        engine = jinja2.Environment(
            loader=folder, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
        run, about, models = self.run, self.run.about, len(self.run.models)
        return engine.get_template("card.md").render(
            front_licence=_front(self.licence),
            title=f"{_some(len(about.classes), 'class')}, {STREAMS[about.config.modality]}",
            what=_what(about, models),
            version=code.version(),
            folder=shlex.quote(printable(self.name)),
            joined=self.features is None,
            media=_from_media(self.features),
            text=json.dumps(printable(self.name), ensure_ascii=False),
            onnx=_onnx(self.onnx, about),
            scores={n: t and _fenced(t) for n, t in self.scores.items()},
            looks=f"Looks at the test split: {self.looks}. Validation calibrated the answers, so "
            "its scores are a little high.",
            trained_on=_trained_on(run),
            classes=" · ".join(map(plain, about.classes)),
            answers=_answers(run, self.features),
            limits=_limits(run, self.record_left_out),
            licence=plain(self.licence),
            features_licence=_features_licence(self.features, about),
            cite=f"avel-two-stage {code.version()}; where AVE's clips or labels are used: {_AVE}.",
        )


def plain(text: str) -> str:
    """Text from files as Markdown shows it, whatever is in it: nothing in it is markup."""
    shown = html.escape(printable(text), quote=False)
    return re.sub(r"([\\`*_{}\[\]#|~!$])", r"\\\1", shown)


def _code(text: str) -> str:
    """The same between backticks, where no other character is markup."""
    return f"`{str(printable(text)).replace('`', chr(39))}`"


def _fenced(table: str) -> str:
    return str(printable(table, keep="\n")).replace("```", "'''")


def _front(licence: str) -> str:
    if licence == NOT_STATED:
        return "unknown"
    return licence.lower() if re.fullmatch(r"[A-Za-z0-9.-]{1,40}", licence) else "other"


def _some(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")


def _what(about: About, models: int) -> str:
    several = about.config.events == "several"
    said = "any number of events, which may overlap" if several else "one event, or none,"
    seconds = about.model_shapes().clip_seconds
    who = "One model" if models == 1 else f"An ensemble of {models} models, whose mean counts:"
    return (
        f"{who} that says of {seconds:g} s clips which of {_some(len(about.classes), 'class')} is "
        f"heard and seen, and when: {said} to a clip."
    )


def _onnx(found: Checked | str, about: About) -> str:
    if isinstance(found, str):
        return f"No ONNX file: {plain(found)}."
    sizes = ", ".join(f"`{name}` {size / 1e6:.2f} MB" for name, size in found.sizes.items())
    of = "real clips" if found.real else "made-up clips of the training features' statistics"
    moved = (
        f" (of {found.moved}, start or end are elsewhere, where two intervals are as good)"
        if found.moved
        else ""
    )
    return (
        f"`{ANY}` (any number of clips at once) and `{ONE}` (one) take the arrays of a cache as "
        f"they are; all else is inside: {sizes}. Compared with PyTorch on {found.clips} {of}, in "
        f"batches of 1, 3 and 8: numbers differ by at most {found.apart:.1g}{moved}. "
        f"{found.clip_ms:.1f} ms a clip on {_some(found.threads, 'thread')} of the machine that "
        "made them. Classes and threshold are in the files' metadata."
    )


def _trained_on(run: TrainedRun) -> list[tuple[str, str]]:
    found = [("features' fingerprint", f"`{run.about.fingerprint}`")]
    records = [one.record for one in run.models if one.record is not None]
    if len(records) < len(run.models):
        found.append(("clips", "not known: it has no record"))
    for split in ("train", "val") if records else ():
        clips = _range([len(one.ids(split)) for one in records])
        rows = _range([len(one.rows.rows(split)) for one in records])
        found.append((split, f"{clips} clips, {rows} label rows"))
    if records:
        found.append(("labels", plain(records[0].rows.source or "not said")))
    making = next((one.making for one in records if one.making is not None), None)
    if making is not None:
        last = making.sessions[-1]
        by = code.described(last.version, last.commit, last.dirty)
        found += [("when", last.ended or last.started), ("by", plain(by))]
        if making.init is not None:
            found.append(("began with the weights of", plain(making.init.run)))
    epochs = _range([one.about.epoch for one in run.models])
    seeds = ", ".join(str(one.about.config.seed) for one in run.models)
    return [*found, ("epochs", epochs), ("seed", seeds)]


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _answers(run: TrainedRun, features: Identity | None) -> list[tuple[str, str]]:
    found = []
    for one in run.models:
        about, own = one.about, one.about.calibration
        name = "calibration" if len(run.models) == 1 else f"calibration, seed {about.config.seed}"
        found.append(
            (name, f"class temperature {own.class_temperature:.3f}, gate {own.gate_scale:.3f} × "
             f"logit {own.gate_shift:+.3f}; start and end by the {about.decoding}, in steps of "
             f"{own.grid_s:g} s" + (", always the whole clip" if own.whole_clip else ""))
        )  # fmt: skip
    threshold = run.about.event_threshold
    event = "not decided: it always names one" if threshold is None else f"from {threshold:.3f} on"
    found.append(("whether there is an event", event))
    levels = read_off_of(run).threshold
    found.append(("events of recordings", f"from a probability of {min(levels):g} on"))
    if features is not None:
        fields = ", ".join(f"{_code(one.name)} {one.shape}" for one in features.declaration.fields)
        found.append(("features", f"{fields}; their settings are in `features.json`"))
    return found


def _limits(run: TrainedRun, record_left_out: bool) -> list[str]:
    about, seconds = run.about, run.about.model_shapes().clip_seconds
    found = [
        f"It answers for features of the fingerprint above alone, and for {seconds:g} s at a time.",
        "It knows its classes and nothing else: another sound or picture gets the class that is "
        "nearest.",
        "The intervals in brackets are of clips like those that were scored; other places, "
        "microphones and cameras may be harder.",
    ]
    if about.event_threshold is None and about.config.events == "single":
        found.append("It has seen no clips without an event, and names one in every clip.")
    counts = [len(one.record.ids("train")) for one in run.models if one.record is not None]
    if counts and min(counts) < _FEW_CLIPS:
        found.append(f"It was trained on few clips ({_range(counts)}).")
    if record_left_out:
        found.append(
            "The ids of the clips that it was trained on were left out: whether it has seen a clip "
            "can't be told, and scores on clips that it has seen flatter."
        )
    return found


def _from_media(features: Identity | None) -> bool:
    """Whether the program makes such features of media, not somebody else."""
    return features is not None and not features.config.get("imported")


def _features_licence(features: Identity | None, about: About) -> str:
    if features is None or not _from_media(features):
        return "Its features have the terms of who made them."
    weights = str(features.provenance.get("weights", ""))
    if about.config.modality == "audio" or not weights or weights.startswith("random:"):
        return "No pretrained network is needed for its features."
    return (
        f"The network for its features is not part of it ({_code(Path(weights).name)}): "
        "torchvision's MobileNetV3 is BSD-3-Clause, and ImageNet's own terms, on which it was "
        "trained, allow research and education without commercial use; another file has the terms "
        "of its maker."
    )
