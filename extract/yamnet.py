"""`python -m extract yamnet`: a pretrained sound network's features as a cache of their own.

YAMNet (Google, Apache-2.0) is MobileNetV1 trained on AudioSet's 521 classes. What it averages
before its last layer, 1,024 numbers of 0.975 s, is stored around each half second of a clip:
`audio/yamnet` (2 · clip_seconds, 1024). With `--hop-seconds` clips are windows of recordings, as of
`python -m extract`. It is run by `ai-edge-litert`, an extra: `pip install
'avel-two-stage[yamnet]'`. The cache is joined with another one by id in training.
"""

from __future__ import annotations

import functools
import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from cache.common.cli import Parser, count, local_path, say
from cache.common.cores import cores
from cache.common.errors import CacheError, ConfigError, MediaError
from cache.common.progress import Progress
from cache.format.fields import Field, Rate
from cache.format.index_file import load_index
from cache.format.windows import Window
from cache.labels.annotations import read_annotations
from cache.labels.store import write_labels
from cache.writer import CacheWriter, Origin
from extract.config import ExtractConfig
from extract.finding import find_annotations, find_sources
from extract.media.decode import decode
from extract.media.windows import Windows, decode_windows
from extract.plan import Plan, cut_seconds, make_plan, stored_labels, unseen
from extract.sources import MediaSource

RATE_HZ = 16_000
WINDOW_SAMPLES = 15_600
STEP_S = 0.5
WIDTH = 1024
_AVERAGE = "reduce_mean"
_CLOCK = Rate(1 / STEP_S, STEP_S / 2)
_SHOWN = 10


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
    options = _parser().parse_args(argv)
    if not options.weights.is_file():
        raise ConfigError(f"--weights {options.weights}: no such file; expected YAMNet's .tflite")
    config = _config(options.clip_seconds, options.hop_seconds)
    Yamnet(options.weights)  # refused now rather than for each clip
    path, folder = options.annotations or find_annotations(options.data), options.cache
    labels = read_annotations(path, cut_seconds(config), before=stored_labels(folder))
    sources = find_sources(options.data, dict.fromkeys(labels.ids), config.modalities)
    field = Field("audio/yamnet", (_steps(config), WIDTH), "float16", "activation", _CLOCK)
    sha256 = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    writer = CacheWriter(
        folder,
        [field],
        clip_seconds=config.clip_seconds,
        hop_s=config.hop_seconds,
        about={"about": "YAMNet, mean before the last layer", "weights_sha256": sha256},
    )

    def plan() -> Plan:
        index = load_index(folder, writer.identity)
        return make_plan(labels, sources, index, retry=False, config=config)

    with writer:
        write_labels(folder, labels)
        before = plan()
        missing = len(before.missing)
        say(f"clips     {len(before.wanted)}: to do {before.to_do}, without media {missing}")
        _work(writer, before.todo, options.weights, config, options.jobs or cores())
    after = plan()
    if note := unseen(load_index(folder, writer.identity), config):
        say(note)
    lost = len(after.failed) + len(after.missing) + after.to_do
    for failure in list(after.failed.values())[:_SHOWN]:
        say(f"failed    {failure.id}: {failure.message}", error=True, one_line=True)
    say(f"finished  {folder}; {lost} clip(s) without features")
    return 1 if lost > options.max_failures else 0


def _parser() -> Parser:
    parser = Parser(prog="python -m extract yamnet", description=__doc__)
    parser.add_argument("--data", type=local_path, required=True, help="as of python -m extract")
    parser.add_argument("--cache", type=local_path, required=True, help="a cache of its own")
    parser.add_argument("--weights", type=local_path, required=True, help="YAMNet's .tflite")
    parser.add_argument("--annotations", type=local_path, help="default: those in DATA")
    parser.add_argument("--clip-seconds", type=float, default=10.0, help="default 10")
    parser.add_argument(
        "--hop-seconds", type=float, help="a clip every so many seconds of long recordings"
    )
    parser.add_argument("--jobs", type=count, default=0, help="processes (default: one a core)")
    parser.add_argument("--max-failures", type=count, default=0, help="still a success")
    return parser


def _config(clip_seconds: float, hop_seconds: float | None) -> ExtractConfig:
    """How sound is decoded: with a least length, and so windows, as of the default features."""
    default = ExtractConfig()
    hop_samples = int(default.hop_samples * RATE_HZ / default.sample_rate_hz)
    return ExtractConfig.parse(
        {
            "modalities": "audio",
            "sample_rate_hz": RATE_HZ,
            "hop_samples": hop_samples,
            "clip_seconds": clip_seconds,
            "hop_seconds": hop_seconds,
        }
    )


def _steps(config: ExtractConfig) -> int:
    return math.ceil(config.clip_seconds / STEP_S)


def _work(
    writer: CacheWriter, todo: list[MediaSource], weights: Path, config: ExtractConfig, jobs: int
) -> None:
    calls = (delayed(_made)(source, weights, config) for source in todo)
    made = Parallel(n_jobs=min(jobs, len(todo)) or 1, return_as="generator")(calls)
    with Progress(sum(len(source.clip_ids) for source in todo), "clip", "yamnet") as progress:
        for source, rows in zip(todo, made, strict=True):
            origin = Origin(source.size, source.mtime_ns)
            for row in rows:
                try:
                    if row.array is None:
                        raise CacheError(row.problem)
                    features = {"audio/yamnet": row.array}
                    lengths = {"valid_s": row.valid_s, "media_s": row.media_s}
                    writer.add(row.id, features, **lengths, origin=origin)
                except CacheError as error:
                    writer.fail(row.id, str(error), origin, row.stage)
            progress.add(len(source.clip_ids))


@dataclass(frozen=True)
class _Row:
    """A clip's features, and its length and its media's in s; or where it failed, and why."""

    id: str
    array: npt.NDArray[np.float16] | None = None
    valid_s: float = 0.0
    media_s: float = math.nan
    stage: str = "import"
    problem: str = ""


def _made(source: MediaSource, weights: Path, config: ExtractConfig) -> list[_Row]:
    """What is wanted of a clip, or of a stretch of a recording."""
    why = "end", f"{source.path}: it was longer when there was a row of this"
    gone = [_Row(clip_id, stage=why[0], problem=why[1]) for clip_id in source.gone]
    try:
        if source.problem:
            raise MediaError(source.path, "find", source.problem)
        return [*_heard(source, weights, config), *gone]
    except MediaError as error:
        why = error.stage, str(error)
    except Exception as error:  # noqa: BLE001 - whatever one clip does, the others go on
        why = "unforeseen", f"{source.path}: unforeseen {type(error).__name__}: {error}"
    return [_Row(clip_id, stage=why[0], problem=why[1]) for clip_id in source.clip_ids]


def _heard(source: MediaSource, weights: Path, config: ExtractConfig) -> list[_Row]:
    """Raises MediaError where the media can't be opened at all."""
    found: Windows = iter([(0.0, decode(source, config))] if not source.offsets_s else [])
    if source.offsets_s:
        found = decode_windows(source, source.offsets_s, config, lambda picture: None)
    rows = []
    for offset_s, one in found:
        clip_id = Window(source.id, offset_s).clip_id
        if clip_id not in source.clip_ids:
            continue
        if isinstance(one, MediaError):
            rows.append(_Row(clip_id, stage=one.stage, problem=str(one)))
            if one.stage == "end":
                break  # the windows after it are beyond the end as well
            continue
        assert one.waveform is not None
        array = _network(weights)(one.waveform)[: _steps(config)]
        rows.append(_Row(clip_id, array, one.valid_s, one.media_s))
    return rows


@functools.cache
def _network(weights: Path) -> Yamnet:
    return Yamnet(weights)
