"""Stage 2: train, evaluate and look into the fusion model. Needs a cache, no media library.

What is documented for use from Python: `load_run`, the `TrainedRun` that it gives, and `predict`.
The command line (`python -m train --help`) trains, scores and compares.

Examples
--------
>>> from pathlib import Path
>>> import train
>>> from cache import open_cache
>>> run = train.load_run("runs/20260101-120000")  # without a name: the newest under runs/
>>> run.about.classes[:2]
['Church bell', 'Male speech']
>>> for answer in train.predict(run, open_cache(Path("features"))):
...     print(answer["id"], answer["predicted"], f"{answer['confidence']:.0%}",
...           answer["predicted_start_s"], answer["predicted_end_s"])
clip00000 Church bell 93% 2.0 7.0
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# OpenMP's threads spin while they wait for one another: on a busy machine that takes the cores from
# those that have work, and an epoch takes several times as long. Asleep at once, they wake too late
# for the many short waits of a step (a third slower on an idle machine); some microseconds of
# spinning cost nothing there (docs/performance.md). torch reads this when it is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from train.runs.answers import predict
    from train.runs.trained import TrainedRun, load_run

__all__ = ["TrainedRun", "load_run", "predict"]
_HOMES = {
    "TrainedRun": "train.runs.trained",
    "load_run": "train.runs.trained",
    "predict": "train.runs.answers",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: `import train` alone loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
