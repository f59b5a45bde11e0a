"""What `record.json` holds: each start of a training run, and whose weights it began with."""

from __future__ import annotations

from pathlib import Path

from cache.common.settings import Settings
from cache.common.strict_json import read_json
from train.runs.folders import RECORD_FILE


class Session(Settings):
    """One start of a training run: the first, or one that resumed it."""

    started: str
    """When, ISO 8601 in UTC."""
    ended: str | None = None
    """When it ended well; None while it runs, and where it was stopped."""
    epochs: int | None = None
    """How many epochs were planned; None in runs of earlier releases."""
    ended_because: str | None = None
    """Why it ended, in words, or why it could not go on; None while it runs."""
    command: list[str]
    """The command line."""
    device: str
    """What it ran on."""
    processes: int
    """How many processes trained together."""
    version: str
    """Version of this package."""
    commit: str | None
    """The git commit of its checkout; None where it is none."""
    dirty: bool | None
    """Whether tracked files of the checkout were changed."""
    code: dict[str, str]
    """A digest of each module that decides the numbers; see `train.runs.code`."""
    libraries: dict[str, str]
    """Versions of what it depends on."""


class Init(Settings):
    """From which other run's weights a run began. The name is for people: nothing follows it."""

    run: str
    """The folder's name, of a seed or fold that of its run before it."""
    checkpoint_sha256: str
    """Of the file of weights."""
    taken: str
    """What was taken over and what was not, in words."""
    seen_known: bool
    """Whether it is known which clips those weights have seen."""


class Making(Settings):
    """How a run was made."""

    sessions: list[Session]
    """Each start, the first one first."""
    init: Init | None = None
    """Where it didn't begin with random weights: with whose."""

    @classmethod
    def of(cls, run: Path) -> Making | None:
        """How the run in a folder was made; None where none is recorded."""
        path = run / RECORD_FILE
        if not path.exists() and not path.is_symlink():
            return None
        return cls.parse(read_json(path, "copy the run's folder again"), str(path))
