"""A run as ONNX files, for any number of clips and for one, each compared with torch's answers.

Opset 20 or what torch gives; the files hold weights, classes and all that is needed to read them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cache import Cache
from cache.common.atomic import replace_file
from cache.common.errors import AvelError, ConfigError
from cache.joined import gather
from train.data.features import FeatureStore, load_features
from train.data.fields import inputs_of
from train.export.graph import Answering
from train.export.inputs import STEPS, VALID_S
from train.runs.timelines import each_class
from train.runs.trained import TrainedRun

ANY, ONE = "model.onnx", "model-1.onnx"
"""The file for any number of clips at once, and that for one."""
MOST_APART = 1e-4
_BATCHES = (1, 3, 8)
_CLIPS = 12
_TRIES = 15
_TIMES = ("start_s", "end_s", "event_confidence")
Numbers = npt.NDArray[Any]
Arrays = dict[str, Numbers]


class OnnxError(AvelError):
    """A graph could not be made, or doesn't answer as the run does."""


@dataclass(frozen=True)
class Checked:
    """What was written and how it compares with torch.

    apart: the largest difference of any number; moved: of how many of the `clips` start or end
    differ by more than rounding, since two intervals are equally good. clip_ms: milliseconds a
    clip takes by itself (the median of several), on so many threads.
    """

    sizes: Mapping[str, int]
    apart: float
    clips: int
    moved: int
    clip_ms: float
    threads: int
    real: bool


def missing_packages() -> list[str]:
    """What must be installed beside this package to make ONNX files and check them."""
    from importlib.util import find_spec

    return [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]


def write_onnx(run: TrainedRun, cache: Cache, folder: Path, real: bool) -> Checked:
    """Write both files and compare their answers to clips of a cache with the run's own.

    real: whether these are clips of somebody's. Raises OnnxError, leaving no file, where a number
    is further than MOST_APART from torch's, and ConfigError where the packages are missing.
    """
    if missing := missing_packages():
        raise ConfigError(
            f"ONNX: {', '.join(missing)} is not installed; "
            "`pip install 'avel-two-stage[onnx]'` brings it"
        )
    config, ids = run.config("cpu"), cache.ids[:_CLIPS]
    clips = load_features(cache, config, ids, len(run.about.classes))
    model = Answering(run, inputs_of(cache, config), len(clips.step_time_s)).eval()
    given = cached_arrays(cache, model.input.names, [cache.row(clip_id) for clip_id in ids])
    expected, threshold = _expected(run, clips, model)
    files = _graphs(run, model, given, threshold)
    sessions = {name: _session(data) for name, data in files.items()}
    apart, moved = 0.0, 0
    for name, size in [(ONE, 1), *((ANY, batch) for batch in _BATCHES)]:
        places = np.arange(size) % len(ids)
        some = {key: value[places] for key, value in given.items()}
        found = dict(zip(model.outputs, sessions[name].run(None, some), strict=True))
        wanted = {key: value[places] for key, value in expected.items()}
        far, gone = _compared(found, wanted, model.clip_seconds)
        apart, moved = max(apart, far), max(moved, gone)
    if not apart <= MOST_APART:
        raise OnnxError(
            f"ONNX: the graph's answers are {apart:.2g} from torch's, expected at most "
            f"{MOST_APART:g}; no ONNX file is written"
        )
    for name, data in files.items():
        replace_file(folder / name, data)
    sizes = {name: len(data) for name, data in files.items()}
    clip_ms = _clip_ms(sessions[ONE], {key: value[:1] for key, value in given.items()})
    return Checked(sizes, apart, len(ids), moved, clip_ms, torch.get_num_threads(), real)


def _session(data: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def cached_arrays(cache: Cache, names: Sequence[str], rows: Sequence[int]) -> Arrays:
    """What a graph is given: fields as they are cached, and of each clip its steps and seconds."""
    found = gather(cache, [name for name in names if name in cache.fields], rows)
    arrays = {VALID_S: found.valid_s.astype(np.float32), **found.arrays}
    for field, steps in found.steps.items():
        arrays[STEPS] = arrays[f"{STEPS}/{field}"] = steps.astype(np.int64)
    return {name: arrays[name] for name in names}


def _graphs(
    run: TrainedRun, model: Answering, given: Arrays, threshold: float | None
) -> dict[str, bytes]:
    """The two files: the same graph, in one of them with a fixed number of clips."""
    tensors = tuple(torch.from_numpy(value[:3].copy()) for value in given.values())
    batch = torch.export.Dim("batch")
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                tensors,
                input_names=list(given),
                output_names=model.outputs,
                dynamic_shapes={"arrays": tuple({0: batch} for _ in tensors)},
                dynamo=True,
                verbose=False,
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise OnnxError(f"ONNX: torch could not make a graph of this run ({told})") from None
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]  # lines of the code, by their places on the maker's machine
    for key, value in _facts(run, model, threshold).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    whole = proto.SerializeToString()
    del graph.value_info[:]  # they name the number of clips
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.Clear()
        first.dim_value = 1
    return {ANY: whole, ONE: proto.SerializeToString()}


def _facts(run: TrainedRun, model: Answering, threshold: float | None) -> dict[str, str]:
    """What is in the file beside the graph, as texts."""
    facts: dict[str, Any] = {
        "classes": run.about.classes,
        "clip_seconds": model.clip_seconds,
        "event_threshold": threshold,
        "fingerprint": run.about.fingerprint,
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch and its exporter say of themselves."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(before)


def _expected(
    run: TrainedRun, clips: FeatureStore, model: Answering
) -> tuple[Arrays, float | None]:
    """The run's own answers to the clips, and from which confidence on it says "event"."""
    if model.several:
        rows = torch.arange(len(clips.ids))
        each = [each_class(one, clips, rows) for one in run.models]
        return {"probability": np.mean(each, axis=0)}, None
    answer = run.answer(clips)
    said = answer.predictions
    assert said.event is not None
    return {
        "probability": said.probability,
        "start_s": said.start_s,
        "end_s": said.end_s,
        "event_confidence": said.event,
        "cells": answer.evidence.cells,
    }, answer.event_threshold


def _compared(found: Arrays, expected: Arrays, clip_seconds: float) -> tuple[float, int]:
    """The largest difference, and of how many clips start or end differ by more than rounding.

    Of such a clip counts how much worse one interval is than the other (see `_expected_tiou`),
    instead of what is read off it.
    """
    same = np.ones(len(found["probability"]), bool)
    for name in ("start_s", "end_s"):
        if name in found:
            same &= np.abs(found[name] - expected[name]) <= MOST_APART
    apart = [
        np.abs(value - expected[name])[same if name in _TIMES else slice(None)]
        for name, value in found.items()
    ]
    if not same.all():
        chances = (
            _expected_tiou(expected["cells"], one["start_s"], one["end_s"], clip_seconds)
            for one in (found, expected)
        )
        apart.append(np.abs(np.subtract(*chances)))
    worst = [float(one.max()) for one in apart if one.size]
    return max(worst, default=0.0), int((~same).sum())


def _expected_tiou(
    cells: Numbers, start_s: Numbers, end_s: Numbers, clip_seconds: float
) -> Numbers:
    """What `best_interval` chooses by, (N,): cells (N, G) probabilities, start_s and end_s (N,)."""
    edges = np.linspace(0, clip_seconds, cells.shape[1] + 1)
    mass = np.pad(cells.cumsum(axis=1, dtype=np.float64), ((0, 0), (1, 0))) * edges[1]
    both = zip(np.stack([start_s, end_s], axis=1), mass, strict=True)
    inside = np.array([np.diff(np.interp(ends, edges, one))[0] for ends, one in both])
    return np.asarray(inside / (end_s - start_s + mass[:, -1] - inside))


def _clip_ms(session: Any, one: Arrays) -> float:
    took = []
    for _ in range(_TRIES):
        begin = time.perf_counter()
        session.run(None, one)
        took.append(time.perf_counter() - begin)
    return float(np.median(took)) * 1e3
