"""Stage 2: train, evaluate and look into the fusion model. Needs a cache, no media library."""

import os

# OpenMP's threads spin while they wait for one another: on a busy machine that takes the cores from
# those that have work, and an epoch takes several times as long. torch reads this when imported.
# Who says ACTIVE gets it: a count of 0 would undo it.
if os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE").upper() == "PASSIVE":
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
