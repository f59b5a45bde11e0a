"""Stage 2: train, evaluate and look into the fusion model. Needs a cache, no media library."""

import os

# OpenMP's threads spin while they wait for one another: on a busy machine that takes the cores from
# those that have work, and an epoch takes several times as long. Asleep at once, they wake too late
# for the many short waits of a step (a third slower on an idle machine); some microseconds of
# spinning cost nothing there (docs/performance.md). torch reads this when it is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
