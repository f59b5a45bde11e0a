"""Time reversal, and what training changes: the average of the weights, the optimizer's groups."""

import copy
import math

import torch
from test_train_model import CONFIG, N, frames_of, make_batch, make_model, sound_of

from train.data.batch import reverse_time
from train.training.loop import gate_targets
from train.training.state import ModelEma, TrainState

INTERVAL = torch.tensor([[0.1, 0.4], [0.0, 1.0], [0.5, 0.9]])
ALL = torch.ones(N, dtype=torch.bool)


def test_a_reversed_clip_twice_is_the_clip() -> None:
    batch = make_batch(steps_valid=13)
    once, interval = reverse_time(batch, INTERVAL, ALL, 10.0)
    torch.testing.assert_close(interval, torch.tensor([[0.6, 0.9], [0.0, 1.0], [0.1, 0.5]]))
    assert not sound_of(once).valid[:, :7].any()
    again, back = reverse_time(once, interval, ALL, 10.0)
    torch.testing.assert_close(back, INTERVAL)
    torch.testing.assert_close(frames_of(again).time_s, frames_of(batch).time_s)
    assert torch.equal(sound_of(again).features, sound_of(batch).features)


def test_only_the_chosen_clips_are_reversed() -> None:
    batch = make_batch()
    which = torch.tensor([True, False, True])
    found, interval = reverse_time(batch, INTERVAL, which, 10.0)
    turned, whole = sound_of(found).features, sound_of(batch).features
    assert torch.equal(turned[1], whole[1])
    assert torch.equal(turned[0], whole[0].flip(0))
    assert torch.equal(interval[1], INTERVAL[1])


def test_frames_and_targets_stay_together() -> None:
    """Each frame's target is the same, whether the clip runs forwards or backwards."""
    model, batch = make_model(modality="video").eval(), make_batch()
    turned, interval = reverse_time(batch, INTERVAL, ALL, 10.0)
    one = gate_targets(model(batch).steps, INTERVAL)
    other = gate_targets(model(turned).steps, interval)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_the_average_follows_the_weights_and_forgets() -> None:
    model = make_model()
    ema = ModelEma(model, epochs=2, steps_per_epoch=5)
    assert math.isclose(ema.decay, math.exp(-1 / 10))
    first = copy.deepcopy(dict(model.named_parameters()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.update(model)
    moved = 1 - 2 / 11  # few steps so far: much of the newest
    for name, parameter in ema.model.named_parameters():
        torch.testing.assert_close(parameter, first[name] + moved)
    for _ in range(200):
        ema.update(model)
    for name, parameter in ema.model.named_parameters():
        torch.testing.assert_close(parameter, first[name] + 1.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    ema.update(model)
    moved = 2 - ema.decay  # later, of the newest as much as the epochs say
    for name, parameter in ema.model.named_parameters():
        torch.testing.assert_close(parameter, first[name] + moved)


def test_without_averaging_the_model_is_its_own() -> None:
    model = make_model()
    ema = ModelEma(model, 0.0, 5)
    assert ema.model is model
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        model.classify.weight += 1.0
    ema.update(model)
    assert torch.equal(model.classify.weight, before["classify.weight"] + 1.0)
    assert ema.steps == 0


def test_matrices_decay_and_the_rest_does_not() -> None:
    state = TrainState.begin(make_model(), CONFIG, 10)
    decay, no_decay = state.optimizer.param_groups
    assert {parameter.ndim for parameter in no_decay["params"]} == {1}
    assert min(parameter.ndim for parameter in decay["params"]) == 2
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (CONFIG.weight_decay, 0.0)
    assert state.learning_rate == CONFIG.learning_rate
