"""The identity of the cache that settings give: what its numbers depend on, and what made them."""

from __future__ import annotations

import platform
from importlib import import_module
from pathlib import Path
from typing import Any

from cache.common.errors import ConfigError
from cache.format.identity import IDENTITY_FILE, Identity, read_identity, refusal
from extract.config import FEATURE_VERSION, ExtractConfig
from extract.features.declare import declare
from extract.features.weights import known_digest, weights_file_sha256

LIBRARIES = ("torch", "torchvision", "librosa", "cv2", "av", "soundfile", "soxr")


def identity_for(folder: Path, weights: str, config: ExtractConfig) -> Identity:
    """The identity these settings give; refused now if the cache has another."""
    found = read_identity(folder) if (folder / IDENTITY_FILE).exists() else None
    digest = ""
    if config.modalities != "audio":
        known = known_digest(weights, config.backbone, found)
        digest = known if known is not None else load_digest(config.backbone, weights)
    if found is None:
        return new_identity(config, weights, digest)
    # Not by `new_identity`: what says its provenance takes seconds to import.
    wanted = Identity(FEATURE_VERSION, config.resolved(digest), declare(config), found.provenance)
    if wanted.fingerprint != found.fingerprint:
        raise ConfigError(refusal(folder, wanted, found))
    return found


def new_identity(config: ExtractConfig, weights: str, digest: str) -> Identity:
    """The identity of a new cache."""
    made_by = provenance(weights, weights_file_sha256(weights))
    return Identity(FEATURE_VERSION, config.resolved(digest), declare(config), made_by)


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
