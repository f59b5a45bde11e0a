"""`python -m extract yamnet`: a pretrained sound network's features as a cache of their own.

YAMNet (Google, Apache-2.0) is MobileNetV1 trained on AudioSet's 521 classes. What it averages
before its last layer, 1,024 numbers a window of 0.975 s, is stored for a window around each half
second: `audio/yamnet` (2 · clip_seconds, 1024). It is run by `ai-edge-litert`, an extra: `pip
install 'avel-two-stage[yamnet]'`. The cache is joined with another one by id in training.
"""

from __future__ import annotations

import functools
import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from cache.common.cli import Parser, count, local_path, say
from cache.common.cores import cores
from cache.common.errors import AvelError, CacheError, ConfigError, MediaError
from cache.common.progress import Progress
from cache.format.fields import Field, Rate
from cache.labels.annotations import read_annotations
from cache.labels.store import read_labels, write_labels
from cache.writer import CacheWriter, Origin
from extract.config import ExtractConfig
from extract.finding import find_annotations, find_sources
from extract.media.decode import decode
from extract.sources import MediaSource

RATE_HZ = 16_000
WINDOW_SAMPLES = 15_600
STEP_S = 0.5
WIDTH = 1024
_AVERAGE = "reduce_mean"
Result = tuple[npt.NDArray[np.float16] | None, float, str]


class Yamnet:
    """The network; one core. Raises ConfigError where it can't be run or isn't YAMNet."""

    def __init__(self, weights: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise ConfigError(
                "YAMNet needs ai-edge-litert: pip install 'avel-two-stage[yamnet]'"
            ) from None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # keeping inner tensors is what is wanted here
            try:
                self._net: Any = Interpreter(
                    str(weights), num_threads=1, experimental_preserve_all_tensors=True
                )
                self._net.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise ConfigError(f"{weights}: no TensorFlow Lite model ({error})") from None
        inputs, tensors = self._net.get_input_details(), self._net.get_tensor_details()
        averages = [t for t in tensors if t["name"].endswith(_AVERAGE) and t["shape"][-1] == WIDTH]
        if len(averages) != 1 or inputs[0]["shape"].tolist() != [WINDOW_SAMPLES]:
            raise ConfigError(
                f"{weights}: expected YAMNet's .tflite, which hears {WINDOW_SAMPLES} samples and "
                f"averages {WIDTH} features"
            )
        self._input, self._average = int(inputs[0]["index"]), int(averages[0]["index"])
        self._scale, self._zero = averages[0]["quantization"]

    def __call__(self, waveform: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
        """(samples,) float32 at 16 kHz → (steps, 1024) float16; step k is around (k + ½) · 0.5 s.

        Windows reach beyond the sound's ends into silence.
        """
        step = round(STEP_S * RATE_HZ)
        steps = math.ceil(len(waveform) / step)
        before = (WINDOW_SAMPLES - step) // 2
        padded = np.zeros(before + steps * step + WINDOW_SAMPLES, np.float32)
        padded[before : before + len(waveform)] = waveform
        out = np.empty((steps, WIDTH), np.float16)
        for number in range(steps):
            begin = number * step
            self._net.set_tensor(self._input, padded[begin : begin + WINDOW_SAMPLES])
            self._net.invoke()
            average = self._net.get_tensor(self._average).reshape(-1).astype(np.float32)
            out[number] = (average - self._zero) * self._scale if self._scale else average
        return out


def yamnet(argv: Sequence[str]) -> int:
    """Extract YAMNet's features of a labelled set; returns the exit code."""
    parser = Parser(prog="python -m extract yamnet", description=__doc__)
    parser.add_argument("--data", type=local_path, required=True, help="as of python -m extract")
    parser.add_argument("--cache", type=local_path, required=True, help="a cache of its own")
    parser.add_argument("--weights", type=local_path, required=True, help="YAMNet's .tflite")
    parser.add_argument("--annotations", type=local_path, help="default: those in DATA")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="default 10")
    parser.add_argument("--jobs", type=count, default=0, help="processes (default: one a core)")
    parser.add_argument("--max-failures", type=count, default=0, help="still a success")
    options = parser.parse_args(argv)
    if not options.weights.is_file():
        raise ConfigError(f"--weights {options.weights}: no such file; expected YAMNet's .tflite")
    config = ExtractConfig.parse(
        {"modalities": "audio", "sample_rate_hz": RATE_HZ, "clip_seconds": options.clip_seconds}
    )
    Yamnet(options.weights)  # refused now rather than for each clip
    before = read_labels(options.cache) if options.cache.is_dir() else None
    path = options.annotations or find_annotations(options.data)
    labels = read_annotations(path, config.clip_seconds, before=before)
    sources = find_sources(options.data, dict.fromkeys(labels.ids), config.modalities)
    missing = len(set(labels.ids)) - len(sources)
    sha256 = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    steps = math.ceil(config.clip_seconds / STEP_S)
    field = Field(
        "audio/yamnet", (steps, WIDTH), "float16", "activation", Rate(1 / STEP_S, STEP_S / 2)
    )
    about = {"about": "YAMNet, mean before the last layer", "weights_sha256": sha256}
    writer = CacheWriter(options.cache, [field], clip_seconds=config.clip_seconds, about=about)
    with writer:
        write_labels(options.cache, labels)
        todo = [s for s in sources.values() if not writer.has(s.id, Origin(s.size, s.mtime_ns))]
        say(f"clips     {len(sources)}: to do {len(todo)}, without media {missing}")
        _work(writer, todo, options.weights, config, options.jobs or cores())
        lost = sum(clip_id not in writer for clip_id in dict.fromkeys(labels.ids))
    say(f"finished  {options.cache}; {lost} clip(s) without features")
    return 1 if lost > options.max_failures else 0


def _work(
    writer: CacheWriter, todo: list[MediaSource], weights: Path, config: ExtractConfig, jobs: int
) -> None:
    with Progress(len(todo), "clip", "yamnet") as progress:
        for source, (array, valid_s, problem) in _results(todo, weights, config, jobs):
            origin = Origin(source.size, source.mtime_ns)
            try:
                if array is None:
                    raise CacheError(problem)
                writer.add(source.id, {"audio/yamnet": array}, valid_s=valid_s, origin=origin)
            except CacheError as error:
                say(f"failed    {source.id}: {error}", error=True, one_line=True)
                writer.fail(source.id, str(error), origin)
            progress.add(1)


def _results(
    todo: list[MediaSource], weights: Path, config: ExtractConfig, jobs: int
) -> Iterator[tuple[MediaSource, Result]]:
    calls = (delayed(_one)(source, weights, config) for source in todo)
    found = Parallel(n_jobs=min(jobs, len(todo)) or 1, return_as="generator")(calls)
    yield from zip(todo, found, strict=True)


def _one(source: MediaSource, weights: Path, config: ExtractConfig) -> Result:
    """A clip's features and length in s, or what is wrong with it."""
    try:
        if source.problem:
            raise MediaError(source.path, "find", source.problem)
        decoded = decode(source, config)
        assert decoded.waveform is not None
        steps = math.ceil(config.clip_seconds / STEP_S)
        return _network(weights)(decoded.waveform)[:steps], decoded.valid_s, ""
    except AvelError as error:
        return None, 0.0, str(error)
    except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
        return None, 0.0, f"{source.path}: unforeseen {type(error).__name__}: {error}"


@functools.cache
def _network(weights: Path) -> Yamnet:
    return Yamnet(weights)
