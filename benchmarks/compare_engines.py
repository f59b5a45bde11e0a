"""The frozen network in torch, ONNX Runtime and OpenVINO: milliseconds a clip, and agreement.

    pip install onnx onnxruntime openvino
    python benchmarks/compare_engines.py --variant large --weights imagenet

One thread each, one clip of 8 frames a call, engines in turn within one loop; median of
--repeats. Torch runs what extraction runs: batch norms folded, channels last. The others get the
same folded network as ONNX, in single precision. `difference` is |a − torch| / |torch| over all
values of the maps; they are stored as float16, whose rounding is 2⁻¹¹ (0.0005). Prints one JSON
line. An engine that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from extract.features.video import load_backbone  # noqa: E402

Array = npt.NDArray[Any]
Engine = Callable[[], Array]


def to_onnx(network: nn.Module, inputs: torch.Tensor, path: Path) -> None:
    """Write the network with plain layout; the other engines choose their own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is deprecated
        torch.onnx.export(network, (inputs,), path, input_names=["frames"], dynamo=False)


def onnxruntime_engine(path: Path, frames: Array) -> Engine:
    """ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"frames": frames})[0]


def openvino_engine(path: Path, frames: Array) -> Engine:
    """OpenVINO on one thread, single precision."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda: request.infer({0: frames})[0]


OTHERS = {"onnxruntime": onnxruntime_engine, "openvino": openvino_engine}


def main() -> None:
    """Compare the engines on one clip of seeded blobs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", choices=["small", "large"], default="small")
    parser.add_argument("--weights", default="random:0")
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    if not importlib.util.find_spec("onnx"):
        sys.exit("first: pip install onnx onnxruntime openvino")
    torch.set_num_threads(1)
    network = load_backbone(args.variant, args.weights, "cpu")._features
    generator = torch.Generator().manual_seed(0)
    blobs = torch.randn(8, 3, 14, 14, generator=generator)
    plain = nn.functional.interpolate(blobs, (224, 224), mode="bilinear")
    frames = plain.contiguous(memory_format=torch.channels_last)
    engines: dict[str, Engine] = {"torch": lambda: network(frames).numpy()}
    with torch.inference_mode(), tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "network.onnx"
        to_onnx(network, plain, path)
        for name, make in OTHERS.items():
            try:
                engines[name] = make(path, plain.numpy())
            except ImportError as error:
                print(f"left out: {error}", file=sys.stderr)
        reference = engines["torch"]()
        found: dict[str, dict[str, Any]] = {}
        for name, engine in engines.items():
            apart = np.linalg.norm(engine() - reference) / np.linalg.norm(reference)
            version = importlib.metadata.version(name)
            found[name] = {"version": version, "difference": float(f"{apart:.2g}")}
        times: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(args.repeats):
            for name, engine in engines.items():
                begin = time.perf_counter()
                engine()
                times[name].append(time.perf_counter() - begin)
    for name, seconds in times.items():
        found[name]["ms"] = round(1e3 * statistics.median(seconds), 2)
    print(json.dumps({"benchmark": "engines", "variant": args.variant, **found}))


if __name__ == "__main__":
    main()
