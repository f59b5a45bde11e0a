"""The floors of the three packages, as data: which room stands on which.

Lowest first. A module imports from its own room and from floors below, nothing upwards. Rooms of
one floor may use each other, but not in a circle. docs/architecture.md draws this picture.
"""

FLOORS: dict[str, list[list[str]]] = {
    "cache": [
        ["common"],
        ["format"],
        ["labels"],
        ["joined", "pack_file", "reader", "writer"],
        ["check", "table"],
        ["remote"],
        ["imports", "share"],
        ["__main__"],
    ],
    "extract": [
        ["backbones", "config", "sources", "stretches"],
        ["media", "features"],
        ["finding", "identity", "plan", "parallel", "recordings"],
        ["one_clip", "yamnet"],
        ["demo", "__main__"],
    ],
    "train": [
        ["config", "distributed", "parallel"],
        ["data"],
        ["model"],
        ["score"],
        ["runs"],
        ["training"],
        ["report"],
        ["annotate", "export", "sweep"],
        ["commands"],
        ["__main__", "api"],
    ],
}
