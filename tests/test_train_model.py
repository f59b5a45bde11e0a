"""Shapes, gradients, masks and laws of the model."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from train.config import PRESETS, TrainConfig
from train.data.batch import Batch, Frames, Shapes, Sound
from train.data.maps import FrameMaps
from train.model.fusion import FusionModel, at_frames, at_steps
from train.model.fusion import gated_interval as interval_of
from train.model.layers import Attention, Dropout
from train.training.loop import compute_losses

SHAPES = Shapes(audio_features=20, map_channels=24, cells=7, classes=5, clip_seconds=10.0)
CONFIG = TrainConfig(
    num_classes=5, num_frames=8, audio_feat_dim=32, video_feat_dim=16, map_channels=16, num_heads=8
)
N, T, F = 3, 20, 8


def make_batch(seed: int = 0, steps_valid: int = T) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(T).expand(N, T) < steps_valid
    features = torch.randn(N, T, 20, generator=generator)
    maps = torch.randn(N, F, 49, 24, generator=generator)
    step_s = 10.0 / T
    time_s = (torch.arange(T) + 0.5) * step_s
    frame_time_s = ((torch.arange(F) + 0.5) * 10.0 / F).expand(N, F)
    return Batch(
        Sound(features, valid, time_s, step_s),
        Frames.of(maps, frame_time_s, torch.full((N,), 10 / F)),
    )


def make_model(seed: int = 0, **changes: Any) -> FusionModel:
    torch.manual_seed(seed)
    return FusionModel(SHAPES, CONFIG.revised(**changes))


def sound_of(batch: Batch) -> Sound:
    assert batch.sound is not None
    return batch.sound


def frames_of(batch: Batch) -> Frames:
    assert batch.frames is not None
    return batch.frames


def changed(batch: Batch, stream: str, **values: Tensor | FrameMaps) -> Batch:
    part = dataclasses.replace(getattr(batch, stream), **values)
    return dataclasses.replace(batch, **{stream: part})


def rescaled(batch: Batch, factor: float, shift: float) -> FrameMaps:
    return FrameMaps(frames_of(batch).maps.cells * factor + shift)


@pytest.mark.parametrize("modality", ["both", "audio", "video"])
def test_output_shapes_and_interval_law(modality: str) -> None:
    output = make_model(modality=modality)(make_batch())
    assert output.logits.shape == (N, 5)
    assert output.interval.shape == (N, 2)
    assert output.gate_logits.shape == (N, F if modality == "video" else T)
    assert output.attention == {}
    assert (output.interval[:, 0] <= output.interval[:, 1]).all()
    assert ((output.interval >= 0) & (output.interval <= 1)).all()


@pytest.mark.parametrize("modality", ["both", "audio", "video"])
def test_every_parameter_gets_a_gradient(modality: str) -> None:
    model, batch = make_model(modality=modality), make_batch()
    target = torch.tensor([[0.1, 0.4], [0.0, 1.0], [0.5, 0.9]])
    steps = model.step_count(batch)
    losses = compute_losses(model(batch), torch.tensor([0, 1, 2]), target, CONFIG, N, steps)
    losses[0].backward()  # type: ignore[no-untyped-call]
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    # A key's bias shifts all scores of a query alike: softmax doesn't see it.
    assert [name for name in idle if not name.endswith("key_value.bias")] == []


def test_attention_shapes_and_sums() -> None:
    found = make_model().eval()(make_batch(), return_attention=True).attention
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {
        "audio": (N, 8, T, T),
        "video": (N, 8, F, F),
        "audio_to_video": (N, 8, T, F),
        "video_to_audio": (N, 8, F, T),
        "spatial": (N, F, 7, 7),
        "channel": (N, F, 16),
        "gate": (N, T),
    }
    for name in ("audio", "video", "audio_to_video", "video_to_audio"):
        torch.testing.assert_close(found[name].sum(-1), torch.ones(shapes[name][:-1]))
    torch.testing.assert_close(found["spatial"].sum((-1, -2)), torch.ones(N, F))
    assert ((found["channel"] > 0) & (found["channel"] < 1)).all()


@pytest.mark.parametrize("modality", ["both", "audio", "video"])
def test_being_looked_at_changes_no_answer(modality: str) -> None:
    model = make_model(modality=modality).eval()
    batch = make_batch(steps_valid=13)
    fast, open_ = model(batch), model(batch, return_attention=True)
    for name in ("logits", "interval", "gate_logits"):
        assert torch.equal(getattr(fast, name), getattr(open_, name))


def test_the_map_is_the_weights_of_the_values() -> None:
    block = Attention(16, 8, 4)
    x, context = torch.rand(N, 5, 16), torch.rand(N, 6, 8)
    valid = torch.arange(6).expand(N, 6) < 4
    out, shown = block(x, context, valid, weights=True)
    value = block.key_value(context).chunk(2, dim=-1)[1].view(N, 6, 4, 4).transpose(1, 2)
    torch.testing.assert_close(block.out((shown @ value).transpose(1, 2).flatten(2)), out)


def test_padded_steps_get_no_weight_and_change_nothing() -> None:
    model = make_model().eval()
    batch = make_batch(steps_valid=13)
    noisy = sound_of(batch).features.clone()
    noisy[:, 13:] = 1e4
    one = model(batch, return_attention=True)
    other = model(changed(batch, "sound", features=noisy))
    assert (one.attention["audio"][..., 13:] == 0).all()
    assert (one.attention["video_to_audio"][..., 13:] == 0).all()
    assert (one.attention["gate"][:, 13:] == 0).all()
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.interval, other.interval)
    assert (one.interval <= 13 / T + 1e-6).all()


@pytest.mark.parametrize(
    ("modality", "stream", "used"),
    [
        ("both", "sound", True),
        ("both", "frames", True),
        ("audio", "sound", True),
        ("audio", "frames", False),
        ("video", "sound", False),
        ("video", "frames", True),
    ],
)
def test_a_modality_uses_exactly_its_streams(modality: str, stream: str, used: bool) -> None:
    model = make_model(modality=modality).eval()
    batch = make_batch()
    if stream == "sound":
        other = changed(batch, stream, features=sound_of(batch).features * -2 + 1)
    else:
        other = changed(batch, stream, maps=rescaled(batch, -2, 1))
    one, two = model(batch), model(other)
    assert torch.equal(one.logits, two.logits) is not used
    assert torch.equal(one.interval, two.interval) is not used
    if not used:
        without = model(dataclasses.replace(batch, **{stream: None}))
        assert torch.equal(one.logits, without.logits)


def test_every_audio_feature_reaches_the_output() -> None:
    model = make_model().eval()
    batch = make_batch()
    features = sound_of(batch).features.requires_grad_()
    model(batch).logits.sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().sum((0, 1)) > 0).all()


def test_times_matter_in_both_streams() -> None:
    model = make_model().eval()
    batch = make_batch()
    base = model(batch).logits
    later_sound = changed(batch, "sound", time_s=sound_of(batch).time_s + 0.7)
    later_frames = changed(batch, "frames", time_s=frames_of(batch).time_s + 0.7)
    assert not torch.allclose(base, model(later_sound).logits)
    assert not torch.allclose(base, model(later_frames).logits)


def test_a_gate_of_ones_over_a_run_gives_that_run() -> None:
    time_s = (torch.arange(20) + 0.5) * 0.5
    gate = ((time_s > 3) & (time_s < 7)).float()[None]
    torch.testing.assert_close(
        interval_of(gate, time_s, torch.tensor(0.5)), torch.tensor([[3.0, 7.0]])
    )
    nothing = interval_of(torch.zeros(1, 20), time_s, torch.tensor(0.5))
    assert nothing.isfinite().all()


def test_any_gate_stays_on_the_timeline() -> None:
    gate = torch.rand(200, 20, generator=torch.Generator().manual_seed(0)) ** 4
    found = interval_of(gate, (torch.arange(20) + 0.5) * 0.5, torch.tensor(0.5))
    assert (found[:, 0] >= -1e-5).all()
    assert (found[:, 1] <= 10 + 1e-5).all()
    assert (found[:, 0] <= found[:, 1]).all()


def test_the_streams_are_brought_together_by_time() -> None:
    batch = make_batch()
    sound, frames = sound_of(batch), frames_of(batch)
    ramp = sound.time_s[None, :, None].expand(N, -1, 1)
    times = frames.time_s[:, :, None]
    torch.testing.assert_close(at_frames(ramp, sound, frames), times)
    back = at_steps(times, sound, frames)
    inner = slice(2, -2)  # beyond the outermost frames' centres their values are held
    torch.testing.assert_close(back[:, inner], ramp[:, inner], atol=1e-4, rtol=0)
    torch.testing.assert_close(back[:, 0], times[:, 0], atol=1e-4, rtol=0)


def test_sound_that_is_missing_under_a_frame_guides_nothing() -> None:
    batch = make_batch(steps_valid=10)
    heard = at_frames(torch.ones(N, T, 4), sound_of(batch), frames_of(batch))
    assert (heard[:, :4] > 0.99).all()
    assert (heard[:, 4:] == 0).all()


def test_normalizing_is_folded_into_the_projection() -> None:
    model = make_model(modality="video").eval()
    batch = make_batch()
    plain = model(batch).logits
    assert model.video is not None
    model.video.mean.fill_(3.0)
    model.video.deviation.fill_(2.0)
    moved = model(changed(batch, "frames", maps=rescaled(batch, 2, 3))).logits
    torch.testing.assert_close(plain, moved, atol=1e-4, rtol=1e-4)


def test_size_at_the_defaults_and_classic() -> None:
    shapes = Shapes(209, 576, 7, 28, 10.0)
    for config, limit in ((TrainConfig(), 2_000_000), (PRESETS["classic"], 4_000_000)):
        with torch.device("meta"):
            model = FusionModel(shapes, config)
        assert sum(parameter.numel() for parameter in model.parameters()) < limit


def test_losses_are_cross_entropy_weighted_l1_and_the_gates_own() -> None:
    model, batch = make_model().eval(), make_batch(steps_valid=13)
    output, steps = model(batch), model.step_count(batch)
    target = torch.tensor([[0.1, 0.4], [0.0, 1.0], [0.5, 0.9]])
    category = torch.tensor([0, 1, 2])
    config = CONFIG.revised(label_smoothing=0.0, interval_weight=0.3, gate_weight=0.7)
    losses = compute_losses(output, category, target, config, N, steps)
    total, classes, spans, gate = losses.tolist()
    log_probability = output.logits.log_softmax(1)[range(3), category]
    assert classes == pytest.approx(-log_probability.mean().item())
    assert spans == pytest.approx(np.abs((output.interval - target).detach().numpy()).mean())
    chance = output.gate_logits.detach().sigmoid().numpy()
    middle = output.steps.mean(dim=-1).numpy()
    on = (middle >= target[:, :1].numpy()) & (middle < target[:, 1:].numpy())
    real = np.isfinite(output.gate_logits.detach().numpy())
    assert steps == real.sum()
    surprise = -np.log(np.where(on, chance, 1 - chance)[real]).mean()
    assert gate == pytest.approx(surprise, rel=1e-5)
    assert total == pytest.approx(classes + 0.3 * spans + 0.7 * gate)
    config = config.revised(label_smoothing=0.1)
    classes = compute_losses(output, category, target, config, N, steps)[1].item()
    smooth = 0.9 * log_probability + 0.1 * output.logits.log_softmax(1).mean(dim=1)
    assert classes == pytest.approx(-smooth.mean().item())


def test_input_dropout_keeps_the_mean_and_drops_its_share() -> None:
    layer = Dropout(0.3)
    torch.manual_seed(0)
    found = layer(torch.ones(200, 500))
    kept = found > 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / 0.7))
    assert torch.equal(layer.eval()(found), found)


def test_where_to_look_counts_half_and_in_training_wholly_in_a_quarter_of_the_frames() -> None:
    model, batch = make_model(modality="video", input_dropout=0.0), make_batch()
    stream, frames = model.video, frames_of(batch)
    assert stream is not None
    seen: list[Tensor] = []
    stream.widen.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, 1)))
    mean = frames.means().flatten(0, 1)
    spatial = stream.eval()(frames, None, weights=True)[1]["spatial"].flatten(2)
    expected = (spatial.flatten(0, 1).unsqueeze(1) @ frames.cells()).squeeze(1)
    torch.testing.assert_close(seen[0], expected)
    stream.train()(frames, None)
    is_even = torch.isclose(seen[1], mean).all(dim=-1)
    assert is_even.sum() == N * F * 3 // 4
    torch.testing.assert_close((seen[1][~is_even] + mean[~is_even]) / 2, expected[~is_even])


def test_training_reads_maps_of_no_other_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = FrameMaps.of

    def of(maps: FrameMaps, rows: Tensor) -> Tensor:
        read.append(len(rows))
        return plain(maps, rows)

    monkeypatch.setattr(FrameMaps, "of", of)
    model, batch = make_model(), make_batch()
    model.train()(batch)
    model.eval()(batch)
    assert read == [N * F // 4, N * F]
