"""Stage 2: train, evaluate and look into the fusion model. Needs a cache, no media library.

What is listed here is the public face; each name is loaded when it is first asked for, so that
`import train` itself loads no torch. `python -m train --help` trains, scores and compares.

Examples
--------
>>> import train
>>> from cache import open_cache
>>> run = train.load_run("runs/20260101-120000")  # without a name: the newest under runs/
>>> run.about.classes[:2]
['Church bell', 'Male speech']
>>> for answer in train.predict(run, open_cache("features")):
...     print(answer["id"], answer["predicted"], f"{answer['confidence']:.0%}",
...           answer["predicted_start_s"], answer["predicted_end_s"])
clip00000 Church bell 93% 2.0 7.0
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cache.common.face import lazy_names

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
_ROOMS = {
    "TrainedRun": "train.runs.trained",
    "load_run": "train.runs.trained",
    "predict": "train.runs.answers",
}

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, _ROOMS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
