"""The identity of the cache that settings give: what its numbers depend on, and what made them."""

from __future__ import annotations

import platform
from importlib import import_module
from pathlib import Path
from typing import Any

from cache.common.errors import ConfigError
from cache.format.identity import make_identity, read_identity, refusal
from cache.format.schema import fingerprint
from extract.config import FEATURE_VERSION, ExtractConfig
from extract.features.weights import known_digest, weights_file_sha256

LIBRARIES = ("torch", "torchvision", "librosa", "cv2", "av", "soundfile", "soxr")


def identity_for(folder: Path, weights: str, config: ExtractConfig) -> dict[str, Any]:
    """The identity these settings give; refused now if the cache has another."""
    found = read_identity(folder) if (folder / "cache.json").exists() else None
    digest = ""
    if config.modalities != "audio":
        known = known_digest(weights, config.backbone, found)
        digest = known if known is not None else load_digest(config.backbone, weights)
    resolved = config.resolved(digest)
    if found is not None:
        identity = {**found, "config": resolved, "feature_version": FEATURE_VERSION}
        if fingerprint(resolved, FEATURE_VERSION) != found["fingerprint"]:
            raise ConfigError(refusal(folder, identity, found))
        return found
    return new_identity(config, weights, digest)


def new_identity(config: ExtractConfig, weights: str, digest: str) -> dict[str, Any]:
    """The identity of a new cache."""
    made_by = provenance(weights, weights_file_sha256(weights))
    return make_identity(config.resolved(digest), FEATURE_VERSION, made_by)


def load_digest(backbone: str, weights: str) -> str:
    """Digest of the network's weights, which are loaded for it."""
    from extract.features.video import load_backbone

    return load_backbone(backbone, weights, "cpu").weights_sha256


def provenance(weights: str, weights_file_sha256: str) -> dict[str, Any]:
    """What made the features, for people: not part of the fingerprint."""
    return {"weights": weights, "weights_file_sha256": weights_file_sha256, **versions()}


def versions() -> dict[str, str]:
    """What this process computes with, for people: not part of the fingerprint."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: import_module(name).__version__ for name in LIBRARIES},
    }
