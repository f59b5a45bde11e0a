"""Settings: flags, JSON and API agree; unknown keys are refused with the nearest match."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.common.errors import ConfigError
from cache.common.settings import Settings, canonical_json, command_line
from extract.__main__ import Command
from extract.config import ExtractConfig
from extract.identity import new_identity


class Sample(Settings):
    """A sample of every kind of field."""

    learning_rate: float = 1e-3
    """Step size."""
    batch_size: int = 4
    """Clips a batch."""
    mode: Literal["fast", "exact"] = "fast"
    """How."""
    folder: Path | None = None
    """Where."""
    verbose: bool = False
    """Say more."""


PRESETS = {"classic": Sample(learning_rate=1e-4, batch_size=8)}


def parse(*argv: str, presets: dict[str, Sample] | None = None) -> Sample:
    return command_line(Sample, argv, prog="sample", presets=presets)


def json_file(folder: Path, **values: object) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_flags_json_and_api_agree(tmp_path: Path) -> None:
    api = Sample(learning_rate=0.5, mode="exact", folder=Path("a b"), verbose=True)
    flags = parse("--learning-rate", "0.5", "--mode", "exact", "--folder", "a b", "--verbose")
    (tmp_path / "a.json").write_text(api.to_json())
    assert flags == api == Sample.from_json(tmp_path / "a.json")
    assert parse("--config", str(tmp_path / "a.json")) == api
    assert parse() == Sample()


def test_precedence(tmp_path: Path) -> None:
    path = json_file(tmp_path, batch_size=16)
    assert parse("--preset", "classic", presets=PRESETS) == PRESETS["classic"]
    both = parse("--preset", "classic", "--config", path, "--learning-rate", "1", presets=PRESETS)
    assert (both.learning_rate, both.batch_size) == (1.0, 16)
    assert parse("--config", path, "--batch-size", "2").batch_size == 2
    assert parse("--batch-size", "2", "--config", path).batch_size == 2


def test_print_config_round_trips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--preset", "classic", "--verbose", "--print-config", presets=PRESETS)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    (tmp_path / "a.json").write_text(printed)
    assert parse("--config", str(tmp_path / "a.json")) == PRESETS["classic"].revised(verbose=True)
    assert set(json.loads(printed)) == set(Sample.model_fields)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"batchsize": 2}, "unknown key 'batchsize'; did you mean 'batch_size'?"),
        ({"zzz": 2}, "unknown key 'zzz'; known: learning_rate, batch_size"),
        ({"batch_size": "many"}, "batch_size: .*valid integer.*found 'many'"),
        ({"batch_size": 1.5}, "batch_size: .*integer.*found 1.5"),
        ({"mode": "slow"}, "mode: .*'fast' or 'exact'.*found 'slow'"),
        ({"learning_rate": float("nan")}, "learning_rate: .*finite|NaN is no finite number"),
        ({"batchsize": 2, "mode": "x"}, "batch_size.*; .*mode|mode.*; .*batch_size"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, values: dict[str, object], why: str) -> None:
    calls: tuple[Callable[[], object], ...] = (
        lambda: Sample.parse(values),
        lambda: parse("--config", json_file(tmp_path, **values)),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=why):
            call()
    with pytest.raises(ConfigError, match=r"config\.json: "):
        parse("--config", json_file(tmp_path, **values))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "this is not JSON"),
        ("", "this is not JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("3", "expected a JSON object, found int"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    calls: tuple[Callable[[], object], ...] = (
        lambda: Sample.from_json(path),
        lambda: parse("--config", str(path)),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=why) as caught:
            call()
        assert str(path) in str(caught.value)


def test_absent_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json: can't be read"):
        parse("--config", str(tmp_path / "absent.json"))


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--batchsize", "2"], "--batch-size"),
        (["--batch-siz", "2"], "--batch-size"),
        (["--mode", "slow"], "slow"),
        (["--preset", "unknown"], "classic"),
        (["stray"], "stray"),
        (["--batch-size", "many"], "valid integer"),
        (["--batch-siz=2"], "did you mean --batch-size?"),
    ],
)
def test_bad_flags_end_with_2(
    argv: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*argv, presets=PRESETS)
    assert ended.value.code == 2
    assert why in "".join(capsys.readouterr())


def test_flags_say_none_and_no(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(Sample(folder=Path("a"), verbose=True).to_json())
    argv = ["--config", str(tmp_path / "a.json"), "--folder", "None", "--no-verbose"]
    assert parse(*argv) == Sample()


def test_the_command_line_s_library_is_known_in_one_place() -> None:
    root = Path(__file__).parent.parent
    knowing = {
        path.relative_to(root).as_posix()
        for package in ("cache", "extract", "train")
        for path in (root / package).rglob("*.py")
        if "argparse" in path.read_text("utf-8")
    }
    assert knowing == {"cache/common/cli.py", "cache/common/settings.py"}


def test_frozen_and_revised() -> None:
    sample = Sample()
    with pytest.raises(Exception, match="frozen"):
        sample.batch_size = 5  # type: ignore[misc]
    assert sample.revised(batch_size=5).batch_size == 5
    assert sample.batch_size == 4
    with pytest.raises(ConfigError, match="did you mean 'batch_size'"):
        sample.revised(batch_sizes=5)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.recursive(LEAVES, lambda leaf: st.dictionaries(st.text(), leaf, max_size=4)))
def test_canonical_json(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == text


class TestExtractConfig:
    def test_command_gives_the_features_settings(self, tmp_path: Path) -> None:
        config = json_file(tmp_path, n_mels=80, num_frames=4)
        argv = ["--data", "d", "--cache", "c", "--config", config, "--n-mfcc", "20"]
        command = command_line(Command, argv, prog="extract")
        assert command.features == ExtractConfig.parse(
            {"n_mels": 80, "num_frames": 4, "n_mfcc": 20}
        )
        assert (command.data, command.cache, command.jobs) == (Path("d"), Path("c"), None)
        assert type(command) is Command
        with pytest.raises(SystemExit):
            command_line(Command, ["--data", "d", "--config", config], prog="extract")

    def test_every_field_is_in_the_identity_and_back(self) -> None:
        config = ExtractConfig.parse({"n_mels": 80, "backbone": "large"})
        resolved = config.resolved("abc")
        assert set(resolved) == {*ExtractConfig.model_fields, "weights_sha256"} - {"hop_seconds"}
        windows = config.revised(hop_seconds=5.0).resolved("abc")
        assert windows == {**resolved, "hop_seconds": 5.0}
        assert resolved["weights_sha256"] == "abc"
        again = ExtractConfig.of(new_identity(config, "random:0", "abc"))
        assert again.resolved("abc") == resolved

    def test_the_presets_size_follows_the_backbone_however_it_is_given(
        self, tmp_path: Path
    ) -> None:
        path = json_file(tmp_path, n_mels=80)
        for config in (
            ExtractConfig.parse({"backbone": "large"}),
            ExtractConfig().revised(backbone="large"),
            command_line(ExtractConfig, ["--config", path, "--backbone", "large"], prog="x"),
        ):
            assert config.resolved("")["resize_px"] == 232
        assert ExtractConfig().resolved("")["resize_px"] == 256
        kept = ExtractConfig.parse({"backbone": "large", "resize_px": 256})
        assert kept.resolved("")["resize_px"] == 256

    @pytest.mark.parametrize(
        ("values", "why"),
        [
            ({"frame_size_px": 240, "backbone": "large"}, "240 is larger than resize_px 232"),
            ({"hop_samples": 4096}, "hop_samples 4096 is larger than n_fft_samples 2048"),
            ({"sample_rate_hz": 8000}, "sample_rate_hz: .*greater than 12800"),
            ({"sample_rate_hz": 96_000, "n_fft_samples": 256, "hop_samples": 64}, "too short"),
            ({"clip_seconds": 0}, "clip_seconds: .*greater than 0"),
            ({"clip_seconds": float("inf")}, "clip_seconds: "),
            ({"jpeg_quality": 101}, "jpeg_quality: "),
        ],
    )
    def test_contradictions(self, values: dict[str, object], why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            ExtractConfig.parse(values)
