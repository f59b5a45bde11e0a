"""Which found event is which true one: of one recording and class, by three rules.

Shapes: E events of a list, P pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from train.score.events import EventList, Whole
from train.score.metrics import ROUNDING, tiou

Mask = npt.NDArray[np.bool_]


def pairs(truth: EventList, found: EventList) -> tuple[Whole, Whole]:
    """Places in both lists of all pairs of one recording and category: two (P,) int64."""
    classes = 1 + max((int(one.category.max()) for one in (truth, found) if len(one)), default=0)
    wanted = truth.recording * classes + truth.category
    offered = found.recording * classes + found.category
    order = np.argsort(offered, kind="stable")
    first, stop = (np.searchsorted(offered[order], wanted, side) for side in ("left", "right"))
    many = stop - first
    place = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return np.repeat(np.arange(len(truth)), many), order[np.repeat(first, many) + place]


def ranked_hits(truth: EventList, found: EventList, level: float) -> Mask:
    """(E,) which found events are right at a tIoU level, by ActivityNet's rule.

    The most confident first, each takes that event with the largest tIoU ≥ level which none took
    before it (Caba Heilbron et al. 2015).
    """
    true, said = pairs(truth, found)
    overlap = tiou(truth.start_s[true], truth.end_s[true], found.start_s[said], found.end_s[said])
    rows = np.flatnonzero(overlap >= level - ROUNDING)
    true, said, overlap = true[rows], said[rows], overlap[rows]
    start_s, end_s, confidence = (
        getattr(found, name)[said] for name in ("start_s", "end_s", "confidence")
    )
    order = np.lexsort((truth.start_s[true], -overlap, said, end_s, start_s, -confidence))
    free = np.ones(len(truth), bool)
    hit = np.zeros(len(found), bool)
    for t, f in zip(true[order].tolist(), said[order].tolist(), strict=True):
        if free[t] and not hit[f]:
            free[t], hit[f] = False, True
    return hit


def matched(truth: EventList, found: EventList, collar_s: float, share: float) -> Whole:
    """(E,) int64, for each true event the place of the found one that is right, or -1.

    `sed_eval`'s rule (Mesaros et al. 2016): of one recording and class, the starts at most
    `collar_s` apart, the ends at most the larger of `collar_s` and `share` × the true event's
    length. Each event is in one pair at most, and there are as many pairs as there can be.
    """
    true, said = pairs(truth, found)
    late_s = np.maximum(collar_s, share * (truth.end_s - truth.start_s))[true]
    near = np.abs(truth.start_s[true] - found.start_s[said]) <= collar_s + ROUNDING
    near &= np.abs(truth.end_s[true] - found.end_s[said]) <= late_s + ROUNDING
    edges = (np.ones(int(near.sum()), bool), (true[near], said[near]))
    graph = csr_array(edges, shape=(len(truth), len(found)))
    partner: Whole = maximum_bipartite_matching(graph, perm_type="column").astype(np.int64)
    return partner


def touched(truth: EventList, found: EventList) -> Mask:
    """(E,) which events of the first list overlap one of the second, of the same class."""
    true, said = pairs(truth, found)
    shared = np.minimum(truth.end_s[true], found.end_s[said]) - np.maximum(
        truth.start_s[true], found.start_s[said]
    )
    hits = np.bincount(true, weights=shared > 0, minlength=len(truth))
    return np.asarray(hits > 0)
