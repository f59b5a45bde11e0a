"""Fixtures shared by all tests: a tiny demo set, the optional real data, repeatable settings."""

from __future__ import annotations

import functools
import os
from pathlib import Path

# Before anything imports matplotlib or torch; child processes inherit them. Tests run side by side,
# one process for each core: more threads would only wait for one another.
os.environ["MPLBACKEND"] = "Agg"
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import HealthCheck, settings
from made_once import made_once

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

LEFT_OUT = "not slow and not system"  # pyproject.toml
DEMO_CLIPS = 6
DEMO_SEED = 0


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile librosa's parts once, before workers start that would do so side by side."""
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        warm_up(ExtractConfig(audio_profile="librosa"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out if nobody chose."""
    if terminalreporter.config.option.markexpr == LEFT_OUT:
        terminalreporter.write_line(
            "left out: tests of whole systems (clusters, servers, the demo); `make check` runs all"
        )


@pytest.fixture(scope="session")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a six-clip set in both layouts. Shared: tests that change it must copy it."""
    make = functools.partial(make_demo_set, clips=DEMO_CLIPS, seed=DEMO_SEED, jobs=1)
    return made_once(tmp_path_factory, "demo-set", make)


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
