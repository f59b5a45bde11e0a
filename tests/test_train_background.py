"""Clips without an event: what they teach, how they are scored, and what is said of them."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from background_runs import mixed_cache, with_background
from four_events import array
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from synthetic_cache import make_cache
from tiny_runs import FLAGS, TINY, drawable, score, tiny_labels
from torch import Tensor

from cache import CacheError, open_cache
from cache.common.errors import ConfigError
from cache.format.schema import BACKGROUND
from train.__main__ import main
from train.commands.evaluate import evaluate_run
from train.commands.fit import fit
from train.config import TrainConfig
from train.data.batch import Output
from train.data.dataset import UNKNOWN, choose_rows, load_dataset, resolve
from train.model.fusion import FusionModel
from train.report.outcomes import events_to_draw, hardest
from train.report.page_cards import card
from train.report.run_plots import gates_figure, intervals_figure
from train.report.tables import PRESENCE, table
from train.runs import record
from train.runs.answers import as_table
from train.runs.trained import Answer, load_run
from train.score.calibrate import Calibration
from train.score.decode import Evidence, event_confidence
from train.score.metrics import Array, Events, Predictions
from train.score.presence import best_threshold, clip_counts, presence, score_all
from train.score.summary import score as event_scores
from train.training import loop
from train.training.loop import compute_losses, gate_targets
from train.training.normalize import normalize
from train.training.state import TrainState

SMALL = TrainConfig(
    device="cpu",
    audio_feat_dim=16,
    video_feat_dim=16,
    num_heads=4,
    map_channels=8,
    batch_size=8,
    epochs=1,
    dropout=0.0,
    input_dropout=0.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed_cache(tmp_path_factory.mktemp("mixed") / "cache")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "run"
    argv = ["fit", "--cache", folder, "--run", place, *FLAGS, "--seed", "1"]
    assert main([str(word) for word in argv]) == 0
    return place


class TestRows:
    def test_they_are_rows_of_their_splits(self, folder: Path) -> None:
        cache = open_cache(folder)
        config = resolve(SMALL, cache, cache.labels.classes)
        dataset = load_dataset(cache, config)
        for name, events in (("train", 18), ("val", 6), ("test", 6)):
            samples = dataset.splits[name]
            empty = samples.category == BACKGROUND
            assert len(samples) - samples.background_count() == events
            assert samples.background_count() == empty.sum() == {"train": 9}.get(name, 3)
            assert not samples.interval[empty].any()

    def test_a_class_that_is_not_known_is_not_no_event(self, folder: Path) -> None:
        rows = choose_rows(open_cache(folder), SMALL, ["Class 2", "Other"])
        kept = rows.labels.category[rows.kept["train"]]
        assert set(kept.tolist()) == {0, BACKGROUND}
        assert (kept == BACKGROUND).sum() == 9
        assert rows.unknown["train"] == {"Class 0": 6, "Class 1": 6}
        assert (rows.labels.category == UNKNOWN).sum() == 20

    def test_the_record_keeps_them(self, folder: Path, run: Path) -> None:
        kept_of_it = load_run(run).models[0].record
        assert kept_of_it is not None
        assert kept_of_it.rows.background.sum() == 12
        assert "empty000" in kept_of_it.ids("train")
        cache = open_cache(folder)
        assert record.is_own(kept_of_it, cache.labels)
        fewer = with_background(tiny_labels(), 14)
        assert record.is_own(kept_of_it, fewer), "of the last clip, in test, it knows nothing"
        assert not record.is_own(kept_of_it, with_background(tiny_labels(), 13))
        kept = choose_rows(cache, SMALL).used()
        assert kept.ids[-1] == "empty013"
        kept.split[-1] = 2
        with pytest.raises(ConfigError, match=r"1 row\(s\) gone \(empty013: no event\)"):
            record.check_same_rows(run, kept.classes, kept_of_it.rows, kept)

    @pytest.mark.parametrize("split", [0, 1])
    def test_a_split_without_an_event_can_not_be_trained_on(
        self, tmp_path: Path, split: int
    ) -> None:
        labels = tiny_labels(12)
        labels.split[labels.split == split] = 2
        labels = with_background(labels, 6, [split])
        cache = make_cache(tmp_path / "cache", labels=labels, **TINY)
        with pytest.raises(ConfigError, match="has no event, only clips without one"):
            fit(cache, tmp_path / "run", SMALL, pictures=0)

    def test_a_split_without_an_event_is_not_scored(self, run: Path, tmp_path: Path) -> None:
        labels = tiny_labels(12)
        labels.split[labels.split == 2] = 0
        cache = make_cache(tmp_path / "c", labels=with_background(labels, 6, [2]), **TINY)
        with pytest.raises(CacheError, match="no event, only clips without one"):
            evaluate_run(run, cache, "test", pictures=0)


class TestLosses:
    def output(self, count: int = 5, classes: int = 3, length: int = 8) -> Output:
        torch.manual_seed(0)
        edge = torch.linspace(0, 1, length + 1)
        steps = torch.stack([edge[:-1], edge[1:]], dim=1).expand(count, -1, -1)
        spans = torch.rand(count, 2).sort(dim=1).values
        return Output(
            torch.randn(count, classes), spans, torch.randn(count, length), steps, attention={}
        )

    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    def test_class_and_interval_are_means_over_events(self, smoothing: float) -> None:
        config = SMALL.revised(label_smoothing=smoothing)
        output = self.output()
        category = torch.tensor([0, BACKGROUND, 2, BACKGROUND, 1])
        interval = torch.tensor([[0.1, 0.4], [0, 0], [0.0, 1.0], [0, 0], [0.5, 0.9]])
        real = category != BACKGROUND
        some = Output(
            output.logits[real],
            output.interval[real],
            output.gate_logits[real],
            output.steps[real],
            attention={},
        )
        steps, three = torch.tensor(40), torch.tensor(3)
        found = compute_losses(output, category, interval, config, three, steps)
        alone = compute_losses(some, category[real], interval[real], config, 3, torch.tensor(24))
        torch.testing.assert_close(found[1:3], alone[1:3])
        quiet = torch.nn.functional.softplus(output.gate_logits[~real]).sum()
        torch.testing.assert_close(found[3], (alone[3] * 24 + quiet) / 40)

    def test_nothing_is_heard_or_seen_forwards_and_backwards(self) -> None:
        steps = self.output().steps
        for at in (0.0, 1.0):
            assert not gate_targets(steps, torch.full((5, 2), at)).any()

    def test_a_batch_of_them_alone_teaches_the_gate_alone(self) -> None:
        output = self.output()
        output.logits.requires_grad_()
        category = torch.full((5,), BACKGROUND)
        found = compute_losses(
            output, category, torch.zeros(5, 2), SMALL, torch.tensor(1), torch.tensor(40)
        )
        torch.autograd.backward(found[0])
        assert found[1] == found[2] == 0
        assert output.logits.grad is not None
        assert not output.logits.grad.any()
        assert found[3] > 0

    def test_shares_of_several_processes_sum_to_the_whole(self, folder: Path) -> None:
        """Each process counts the events of its share; one may have none."""
        cache = open_cache(folder)
        config = resolve(SMALL.revised(reversed_share=0.0), cache, cache.labels.classes)
        dataset = load_dataset(cache, config, ("train",))
        rows = dataset.splits["train"]
        torch.manual_seed(0)
        model = FusionModel(dataset.clips.shapes, config)
        normalize(model, dataset.clips, rows)
        state = TrainState.begin(model, config, len(rows))
        trainer = loop.Trainer(state, config, dataset.clips, rows)
        empty = torch.nonzero(rows.category == BACKGROUND).flatten()
        full = torch.nonzero(rows.category != BACKGROUND).flatten()
        shares = [empty[:3], full[:4], torch.cat([full[4:5], empty[3:4]])]
        chosen = torch.cat(shares)
        model.eval()

        def losses(numbers: Tensor, sizes: tuple[Tensor, int | Tensor]) -> Tensor:
            batch = dataset.clips.batch(rows.clip[numbers])
            output = model(batch)
            steps, events = sizes
            return compute_losses(
                output, rows.category[numbers], rows.interval[numbers], config, events, steps
            )

        batch = dataset.clips.batch(rows.clip[chosen])
        sizes = trainer._sizes(batch, rows.category[chosen], len(chosen))
        assert sizes[1] == 5
        whole = losses(chosen, sizes)
        parts = torch.stack([losses(share, sizes) for share in shares])
        torch.testing.assert_close(parts.sum(dim=0), whole)

    def test_without_them_a_batch_is_counted_as_before(self, tmp_path: Path) -> None:
        cache = open_cache(make_cache(tmp_path / "c", labels=tiny_labels(), **TINY))
        config = resolve(SMALL, cache, cache.labels.classes)
        dataset = load_dataset(cache, config, ("train",))
        rows = dataset.splits["train"]
        model = FusionModel(dataset.clips.shapes, config)
        trainer = loop.Trainer(
            TrainState.begin(model, config, len(rows)), config, dataset.clips, rows
        )
        batch = dataset.clips.batch(rows.clip[:8])
        steps, events = trainer._sizes(batch, rows.category[:8], 8)
        assert type(events) is int
        assert steps == model.step_count(batch)

    def test_they_are_what_events_are_spliced_for(self) -> None:
        assert SMALL.spliced_share is None
        assert (SMALL.spliced_share_of(False), SMALL.spliced_share_of(True)) == (0.0, 0.5)
        for share in (0.0, 0.3):
            chosen = SMALL.revised(spliced_share=share)
            assert (chosen.spliced_share_of(False), chosen.spliced_share_of(True)) == (share, share)


def guess_of(event: Sequence[float] | Array, classes: int = 2) -> Predictions:
    count = len(event)
    probability = np.tile(array(0.75, 0.25)[:classes], (count, 1))
    return Predictions(
        probability, np.zeros(count), np.full(count, 10.0), np.ones((count, 10)), array(*event)
    )


def rows_of(*category: int, clip: npt.NDArray[np.int64] | None = None) -> Events:
    number = np.array(category)
    end = np.where(number == BACKGROUND, 0.0, 10.0)
    return Events(number, np.zeros(len(end)), end, np.arange(len(end)) if clip is None else clip)


class TestPresence:
    def test_by_hand(self) -> None:
        truth = rows_of(0, 0, -1, -1, 1)
        guess = guess_of([0.9, 0.4, 0.6, 0.2, 0.8])
        found = presence(truth, guess, 10.0, 0.5)
        assert found["event_auc"] == pytest.approx(5 / 6)
        assert found["false_alarm_rate"] == 0.5
        assert found["miss_rate"] == pytest.approx(1 / 3)
        # Right: 10 s of the first, none of the missed, of the false alarm, of the wrong class.
        assert found["segment_accuracy_all"] == pytest.approx(20 / 50)
        assert clip_counts(truth) == {"clips_with_event": 3, "clips_without_event": 2}

    def test_without_a_threshold_it_always_says_event(self) -> None:
        found = presence(rows_of(0, -1), guess_of([0.9, 0.1]), 10.0, None)
        assert (found["false_alarm_rate"], found["miss_rate"]) == (1.0, 0.0)
        assert found["segment_accuracy_all"] == 0.5
        plain = dataclasses.replace(guess_of([0.9, 0.1]), event=None)
        assert presence(rows_of(0, -1), plain, 10.0, 0.5)["event_auc"] == 0.5

    def test_a_clip_of_several_rows_counts_once(self) -> None:
        truth = rows_of(0, 1, 1, -1, clip=np.array([7, 7, 7, 2]))
        found = presence(truth, guess_of([0.1, 0.1, 0.1, 0.0]), 10.0, 0.5)
        assert found["miss_rate"] == 1.0
        assert clip_counts(truth) == {"clips_with_event": 1, "clips_without_event": 1}

    def test_scores_of_events_are_those_of_the_events_alone(self) -> None:
        truth, guess, events = rows_of(0, 1, -1), guess_of([0.9, 0.1, 0.9]), np.arange(2)
        found = score_all(truth, guess, 10.0, 0.5)
        alone = event_scores(truth.of(events), guess.of(events), 10.0)
        assert {name: found[name] for name in alone} == alone
        assert found.keys() - alone.keys() == PRESENCE.keys()
        assert score_all(truth.of(events), guess.of(events), 10.0, 0.5) == alone

    @pytest.mark.parametrize("seed", range(20))
    def test_the_threshold_has_the_best_balanced_accuracy(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        has = rng.random(40) < 0.6
        confidence = np.round(rng.random(40) * 0.7 + 0.3 * has, 1)
        truth, guess = rows_of(*np.where(has, 0, -1)), guess_of(confidence.tolist())
        threshold = best_threshold(truth, guess)
        assert threshold is not None
        tried = [
            balanced_accuracy_score(has, confidence >= level)
            for level in np.concatenate([confidence, confidence + 0.05])
        ]
        found = balanced_accuracy_score(has, confidence >= threshold)
        assert found == pytest.approx(max(*tried, 0.5))
        assert not np.any(np.isclose(confidence, threshold)), "midway, no value itself"
        auc = presence(truth, guess, 10.0, threshold)["event_auc"]
        assert auc == roc_auc_score(has, confidence)

    def test_a_confidence_that_says_nothing_is_not_used(self) -> None:
        assert best_threshold(rows_of(0, -1), guess_of([0.5, 0.5])) == 0.0
        assert best_threshold(rows_of(0, -1), guess_of([0.1, 0.9])) == 0.0

    def test_the_lowest_of_equals(self) -> None:
        assert best_threshold(rows_of(-1, 0, 0), guess_of([0.1, 0.3, 0.9])) == pytest.approx(0.2)

    @pytest.mark.parametrize("category", [(0, 1), (-1, -1)])
    def test_no_threshold_without_both(self, category: tuple[int, ...]) -> None:
        assert best_threshold(rows_of(*category), guess_of([0.1, 0.9])) is None

    def test_confidence_is_the_mean_over_what_was_read_off(self) -> None:
        on = array([0.2, 0.8, 0.6, 0.0], [0.2, 0.8, 0.6, 0.0])
        found = event_confidence(on, array(1, 0.5), array(3, 2), 4.0)
        assert found == pytest.approx([0.7, (0.1 + 0.8) / 1.5])
        assert event_confidence(on[:1], array(2), array(2), 4.0) == [0.0]


class TestRun:
    def test_the_threshold_is_kept_and_scored_by(self, folder: Path, run: Path) -> None:
        about = load_run(run).about
        assert about.event_threshold is not None
        result = json.loads((run / "metrics_val.json").read_text())
        assert result["event_threshold"] == about.event_threshold
        assert (result["events"], result["clips_with_event"], result["clips_without_event"]) == (
            *(6, 6),
            3,
        )
        scores = result["scores"]
        assert PRESENCE.keys() <= scores["model"].keys()
        for name, found in scores.items():
            if not name.startswith("model"):
                assert found["event_auc"] == 0.5
                assert (found["false_alarm_rate"], found["miss_rate"]) == (1.0, 0.0)
        rows = json.loads((run / "predictions_val.json").read_text())
        empty = [row for row in rows if row["category"] is None]
        assert len(empty) == 3
        said = [row["event_confidence"] >= about.event_threshold for row in empty]
        assert np.mean(said) == pytest.approx(scores["model"]["false_alarm_rate"])
        for row, alarm in zip(empty, said, strict=True):
            assert row["event"] == alarm == (row["predicted"] is not None)
            assert row["start_s"] is row["end_s"] is None
        others = [row for row in rows if row["category"] is not None]
        missed = [row["event_confidence"] < about.event_threshold for row in others]
        assert np.mean(missed) == pytest.approx(scores["model"]["miss_rate"])
        assert all(row["predicted"] for row in others)

    def test_it_is_printed_only_where_there_are_such_clips(
        self, folder: Path, run: Path, tmp_path: Path
    ) -> None:
        text = table(score(run, folder))
        assert "6 events" in text
        assert "and 3 clips without an event" in text
        assert "false alarms, of clips without" in text
        plain = make_cache(tmp_path / "c", labels=tiny_labels(), **TINY)
        result = score(run, plain)
        assert "without an event" not in table(result)
        assert not [label for label in PRESENCE.values() if label in table(result)]
        assert not PRESENCE.keys() & result["scores"]["model"].keys()
        assert "event_threshold" not in result

    def test_predict_says_whether_there_is_an_event(
        self, folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = ["predict", "--run", run, "--cache", folder, "--out", tmp_path, "--pictures", 0]
        assert main([str(word) for word in argv]) == 0
        found = json.loads((tmp_path / "predictions.json").read_text())
        threshold = load_run(run).about.event_threshold
        for one in found:
            assert one["event"] is (one["event_confidence"] >= threshold)
            assert one["predicted"] in {"Class 0", "Class 1", "Class 2"}
        told = capsys.readouterr().out
        assert "event_confidence event" in told
        undecided = [{**one, "event": None} for one in found]
        assert "event" not in as_table(undecided).splitlines()[0]

    def test_an_ensemble_decides_by_the_mean_threshold(self) -> None:
        half = np.full((1, 10), 0.5), np.full((1, 100), 0.5)
        said = Evidence(array([0.75, 0.25]), array(0), array(10), *half)
        members = [
            Answer(said, Calibration(), "interval", ["a", "b"], 10.0, threshold)
            for threshold in (0.2, 0.4, None)
        ]
        assert Answer.mean(members[:2]).event_threshold == pytest.approx(0.3)
        assert Answer.mean(members[:2]).entry(0)["event"] is True
        assert Answer.mean(members).event_threshold is None
        assert Answer.mean(members[:1]).entry(0)["event"] is True
        assert members[0].entry(0)["event_confidence"] == pytest.approx(0.5)
        assert members[2].entry(0)["event"] is None

    @pytest.mark.system
    def test_everything_is_drawn(self, folder: Path, run: Path) -> None:
        evaluate_run(run, folder, "val", pictures=8)
        page = (run / "report.html").read_text()
        assert "All 6 events and 3 clips without an event" in page
        assert "<h3>no event <span" in page
        assert "sure that there is an event: 0." in page
        assert list((run / "attention_visualization" / "val").glob("empty*card.png"))

    def test_it_learns_to_tell_them_apart(self, tmp_path: Path) -> None:
        """The features of such clips hold nothing, so a trained gate finds that."""
        folder = mixed_cache(tmp_path / "cache", 60, 30)
        fit(folder, tmp_path / "run", SMALL.revised(epochs=12, learning_rate=3e-3), pictures=0)
        found = score(tmp_path / "run", folder)["scores"]["model"]
        assert found["event_auc"] > 0.9
        assert found["false_alarm_rate"] <= 0.34


EMPTY: dict[str, Any] = {
    "id": "b",
    "category": None,
    "start_s": None,
    "end_s": None,
    "predicted": None,
}
FULL: dict[str, Any] = {"id": "a", "category": "x", "start_s": 0.0, "end_s": 4.0, "predicted": "x"}
SAID = {"predicted_start_s": 0.0, "predicted_end_s": 4.0}


class TestPictures:
    def test_false_alarms_are_among_the_hardest(self) -> None:
        rows = [
            {**FULL, **SAID, "event": True},
            {**EMPTY, **SAID, "event": True},
            {**EMPTY, **SAID, "event": False},
        ]
        assert hardest(dict(enumerate(rows)))[0] == 1
        assert events_to_draw([EMPTY, FULL], 10.0, 5) == [1, 0]
        intervals_figure(rows, 10.0)

    @pytest.mark.parametrize("event", [True, False, None])
    def test_a_card_of_no_event(self, event: bool | None) -> None:
        view = drawable("b", category=None, true_s=None, empty=True, event=event)
        found = card(view, None)
        assert found["outcome"] == view.outcome == ("right" if event is False else "alarm")
        assert found["true_text"] == found["tiou"] == ""
        assert "true: no event" in view.title
        assert ("predicted: no event" in view.title) is (event is False)
        gates_figure([view])
