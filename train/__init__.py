"""Stage 2: train, evaluate and look into the fusion model. Needs a cache, no media library.

What is listed here is the public face; each name is loaded when it is first asked for, so that
`import train` itself loads no torch. `python -m train --help` trains, scores and compares.

Examples
--------
>>> import train
>>> model = train.fit("features", "runs/bells", epochs=2)  # doctest: +ELLIPSIS
cache features: ...
>>> model.classes[:2]
['Church bell', 'Male speech']
>>> (answer,) = train.load("runs/bells").predict("clip.mp4")
>>> answer["id"], answer["predicted"] in model.classes, answer["seen"]
('clip', True, 'no')
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
    from train.api.model import Model, load
    from train.api.training import fit

__all__ = ["Model", "fit", "load"]
_ROOMS = {
    "Model": "train.api.model",
    "fit": "train.api.training",
    "load": "train.api.model",
}

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__, _ROOMS)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
