"""What is told of a training: `metrics.jsonl`, TensorBoard, curves, and why it ended."""

import json
from pathlib import Path
from typing import NoReturn

import pytest
from synthetic_cache import make_cache
from test_train_loop import SMALL, prepare

from cache import Cache, open_cache
from cache.common import strict_json
from cache.common.errors import ConfigError
from train.commands import curves
from train.config import TrainConfig
from train.report.drawing import FOLDER
from train.runs.progress import METRICS_FILE, read_metrics
from train.training.choice import why_ended
from train.training.loop import train_model
from train.training.state import History
from train.training.tell import Callback, Console, MetricsFile, TensorBoard, told

ONE = {
    "epoch": 1,
    "train_loss": 1.0,
    "train_class_loss": 1.0,
    "train_interval_loss": 1.0,
    "train_gate_loss": 1.0,
    "val_class_loss": 1.0,
    "val_top1": 0.5,
    "val_localized_iou": 0.25,
    "learning_rate": 1e-3,
    "seconds": 2.0,
}


def entries(*scores: float) -> History:
    return [{**ONE, "epoch": n, "val_localized_iou": one} for n, one in enumerate(scores, 1)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(make_cache(tmp_path_factory.mktemp("cache"), clips=30, classes=3))


def train(cache: Cache, run: Path, epochs: int, resume: bool = False) -> History:
    config = SMALL.revised(selection="best", epochs=epochs, audio_feat_dim=16, video_feat_dim=16)
    run.mkdir(exist_ok=True)
    model, dataset, about = prepare(cache, config)
    return train_model(model, dataset, about, run, resume, callbacks=[MetricsFile(run)])


def without_time(path: Path) -> list[dict[str, float]]:
    return [{**entry, "seconds": 0.0} for entry in read_metrics(path)]


def test_a_resumed_run_has_the_file_of_one_that_never_stopped(cache: Cache, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    history = train(cache, whole, 4)
    assert read_metrics(whole / METRICS_FILE) == history
    train(cache, stopped, 2)
    path = stopped / METRICS_FILE
    first = path.read_bytes()
    torn = json.dumps({**history[2], "train_loss": 9.0})
    path.write_text(first.decode() + torn + "\n" + torn[:40])  # stored later than the checkpoint
    assert len(read_metrics(path)) == 3
    train(cache, stopped, 4, resume=True)
    assert path.read_bytes().startswith(first)
    assert without_time(path) == without_time(whole / METRICS_FILE)


def test_nothing_is_said_and_written_without_callbacks(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, dataset, about = prepare(cache, SMALL.revised(epochs=1))
    train_model(model, dataset, about, tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".pth"}
    assert capsys.readouterr() == ("", "")


def test_each_line_is_there_when_its_epoch_ends(tmp_path: Path) -> None:
    file, history = MetricsFile(tmp_path), entries(0.1, 0.2, 0.3)
    (tmp_path / METRICS_FILE).write_text("of a run that was killed before its first epoch")
    finished: History = []
    with told([file], finished, 3) as tell:
        for entry in history:
            assert read_metrics(tmp_path / METRICS_FILE) == finished
            finished.append(entry)
            tell(True)
    assert read_metrics(tmp_path / METRICS_FILE) == history


def test_all_hear_of_the_end_even_of_a_bad_one() -> None:
    heard = []

    class Listener(Callback):
        def end(self) -> None:
            heard.append(self)

    both = [Listener(), Listener()]
    with pytest.raises(KeyboardInterrupt), told(both, [], 1):
        raise KeyboardInterrupt
    assert heard == both[::-1]


def test_the_console_says_the_first_the_last_and_some_sixty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console, history = Console(), entries(*[0.5] * 300)
    with told([console], [], 300):
        for done in range(1, 301):
            console.epoch(history[:done], 300, best=done == 1)
    lines = capsys.readouterr().err.splitlines()
    assert 55 <= len(lines) <= 65
    assert lines[0].startswith("epoch   1/300  loss 1.0000  val top-1 0.500  localized_iou 0.500 *")
    assert lines[-1].startswith("epoch 300/300")


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = entries(0.1, 0.2, 0.3)
    for begin, end in ((0, 2), (1, 3)):  # killed after an epoch that wasn't stored, and resumed
        board = TensorBoard(tmp_path)
        with told([board], history[:begin], 3):
            for done in range(begin + 1, end + 1):
                board.epoch(history[:done], 3, False)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss", "val/top1", "val/localized_iou", "learning_rate"} <= set(
        found.Tags()["scalars"]
    )
    events = found.Scalars("val/localized_iou")
    assert [event.step for event in events] == [1, 2, 3]
    assert [event.value for event in events] == pytest.approx([0.1, 0.2, 0.3])


def test_without_tensorboard_all_is_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    board = TensorBoard(tmp_path)
    with told([board], [], 1):
        board.epoch(entries(0.1), 1, True)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_tensorboard_that_fails_stops_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full:
        def add_scalar(self, *_: object) -> NoReturn:
            raise RuntimeError("disk full")

    board = TensorBoard(tmp_path)
    board._writer = Full()
    for _ in range(2):
        board.epoch(entries(0.1), 1, True)
    assert capsys.readouterr().err.count("no more events from here on: disk full") == 1


class TestCurves:
    """The picture is drawn now and then, and nothing that happens to it stops the training."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [100.0]
        monkeypatch.setattr("train.commands.curves.time.monotonic", lambda: now[0])
        return now

    def test_not_often(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
    ) -> None:
        drawn, history = [], entries(*[0.5] * 100)

        def draw(run: Path, history: History, kept: int) -> None:
            clock[0] += 1.0
            drawn.append(len(history))

        monkeypatch.setattr(curves, "draw_curves", draw)
        callback = curves.Curves(tmp_path, TrainConfig())
        callback.begin([], 100)
        for done in range(1, 101):
            clock[0] += 2.0
            callback.epoch(history[:done], 100, False)
        assert drawn == [8, 23, 38, 53, 68, 83, 98]

    def test_a_picture(self, tmp_path: Path, clock: list[float]) -> None:
        callback = curves.Curves(tmp_path, TrainConfig(selection="best"))
        callback.begin([], 3)
        clock[0] += 100.0
        callback.epoch(entries(0.1, 0.3), 3, True)
        assert (tmp_path / FOLDER / "curves.png").read_bytes()[:4] == b"\x89PNG"

    def test_a_failure(
        self, tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / FOLDER).write_text("a file where the folder belongs")
        callback = curves.Curves(tmp_path, TrainConfig())
        callback.begin([], 9)
        for done in range(2, 8):
            clock[0] += 100.0
            callback.epoch(entries(*[0.5] * done), 9, True)
        assert capsys.readouterr().err.count("curves.png is not drawn from here on") == 1


@pytest.mark.parametrize(
    ("config", "scores", "why"),
    [
        (
            {"selection": "best", "patience": 3},
            [0.1, 0.4, 0.2, 0.2, 0.3],
            "early stopping at epoch 5, best 2: no better localized_iou on val in 3 epochs",
        ),
        ({"selection": "best"}, [0.1, 0.4, 0.2], "all 3 epochs, best 2"),
        ({}, [0.1, 0.2], "all 2 epochs, weights averaged over about the last 5"),
        ({"average_epochs": 0.0}, [0.1, 0.2], "all 2 epochs, the last one's weights"),
    ],
)
def test_why_it_ended(config: dict[str, object], scores: list[float], why: str) -> None:
    assert why_ended(entries(*scores), TrainConfig.parse(config)) == why


def test_what_no_metrics_file_says(tmp_path: Path) -> None:
    line = json.dumps(ONE)
    for text, words in {
        f"{line}\n{line}\n": "expected epoch 2",
        "[]\n": "expected a list of epochs",
        f"{line}\nno json\n": "line 2: this is not JSON",
        line.replace("0.5", "NaN") + "\n": "NaN is no finite number",
        line.replace("0.5", '"x"') + "\n": "expected a list of epochs",
        "\n": "line 1: this is not JSON",
    }.items():
        path = tmp_path / METRICS_FILE
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            read_metrics(path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=METRICS_FILE):
        read_metrics(path)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(strict_json.MAX_JSON_BYTES + 1)
    with pytest.raises(ConfigError, match=METRICS_FILE):
        read_metrics(path)
