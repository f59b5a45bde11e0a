"""A recording of 40 s with three events, of the classes of a demo set: something to annotate.

Between the events, and beside them, things are only heard or only seen, as in the set's clips.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from cache.common.atomic import plain_folder, publish, replace_file, unfinished
from extract.demo.scenes import FPS, SAMPLE_RATE_HZ, Span, render_frames, render_sound

RECORDING_S = 40
FOLDER, MEDIA, EVENTS = "recordings", "walk.mp4", "events.csv"
TRUE: tuple[Span, ...] = (
    ("Church bell", 4, 10),
    ("Frying (food)", 17, 24),
    ("Bark", 30, 36),
)
HEARD_ALONE: tuple[Span, ...] = (("Church bell", 26, 28),)
SEEN_ALONE: tuple[Span, ...] = (("Frying (food)", 24, 28), ("Church bell", 2, 4))


def make_recording(out: Path, seed: int = 0) -> Path:
    """Write the recording, and its true events as CSV, into a folder in `out`; returns the film.

    What is there is kept.
    """
    from extract.demo.__main__ import write_mp4

    folder = plain_folder(out / FOLDER)
    film = folder / MEDIA
    if not film.exists():
        sound = render_sound([*TRUE, *HEARD_ALONE], seed, RECORDING_S)
        frames = render_frames([*TRUE, *SEEN_ALONE], seed, RECORDING_S)
        with unfinished(film) as path:
            write_mp4(path, sound, SAMPLE_RATE_HZ, frames, FPS)
            publish(path, film)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["media", "start_s", "end_s", "category"])
    rows.writerows([MEDIA, start, end, name] for name, start, end in TRUE)
    replace_file(folder / EVENTS, table.getvalue().encode())
    return film
