"""Preprocessing against torchvision's preset, the folded network, and where weights come from."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import urllib.error
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision.models import (
    EfficientNet_B0_Weights,
    MobileNet_V3_Large_Weights,
    MobileNet_V3_Small_Weights,
    get_model,
    get_model_weights,
)

from cache.common.errors import ConfigError
from cache.format.identity import Identity
from extract.backbones import NETWORKS
from extract.config import ExtractConfig
from extract.features.declare import declare
from extract.features.video import (
    Backbone,
    encode_jpegs,
    fold_batch_norms,
    load_backbone,
    preprocess,
    weights_digest,
)
from extract.features.weights import check_weights, imagenet_file, known_digest

PRESETS = {
    "small": MobileNet_V3_Small_Weights,
    "large": MobileNet_V3_Large_Weights,
    "efficientnet_b0": EfficientNet_B0_Weights,
}


def pictures(height: int, width: int, count: int = 2) -> list[npt.NDArray[np.uint8]]:
    """Smooth coloured pictures with some texture."""
    rng = np.random.default_rng(height * 1000 + width)
    made = []
    for _ in range(count):
        coarse = rng.integers(0, 255, (6, 8, 3)).astype(np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        made.append(np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))
    return made


SIZES = [
    (240, 320),
    (320, 240),
    (256, 256),
    (224, 300),
    (360, 641),
    (479, 233),
    (123, 97),
    (32, 900),
]


@pytest.mark.parametrize("variant", ["small", "large"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_preprocess_is_torchvisions_preset(variant: str, height: int, width: int) -> None:
    frames = pictures(height, width)
    found = preprocess(frames, ExtractConfig.parse({"backbone": variant}))
    assert found.shape == (2, 3, 224, 224)
    assert found.dtype == torch.uint8
    preset = PRESETS[variant].DEFAULT.transforms()
    mean, sd = (torch.tensor(values)[:, None, None] for values in (preset.mean, preset.std))
    for frame, pixels in zip(frames, found, strict=True):
        wanted = (preset(Image.fromarray(frame)) * sd + mean) * 255
        difference = (pixels.float() - wanted).abs()
        assert difference.max() <= 2
        assert difference.mean() < 0.3


def test_preprocess_leaves_a_picture_of_the_right_size_alone() -> None:
    frames = pictures(40, 40)
    config = ExtractConfig.parse({"resize_px": 40, "frame_size_px": 40})
    assert np.array_equal(preprocess(frames, config).permute(0, 2, 3, 1).numpy(), np.stack(frames))


def test_jpegs_show_the_pixels_in_their_order_and_colours() -> None:
    frames = pictures(64, 64, 3)
    config = ExtractConfig.parse({"resize_px": 64, "frame_size_px": 64})
    files = encode_jpegs(preprocess(frames, config), 95)
    assert len(files) == 3
    for data, frame in zip(files, frames, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
        assert np.abs(shown - frame).mean() < 6
    assert len(encode_jpegs(preprocess(frames, config), 20)[0]) < len(files[0])


def plain_maps(variant: str, state: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """What an ordinary user computes: torchvision's model, eager, contiguous, normalized."""
    network = get_model(NETWORKS[variant].builder, weights=None).features.eval()
    network.load_state_dict(state)
    preset = PRESETS[variant].DEFAULT.transforms()
    mean, sd = (torch.tensor(values)[:, None, None] for values in (preset.mean, preset.std))
    with torch.no_grad():
        maps: torch.Tensor = network((pixels.float() / 255 - mean) / sd)
    return maps


def trained_like(variant: str) -> dict[str, torch.Tensor]:
    """Weights whose batch norms do something and fit the activations, as trained ones do."""
    torch.manual_seed(5)
    network = get_model(NETWORKS[variant].builder, weights=None).features
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 96, 96))
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


@pytest.mark.parametrize(
    ("variant", "channels"), [("small", 576), ("large", 960), ("efficientnet_b0", 1280)]
)
def test_folded_network_equals_the_plain_one(tmp_path: Path, variant: str, channels: int) -> None:
    state = trained_like(variant)
    torch.save(state, tmp_path / "w.pth")
    backbone = load_backbone(variant, str(tmp_path / "w.pth"), "cpu")
    pixels = preprocess(pictures(240, 320, 3), ExtractConfig.parse({"backbone": variant}))
    maps, wanted = backbone(pixels), plain_maps(variant, state, pixels).numpy()
    assert maps.shape == (3, channels, 7, 7)
    assert maps.dtype == np.float16
    assert maps.flags.c_contiguous
    assert np.abs(wanted).max() > 0.1
    assert np.abs(maps.astype(float) - wanted).max() < 2e-3 * np.abs(wanted).max()


def test_no_batch_norm_is_left_and_none_is_lost() -> None:
    network = get_model(NETWORKS["small"].builder, weights=None).features.eval()
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    fold_batch_norms(network)
    left = [type(module).__name__ for module in network.modules()]
    assert "BatchNorm2d" not in left
    assert left.count("Identity") == norms == 34


class TestRandomWeights:
    pixels = torch.from_numpy(np.stack(pictures(64, 64, 2))).permute(0, 3, 1, 2)

    def build(self, variant: str, seed: int) -> Backbone:
        load_backbone.cache_clear()
        return load_backbone(variant, f"random:{seed}", "cpu")

    @pytest.mark.parametrize("variant", [*NETWORKS])
    def test_reproducible_and_seeded(self, variant: str) -> None:
        torch.manual_seed(1)
        first = self.build(variant, 3)
        torch.manual_seed(2)
        again, other = self.build(variant, 3), self.build(variant, 4)
        assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
        assert np.array_equal(first(self.pixels), again(self.pixels))
        assert not np.array_equal(first(self.pixels), other(self.pixels))

    @pytest.mark.parametrize("variant", [*NETWORKS])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_activations_neither_vanish_nor_overflow(self, variant: str, seed: int) -> None:
        maps = self.build(variant, seed)(self.pixels).astype(float)
        assert np.isfinite(maps).all()
        assert 1e-3 < np.abs(maps).mean() < 100
        different = np.abs(maps[0] - maps[1]).mean()
        assert different > 0.01 * np.abs(maps).mean()


class Malicious:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


class TestWeightFiles:
    def save(self, path: Path, value: object) -> str:
        torch.save(value, path)
        return str(path)

    def refused(self, path: str, why: str, variant: str = "small") -> None:
        with pytest.raises(ConfigError, match=why) as caught:
            load_backbone(variant, path, "cpu")
        assert path in str(caught.value)

    def test_whole_models_and_features_only_give_one_digest(self, tmp_path: Path) -> None:
        model = get_model(NETWORKS["small"].builder, weights=None)
        whole = self.save(tmp_path / "whole.pth", model.state_dict())
        named = {f"features.{name}": v for name, v in model.features.state_dict().items()}
        features = self.save(tmp_path / "features.pth", named)
        bare = self.save(tmp_path / "bare.pth", model.features.state_dict())
        digests = {load_backbone("small", p, "cpu").weights_sha256 for p in (whole, features, bare)}
        assert digests == {weights_digest(model.features.state_dict())}

    def test_digest_depends_on_every_number_and_name(self) -> None:
        state = {"a": torch.zeros(2, 3), "b": torch.ones(4)}
        digest = weights_digest(state)
        assert weights_digest(dict(reversed(state.items()))) == digest
        assert weights_digest({**state, "b": torch.tensor([1, 1, 1, 1.5])}) != digest
        assert weights_digest({**state, "a": torch.zeros(3, 2)}) != digest
        assert weights_digest({"a": state["a"], "c": state["b"]}) != digest

    def test_other_variant(self, tmp_path: Path) -> None:
        state = get_model(NETWORKS["small"].builder, weights=None).state_dict()
        path = self.save(tmp_path / "small.pth", state)
        self.refused(path, r"not the weights of mobilenet_v3_large: expected features\.", "large")

    def test_missing_tensor(self, tmp_path: Path) -> None:
        state = get_model(NETWORKS["small"].builder, weights=None).features.state_dict()
        state.pop("12.0.weight")
        path = self.save(tmp_path / "w.pth", state)
        self.refused(path, r"expected features\.12\.0\.weight .* found nothing")

    @pytest.mark.parametrize(
        ("value", "why"),
        [([1, 2], "found list"), (torch.zeros(3), "found Tensor"), ({}, "found nothing")],
    )
    def test_other_contents(self, tmp_path: Path, value: object, why: str) -> None:
        self.refused(self.save(tmp_path / "w.pth", value), why)

    @pytest.mark.parametrize("data", [b"", b"hello, world", b"PK\x03\x04broken", b"\x80\x02."])
    def test_no_torch_file(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "w.pth"
        path.write_bytes(data)
        self.refused(str(path), "expected a PyTorch state dict")

    def test_weights_that_repeat_one_number_or_are_not_finite(self, tmp_path: Path) -> None:
        state = get_model(NETWORKS["small"].builder, weights=None).features.state_dict()
        name = "12.0.weight"
        one = state[name].reshape(-1)[:1]
        state[name] = one.expand(state[name].numel()).view(state[name].shape)
        self.refused(self.save(tmp_path / "w.pth", state), "repeats its numbers")
        state[name] = torch.full(state[name].shape, torch.nan)
        self.refused(self.save(tmp_path / "w.pth", state), "12.0.weight holds numbers .*not finite")

    def test_a_link_to_weights_is_followed_to_a_plain_file(self, tmp_path: Path) -> None:
        state = get_model(NETWORKS["small"].builder, weights=None).features.state_dict()
        path = self.save(tmp_path / "w.pth", state)
        (tmp_path / "link.pth").symlink_to(path)
        digest = load_backbone("small", str(tmp_path / "link.pth"), "cpu").weights_sha256
        assert digest == load_backbone("small", path, "cpu").weights_sha256

    def test_a_pickled_payload_is_not_executed(self, tmp_path: Path) -> None:
        flag = tmp_path / "executed"
        payload = {"0.0.weight": Malicious(flag)}
        pickle.loads(pickle.dumps(payload))
        assert flag.is_dir()  # the payload is real
        flag.rmdir()
        zipped = self.save(tmp_path / "zip.pth", payload)
        plain = tmp_path / "plain.pth"
        plain.write_bytes(pickle.dumps(payload, protocol=2))
        old = tmp_path / "old.pth"
        torch.save(payload, old, _use_new_zipfile_serialization=False)
        for path in (zipped, str(plain), str(old)):
            self.refused(path, "expected a PyTorch state dict")
        assert not flag.exists()


class TestWeightNames:
    @pytest.mark.parametrize(
        "weights",
        ["random:", "random:x", "random:-1", "random:1.5", "random:٣", "random:" + "9" * 30],
    )
    def test_bad_seeds(self, weights: str) -> None:
        with pytest.raises(ConfigError, match="expected random:SEED"):
            check_weights(weights)

    def test_absent_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file; expected imagenet, random:SEED"):
            check_weights(str(tmp_path / "absent.pth"))
        for odd in ("x" * 10_000, "a\0b"):
            with pytest.raises(ConfigError, match="no such file"):
                check_weights(odd)
        with pytest.raises(ConfigError, match="no such file"):
            check_weights(str(tmp_path))

    def test_good_names(self, tmp_path: Path) -> None:
        (tmp_path / "w.pth").write_bytes(b"x")
        for weights in ("imagenet", "random:0", str(tmp_path / "w.pth")):
            check_weights(weights)

    def test_digest_known_from_a_cache(self, tmp_path: Path) -> None:
        path = tmp_path / "w.pth"
        path.write_bytes(b"weights")
        config = ExtractConfig(backbone="small")
        made_by_file = Identity(
            feature_version=1,
            config=config.resolved("abc"),
            declaration=declare(config),
            provenance={
                "weights": "elsewhere.pth",
                "weights_file_sha256": hashlib.sha256(b"weights").hexdigest(),
            },
        )
        assert known_digest(str(path), "small", made_by_file) == "abc"
        assert known_digest(str(path), "large", made_by_file) is None
        assert known_digest("random:0", "small", made_by_file) is None
        assert known_digest(str(path), "small", None) is None
        path.write_bytes(b"other")
        assert known_digest(str(path), "small", made_by_file) is None
        made = {"weights": "random:0", "weights_file_sha256": ""}
        random = replace(made_by_file, provenance=made)
        assert known_digest("random:0", "small", random) == "abc"
        assert known_digest("random:1", "small", random) is None
        assert known_digest("imagenet", "small", random) is None


class TestImagenet:
    @pytest.fixture
    def hub(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        return tmp_path / "checkpoints"

    @pytest.mark.parametrize("variant", [*NETWORKS])
    @pytest.mark.parametrize(
        "error", [urllib.error.URLError("no route"), OSError("refused"), RuntimeError("bad hash")]
    )
    def test_a_failed_download_says_what_to_fetch(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch, variant: str, error: Exception
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
        with pytest.raises(ConfigError) as caught:
            imagenet_file(variant)
        text = str(caught.value)
        name = NETWORKS[variant].imagenet_file
        assert PRESETS[variant].DEFAULT.url in text
        assert PRESETS[variant].DEFAULT.url.endswith(name)
        assert str(hub / name) in text
        assert f"SHA-256 begins with {name[-12:-4]}" in text
        assert "--weights PATH" in text

    def test_a_damaged_file_is_refused(self, hub: Path) -> None:
        hub.mkdir()
        (hub / NETWORKS["small"].imagenet_file).write_bytes(b"half a download")
        with pytest.raises(ConfigError, match=r"doesn't begin with 047dcff4.*delete it"):
            imagenet_file("small")

    def test_the_download_is_checked(self, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[str, str, str]] = []

        def download(url: str, path: str, hash_prefix: str) -> None:
            asked.append((url, path, hash_prefix))
            Path(path).write_bytes(b"not the weights")

        monkeypatch.setattr(torch.hub, "download_url_to_file", download)
        with pytest.raises(ConfigError, match="the download is damaged"):
            imagenet_file("small")
        path = hub / NETWORKS["small"].imagenet_file
        assert asked == [(PRESETS["small"].DEFAULT.url, str(path), "047dcff4")]


@pytest.mark.data
def test_real_weights_are_what_torchvision_would_load(avel_data: Path) -> None:
    path = avel_data / "weights" / "mobilenet_v3_small_features.pth"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == "b588f068683d6e09901aae3b4ad985c066293f7df21230f1553ff5b50fb7256b"
    backbone = load_backbone("small", str(path), "cpu")
    state = torch.load(path, weights_only=True)
    state = {name.removeprefix("features."): values for name, values in state.items()}
    pixels = preprocess(pictures(240, 320), ExtractConfig())
    wanted = plain_maps("small", state, pixels).numpy()
    assert np.abs(backbone(pixels) - wanted).max() < 5e-3 * np.abs(wanted).max()


def test_each_name_has_its_network_as_torchvision_has_it() -> None:
    assert get_args(ExtractConfig.model_fields["backbone"].annotation) == tuple(NETWORKS)
    for network in NETWORKS.values():
        preset = get_model_weights(network.builder).DEFAULT
        assert preset.url.endswith(f"/{network.imagenet_file}")
        assert preset.transforms().resize_size == [network.shorter_side_px]
