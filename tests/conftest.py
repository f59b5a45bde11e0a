"""Fixtures shared by all tests: a tiny demo set, the optional real data, repeatable settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Before anything imports matplotlib or torch; child processes inherit them.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch
from hypothesis import HealthCheck, settings

from extract.config import ExtractConfig
from extract.demo.__main__ import DemoClip, make_demo_set, plan_demo_set
from extract.features.audio import warm_up

pytest_plugins = ["servers", "remote_places"]

settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

DEMO_CLIPS = 6
DEMO_SEED = 0


@pytest.fixture(scope="session", autouse=True)
def compiled_librosa() -> None:
    """Compile librosa's parts once, before tests start processes that would do so side by side."""
    warm_up(ExtractConfig(audio_profile="librosa"))


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Tiny models train faster, and the same everywhere, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a six-clip set in both layouts. Shared: tests that change it must copy it."""
    folder = tmp_path_factory.mktemp("demo") / "set"
    make_demo_set(folder, DEMO_CLIPS, DEMO_SEED, jobs=1)
    return folder


@pytest.fixture(scope="session")
def demo_plan() -> list[DemoClip]:
    """What is in `demo_set`, clip by clip."""
    return plan_demo_set(DEMO_CLIPS, DEMO_SEED)


@pytest.fixture(scope="session")
def avel_data() -> Path:
    """Folder of real data; use it together with the marker `data`."""
    value = os.environ.get("AVEL_DATA")
    if not value:
        pytest.skip("needs real data: set the environment variable AVEL_DATA to its folder")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"AVEL_DATA is {value!r}, which is not a folder")
    return folder
