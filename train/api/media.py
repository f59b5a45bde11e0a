"""Media → features, by the other stage in a process of its own: the trainer imports none of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cache import Cache, open_cache
from cache.common.cli import say
from cache.common.errors import ConfigError
from train.runs.clip_features import wanted
from train.runs.folders import write_json

_PACKAGES = Path(__file__).resolve().parents[2]
_SOME_FAILED = 1


def extracted(
    run: Path,
    media: Sequence[Path],
    scratch: Path,
    cache: Path,
    hop_s: float | None = None,
    weights: str | None = None,
) -> Cache:
    """The features of media files as a run needs them, made by `python -m extract clip`.

    scratch: a folder for how they must be made; cache: where they go, kept where it was there.
    hop_s: a clip every so many seconds of each; None: as the run's were. Raises ConfigError with
    what that command says where nothing could be extracted; of several files those that couldn't
    are said, and stop none.
    """
    like = scratch / "like.json"
    write_json(like, wanted(run))
    # A name that begins with "-" is no option.
    words = [str(path) if not str(path).startswith("-") else f"./{path}" for path in media]
    words += ["--cache", str(cache), "--like", str(like)]
    words += [] if hop_s is None else ["--hop-seconds", str(hop_s)]
    words += [] if weights is None else ["--weights", weights]
    done = _extract(words)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if done.returncode and any("ModuleNotFoundError" in line for line in lines):
        raise ConfigError(
            f"{media[0]}: features of media need what stage 1 needs, which is not installed here "
            f"({lines[-1]}); install it, or make the features on a machine that has it and give "
            "the cache instead"
        )
    if done.returncode not in (0, _SOME_FAILED):
        why = "; ".join(told or lines[-1:]) or f"exit code {done.returncode}"
        raise ConfigError(f"no features of {media[0]}: {why.removeprefix(f'{media[0]}: ')}")
    for line in told:
        say(f"warning: no features: {line}", error=True)
    return open_cache(cache)


def _extract(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The command of stage 1; -P: what lies in the current folder is no module."""
    paths = [str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, "-P", "-m", "extract", "clip", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
