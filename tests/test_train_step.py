"""Time reversal and the average of the weights."""

import copy
import math

import torch
from test_train_model import CONFIG, N, make_batch, make_model

from train.data.batch import reverse_time
from train.fit.step import ModelEma, Step, make_optimizer
from train.score.decode import gate_targets

INTERVAL = torch.tensor([[0.1, 0.4], [0.0, 1.0], [0.5, 0.9]])
ALL = torch.ones(N, dtype=torch.bool)


def test_a_reversed_clip_twice_is_the_clip():
    batch = make_batch(steps_valid=13)
    once, interval = reverse_time(batch, INTERVAL, ALL, 10.0)
    torch.testing.assert_close(interval, torch.tensor([[0.6, 0.9], [0.0, 1.0], [0.1, 0.5]]))
    assert not once.sound.valid[:, :7].any()
    again, back = reverse_time(once, interval, ALL, 10.0)
    torch.testing.assert_close(back, INTERVAL)
    torch.testing.assert_close(again.frames.time_s, batch.frames.time_s)
    assert torch.equal(again.sound.features, batch.sound.features)


def test_only_the_chosen_clips_are_reversed():
    batch = make_batch()
    which = torch.tensor([True, False, True])
    found, interval = reverse_time(batch, INTERVAL, which, 10.0)
    assert torch.equal(found.sound.features[1], batch.sound.features[1])
    assert torch.equal(found.sound.features[0], batch.sound.features[0].flip(0))
    assert torch.equal(interval[1], INTERVAL[1])


def test_frames_and_targets_stay_together():
    """Each frame's target is the same, whether the clip runs forwards or backwards."""
    model, batch = make_model(modality="video").eval(), make_batch()
    turned, interval = reverse_time(batch, INTERVAL, ALL, 10.0)
    one = gate_targets(model(batch).steps, INTERVAL)
    other = gate_targets(model(turned).steps, interval)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_the_average_follows_the_weights_and_forgets():
    model = make_model()
    average = ModelEma(model, epochs=2, steps_per_epoch=5)
    assert math.isclose(average.keep, math.exp(-1 / 10))
    first = copy.deepcopy(dict(model.named_parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1.0
    average.update(model)
    moved = 1 - 2 / 11  # few steps so far: much of the newest
    for name, parameter in average.model.named_parameters():
        torch.testing.assert_close(parameter, first[name] + moved)
    for _ in range(200):
        average.update(model)
    for name, parameter in average.model.named_parameters():
        torch.testing.assert_close(parameter, first[name] + 1.0)


def test_without_averaging_the_model_is_its_own():
    model = make_model()
    average = ModelEma(model, 0.0, 5)
    assert average.model is model
    step = Step(model, make_optimizer(model, CONFIG), CONFIG, torch.device("cpu"), average)
    before = model.classify.weight.detach().clone()
    step(make_batch(), torch.tensor([0, 1, 2]), INTERVAL)
    assert not torch.equal(before, model.classify.weight)
