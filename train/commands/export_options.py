"""What `python -m train export` takes; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.common.cli import Caches, OnOff, Options, Parser, folder


def parse(argv: Sequence[str], run: str) -> Options:
    """The options; run: what --run means in every command."""
    parser = Parser(
        "python -m train export",
        "A run, or a folder of seeds, as a folder to hand over: weights (safetensors), settings, a "
        "card, and ONNX that answers cached features. `predict`, `annotate` and `evaluate` take it "
        "like a run.",
    )
    parser.add_argument("--run", type=folder, help=run)
    parser.add_argument("--out", type=folder, required=True, help="folder to make, or an empty one")
    parser.add_argument(
        "--onnx",
        action=OnOff,
        help="make ONNX files (default: where onnx, onnxscript and onnxruntime are installed)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        action=Caches,
        help="check ONNX on the first clips of this cache, of the run's features (default: on "
        "made-up ones)",
    )
    parser.add_argument(
        "--licence", default="not stated", help="of the model, for its card (default: not stated)"
    )
    parser.add_argument(
        "--without-ids",
        action="store_true",
        help="leave out which clips it was trained on, as their ids may be private; whether it has "
        "seen a clip can't be told then",
    )
    return parser.parse_args(argv)
