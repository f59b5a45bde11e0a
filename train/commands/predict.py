"""`python -m train predict`: what a run says of every clip of a cache, as a table and pictures."""

from __future__ import annotations

from pathlib import Path

from cache import Cache
from cache.common.atomic import plain_folder
from cache.common.cli import say
from cache.joined import open_caches
from train.report import plots
from train.report.drawing import FOLDER
from train.report.views import AttentionMaps, View
from train.runs.answers import (
    ClipAnswer,
    as_table,
    clip_answers,
    describe_run,
    found_events,
    load_all_clips,
    seen_notes,
    unseen_notes,
)
from train.runs.folders import write_json
from train.runs.recordings import on_recordings
from train.runs.timelines import timelines
from train.runs.trained import TrainedRun, load_run


def predict_cache(
    run: Path | None,
    cache_path: Path,
    *,
    out: Path | None = None,
    device: str | None = None,
    pictures: int | None = None,
    heads: bool = False,
) -> list[ClipAnswer]:
    """Class, start and end of every clip of a cache (see `clip_answers`), written, printed, drawn.

    Of a run that answers with lists of events (see `on_recordings`) these, printed and written.

    run: None takes the newest; a folder of seeds answers as an ensemble. pictures: how many clips
    are drawn, None for all; they show the attention of the first model. heads: each of its heads'.
    """
    trained, cache = load_run(run), open_caches(cache_path)
    trained.check_features(cache)
    for text in trained.cautions():
        say(f"warning: {text}", error=True)
    if on_recordings(cache, trained.about):
        return _events(trained, cache, out, device)
    clips = load_all_clips(trained, cache, device)
    drawn = range(len(cache.ids))[:pictures]
    maps = AttentionMaps(trained.models[0], clips, drawn, models=len(trained.models))
    answer = trained.answer(clips, maps if drawn else None)
    found = clip_answers(trained, cache, answer)
    folder = _folder(trained, out)
    write_json(folder / "predictions.json", found)
    for text in (describe_run(trained), *seen_notes(found), as_table(found), *unseen_notes(cache)):
        say(text)
    for number in drawn:
        view = View.of(cache, clips, answer, maps, number, {"id": cache.ids[number]})
        drawings = plots.draw_clip(folder / FOLDER, view, heads)
        if number == 0:
            say(f"pictures: {drawings[0]}, {len(drawings) - 1} more beside it"
                + (f", and of {len(drawn) - 1} other clips" if len(drawn) > 1 else ""))  # fmt: skip
    say(f"written: {folder / 'predictions.json'}")
    return found


def _events(
    trained: TrainedRun, cache: Cache, out: Path | None, device: str | None
) -> list[ClipAnswer]:
    of = timelines(trained, cache, device=device)
    found, folder = found_events(trained, cache, of), _folder(trained, out)
    write_json(folder / "predictions.json", found)
    say(describe_run(trained))
    say(as_table(found) if found else "no event was found")
    quiet = sorted(of.keys() - {one["recording"] for one in found})
    if quiet and found:
        say(f"no event in {len(quiet)} of {len(of)} recordings: {', '.join(quiet[:10])}")
    for text in unseen_notes(cache):
        say(text)
    say(f"written: {folder / 'predictions.json'}")
    return found


def _folder(trained: TrainedRun, out: Path | None) -> Path:
    single = len(trained.models) == 1
    return plain_folder(
        out or (trained.models[0].folder if single else trained.folder) / "predictions"
    )
