"""A run that was made by version 0.1.0 goes on being read, whatever the code is called today.

tests/data/run-v1 was trained for three epochs with the code before the sub-packages (`python -m
train fit --audio-feat-dim 8 --video-feat-dim 8 --num-heads 2 --map-channels 8`) on a cache of
tests/synthetic_cache.py; record.json has its command line with the paths shortened. ANSWERS are
what that code's model said of `batch()`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.common.strict_json import read_json
from train.config import TrainConfig
from train.data.batch import Batch, Frames, Shapes, Sound
from train.runs import record, stored
from train.runs.checkpoint import load
from train.runs.clip_features import wanted
from train.runs.folders import BEST

RUN = Path(__file__).parent / "data" / "run-v1"
ANSWERS = {
    "logits": [
        [0.811222, 0.159522, -0.418961],
        [0.532879, 0.44422, -0.446261],
        [0.581906, -0.171239, -0.854486],
    ],
    "interval": [[0.235061, 0.751063], [0.213161, 0.535191], [0.081469, 0.168531]],
    "gate": [
        [0.524659, 0.52419, 0.530938, 0.484221],
        [0.42751, 0.437345, 0.423266, 0.0],
        [0.348251, 0.0, 0.0, 0.0],
    ],
}


def batch(shapes: Shapes) -> Batch:
    """Three clips of four, three and one audio steps and two frames."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, np.float32))

    step_s, span_s = shapes.clip_seconds / 4, shapes.clip_seconds / 2
    valid = torch.arange(4) < torch.tensor([[4], [3], [1]])
    features = normal(3, 4, shapes.audio_features)
    maps = normal(3, 2, shapes.cells**2, shapes.map_channels).abs()
    time_s = ((torch.arange(2) + 0.5) * span_s).expand(3, 2)
    sound = Sound(features, valid, (torch.arange(4) + 0.5) * step_s, step_s)
    return Batch(sound, Frames.of(maps, time_s, torch.full((3,), span_s)))


def test_its_model_says_what_it_said() -> None:
    model, about, _ = load(RUN / BEST)
    assert about.classes == ["Class 0", "Class 1", "Class 2"]
    assert about.config == TrainConfig.from_json(RUN / "config.json")
    assert about.config.audio_feat_dim == 8
    with torch.inference_mode():
        output = model(batch(model.shapes))
    found = {
        "logits": output.logits,
        "interval": output.interval,
        "gate": output.gate_logits.sigmoid(),
    }
    for name, expected in ANSWERS.items():
        torch.testing.assert_close(found[name], torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_what_it_keeps_of_its_making_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    about = load(RUN / BEST)[1]
    found = record.read(RUN, about)
    assert found is not None
    assert found.making is not None
    assert found.making.sessions[0].version == "0.1.0"
    assert len(found.rows.ids) > 100
    assert len(stored.read_history(RUN / "history.json")) == 3
    assert read_json(RUN / "features.json")["fingerprint"] == about.fingerprint
    assert wanted(RUN)["fingerprint"] == about.fingerprint
    assert not capsys.readouterr().out
