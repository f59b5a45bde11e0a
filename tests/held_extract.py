"""`python -m extract`, but that one clip is held: no extraction ends before it is let go.

So a test can interrupt an extraction that is certainly under way, however fast the machine is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import extract.parallel.pipeline
from cache.format.shard import Clip
from extract.__main__ import main
from extract.features.extractor import Extractor
from extract.parallel.job import Done, ShardJob
from extract.sources import MediaSource


class Held:
    """A clip that workers wait at; start them with `program` and `environment`."""

    program = (str(Path(__file__)),)

    def __init__(self, folder: Path, clip_id: str) -> None:
        self.id, self.gate = clip_id, folder / "gate"
        self.gate.touch()
        paths = f"{Path(__file__).parent}{os.pathsep}{Path(__file__).parent.parent}"
        held = {"HELD_CLIP": clip_id, "HELD_GATE": str(self.gate), "PYTHONPATH": paths}
        self.environment = {**os.environ, **held}

    def reached(self, cache: Path) -> bool:
        """Whether a worker is at it."""
        for note in cache.glob(".working-*"):
            with contextlib.suppress(FileNotFoundError):
                if note.read_text() == self.id:
                    return True
        return False

    def let_go(self) -> None:
        self.gate.unlink()


class HeldJob(ShardJob):
    """Waits at the clip, wherever it runs."""

    def __call__(self, sources: Sequence[MediaSource]) -> Done:
        works = Extractor.__call__

        def held(extractor: Extractor, source: MediaSource) -> Clip:
            while source.id == os.environ["HELD_CLIP"] and Path(os.environ["HELD_GATE"]).exists():
                time.sleep(0.02)
            return works(extractor, source)

        Extractor.__call__ = held  # type: ignore[assignment, method-assign]
        try:
            return super().__call__(sources)
        finally:
            Extractor.__call__ = works  # type: ignore[method-assign]


if __name__ == "__main__":
    from held_extract import HeldJob as Job  # by its name, as workers find it

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    extract.parallel.pipeline.ShardJob = Job  # type: ignore[attr-defined]
    sys.exit(main())
