"""What `python -m train fit` takes, and the settings that follow from it; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cache.common.cli import Caches, Options, Parser, count, folder, say
from cache.common.errors import ConfigError
from cache.common.settings import NO_PRESET, chosen_settings
from train.config import PRESETS, TrainConfig

_MAY_CHANGE = ("epochs", "patience", "device", "memory_gb")
_INIT_RATE = 1 / 3


def add(parser: Parser) -> None:
    """What `fit` takes beside the settings; --print-config needs none of it, not even --cache."""
    parser.add_argument(
        "--cache",
        type=Path,
        action=Caches,
        help="feature cache to train from (required); given several times, or as one word with "
        "spaces between, the clips that all have, joined by id",
    )
    parser.add_argument("--run", type=folder, help="folder to make (default: runs/<date>-<time>)")
    _models(parser)
    _folds(parser)
    parser.add_argument("--resume", action="store_true", help="go on with RUN after its last epoch")
    pictures(parser)


def _models(parser: Parser) -> None:
    parser.add_argument(
        "--seeds",
        type=numbers,
        nargs="+",
        default=[],
        help="train once per seed, into RUN/seed-N: one number says how many (5 is 0 1 2 3 4), "
        "several say which",
    )
    parser.add_argument(
        "--ablations",
        action="store_true",
        help="train audio alone and video alone as well, the same way: RUN/both, audio, video",
    )
    parser.add_argument(
        "--init",
        type=folder,
        metavar="RUN",
        help="begin from the weights of another run of the same features: what fits is taken, "
        "of the class head the classes of the same name; the learning rate is a third of the "
        "default unless it is set. Of a run of several seeds, the i-th seed begins from the i-th",
    )
    parser.add_argument(
        "--also-score-test",
        action="store_true",
        help="score test after each epoch as well, which decides nothing: `report --split test` "
        "then tells what the best epoch on test has, as most published figures were chosen; each "
        "epoch counts as a look at test",
    )


def _folds(parser: Parser) -> None:
    parser.add_argument(
        "--folds",
        type=count,
        metavar="K",
        help="cross-validation, for small sets: divide the clips by id into K parts (3 or more) "
        "and train K models, into RUN/fold-1 …; each is scored on a part that it was neither "
        "trained nor selected on, and all parts together",
    )
    parser.add_argument(
        "--folds-of",
        choices=("train+val", "all"),
        default="train+val",
        help="what --folds divides: train and val, so that test stays untouched (the default), or "
        "all labelled clips",
    )


def numbers(text: str) -> list[int]:
    """Whole numbers from a word of the command line, which a shell may not have split."""
    return [int(word) for word in text.split()]


def seeds(options: Options) -> list[int]:
    """Which seeds are meant: one number says how many."""
    named = [seed for word in options.seeds for seed in word]
    chosen = (list(range(named[0])) or named) if len(named) == 1 else named
    if len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"--seeds {' '.join(map(str, chosen))}: a seed is named twice, which would "
            "count one model as two; name each once"
        )
    return chosen


def config(parser: Parser, options: Options, seeds: Sequence[int]) -> TrainConfig:
    """Settings of a new run, or of the run that is resumed: those may only be prolonged."""
    if not options.resume:
        return _new(parser, options)
    if options.run is None:
        raise ConfigError("--resume needs --run: which run should go on?")
    if options.preset:
        raise ConfigError(f"--preset {options.preset}: a resumed run keeps its settings; drop it")
    top = options.run / "both" if options.ablations else options.run
    top = top if options.folds is None else top / "fold-1"
    places = [top / f"seed-{seed}" for seed in seeds] or [top]
    stored = next((p for place in places if (p := place / "config.json").exists()), None)
    if stored is None and options.run.is_dir():  # stopped before training began
        say(f"note      {options.run}: stopped before its settings were stored; these count now")
        return _new(parser, options)
    stored = stored or places[0] / "config.json"
    before = TrainConfig.from_json(stored)
    found = chosen_settings(parser, TrainConfig, options, config=options.config or stored)
    changed = [
        name
        for name, value in found.model_dump().items()
        if value != getattr(before, name) and name not in _MAY_CHANGE
    ]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)}: a resumed run keeps its settings ({stored}); only "
            f"{', '.join(_MAY_CHANGE)} may change. Train anew without --resume for other settings"
        )
    return found


def _new(parser: Parser, options: Options) -> TrainConfig:
    """Settings of a new run; with --init and no learning rate of the person's, a third of it."""
    if options.init is None:
        return chosen_settings(parser, TrainConfig, options, PRESETS)
    gentle = {
        name: one.revised(learning_rate=one.learning_rate * _INIT_RATE)
        for name, one in {NO_PRESET: TrainConfig(), **PRESETS}.items()
    }
    found = chosen_settings(parser, TrainConfig, options, gentle)
    if found.learning_rate == gentle[options.preset or NO_PRESET].learning_rate:
        say(
            f"learning rate {found.learning_rate:.1e}: a third of the default, as the weights are "
            "trained already; --learning-rate sets another"
        )
    return found


def pictures(parser: Parser) -> None:
    """How many clips to draw: of `fit` and of `evaluate`."""
    parser.add_argument(
        "--pictures",
        type=count,
        default=4,
        help="clips to draw beside the page (default: 4); 0: nothing is drawn",
    )


def media(parser: Parser) -> None:
    """Where the clips are, for the page that plays them."""
    parser.add_argument(
        "--media",
        type=Path,
        nargs="+",
        help="media files, or folders of such, that report.html plays beside its clips",
    )


def heads(parser: Parser) -> None:
    """Whether the attention of every head is drawn, beside what they have in common."""
    parser.add_argument("--heads", action="store_true", help="draw each head's attention as well")
