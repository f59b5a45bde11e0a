"""Several events in a clip: targets of steps, losses, what reversal and splicing do to them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_train_splice import numbered, parts
from torch import Tensor

from train.config import TrainConfig
from train.data.batch import Batch, Output, Shapes, Sound, reverse_time
from train.data.maps import FrameMaps
from train.data.splice import splice
from train.model.fusion import FusionModel, nearby
from train.score.decode import cell_probability, class_probability
from train.training.several import class_targets, several_losses

STEPS, CLASSES = 10, 4
CONFIG = TrainConfig(events="several", modality="audio", input_dropout=0, dropout=0)


def whole_steps(clips: int) -> Tensor:
    edge = torch.linspace(0, 1, STEPS + 1)
    return torch.stack([edge[:-1], edge[1:]], dim=1).expand(clips, -1, -1)


def test_a_step_has_of_each_class_the_share_that_its_events_cover() -> None:
    category = torch.tensor([[0, 2, 0], [-1, -1, -1]])
    interval = torch.tensor([[[0.0, 0.25], [0.2, 1.0], [0.6, 0.65]], [[0.0, 0.0]] * 3])
    found = class_targets(whole_steps(2), category, interval, CLASSES)
    assert found[0, :, 0].tolist() == pytest.approx([1, 1, 0.5, 0, 0, 0, 0.5, 0, 0, 0], abs=1e-5)
    assert found[0, :, 2].tolist() == pytest.approx([0, 0, *[1] * 8], abs=1e-5)
    assert not found[0, :, [1, 3]].any()
    assert not found[1].any()


def test_repeated_events_change_no_target() -> None:
    category, interval = torch.tensor([[1]]), torch.tensor([[[0.13, 0.72]]])
    once = class_targets(whole_steps(1), category, interval, CLASSES)
    again = class_targets(whole_steps(1), category.expand(1, 5), interval.expand(1, 5, 2), CLASSES)
    assert torch.equal(once, again)


def test_reversed_clips_have_reversed_targets() -> None:
    category = torch.tensor([[0, 3], [1, 1]])
    interval = torch.tensor([[[0.1, 0.4], [0.35, 0.9]], [[0.5, 1.0], [0.5, 1.0]]])
    sound = Sound(torch.randn(2, STEPS, 3), torch.ones(2, STEPS).bool(), torch.zeros(STEPS), 1.0)
    which = torch.tensor([True, False])
    _, turned = reverse_time(Batch(sound, None), interval, which, 10.0)
    before = class_targets(whole_steps(2), category, interval, CLASSES)
    after = class_targets(whole_steps(2), category, turned, CLASSES)
    assert torch.allclose(after[0], before[0].flip(0), atol=1e-5)
    assert torch.equal(after[1], before[1])


def test_splicing_keeps_all_events_and_strangers_share_no_class() -> None:
    torch.manual_seed(0)
    category = torch.randint(0, 12, (64, 2))
    ends = torch.rand(64, 2, 2).sort(dim=2).values * 0.4 + 0.3
    steps, frames = parts(splice(numbered(), category, ends, 1.0, 10.0))
    first, last = ends[..., 0].amin(1) * 10, ends[..., 1].amax(1) * 10
    replaced = 0
    for values in (steps, frames):
        time_s = (torch.arange(values.shape[1]) + 0.5) * 10 / values.shape[1]
        for clip in range(64):
            inside = (time_s >= first[clip]) & (time_s < last[clip])
            assert torch.all(values[clip][inside] == clip)
            strangers = {int(v) for v in values[clip]} - {clip}
            replaced += len(strangers)
            for other in strangers:
                assert not set(category[other].tolist()) & set(category[clip].tolist())
    assert replaced > 10


def outputs(gate: Tensor, each: Tensor) -> Output:
    clips = len(gate)
    return Output(
        torch.zeros(clips, CLASSES), torch.zeros(clips, 2), gate, whole_steps(clips), {}, each
    )


def test_losses_are_least_where_the_answer_is_right() -> None:
    category = torch.tensor([[0, 2], [-1, -1]])
    interval = torch.tensor([[[0.0, 0.5], [0.3, 0.8]], [[0.0, 0.0]] * 2])
    wanted = class_targets(whole_steps(2), category, interval, CLASSES)
    right = outputs(20 * wanted.amax(-1) - 10, 20 * wanted - 10)
    config, steps = CONFIG.revised(label_smoothing=0.0), torch.tensor(20)
    best = several_losses(right, category, interval, config, 1, steps)
    assert best[0] < 1e-3
    assert best[2] == 0
    wrong = outputs(-right.gate_logits, -right.each if right.each is not None else wanted)
    worst = several_losses(wrong, category, interval, config, 1, steps)
    assert worst[1] > 10
    assert worst[3] > 5
    assert worst[0] == pytest.approx(float(worst[1] + worst[3]))


def test_clips_without_an_event_teach_the_gate_alone() -> None:
    category, interval = torch.tensor([[-1]]), torch.zeros(1, 1, 2)
    each = torch.randn(1, STEPS, CLASSES, requires_grad=True)
    gate = torch.randn(1, STEPS, requires_grad=True)
    losses = several_losses(outputs(gate, each), category, interval, CONFIG, 1, torch.tensor(STEPS))
    losses[0].backward()  # type: ignore[no-untyped-call]
    assert each.grad is not None
    assert not each.grad.any()
    assert gate.grad is not None
    assert gate.grad.all()


def test_padded_steps_count_for_nothing() -> None:
    torch.manual_seed(0)
    category, interval = torch.tensor([[1]]), torch.tensor([[[0.0, 1.0]]])
    gate, each = torch.randn(1, STEPS), torch.randn(1, STEPS, CLASSES)
    gate[:, 6:] = -torch.inf
    other = each.clone()
    other[:, 6:] = 100.0
    one, two = (
        several_losses(outputs(gate, some), category, interval, CONFIG, 1, torch.tensor(6))
        for some in (each, other)
    )
    assert torch.equal(one, two)


def test_a_class_is_as_probable_as_the_gate_times_its_own() -> None:
    gate, each = torch.randn(2, STEPS), torch.randn(2, STEPS, CLASSES)
    found = class_probability(gate, each, whole_steps(2), STEPS)
    assert torch.allclose(found, gate.sigmoid()[..., None] * each.sigmoid(), atol=1e-5)
    sure = class_probability(gate, torch.full_like(each, 100.0), whole_steps(2), 40)
    assert torch.allclose(sure[..., 0], cell_probability(gate, whole_steps(2), 40), atol=1e-5)


def test_steps_tell_of_classes_near_them_where_something_is_on() -> None:
    time_s = torch.arange(10.0)[None]
    gate = torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 0, 1, 1]])
    weight = nearby(time_s, gate)[0]
    assert torch.allclose(weight.sum(1), torch.ones(10), atol=1e-5)
    assert weight[0, 8:].sum() == 0
    assert weight[9, :6].sum() == 0
    assert not weight[:, 3:8].any()


@pytest.mark.parametrize("modality", ["both", "audio", "video"])
def test_the_model_gives_classes_at_steps_only_where_there_may_be_several(modality: str) -> None:
    shapes = Shapes(audio_features=6, map_channels=12, cells=7, classes=CLASSES, clip_seconds=10.0)
    config = TrainConfig.parse({"modality": modality, "audio_feat_dim": 16, "video_feat_dim": 16})
    batch = numbered(3)
    assert batch.sound is not None
    assert batch.frames is not None
    sound = replace(batch.sound, features=torch.randn(3, 20, 6))
    frames = replace(batch.frames, maps=FrameMaps(torch.randn(3, 8, 49, 12)))
    for events in ("single", "several"):
        model = FusionModel(shapes, config.revised(events=events)).eval()
        output = model(Batch(sound, frames))
        assert (output.each is not None) == (events == "several")
        if output.each is not None:
            assert output.each.shape == (*output.gate_logits.shape, CLASSES)
            assert bool(output.each.isfinite().all())
