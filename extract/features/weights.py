"""Which weights the video network uses, and where they come from. Imports no torch until asked."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cache.common.errors import ConfigError
from cache.format.identity import Identity
from extract.backbones import NETWORKS


def check_weights(weights: str) -> None:
    """Raise ConfigError unless `weights` is imagenet, random:SEED or an existing file."""
    if weights == "imagenet":
        return
    if weights.startswith("random:"):
        seed = weights.removeprefix("random:")
        if not (seed.isdecimal() and seed.isascii() and len(seed) < 19):
            raise ConfigError(f"--weights {weights[:80]}: expected random:SEED, a whole number")
    elif not _is_file(weights):
        raise ConfigError(
            f"--weights {weights}: no such file; expected imagenet, random:SEED, or the path of a "
            "state dict of the backbone"
        )


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def weights_file_sha256(weights: str) -> str:
    """Hex SHA-256 of a weights file; "" for imagenet and random:SEED."""
    if weights == "imagenet" or weights.startswith("random:"):
        return ""
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_digest(weights: str, variant: str, identity: Identity | None) -> str | None:
    """The weights' content digest from a cache that was made with them, without loading them."""
    if identity is None or identity.config.get("backbone") != variant:
        return None
    made = identity.provenance
    file_sha256 = weights_file_sha256(weights)
    same = (
        made.get("weights_file_sha256") == file_sha256
        if file_sha256
        else made.get("weights") == weights
    )
    return str(identity.config.get("weights_sha256", "")) if same else None


def imagenet_file(variant: str) -> Path:
    """torchvision's ImageNet weights on disk, downloaded and checked if need be.

    Raises ConfigError that says which file to fetch by hand, where to put it, and its checksum.
    """
    import torch
    from torchvision.models import get_model_weights

    network = NETWORKS[variant]
    path = Path(torch.hub.get_dir()) / "checkpoints" / network.imagenet_file
    url = get_model_weights(network.builder).DEFAULT.url
    prefix = path.stem.rpartition("-")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"the ImageNet weights can't be fetched ({error}). Fetch {url} "
                f"on a machine that can, and put it at {path} (its SHA-256 begins with {prefix}), "
                "or name a state dict with --weights PATH"
            ) from None
    if not weights_file_sha256(str(path)).startswith(prefix):
        raise ConfigError(
            f"{path}: its SHA-256 doesn't begin with {prefix}: the download is damaged; delete it"
        )
    return path
