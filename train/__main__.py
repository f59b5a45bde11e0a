"""The command line of stage 2; `python -m train --help` shows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cache.common.cli import Caches, Parser, count, exit_code, folder, say
from cache.common.settings import add_settings, chosen_settings
from train.annotate.formats import FORMATS, parse_formats
from train.commands import export_options, fit_options, overview, sweep_options
from train.config import PRESETS, TrainConfig

USAGE = """\
Train from a feature cache, and look at what was learned. No media are needed.

  python -m train fit      --cache DIR [--run DIR] [--seeds 5] [--ablations] [--folds 5]
                           [--init RUN] [--resume] [settings]
  python -m train sweep    --cache DIR [--out DIR] [--trials 60] [--space FILE] [settings]
  python -m train evaluate --cache DIR [--run DIR] [--split val|test] [--media FOLDER ...]
  python -m train predict  --cache DIR [--run DIR]
  python -m train annotate --cache DIR --out DIR [--run DIR] [--media FILE ...] [--formats page,csv]
  python -m train features [--run DIR] --out FILE
  python -m train watch    [RUN] [--once]
  python -m train runs     [FOLDER] [--sort miou] [--where learning_rate=1e-3] [--csv FILE]
  python -m train report   RUN [RUN ...] [--split val|test] [--format latex] [--page FILE]
  python -m train export   --out DIR [--run DIR] [--no-onnx] [--licence MIT]
  python -m train retrieve --cache DIR [--run DIR] [--split val|test]

Examples:
  python -m train fit --cache cache-ave
  python -m train fit --cache cache-ave --seeds 5              (mean ± sd, and the ensemble)
  python -m train fit --cache cache-ave --ablations            (both, audio alone, video alone)
  python -m train fit --cache cache-ave --preset classic
  python -m train fit --cache features --cache clap            (clips that both have, joined by id)
  python -m train fit --cache cache-own --folds 5              (a small set: every clip is scored)
  python -m train fit --cache cache-own --init runs/ave        (begin from another run's weights)
  python -m train sweep --cache cache-ave --trials 60          (better settings, judged on val)
  python -m train evaluate --cache cache-ave --split test        (the newest run)
  python -m train report runs/audio runs/video runs/both
  torchrun --nproc_per_node 4 -m train -- fit --cache cache-ave  (four processes, a GPU each)

`python -m train COMMAND --help` shows every option. Exit codes: 0 fine, 2 an error that is
explained in a line, 130 stopped with Ctrl-C (what is finished is kept).
"""

_DEVICES = ("auto", "cpu", "cuda", "mps")
_RUN = "run, or folder of seeds or folds (default: the newest)"


def _fit(argv: Sequence[str]) -> None:
    """Train, evaluate on the validation split, draw."""
    parser = Parser(
        "python -m train fit",
        "Train, score on the validation split, draw.",
        usage="%(prog)s [-h] --cache CACHE [--OPTION ...] [--SETTING VALUE ...]",
    )
    fit_options.add(parser)
    add_settings(parser, TrainConfig, PRESETS)
    options = parser.parse_args(argv)
    seeds = fit_options.seeds(options)
    config = fit_options.config(parser, options, seeds)
    if options.cache is None:
        parser.error("the following arguments are required: --cache")
    from train.commands.fit import fit

    fit(
        options.cache,
        options.run,
        config,
        resume=options.resume,
        seeds=seeds,
        ablations=options.ablations,
        folds=options.folds,
        folds_of=options.folds_of,
        init=options.init,
        pictures=options.pictures,
        also_test=options.also_score_test,
    )


def _sweep(argv: Sequence[str]) -> None:
    """Search settings on the validation split."""
    parser = Parser(
        "python -m train sweep",
        "Search settings on the validation split; train the best again with fresh seeds.",
        usage="%(prog)s [-h] --cache CACHE [--OPTION ...] [--SETTING VALUE ...]",
    )
    sweep_options.add(parser)
    add_settings(parser, TrainConfig, PRESETS)
    options = parser.parse_args(argv)
    config = chosen_settings(parser, TrainConfig, options, PRESETS)
    from train.commands.sweep import Wanted, sweep

    names = ("trials", "jobs", "trial_seeds", "trial_epochs", "again", "fresh_seeds")
    wanted = Wanted(**{name: getattr(options, name) for name in names})
    sweep(options.cache, options.out, config, options.space, wanted)


def _evaluate(argv: Sequence[str]) -> None:
    """Score a run beside its baselines."""
    parser = Parser(
        "python -m train evaluate", "Score a run on a split, beside trivial baselines; draw it."
    )
    _asked(parser, "cache with labels; as in fit")
    overview.split(parser)
    fit_options.pictures(parser)
    fit_options.media(parser)
    fit_options.heads(parser)
    options = parser.parse_args(argv)
    from train.commands.evaluate import evaluate_run

    evaluate_run(
        options.run,
        options.cache,
        options.split,
        device=options.device,
        pictures=options.pictures,
        media=options.media,
        heads=options.heads,
    )


def _predict(argv: Sequence[str]) -> None:
    """Predict every clip of a cache."""
    parser = Parser(
        "python -m train predict",
        "Class, start and end of every clip of a cache; labels not needed.",
    )
    _asked(parser, "features made as the run's were")
    parser.add_argument("--out", type=Path, help="folder to write (default: RUN/predictions)")
    parser.add_argument("--pictures", type=count, help="clips to draw (default: all)")
    fit_options.heads(parser)
    options = parser.parse_args(argv)
    from train.commands.predict import predict_cache

    predict_cache(
        options.run,
        options.cache,
        out=options.out,
        device=options.device,
        pictures=options.pictures,
        heads=options.heads,
    )


def _annotate(argv: Sequence[str]) -> int:
    """Find events in recordings."""
    parser = Parser(
        "python -m train annotate",
        "Events of every recording of a cache: lists for people's tools, and a page that plays it.",
    )
    _asked(parser, "features made as the run's were")
    parser.add_argument("--out", type=folder, required=True, help="folder to write")
    parser.add_argument(
        "--media",
        type=Path,
        nargs="+",
        default=[],
        help="the files, or folders of files, that are meant, and that the pages play (default: "
        "all recordings of the cache)",
    )
    every = ",".join(FORMATS)
    parser.add_argument("--formats", default=every, help=f"some of {every} (default: all)")
    parser.add_argument(
        "--probabilities", action="store_true", help="each second's, in each events.json"
    )
    options = parser.parse_args(argv)
    from train.commands.annotate import annotate

    return annotate(
        options.run,
        options.cache,
        options.out,
        options.media,
        parse_formats(options.formats),
        options.probabilities,
        options.device,
    )


def _features(argv: Sequence[str]) -> None:
    """Say which run answers, and how media must be extracted for it."""
    parser = Parser(
        "python -m train features",
        "Print the run's folder and write how media must be extracted for it: what `python -m "
        "extract clip FILE --like` takes, and `predict` then answers from.",
    )
    parser.add_argument("--run", type=folder, help=_RUN)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(argv)
    from train.runs import clip_features, folders

    run = options.run or folders.newest_run()
    folders.write_json(options.out, clip_features.wanted(run))
    if sys.stdout.isatty():
        say(str(run))
    else:  # a program reads it, and needs its very bytes
        sys.stdout.buffer.write(os.fsencode(run) + b"\n")


def _export(argv: Sequence[str]) -> None:
    """Hand a run over."""
    options = export_options.parse(argv, _RUN)
    from train.commands.export import export

    export(
        options.run,
        options.out,
        onnx=options.onnx,
        cache_path=options.cache,
        licence=options.licence,
        without_ids=options.without_ids,
    )


def _retrieve(argv: Sequence[str]) -> None:
    """Find pictures by sound, and back."""
    parser = Parser(
        "python -m train retrieve",
        "Which clip's picture a sound belongs to, which seconds of it, and back, by a run's "
        "streams.",
    )
    _asked(parser, "cache with labels; as in fit")
    overview.split(parser)
    options = parser.parse_args(argv)
    from train.commands.retrieve import retrieve

    retrieve(options.run, options.cache, options.split, options.device)


def _asked(parser: Parser, cache: str) -> None:
    """Which run is asked, about which cache, and where it answers."""
    parser.add_argument("--run", type=folder, help=_RUN)
    parser.add_argument("--cache", type=Path, action=Caches, required=True, help=cache)
    parser.add_argument("--device", choices=_DEVICES, help="default: the run's")


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "fit": _fit,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "predict": _predict,
    "annotate": _annotate,
    "features": _features,
    "report": overview.report,
    "watch": overview.watch,
    "runs": overview.runs,
    "export": _export,
    "retrieve": _retrieve,
}


_KEPT = {
    "fit": "finished epochs are kept, `--resume --run RUN` goes on with them",
    "watch": "the training, if there is one, goes on",
    "sweep": "finished trials are kept, the same command goes on",
    "annotate": "what is written is kept, the same command goes on with the other recordings",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    words = words[words[:1] == ["--"] :]  # which keeps torchrun from reading our options
    return exit_code(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in {"-h", "--help"}:
        say(USAGE.rstrip("\n"))
        return 0 if words else 2
    if words[0] not in COMMANDS:
        say(f"unknown command {words[0]!r}; expected {', '.join(COMMANDS)}", error=True)
        return 2
    try:
        return COMMANDS[words[0]](words[1:]) or 0
    except KeyboardInterrupt:
        kept = _KEPT.get(words[0], "the same command begins anew")
        say(f"stopped; {kept}", error=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
